"""The events that the decoder returns: one msgspec struct for each message of pgoutput, fields named as in the manual.

A column that was not sent (unchanged TOAST, or outside the replica identity) is `msgspec.UNSET`, never `None`; so is
every field of an event that is not known where it was decoded (the commit of a transaction whose Begin was not seen).

Of a change in a transaction that is still in progress (between StreamStart and StreamStop) or prepared (between
BeginPrepare and Prepare) nobody knows yet whether and where it commits: its commit_lsn, commit_time, index and position
are UNSET.

Over 400 lines, because every message and every field of it is documented here.

Source: PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, Union

import msgspec
from msgspec import UNSET, UnsetType

from pgcdc.event_text import event_text, relation_text
from pgcdc.lsn import SNAPSHOT_INDEX, Position

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

__all__ = [
    "Begin",
    "BeginPrepare",
    "Change",
    "Column",
    "Commit",
    "CommitPrepared",
    "Delete",
    "Event",
    "Insert",
    "Message",
    "Origin",
    "Prepare",
    "Relation",
    "RollbackPrepared",
    "StreamAbort",
    "StreamCommit",
    "StreamPrepare",
    "StreamStart",
    "StreamStop",
    "Truncate",
    "Type",
    "Update",
]

# Events are frozen, so an Insert[Order] is an Insert[Order | Item]; without brackets rows are Any. Only type checkers
# need that default, and Python's own TypeVar has it from 3.13 on.
if TYPE_CHECKING:
    Row = TypeVar("Row", covariant=True, default=Any)
else:
    Row = TypeVar("Row", covariant=True)


class _Readable(msgspec.Struct, frozen=True, gc=False):
    """What every event can do: print itself on one line (a base of structs; it never appears itself)."""

    def __repr__(self) -> str:
        return event_text(self)


class Column(msgspec.Struct, frozen=True, gc=False):
    """One column of a Relation message.

    Attributes:
        name: The column's name.
        type_oid: The OID of its type (`pg_type.oid`).
        type_modifier: `pg_attribute.atttypmod`; -1 when there is none.
        is_key: Whether the column is part of the replica identity. Under REPLICA IDENTITY FULL every column is.
    """

    name: str
    type_oid: int
    type_modifier: int
    is_key: bool


class Relation(msgspec.Struct, frozen=True, tag_field="action", tag="relation"):
    """The shape of a table, sent before its first row and after anything that may have changed it.

    Attributes:
        oid: `pg_class.oid`.
        schema: The schema's name; `pg_catalog` is sent as an empty string by the server and given as `"pg_catalog"`.
        name: The table's name.
        replica_identity: `pg_class.relreplident`: default, nothing, full, index.
        columns: The published columns, in the order of the tuples.
    """

    oid: int
    schema: str
    name: str
    replica_identity: Literal["d", "n", "f", "i"]
    columns: list[Column]

    def __repr__(self) -> str:
        return relation_text(self)


class Begin(_Readable, frozen=True, gc=False, tag_field="action", tag="begin"):
    """The beginning of a committed transaction.

    Attributes:
        final_lsn: The LSN of the transaction's commit record.
        commit_time: When it committed, in UTC.
        xid: The transaction's id (32 bits).
        lsn: The `wal_start` of the XLogData that carried this message. It goes backwards: never a position.
    """

    final_lsn: int
    commit_time: datetime
    xid: int
    lsn: int | UnsetType = UNSET


class Commit(_Readable, frozen=True, gc=False, tag_field="action", tag="commit"):
    """The end of a committed transaction.

    Attributes:
        flags: Always 0 so far.
        commit_lsn: The LSN of the commit record, equal to `Begin.final_lsn`.
        end_lsn: The end of the commit record: what may be confirmed once everything before is durable.
        commit_time: When it committed, in UTC.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_time: datetime
    lsn: int | UnsetType = UNSET


class Origin(_Readable, frozen=True, gc=False, tag_field="action", tag="origin"):
    """Where a transaction that was itself replicated came from.

    Attributes:
        commit_lsn: The LSN of the commit on the origin server.
        name: The replication origin's name.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    commit_lsn: int
    name: str
    lsn: int | UnsetType = UNSET


class Type(_Readable, frozen=True, gc=False, tag_field="action", tag="type"):
    """A user-defined type that the next Relation uses.

    Attributes:
        oid: `pg_type.oid`. For a domain the domain's OID, though the name is the base type's.
        schema: The schema's name.
        name: The type's name.
    """

    oid: int
    schema: str
    name: str


class _InTransaction(_Readable, frozen=True, gc=False):
    """What every change says about its transaction (a base of structs; it never appears itself)."""

    @property
    def position(self) -> Position | UnsetType:
        """The change's place in the total order, or UNSET when its transaction's commit is not known."""
        commit_lsn: int | UnsetType = self.commit_lsn  # type: ignore[attr-defined]
        index: int | UnsetType = self.index  # type: ignore[attr-defined]
        if commit_lsn is UNSET or index is UNSET:
            return UNSET
        return Position(commit_lsn, index)


class _RowChange(_InTransaction, frozen=True, gc=False):
    """What Insert, Update and Delete have in common (a base of structs; it never appears itself)."""

    @property
    def schema(self) -> str:
        """The name of the table's schema."""
        return self.relation.schema  # type: ignore[attr-defined, no-any-return]

    @property
    def table(self) -> str:
        """The table's name, without its schema."""
        return self.relation.name  # type: ignore[attr-defined, no-any-return]

    @property
    def snapshot(self) -> bool:
        """Whether this row was read by the initial copy, and not written while streaming."""
        return self.index == SNAPSHOT_INDEX  # type: ignore[attr-defined, no-any-return]


class Insert(_RowChange, Generic[Row], frozen=True, gc=False, tag_field="action", tag="insert"):
    """A new row; also every row of the initial copy (`snapshot` is true for those).

    Attributes:
        relation: The table's shape as it was when the row was written.
        new: The row.
        old: Always UNSET.
        xid: The (sub-)transaction's id inside a streamed transaction, else UNSET.
        lsn: The `wal_start` of the XLogData; UNSET where the decoder was not told.
        commit_lsn: The LSN of the transaction's commit record.
        commit_time: When the transaction committed, in UTC.
        index: The number of this change among those of its transaction, from 0.
        schema_version: The version of the table's shape; UNSET from a bare decoder.
    """

    relation: Relation
    new: Row
    old: UnsetType = UNSET
    xid: int | UnsetType = UNSET
    lsn: int | UnsetType = UNSET
    commit_lsn: int | UnsetType = UNSET
    commit_time: datetime | UnsetType = UNSET
    index: int | UnsetType = UNSET
    schema_version: int | UnsetType = UNSET

    @property
    def action(self) -> Literal["insert"]:
        """What happened, as a word."""
        return "insert"


class Update(_RowChange, Generic[Row], frozen=True, gc=False, tag_field="action", tag="update"):
    """A changed row.

    Attributes:
        relation: The table's shape as it was when the row was written.
        new: The row after the change. A column whose unchanged TOAST value was not sent is taken from `old` where the
            replica identity holds it, else UNSET.
        old: The row before the change under REPLICA IDENTITY FULL; the old key, all other columns UNSET, when the key
            changed; else UNSET.
        xid: The (sub-)transaction's id inside a streamed transaction, else UNSET.
        lsn: The `wal_start` of the XLogData; UNSET where the decoder was not told.
        commit_lsn: The LSN of the transaction's commit record.
        commit_time: When the transaction committed, in UTC.
        index: The number of this change among those of its transaction, from 0.
        schema_version: The version of the table's shape; UNSET from a bare decoder.
    """

    relation: Relation
    new: Row
    old: Row | UnsetType = UNSET
    xid: int | UnsetType = UNSET
    lsn: int | UnsetType = UNSET
    commit_lsn: int | UnsetType = UNSET
    commit_time: datetime | UnsetType = UNSET
    index: int | UnsetType = UNSET
    schema_version: int | UnsetType = UNSET

    @property
    def action(self) -> Literal["update"]:
        """What happened, as a word."""
        return "update"


class Delete(_RowChange, Generic[Row], frozen=True, gc=False, tag_field="action", tag="delete"):
    """A removed row.

    Attributes:
        relation: The table's shape as it was when the row was removed.
        new: Always UNSET.
        old: The old key, all other columns UNSET; the whole old row under REPLICA IDENTITY FULL.
        xid: The (sub-)transaction's id inside a streamed transaction, else UNSET.
        lsn: The `wal_start` of the XLogData; UNSET where the decoder was not told.
        commit_lsn: The LSN of the transaction's commit record.
        commit_time: When the transaction committed, in UTC.
        index: The number of this change among those of its transaction, from 0.
        schema_version: The version of the table's shape; UNSET from a bare decoder.
    """

    relation: Relation
    new: UnsetType
    old: Row
    xid: int | UnsetType = UNSET
    lsn: int | UnsetType = UNSET
    commit_lsn: int | UnsetType = UNSET
    commit_time: datetime | UnsetType = UNSET
    index: int | UnsetType = UNSET
    schema_version: int | UnsetType = UNSET

    @property
    def action(self) -> Literal["delete"]:
        """What happened, as a word."""
        return "delete"


class Truncate(_InTransaction, frozen=True, gc=False, tag_field="action", tag="truncate"):
    """Tables that were emptied by one TRUNCATE.

    Attributes:
        relations: The shapes of the tables.
        cascade: Whether CASCADE was given.
        restart_identity: Whether RESTART IDENTITY was given.
        xid: The (sub-)transaction's id inside a streamed transaction, else UNSET.
        lsn: The `wal_start` of the XLogData; UNSET where the decoder was not told.
        commit_lsn: The LSN of the transaction's commit record.
        commit_time: When the transaction committed, in UTC.
        index: The number of this change among those of its transaction, from 0.
        schema_version: The version of the first table's shape; UNSET from a bare decoder.
    """

    relations: list[Relation]
    cascade: bool
    restart_identity: bool
    xid: int | UnsetType = UNSET
    lsn: int | UnsetType = UNSET
    commit_lsn: int | UnsetType = UNSET
    commit_time: datetime | UnsetType = UNSET
    index: int | UnsetType = UNSET
    schema_version: int | UnsetType = UNSET

    @property
    def action(self) -> Literal["truncate"]:
        """What happened, as a word."""
        return "truncate"


class Message(_InTransaction, frozen=True, gc=False, tag_field="action", tag="message"):
    """What `pg_logical_emit_message` wrote.

    Attributes:
        transactional: Whether it belongs to the transaction around it.
        lsn: Where it was written, from the message itself.
        prefix: The prefix given to the function.
        content: The content given to the function.
        xid: The (sub-)transaction's id inside a streamed transaction, else UNSET.
        commit_lsn: The LSN of the transaction's commit record; UNSET when not transactional.
        commit_time: When the transaction committed, in UTC; UNSET when not transactional.
        index: The number among the changes of its transaction, from 0; UNSET when not transactional.
    """

    transactional: bool
    lsn: int
    prefix: str
    content: bytes
    xid: int | UnsetType = UNSET
    commit_lsn: int | UnsetType = UNSET
    commit_time: datetime | UnsetType = UNSET
    index: int | UnsetType = UNSET

    @property
    def action(self) -> Literal["message"]:
        """What happened, as a word."""
        return "message"


class StreamStart(_Readable, frozen=True, gc=False, tag_field="action", tag="stream_start"):
    """A piece of a transaction that is still in progress begins (`streaming`); it ends with StreamStop.

    Attributes:
        xid: The id of the whole (top-level) transaction.
        first_segment: Whether it is the transaction's first piece.
        lsn: The `wal_start` of the XLogData that carried this message. It goes backwards: never a position.
    """

    xid: int
    first_segment: bool
    lsn: int | UnsetType = UNSET


class StreamStop(_Readable, frozen=True, gc=False, tag_field="action", tag="stream_stop"):
    """The piece of a transaction that StreamStart began ends; others may come before the next.

    Attributes:
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    lsn: int | UnsetType = UNSET


class StreamCommit(_Readable, frozen=True, gc=False, tag_field="action", tag="stream_commit"):
    """A streamed transaction was committed: what was streamed of it and not rolled back counts now.

    Attributes:
        xid: The id of the whole transaction.
        flags: Always 0 so far.
        commit_lsn: The LSN of the commit record.
        end_lsn: The end of the commit record: what may be confirmed once everything before is durable.
        commit_time: When it committed, in UTC.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    xid: int
    flags: int
    commit_lsn: int
    end_lsn: int
    commit_time: datetime
    lsn: int | UnsetType = UNSET


class StreamAbort(_Readable, frozen=True, gc=False, tag_field="action", tag="stream_abort"):
    """A streamed transaction, or a sub-transaction of it, was rolled back.

    Sub-transactions inside the one that was rolled back have an own StreamAbort each, innermost first; one may be named
    of which no change was sent.

    Attributes:
        xid: The id of the whole transaction.
        subxid: The id of the sub-transaction; equal to `xid` when the whole was rolled back.
        abort_lsn: The LSN of the abort record; sent with `streaming = parallel` only, else UNSET.
        abort_time: When it was rolled back, in UTC; sent with `streaming = parallel` only, else UNSET.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    xid: int
    subxid: int
    abort_lsn: int | UnsetType = UNSET
    abort_time: datetime | UnsetType = UNSET
    lsn: int | UnsetType = UNSET


class BeginPrepare(_Readable, frozen=True, gc=False, tag_field="action", tag="begin_prepare"):
    """The beginning of a transaction that was prepared for a two-phase commit; its changes end with Prepare.

    Attributes:
        prepare_lsn: The LSN of the prepare record.
        end_lsn: The end of the prepare record.
        prepare_time: When it was prepared, in UTC.
        xid: The transaction's id (32 bits).
        gid: The name that PREPARE TRANSACTION gave it.
        lsn: The `wal_start` of the XLogData that carried this message. It goes backwards: never a position.
    """

    prepare_lsn: int
    end_lsn: int
    prepare_time: datetime
    xid: int
    gid: str
    lsn: int | UnsetType = UNSET


class Prepare(_Readable, frozen=True, gc=False, tag_field="action", tag="prepare"):
    """The end of the changes of a transaction that was prepared.

    Attributes:
        flags: Always 0 so far.
        prepare_lsn: The LSN of the prepare record, equal to `BeginPrepare.prepare_lsn`.
        end_lsn: The end of the prepare record. Confirm it only where the changes are durable although nobody knows yet
            whether they commit: after a restart the server sends CommitPrepared alone.
        prepare_time: When it was prepared, in UTC.
        xid: The transaction's id (32 bits).
        gid: The name that PREPARE TRANSACTION gave it.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    flags: int
    prepare_lsn: int
    end_lsn: int
    prepare_time: datetime
    xid: int
    gid: str
    lsn: int | UnsetType = UNSET


class CommitPrepared(_Readable, frozen=True, gc=False, tag_field="action", tag="commit_prepared"):
    """A prepared transaction was committed: its changes count now.

    Attributes:
        flags: Always 0 so far.
        commit_lsn: The LSN of the record that committed it.
        end_lsn: The end of that record: what may be confirmed once everything before is durable.
        commit_time: When it committed, in UTC.
        xid: The transaction's id (32 bits).
        gid: The name that PREPARE TRANSACTION gave it.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_time: datetime
    xid: int
    gid: str
    lsn: int | UnsetType = UNSET


class RollbackPrepared(_Readable, frozen=True, gc=False, tag_field="action", tag="rollback_prepared"):
    """A prepared transaction was rolled back: its changes never count.

    Attributes:
        flags: Always 0 so far.
        prepare_end_lsn: The end of the prepare record.
        rollback_end_lsn: The end of the record that rolled it back: what may be confirmed.
        prepare_time: When it was prepared, in UTC.
        rollback_time: When it was rolled back, in UTC.
        xid: The transaction's id (32 bits).
        gid: The name that PREPARE TRANSACTION gave it.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    flags: int
    prepare_end_lsn: int
    rollback_end_lsn: int
    prepare_time: datetime
    rollback_time: datetime
    xid: int
    gid: str
    lsn: int | UnsetType = UNSET


class StreamPrepare(_Readable, frozen=True, gc=False, tag_field="action", tag="stream_prepare"):
    """A streamed transaction was prepared for a two-phase commit.

    Attributes:
        flags: Always 0 so far.
        prepare_lsn: The LSN of the prepare record.
        end_lsn: The end of the prepare record; see `Prepare.end_lsn`.
        prepare_time: When it was prepared, in UTC.
        xid: The id of the whole transaction.
        gid: The name that PREPARE TRANSACTION gave it.
        lsn: The `wal_start` of the XLogData that carried this message.
    """

    flags: int
    prepare_lsn: int
    end_lsn: int
    prepare_time: datetime
    xid: int
    gid: str
    lsn: int | UnsetType = UNSET


Change: TypeAlias = Union[Insert[Row], Update[Row], Delete[Row]]  # noqa: UP007 (subscriptable: Change[Order])
"""A change of one row; `Change[Order]` tells the type checker what `new` and `old` are."""

Event: TypeAlias = Union[  # noqa: UP007
    Begin,
    Commit,
    Origin,
    Relation,
    Type,
    Insert[Row],
    Update[Row],
    Delete[Row],
    Truncate,
    Message,
    StreamStart,
    StreamStop,
    StreamCommit,
    StreamAbort,
    BeginPrepare,
    Prepare,
    CommitPrepared,
    RollbackPrepared,
    StreamPrepare,
]
"""Whatever one pgoutput message decodes to; `Event[Order]` tells the type checker what the rows are."""
