"""A stretch of a stream as messages: written down by hand, recorded from a server, or read from a file."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import UNSET, json
from psycopg import ClientCursor, ProgrammingError, connect
from psycopg.abc import Dumper
from psycopg.adapt import PyFormat, Transformer

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConfigError
from pgcdc.events import Begin, Column, Commit, Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.protocol import Batch, CopyReader, Decoder, encode_message
from pgcdc.testing.changes import Change, Table, Transaction, table_name, type_of

__all__ = ["Capture"]

MAGIC: Final = b"pgcdc-capture-1\n"
_FIRST_LSN: Final = 0x1000000
_STEP: Final = 0x40
"""Bytes of WAL that each message is taken to need."""
_COMMIT_RECORD: Final = 0x30
_COMMITTED: Final = datetime(2024, 1, 1, tzinfo=UTC)
_JSON: Final = frozenset({114, 3802})
_FIRST_OID: Final = 16384


@dataclass(frozen=True)
class Capture:
    """Messages in stream order.

    Attributes:
        messages: `wal_start` and payload of each XLogData.
        existing: Rows of an initial copy that comes before them.
        keys: Primary keys by the table's OID, where they are not what the stream says of the replica identity.
        written_lsn: Where the server's WAL ended, if that is further than the messages say.
        empty: Tables that the initial copy finds no row of.
    """

    messages: Sequence[tuple[int, bytes]]
    existing: Sequence[Batch] = ()
    keys: Mapping[int, Sequence[str]] = field(default_factory=dict)
    written_lsn: int = 0
    empty: Sequence[Relation] = ()

    @classmethod
    def of(cls, transactions: Iterable[Transaction | Change], existing: Iterable[Change] = ()) -> Capture:
        """Write transactions down as PostgreSQL sends them.

        The same transactions get the same LSNs each time, so a longer list goes on where a shorter one ended.

        Args:
            transactions: In the order of their commits.
            existing: Inserts of the rows that were there before.

        Returns:
            The messages, values in text form.

        Raises:
            ConfigError: When a change cannot be: a row without its key, a table that nothing is known of.
        """
        writer = _Writer()
        copied = writer.copy(existing)
        messages: list[tuple[int, bytes]] = []
        for one in transactions:
            messages.extend(writer.transaction(one if isinstance(one, Transaction) else Transaction((one,))))
        return cls(messages, copied, writer.keys)

    @classmethod
    def load(cls, path: str | Path) -> Capture:
        """Read a file that `save` wrote.

        Args:
            path: The file.

        Returns:
            The messages.

        Raises:
            ConfigError: When it is no such file.
        """
        return cls(list(_parse(Path(path))))

    def save(self, path: str | Path) -> None:
        """Write the messages to a file: 16 bytes that say what it is, then LSN (8 bytes), length (4) and payload.

        Args:
            path: The file.
        """
        with Path(path).open("wb") as file:
            file.write(MAGIC)
            file.writelines(struct.pack(">QI", lsn, len(payload)) + payload for lsn, payload in self.messages)

    @classmethod
    def record(cls, dsn: Dsn, slot: str, publication: str, *, binary: bool = True) -> Capture:
        """Take down what a slot has; the slot stays where it is.

        Args:
            dsn: Where.
            slot: A slot of pgoutput that nobody streams from.
            publication: The publication.
            binary: Whether values come in binary form, where their types have one.

        Returns:
            The messages.

        Source:
            PostgreSQL manual, "Replication Management Functions", `pg_logical_slot_peek_binary_changes`.
        """
        options = "-c TimeZone=UTC -c DateStyle=ISO -c extra_float_digits=1 -c bytea_output=hex"
        with connect(dsn_of(dsn), autocommit=True, options=options, cursor_factory=ClientCursor) as connection:
            rows = connection.execute(
                "SELECT (lsn - '0/0')::int8, data FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, NULL, NULL,"
                " 'proto_version', '1', 'publication_names', %s, 'messages', 'true', 'binary', %s)",
                (slot, publication, "true" if binary else "false"),
            )
            return cls([(lsn, bytes(data)) for lsn, data in rows])

    @property
    def first_lsn(self) -> int:
        """Where the first message begins."""
        return min((lsn for lsn, _ in self.messages), default=_FIRST_LSN)

    @property
    def end_lsn(self) -> int:
        """Where the server's WAL ends at least: what has begun to come has been committed."""
        begins = (Decoder().decode(payload) for _, payload in self.messages if payload[:1] == b"B")
        commits = (begin.final_lsn for begin in begins if isinstance(begin, Begin))
        return max(*(lsn for lsn, _ in self.messages), *commits, _FIRST_LSN, self.written_lsn)

    def order(self) -> dict[int, Sequence[str]]:
        """The columns by which changes of each table are kept in order, by the table's OID."""
        decoder, found = Decoder(), dict[int, Sequence[str]]()
        shapes = [*self.empty, *(relation for batch in self.existing for relation in batch.relations)]
        events = decoder.decode_many([payload for _, payload in self.messages if payload[:1] in b"RSEY"])
        shapes += [event for event in events if isinstance(event, Relation)]
        for relation in shapes:
            identity = [column.name for column in relation.columns if column.is_key]
            found[relation.oid] = self.keys.get(relation.oid) or identity or [one.name for one in relation.columns]
        return found

    def cut(self, count: int) -> Capture:
        """The beginning of it, as if the connection had been lost there.

        Args:
            count: How many messages.

        Returns:
            The messages, and the existing rows.
        """
        return Capture(self.messages[:count], self.existing, self.keys, self.end_lsn, self.empty)

    def __len__(self) -> int:
        return len(self.messages)


def _parse(path: Path) -> Iterator[tuple[int, bytes]]:
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        raise ConfigError(f"{path} is not a capture", hint="Capture.save writes them")
    at = len(MAGIC)
    while at < len(data):
        if at + 12 > len(data):
            raise ConfigError(f"the capture {path} is cut short")
        lsn, length = struct.unpack_from(">QI", data, at)
        payload = data[at + 12 : at + 12 + length]
        if len(payload) < length:
            raise ConfigError(f"the capture {path} is cut short")
        yield lsn, payload
        at += 12 + length


class _Writer:
    """Plays the server: LSNs, transaction ids, and which shape of each table was told last."""

    def __init__(self) -> None:
        self._lsn = _FIRST_LSN
        self._xid = 700
        self._oids: dict[tuple[str, str], int] = {}
        self._shapes: dict[tuple[str, str], Relation] = {}
        self._told: dict[int, Relation] = {}
        self._transformer = Transformer()
        self.keys: dict[int, tuple[str, ...]] = {}

    def copy(self, rows: Iterable[Change]) -> list[Batch]:
        batches = []
        for change in rows:
            if change.action != "insert" or change.new is None:
                raise ConfigError("rows that exist are written down as inserts", hint="existing=[insert(…), …]")
            relation = self._shape(change.tables[0], change.new)
            reader = CopyReader(relation, self._lsn, [True] * len(relation.columns))
            fields = [self._text(change.new.get(one.name), one.type_oid) for one in relation.columns]
            parts = [b"PGCOPY\n\xff\r\n\x00", struct.pack(">II", 0, 0), struct.pack(">h", len(fields))]
            for text in fields:
                raw = None if not isinstance(text, str) else text.encode()
                parts.append(struct.pack(">i", -1) if raw is None else struct.pack(">i", len(raw)) + raw)
            batches.append(reader.read([b"".join(parts) + b"\xff\xff"]))
        return batches

    def transaction(self, one: Transaction) -> Iterator[tuple[int, bytes]]:
        self._xid += 1
        time = _COMMITTED + timedelta(seconds=self._xid)
        bodies: list[bytes] = []
        for change in one.changes:
            bodies.extend(self._messages(change))
        first = self._lsn + _STEP
        commit_lsn = first + _STEP * (len(bodies) + 1) if one.commit_lsn is None else one.commit_lsn
        if commit_lsn < first:
            raise ConfigError("commits go up: one of these is at or before the one before it")
        yield first, encode_message(Begin(commit_lsn, time, self._xid))
        for number, body in enumerate(bodies):
            yield first + _STEP * number, body
        self._lsn = commit_lsn + _COMMIT_RECORD
        yield commit_lsn, encode_message(Commit(0, commit_lsn, self._lsn, time))

    def _messages(self, change: Change) -> Iterator[bytes]:
        if change.action == "message":
            yield encode_message(Message(change.transactional, self._lsn, change.prefix, change.content))
            return
        if change.action == "truncate":
            relations = [self._shape(table, {}) for table in change.tables]
            for relation in relations:
                yield from self._tell(relation)
            yield encode_message(Truncate(relations, False, False))
            return
        relation = self._shape(change.tables[0], change.new if change.new is not None else change.old or {})
        yield from self._tell(relation)
        keys = [column.name for column in relation.columns if column.is_key]
        for row in (change.new, change.old):
            missing = [] if row is None else [key for key in keys if row.get(key) is None]
            if missing and relation.replica_identity == "d":
                raise ConfigError(f"a row of {relation.name} has no {missing[0]}, which is its key")
        if change.action == "insert":
            assert change.new is not None
            yield encode_message(Insert(relation, self._tuple(relation, change.new)))
        elif change.action == "delete":
            assert change.old is not None
            yield encode_message(Delete(relation, UNSET, self._before(relation, change.old)))
        else:
            assert change.new is not None
            old: Any = UNSET
            if relation.replica_identity == "f":
                if change.old is None:
                    raise ConfigError(f"under replica identity full an update of {relation.name} has an old row")
                old = self._before(relation, change.old)
            elif change.old is not None and any(change.old[key] != change.new[key] for key in keys):
                old = self._before(relation, change.old)
            yield encode_message(Update(relation, self._tuple(relation, change.new), old))

    def _tell(self, relation: Relation) -> Iterator[bytes]:
        if self._told.get(relation.oid) != relation:
            self._told[relation.oid] = relation
            yield encode_message(relation)

    def _shape(self, table: str | Table, row: Mapping[str, Any]) -> Relation:
        name = table_name(table)
        oid = self._oids.setdefault(name, _FIRST_OID + len(self._oids))
        if isinstance(table, Table):
            columns = [(column, *type_of(kind)) for column, kind in table.columns.items()]
            keys: tuple[str, ...] = table.keys
            identity: Literal["d", "f"] = table.replica_identity
        else:
            known = self._shapes.get(name)
            if known is None and not row:
                raise ConfigError(f"nothing is known of the columns of {table}", hint="give a pgcdc.testing.Table")
            columns = [] if known is None else [(c.name, c.type_oid, c.type_modifier) for c in known.columns]
            there = {column for column, *_ in columns}
            columns += [(column, self._oid(value), -1) for column, value in row.items() if column not in there]
            first = "id" if any(column == "id" for column, *_ in columns) else columns[0][0]
            keys = self.keys.get(oid, (first,))
            identity = "d"
            if known is not None and known.replica_identity == "f":
                identity = "f"
        whole = identity == "f"
        unknown = sorted(row.keys() - {column for column, *_ in columns})
        if unknown:
            raise ConfigError(f"{'.'.join(name)} has no column {unknown[0]}", hint="name it in Table(…, columns=…)")
        relation = Relation(
            oid, *name, identity, [Column(one, kind, modifier, whole or one in keys) for one, kind, modifier in columns]
        )
        self._shapes[name], self.keys[oid] = relation, keys
        return relation

    def _oid(self, value: Any) -> int:
        """The type that a value is taken to have."""
        if value is None or value is UNSET or isinstance(value, str):
            return type_of("text")[0]
        if isinstance(value, bool):
            return type_of("bool")[0]
        if isinstance(value, int):
            return type_of("int8")[0]
        if isinstance(value, dict):
            return type_of("jsonb")[0]
        if isinstance(value, Decimal):
            return type_of("numeric")[0]
        if isinstance(value, datetime):
            return type_of("timestamptz" if value.tzinfo is not None else "timestamp")[0]
        if isinstance(value, list) and value and isinstance(value[0], (str, int)) and not isinstance(value[0], bool):
            return type_of("text[]" if isinstance(value[0], str) else "int8[]")[0]
        return self._dumper(value).oid or type_of("text")[0]

    def _dumper(self, value: Any) -> Dumper:
        try:
            return self._transformer.get_dumper(value, PyFormat.TEXT)
        except ProgrammingError as error:
            raise ConfigError(
                f"a {type(value).__name__} has no text form that is known here",
                hint="give the text that PostgreSQL prints for it",
            ) from error

    def _tuple(self, relation: Relation, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self._text(row.get(column.name), column.type_oid) for column in relation.columns)

    def _before(self, relation: Relation, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(
            self._text(row.get(column.name), column.type_oid) if column.is_key else UNSET for column in relation.columns
        )

    def _text(self, value: Any, oid: int) -> Any:
        """A value in PostgreSQL's text form; str passes as it is, whatever the column's type."""
        if value is None or value is UNSET or isinstance(value, str):
            return value
        if oid in _JSON:
            return json.encode(value).decode()
        if isinstance(value, bool):
            return "t" if value else "f"
        if isinstance(value, bytes):
            return "\\x" + value.hex()
        if isinstance(value, UUID):
            return str(value)
        dumped = self._dumper(value).dump(value)
        return None if dumped is None else bytes(dumped).decode()
