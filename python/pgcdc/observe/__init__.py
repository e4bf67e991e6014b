"""Looking at a server, its slots and its pipelines: nobody is told anything, all is asked for."""

from pgcdc.observe.doctor import examine
from pgcdc.observe.endpoint import Endpoint, exporting, serving
from pgcdc.observe.finding import Finding, Status
from pgcdc.observe.monitor import Monitor
from pgcdc.observe.observation import Limits, Observation, Reason, ReasonKind, ServerState, Stream
from pgcdc.observe.role import role_sql
from pgcdc.observe.slots import slots
from pgcdc.observe.telemetry import instrument

__all__ = [
    "Endpoint",
    "Finding",
    "Limits",
    "Monitor",
    "Observation",
    "Reason",
    "ReasonKind",
    "ServerState",
    "Status",
    "Stream",
    "examine",
    "exporting",
    "instrument",
    "role_sql",
    "serving",
    "slots",
]
