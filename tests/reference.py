"""A slow, plain, independent decoder of pgoutput, protocols 1 to 4: the oracle that the Rust decoder is compared with.

Rows are dicts; everything else is what `pgcdc.Decoder(rows="dict")` gives, so that both can be compared with `same`.

Over 400 lines, because each kind of message is spelled out once more, in another way than in Rust.

Source: PostgreSQL manual, "Logical Replication Message Formats"; server file `replication/logical/proto.c`.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET

from pgcdc.errors import DecodeError, InvalidValue, UnknownRelation
from pgcdc.events import (
    Begin,
    BeginPrepare,
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
from tests.reference_values import BadValue, Composite, Types, decode_value, text_of

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
NO_XID = -1
"""Of a streamed transaction whose Stream Start could not be read."""


def plain(value: Any) -> Any:
    """A form in which two values are equal only if they are the same in every respect.

    Args:
        value: Anything that a decoder returns.

    Returns:
        Nested tuples of the type's name and of what tells values of the type apart: NaN equals NaN, 1.0 is not 1,
        Decimal("1.0") is not Decimal("1.00"), a time zone is part of a time.
    """
    kind = type(value).__name__
    if value is UNSET:
        return "UNSET"
    if isinstance(value, Composite):
        return "composite", tuple((name, plain(item)) for name, item in value.items())
    if isinstance(value, msgspec.Struct):
        if type(value).__module__ not in ("pgcdc.events", "pgcdc.protocol.values"):
            fields = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
            return "composite", tuple((name, plain(getattr(value, field))) for name, field in fields)
        return kind, tuple((name, plain(getattr(value, name))) for name in value.__struct_fields__)
    if isinstance(value, dict):
        return kind, tuple((plain(key), plain(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return kind, getattr(value, "lower_bounds", None), tuple(plain(item) for item in value)
    if isinstance(value, DecodeError):
        return kind
    if type(value) is int:
        return kind, hex(value)  # repr() refuses more than 4300 digits
    return kind, repr(value)


class Reader:
    """A cursor over one message that refuses to read past its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.no_date: DecodeError | None = None

    def take(self, size: int, field: str) -> bytes:
        """The next bytes."""
        if size < 0 or self.at + size > len(self.data):
            raise DecodeError(f"{field} is cut short", reason="unexpected end of message", field=field, offset=self.at)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, format: str, field: str) -> int:
        """The next big-endian integer, in a code of the struct module."""
        value: int = struct.unpack(">" + format, self.take(struct.calcsize(format), field))[0]
        return value

    def one_of(self, allowed: bytes, field: str) -> int:
        """The next byte, which must be one of these."""
        byte = self.take(1, field)
        if byte not in allowed:
            raise DecodeError(f"{field} is another byte", reason="unexpected byte", field=field, offset=self.at - 1)
        return byte[0]

    def string(self, field: str) -> str:
        """The next NUL-terminated string."""
        end = self.data.find(b"\x00", self.at)
        word = self.take((end if end >= 0 else len(self.data)) - self.at, field)
        self.take(1, field)
        return text_of(word)

    def name(self, field: str) -> str:
        """The next name of a schema, table, column or type; no server is compiled for longer ones."""
        at, name = self.at, self.string(field)
        if self.at - at - 1 > 1024:
            raise DecodeError(f"{field} has no end", reason="impossible length", field=field, offset=at)
        return name

    def time(self, field: str) -> datetime:
        """Microseconds since 2000-01-01 UTC; one that Python cannot hold makes no event, but it is a whole message."""
        try:
            return EPOCH + timedelta(microseconds=self.number("q", field))
        except OverflowError:
            self.no_date = DecodeError(f"{field} is no date", reason="out of range", field=field, offset=self.at - 8)
            return EPOCH

    def end(self) -> None:
        """Nothing may be left."""
        if self.at != len(self.data):
            raise DecodeError("bytes are left over", reason="trailing bytes", field="message", offset=self.at)


class ReferenceDecoder:
    """`pgcdc.Decoder(rows="dict")`, slowly.

    Args:
        types: What is known of types that PostgreSQL does not bring along.
    """

    def __init__(self, types: Types | None = None) -> None:
        self.types = types
        self.relations: dict[int, Relation] = {}
        self.begin: Begin | None = None
        self.index = 0
        self.heard = 0
        # When each relation was told, in one numbering for all of them: the later one counts at a Stream Commit.
        self.told: dict[int, int] = {}
        # Of a piece of a stream that is going on, the whole transaction's id; what each such transaction was told.
        self.stream: int | None = None
        self.streams: dict[int, dict[int, tuple[int, Relation]]] = {}

    def decode(self, message: bytes, lsn: int | None = None) -> Event:
        """Decode one whole message.

        Args:
            message: The payload of one XLogData.
            lsn: The `wal_start` of the XLogData, where known.

        Returns:
            The event.

        Raises:
            DecodeError: When the bytes are not one whole message.
        """
        reader = Reader(bytes(message))
        kind = reader.take(1, "message type")
        parse = {
            b"B": self._begin,
            b"C": self._commit,
            b"O": self._origin,
            b"R": self._relation,
            b"Y": self._type,
            b"I": self._insert,
            b"U": self._update,
            b"D": self._delete,
            b"T": self._truncate,
            b"M": self._message,
            b"S": self._stream_start,
            b"E": self._stream_stop,
            b"c": self._stream_commit,
            b"A": self._stream_abort,
            b"b": self._begin_prepare,
            b"P": self._prepare,
            b"K": self._commit_prepared,
            b"r": self._rollback_prepared,
            b"p": self._stream_prepare,
        }.get(kind)
        if parse is None:
            raise DecodeError("unknown message", reason="unknown message type", field="message type", offset=0)
        facts: dict[str, Any] = {"lsn": lsn} if lsn else {}  # the server says 0/0 where it has none
        if self.stream is not None and kind in b"RYIUDTM":
            xid = reader.number("I", "xid")
            if kind in b"IUDTM":
                facts["xid"] = xid
        if kind in b"IUDT":
            facts |= self._place()
        try:
            event: Event = parse(reader, facts)  # type: ignore[assignment]
            reader.end()
        except UnknownRelation:
            raise
        except DecodeError:
            self._move_blindly(kind, reader)
            raise
        self._move(event)
        if reader.no_date is not None:
            if isinstance(event, Begin):
                self.begin = msgspec.structs.replace(event, commit_time=UNSET)
            raise reader.no_date
        return event

    def _move_blindly(self, kind: bytes, reader: Reader) -> None:
        """After a message that could not be read: what its kind alone says of the next ones."""
        if kind == b"R":
            known: dict[int, Any] = self.relations if self.stream is None else self.streams.setdefault(self.stream, {})
            start = 1 if self.stream is None else 5
            if len(reader.data) < start + 4:
                known.clear()
            else:
                known.pop(int.from_bytes(reader.data[start : start + 4]), None)
        elif kind in b"BCb":
            self.begin = self.stream = None
        elif kind == b"S":
            self.begin, self.stream = None, NO_XID
            self.streams[NO_XID] = {}
        elif kind == b"E":
            self.stream = None

    def _move(self, event: Event) -> None:
        """After a message that was good."""
        match event:
            case Relation(oid=oid):
                self.heard += 1
                if self.stream is None:
                    self.relations[oid], self.told[oid] = event, self.heard
                else:
                    self.streams.setdefault(self.stream, {})[oid] = self.heard, event
            case Begin():
                self.begin, self.stream, self.index = event, None, 0
            case Commit() | BeginPrepare() | Prepare():
                self.begin = self.stream = None
            case StreamStart(xid=xid):
                self.begin, self.stream = None, xid
                self.streams.setdefault(xid, {})
            case StreamStop():
                self.stream = None
            case StreamCommit(xid=xid):
                for oid, (heard, relation) in self.streams.pop(xid, {}).items():
                    if heard > self.told.get(oid, 0):
                        self.relations[oid], self.told[oid] = relation, heard
            case StreamAbort(xid=xid, subxid=subxid):
                if xid == subxid:
                    self.streams.pop(xid, None)
                elif xid in self.streams:
                    self.streams[xid] = {}
            case StreamPrepare(xid=xid):
                self.streams.pop(xid, None)

    def decode_many(self, messages: list[bytes], lsns: list[int] | None = None) -> list[Event | DecodeError]:
        """Decode a list, an error in the place of a bad message.

        Args:
            messages: Whole messages, in stream order.
            lsns: The `wal_start` of each, where known.

        Returns:
            As many items as messages.
        """
        events: list[Event | DecodeError] = []
        for number, message in enumerate(messages):
            try:
                events.append(self.decode(message, lsns[number] if lsns else None))
            except DecodeError as error:
                events.append(error)
        return events

    def _place(self) -> dict[str, Any]:
        """Commit and index of a change; counted before it is read, because a bad change takes its number with it."""
        if self.begin is None:
            return {}
        self.index += 1
        return {
            "commit_lsn": self.begin.final_lsn,
            "commit_time": self.begin.commit_time,
            "index": self.index - 1,
        }

    def _begin(self, reader: Reader, facts: dict[str, Any]) -> Begin:
        return Begin(reader.number("Q", "final_lsn"), reader.time("commit_time"), reader.number("I", "xid"), **facts)

    def _commit(self, reader: Reader, facts: dict[str, Any]) -> Commit:
        return Commit(
            reader.number("B", "flags"),
            reader.number("Q", "commit_lsn"),
            reader.number("Q", "end_lsn"),
            reader.time("commit_time"),
            **facts,
        )

    def _origin(self, reader: Reader, facts: dict[str, Any]) -> Origin:
        return Origin(reader.number("Q", "commit_lsn"), reader.string("name"), **facts)

    def _relation(self, reader: Reader, facts: dict[str, Any]) -> Relation:
        oid = reader.number("I", "oid")
        schema = reader.name("schema") or "pg_catalog"
        name = reader.name("name")
        identity = text_of(reader.take(1, "replica_identity"))
        if identity not in ("d", "n", "f", "i"):
            raise DecodeError("unknown identity", reason="unknown replica identity", field="replica_identity")
        columns = []
        count = reader.number("h", "columns")
        if count < 0:
            raise DecodeError("a negative count", reason="impossible length", field="columns", offset=reader.at - 2)
        for _ in range(count):
            flags = reader.one_of(b"\x00\x01", "column flags")
            column = reader.name("column name")
            type_oid, modifier = reader.number("I", "type_oid"), reader.number("i", "type_modifier")
            columns.append(Column(column, type_oid, modifier, bool(flags & 1)))
        return Relation(oid, schema, name, identity, columns)  # type: ignore[arg-type]

    def _type(self, reader: Reader, facts: dict[str, Any]) -> Type:
        return Type(reader.number("I", "oid"), reader.name("schema") or "pg_catalog", reader.name("name"))

    def _stream_start(self, reader: Reader, facts: dict[str, Any]) -> StreamStart:
        return StreamStart(reader.number("I", "xid"), reader.one_of(b"\x00\x01", "first_segment") == 1, **facts)

    def _stream_stop(self, reader: Reader, facts: dict[str, Any]) -> StreamStop:
        return StreamStop(**facts)

    def _stream_commit(self, reader: Reader, facts: dict[str, Any]) -> StreamCommit:
        return StreamCommit(
            reader.number("I", "xid"),
            reader.number("B", "flags"),
            reader.number("Q", "commit_lsn"),
            reader.number("Q", "end_lsn"),
            reader.time("commit_time"),
            **facts,
        )

    def _stream_abort(self, reader: Reader, facts: dict[str, Any]) -> StreamAbort:
        xid, subxid = reader.number("I", "xid"), reader.number("I", "subxid")
        if len(reader.data) == 9:
            return StreamAbort(xid, subxid, **facts)
        return StreamAbort(xid, subxid, reader.number("Q", "abort_lsn"), reader.time("abort_time"), **facts)

    def _begin_prepare(self, reader: Reader, facts: dict[str, Any]) -> BeginPrepare:
        return BeginPrepare(
            reader.number("Q", "prepare_lsn"),
            reader.number("Q", "end_lsn"),
            reader.time("prepare_time"),
            reader.number("I", "xid"),
            reader.string("gid"),
            **facts,
        )

    def _with_flags(self, reader: Reader) -> tuple[int, int, int, datetime, int, str]:
        return (
            reader.number("B", "flags"),
            reader.number("Q", "prepare_lsn or commit_lsn"),
            reader.number("Q", "end_lsn"),
            reader.time("prepare_time or commit_time"),
            reader.number("I", "xid"),
            reader.string("gid"),
        )

    def _prepare(self, reader: Reader, facts: dict[str, Any]) -> Prepare:
        return Prepare(*self._with_flags(reader), **facts)

    def _stream_prepare(self, reader: Reader, facts: dict[str, Any]) -> StreamPrepare:
        return StreamPrepare(*self._with_flags(reader), **facts)

    def _commit_prepared(self, reader: Reader, facts: dict[str, Any]) -> CommitPrepared:
        return CommitPrepared(*self._with_flags(reader), **facts)

    def _rollback_prepared(self, reader: Reader, facts: dict[str, Any]) -> RollbackPrepared:
        return RollbackPrepared(
            reader.number("B", "flags"),
            reader.number("Q", "prepare_end_lsn"),
            reader.number("Q", "rollback_end_lsn"),
            reader.time("prepare_time"),
            reader.time("rollback_time"),
            reader.number("I", "xid"),
            reader.string("gid"),
            **facts,
        )

    def _known(self, oid: int) -> Relation:
        known = self.relations
        if self.stream is not None:
            known = {told: relation for told, (_, relation) in self.streams.get(self.stream, {}).items()}
        if oid not in known:
            raise UnknownRelation(
                f"relation {oid} is unknown", reason="unknown relation", field="relation oid", offset=1
            )
        return known[oid]

    def _tuple(self, reader: Reader, relation: Relation, kind: bytes) -> dict[str, Any]:
        """One tuple: N new, O whole old row, K old key (a column outside the key is not NULL there but not sent)."""
        count = reader.number("h", "columns")
        if count != len(relation.columns):
            raise DecodeError("another number of columns", reason="wrong number of columns", field="columns")
        row: dict[str, Any] = {}
        for column in relation.columns:
            form = reader.take(1, column.name)
            if form == b"n":
                row[column.name] = None
            elif form == b"u":
                row[column.name] = UNSET
            elif form in b"tb":
                offset = reader.at
                data = reader.take(reader.number("i", column.name), column.name)
                try:
                    row[column.name] = decode_value(column.type_oid, form == b"b", data, self.types)
                except BadValue as error:
                    raise InvalidValue(
                        f"{column.name} is not valid", reason=str(error), field=column.name, offset=offset
                    ) from None
            else:
                raise DecodeError("unknown form", reason="unknown column form", field=column.name, offset=reader.at - 1)
            if kind == b"K" and not column.is_key and form == b"n":
                row[column.name] = UNSET
        return row

    def _expect(self, reader: Reader, kinds: bytes) -> bytes:
        kind = reader.take(1, "tuple kind")
        if kind not in kinds:
            raise DecodeError("unknown tuple", reason="unknown tuple kind", field="tuple kind", offset=reader.at - 1)
        return kind

    def _insert(self, reader: Reader, facts: dict[str, Any]) -> Insert[Any]:
        relation = self._known(reader.number("I", "relation oid"))
        kind = self._expect(reader, b"N")
        return Insert(relation, self._tuple(reader, relation, kind), **facts)

    def _update(self, reader: Reader, facts: dict[str, Any]) -> Update[Any]:
        relation = self._known(reader.number("I", "relation oid"))
        kind = self._expect(reader, b"KON")
        old: Any = UNSET
        if kind != b"N":
            old = self._tuple(reader, relation, kind)
            kind = self._expect(reader, b"N")
        new = self._tuple(reader, relation, kind)
        if old is not UNSET:
            new = {name: old[name] if value is UNSET else value for name, value in new.items()}
        return Update(relation, new, old, **facts)

    def _delete(self, reader: Reader, facts: dict[str, Any]) -> Delete[Any]:
        relation = self._known(reader.number("I", "relation oid"))
        kind = self._expect(reader, b"KO")
        return Delete(relation, UNSET, self._tuple(reader, relation, kind), **facts)

    def _truncate(self, reader: Reader, facts: dict[str, Any]) -> Truncate:
        count = reader.number("I", "relations")
        options = reader.one_of(b"\x00\x01\x02\x03", "options")
        if count * 4 > len(reader.data):
            raise DecodeError(
                "relations are cut short", reason="unexpected end of message", field="relations", offset=1
            )
        relations = [self._known(reader.number("I", "relation oid")) for _ in range(count)]
        return Truncate(relations, bool(options & 1), bool(options & 2), **facts)

    def _message(self, reader: Reader, facts: dict[str, Any]) -> Message:
        flags = reader.one_of(b"\x00\x01", "flags")
        place = self._place() if flags & 1 else {}
        if "xid" in facts:
            place["xid"] = facts["xid"]
        lsn = reader.number("Q", "lsn")
        prefix = reader.string("prefix")
        content = reader.take(reader.number("i", "length"), "content")
        return Message(bool(flags & 1), lsn, prefix, content, **place)
