"""What users test their handlers and sinks with: changes made by hand, played into a pipeline without a server.

Fixtures for pytest are in `pgcdc.testing.fixtures`, classes of tests to inherit from in `pgcdc.testing.contracts`.
"""

from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import (
    Change,
    Table,
    Transaction,
    delete,
    emitted,
    insert,
    message,
    transaction,
    truncate,
    update,
)
from pgcdc.testing.playing import Played, aplay, play
from pgcdc.testing.sinks import FaultySink, RecordingSink

__all__ = [
    "Capture",
    "Change",
    "FaultySink",
    "Played",
    "RecordingSink",
    "Table",
    "Transaction",
    "aplay",
    "delete",
    "emitted",
    "insert",
    "message",
    "play",
    "transaction",
    "truncate",
    "update",
]
