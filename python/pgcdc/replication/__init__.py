"""The source: connections, slots, publications, streams and snapshots, on psycopg's libpq.

with connect(dsn) as connection:
    with connection.snapshot("shop", ["shop"]) as snapshot:
        for batch in snapshot.batches(): ...
    with connection.stream("shop", ["shop"]) as stream:
        for batch in stream.batches(): ...

Everything that waits is there in two colours: `aconnect`, `AsyncStream` and so on are for asyncio. Files called
`NAME_async.py` are written by hand, the `NAME.py` beside them are made from them.
"""

from __future__ import annotations

from pgcdc.replication.asking import check_server, ensure_publication, published_tables
from pgcdc.replication.asking_async import acheck_server, aensure_publication, apublished_tables
from pgcdc.replication.connection import Connection, connect
from pgcdc.replication.connection_async import AsyncConnection, aconnect
from pgcdc.replication.copy_command import SnapshotStale
from pgcdc.replication.plan import PlanStale, PlanStep, PlanWarning
from pgcdc.replication.publication import PublishedTable, TableName, parse_table
from pgcdc.replication.publication_definition import Publication, PublicationTable
from pgcdc.replication.publication_plan import PublicationPlan
from pgcdc.replication.slot import NewSlot, Slot, SlotState
from pgcdc.replication.slot_plan import SlotPlan
from pgcdc.replication.snapshot import Snapshot
from pgcdc.replication.snapshot_async import AsyncSnapshot
from pgcdc.replication.snapshot_plan import SnapshotPart
from pgcdc.replication.snapshot_progress import SnapshotProgress, TableProgress
from pgcdc.replication.stream import Stream
from pgcdc.replication.stream_async import AsyncStream
from pgcdc.replication.stream_options import Reconnect
from pgcdc.replication.transaction import Transaction
from pgcdc.replication.transaction_async import AsyncTransaction

__all__ = [
    "AsyncConnection",
    "AsyncSnapshot",
    "AsyncStream",
    "AsyncTransaction",
    "Connection",
    "NewSlot",
    "PlanStale",
    "PlanStep",
    "PlanWarning",
    "Publication",
    "PublicationPlan",
    "PublicationTable",
    "PublishedTable",
    "Reconnect",
    "Slot",
    "SlotPlan",
    "SlotState",
    "Snapshot",
    "SnapshotPart",
    "SnapshotProgress",
    "SnapshotStale",
    "Stream",
    "TableName",
    "TableProgress",
    "Transaction",
    "acheck_server",
    "aconnect",
    "aensure_publication",
    "apublished_tables",
    "check_server",
    "connect",
    "ensure_publication",
    "parse_table",
    "published_tables",
]
