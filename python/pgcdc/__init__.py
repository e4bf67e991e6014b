"""PostgreSQL change data capture for Python with a Rust core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgcdc.errors import (
    ConcurrencyConflict,
    ConfigError,
    ConnectionLost,
    DecodeError,
    Error,
    EventStoreError,
    InvalidEvent,
    InvalidValue,
    MigrationFailed,
    PayloadTooLarge,
    PositionError,
    PublicationNotFound,
    RegistryError,
    ReplicationError,
    SchemaError,
    SinkError,
    SinkRejected,
    SinkUnavailable,
    SlotInUse,
    SlotLost,
    SlotNotFound,
    SpillError,
    SpoolError,
    SpoolFull,
    SpoolInUse,
    UnknownRelation,
)
from pgcdc.events import (
    Begin,
    BeginPrepare,
    Change,
    Column,
    Commit,
    CommitPrepared,
    Delete,
    Event,
    Insert,
    Message,
    Origin,
    Prepare,
    Relation,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
)
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.protocol import (
    Assembler,
    AssemblerStatistics,
    Batch,
    Catalog,
    DebeziumEnvelope,
    Decoder,
    PgArray,
    PgBits,
    PgBox,
    PgCircle,
    PgInterval,
    PgLine,
    PgLseg,
    PgMultirange,
    PgPath,
    PgPoint,
    PgPolygon,
    PgRange,
    PgText,
    PgTid,
    RowFormat,
)
from pgcdc.sink import PartitionedSink, RewritingSink, Sink, SinkPart, ToldPart, TransactionalSink

if TYPE_CHECKING:
    from pgcdc import eventstore
    from pgcdc.eventstore import AsyncEventStore, EventStore
    from pgcdc.pipeline import Pipeline, Retry
    from pgcdc.replication import aconnect, connect
    from pgcdc.schema import SchemaChange, SchemaVersion
    from pgcdc.transforms.emitting import aemit, emit

__version__ = "0.1.0"

# The decoder is imported without a driver: what needs psycopg or asyncio is loaded when it is first named.
_LAZY = {
    "Pipeline": "pgcdc.pipeline",
    "Retry": "pgcdc.pipeline",
    "SchemaChange": "pgcdc.schema",
    "SchemaVersion": "pgcdc.schema",
    "aconnect": "pgcdc.replication",
    "aemit": "pgcdc.transforms.emitting",
    "connect": "pgcdc.replication",
    "emit": "pgcdc.transforms.emitting",
    "AsyncEventStore": "pgcdc.eventstore",
    "EventStore": "pgcdc.eventstore",
    "eventstore": "pgcdc.eventstore",
}


if not TYPE_CHECKING:  # where there is a __getattr__, type checkers take any name for one that exists

    def __getattr__(name: str) -> Any:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module 'pgcdc' has no attribute {name!r}")
        import importlib

        loaded = importlib.import_module(module)
        value = loaded if module == f"pgcdc.{name}" else getattr(loaded, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "Assembler",
    "AssemblerStatistics",
    "AsyncEventStore",
    "Batch",
    "Begin",
    "BeginPrepare",
    "Catalog",
    "Change",
    "Column",
    "Commit",
    "CommitPrepared",
    "ConcurrencyConflict",
    "ConfigError",
    "ConnectionLost",
    "DebeziumEnvelope",
    "DecodeError",
    "Decoder",
    "Delete",
    "Error",
    "Event",
    "EventStore",
    "EventStoreError",
    "Insert",
    "InvalidEvent",
    "InvalidValue",
    "Message",
    "MigrationFailed",
    "Origin",
    "PartitionedSink",
    "PayloadTooLarge",
    "PgArray",
    "PgBits",
    "PgBox",
    "PgCircle",
    "PgInterval",
    "PgLine",
    "PgLseg",
    "PgMultirange",
    "PgPath",
    "PgPoint",
    "PgPolygon",
    "PgRange",
    "PgText",
    "PgTid",
    "Pipeline",
    "Position",
    "PositionError",
    "Prepare",
    "PublicationNotFound",
    "RegistryError",
    "Relation",
    "ReplicationError",
    "Retry",
    "RewritingSink",
    "RollbackPrepared",
    "RowFormat",
    "SchemaChange",
    "SchemaError",
    "SchemaVersion",
    "Sink",
    "SinkError",
    "SinkPart",
    "SinkRejected",
    "SinkUnavailable",
    "SlotInUse",
    "SlotLost",
    "SlotNotFound",
    "SpillError",
    "SpoolError",
    "SpoolFull",
    "SpoolInUse",
    "StreamAbort",
    "StreamCommit",
    "StreamPrepare",
    "StreamStart",
    "StreamStop",
    "ToldPart",
    "TransactionalSink",
    "Truncate",
    "Type",
    "UnknownRelation",
    "Update",
    "aconnect",
    "aemit",
    "connect",
    "emit",
    "eventstore",
    "format_lsn",
    "parse_lsn",
]
