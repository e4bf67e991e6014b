"""Events in one PostgreSQL table: typed, in streams, appended and never changed; state as a fold of them."""

from __future__ import annotations

from pgcdc.errors import ConcurrencyConflict, EventStoreError, InvalidEvent, PayloadTooLarge
from pgcdc.eventstore.adopting import AdoptPlan, adopt, plan_adopt
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.archiving import ArchiveLine, ArchivePlan, ArchiveProgress, archive, plan_archive
from pgcdc.eventstore.context import caused_by, context
from pgcdc.eventstore.event import Event, Registry, UnknownEvent, upcast
from pgcdc.eventstore.findings import Finding, StoreStatistics, StreamTypeStatistics
from pgcdc.eventstore.plan import Plan, Step
from pgcdc.eventstore.rebuilding import RebuildPlan, RebuildProgress, plan_rebuild, rebuild, rollback
from pgcdc.eventstore.recorded import HistoryEntry, Placed, Recorded
from pgcdc.eventstore.request import Append
from pgcdc.eventstore.snapshots import Budget, Every
from pgcdc.eventstore.store import EventStore
from pgcdc.eventstore.store_async import AsyncEventStore
from pgcdc.eventstore.table import Table

__all__ = [
    "AdoptPlan",
    "Append",
    "Archive",
    "ArchiveLine",
    "ArchivePlan",
    "ArchiveProgress",
    "AsyncEventStore",
    "Budget",
    "ConcurrencyConflict",
    "Event",
    "EventStore",
    "EventStoreError",
    "Every",
    "Finding",
    "HistoryEntry",
    "InvalidEvent",
    "PayloadTooLarge",
    "Placed",
    "Plan",
    "RebuildPlan",
    "RebuildProgress",
    "Recorded",
    "Registry",
    "Step",
    "StoreStatistics",
    "StreamTypeStatistics",
    "Table",
    "UnknownEvent",
    "adopt",
    "archive",
    "caused_by",
    "context",
    "plan_adopt",
    "plan_archive",
    "plan_rebuild",
    "rebuild",
    "rollback",
    "upcast",
]
