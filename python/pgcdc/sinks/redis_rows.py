"""What the Redis sink keeps a position of for each row: values, hashes, and rows that are counted.

Over 400 lines because the three forms share their guards, and the server's functions stand beside those who call them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from pgcdc.errors import ConfigError, SinkRejected
from pgcdc.events import Relation
from pgcdc.protocol import Batch, JsonRow, json_fields
from pgcdc.protocol.json_columns import REFUSED, decode_columns, encode_columns
from pgcdc.sinks import redis_scripts as scripts
from pgcdc.sinks.redis_server import Call, Server, pages
from pgcdc.sinks.template import SCHEMA, TABLE, Template

__all__ = ["CHUNK", "Counting", "Keeping", "Refusal", "Table", "Tables", "refuse_key"]

CHUNK: Final = 500
"""Rows for one call of a script."""
_is_integer: Final = re.compile("-?[0-9]+").fullmatch


class Refusal:
    """Rows that are refused: all of a batch are found before anything is written."""

    def __init__(self) -> None:
        self._rows: list[tuple[JsonRow, str, str | None]] = []

    def add(self, row: JsonRow, why: str, hint: str | None = None) -> None:
        """Take down a row, and why it is refused."""
        self._rows.append((row, why, hint))

    def raise_any(self) -> None:
        """Raise SinkRejected if there is one."""
        if not self._rows:
            return
        row, why, hint = self._rows[0]
        assert row.relation is not None
        table = f"{row.relation.schema}.{row.relation.name}"
        positions = [one.position for one, _, _ in self._rows if one.position is not None]
        raise SinkRejected(f"a row of table {table} {why}", hint=hint, table=table, positions=positions)


@dataclass(eq=False)
class Table:
    """A table: how keys are made of its rows, and the names of what is kept of it.

    Attributes:
        name: Its name with its schema's.
        fill: Makes a key of the values of `key`.
        positions: The hash of its rows' positions.
        floor: The position of its last TRUNCATE.
        graves: What the names of tombstones begin with.
        key: The columns that keys are made of.
        columns: All columns.
    """

    name: str
    fill: Callable[[Sequence[str]], str]
    positions: str
    floor: str
    graves: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


class Tables:
    """Tables by their shapes.

    Args:
        template: How keys are made.
        prefix: What the names begin with of what is kept.
        apart: Whether each table has to have keys of its own.
    """

    def __init__(self, template: Template, prefix: str, *, apart: bool = False) -> None:
        self._template = template
        self._prefix = prefix
        self._apart = apart
        self._known: dict[object, Table] = {}
        self._told: dict[tuple[str, ...], Relation] = {}  # by what the template tells them apart by

    def of(self, batch: Batch, relation: Relation, columns: Sequence[str]) -> Table:
        """A table of a batch.

        Args:
            batch: The batch.
            relation: The table's shape.
            columns: Those whose values the template will be given.

        Raises:
            ConfigError: When another table's rows, or others of this one, would have the same keys.
        """
        key = batch.key_columns(relation)
        names = tuple(column.name for column in relation.columns)
        known = (relation.oid, relation.schema, relation.name, key, names)
        if known not in self._known:
            if self._apart:
                self._tell_apart(relation)
                self._refuse_part(relation, key)
            name = f"{relation.schema}.{relation.name}"
            kept = f"{self._prefix}:{name}"
            fill = self._template.filler(relation.schema, relation.name, columns, key)
            self._known[known] = Table(
                name, fill, f"{kept}:positions", f"{kept}:floor", f"{kept}:gone:", tuple(columns), names
            )
        return self._known[known]

    def _tell_apart(self, relation: Relation) -> None:
        by = {SCHEMA: relation.schema, TABLE: relation.name}
        other = self._told.setdefault(tuple(by[name] for name in self._template.names if name in by), relation)
        # One that was renamed stays the same, and so does one that was made again.
        if other.oid != relation.oid and (other.schema, other.name) != (relation.schema, relation.name):
            raise ConfigError(
                f"rows of the tables {other.schema}.{other.name} and {relation.schema}.{relation.name} would have the"
                f" same keys, {self._template.text}",
                hint='write what is different into them, as in key="{schema}:{table}:{key}", or one sink for each',
            )

    def _refuse_part(self, relation: Relation, key: Sequence[str]) -> None:
        """Rows that differ in the rest of the primary key would be one."""
        columns = set(self._template.key(key))
        if columns < set(key):
            table, rest = f"{relation.schema}.{relation.name}", ", ".join(one for one in key if one not in columns)
            raise ConfigError(
                f"rows of the table {table} that differ in {rest} would have the same key, {self._template.text}",
                hint="write all columns of the primary key into it, or {key}",
                table=table,
            )


def _key_of(row: JsonRow) -> Sequence[str] | None:
    key = row.key
    return None if key is None or None in key else key  # type: ignore[return-value]  # none of them is None


def refuse_key(refusal: Refusal, row: JsonRow, columns: Sequence[str]) -> None:
    """Take down that a row has no key, or one with NULL in it."""
    what = f"of {', '.join(columns)}" if columns else "that is known"
    hint = "ALTER TABLE … REPLICA IDENTITY FULL, or a key= of columns of the primary key"
    refusal.add(row, f"has no key {what}", hint)


@dataclass(slots=True)
class _Value:
    """What a key is to be after a batch."""

    row: JsonRow
    position: str
    new: bytes | None
    unsent: tuple[str, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    """The keys that the row has had since what was not sent was written, each with the position from which on."""


@dataclass
class _Pending:
    """What a batch does to a table."""

    values: dict[str, _Value] = field(default_factory=dict)
    truncated: str | None = None


class Keeping:
    """Rows as strings or hashes."""

    scripts = (scripts.KEEP, scripts.FLOOR, scripts.EMPTY)

    def __init__(
        self, server: Server, template: Template, prefix: str, tombstones: int, form: str, ttl: int, max_value: int
    ) -> None:
        self._server = server
        self._template = template
        self._tables = Tables(template, f"{prefix}:{form}:{template.text}", apart=True)
        self._form = form
        self._tombstones = str(tombstones)
        self._ttl = str(ttl)
        self._max_value = max_value

    def write(self, batch: Batch) -> None:
        """Apply a batch."""
        refusal = Refusal()
        pending: dict[Table, _Pending] = {}
        for table, of, row in self._rows(batch, pending):
            self._note(of, table, row, refusal)
        refusal.raise_any()
        self._complete(pending)
        calls: list[Call] = []
        for table, of in pending.items():
            calls += self._calls(table, list(of.values.items()), refusal)
        refusal.raise_any()
        _truncate(self._server, pending, counted=False)
        self._server.run(calls)

    def _rows(self, batch: Batch, pending: dict[Table, _Pending]) -> Iterator[tuple[Table, _Pending, JsonRow]]:
        def key(relation: Relation) -> Sequence[str]:
            return self._template.key(batch.key_columns(relation))

        known: dict[int, tuple[Table, _Pending]] = {}
        for row in batch.json_rows(key):
            relation = row.relation
            if relation is None:  # a logical message belongs to no row
                continue
            found = known.get(id(relation))
            if found is None:
                table = self._tables.of(batch, relation, key(relation))
                found = known[id(relation)] = table, pending.setdefault(table, _Pending())
            yield *found, row

    def _note(self, pending: _Pending, table: Table, row: JsonRow, refusal: Refusal) -> None:
        position = str(row.position_text)
        if row.action == "truncate":
            pending.values.clear()
            pending.truncated = position
            return
        key = _key_of(row)
        if key is None:
            refuse_key(refusal, row, table.key)
            return
        name = table.fill(key)
        if not row.unsent and row.old_key is None:
            # Also where it was there before: the last one to be written is the last in the order of the batch.
            pending.values.pop(name, None)
            pending.values[name] = _Value(row, position, row.new)
            return
        old = None if row.old_key is None or None in row.old_key else table.fill(row.old_key)  # type: ignore[arg-type]
        value = _Value(row, position, row.new)
        if row.unsent:
            before = pending.values.get(old or name)
            if before is None:
                value.unsent, value.sources = row.unsent, ((old or name, ""),)
            elif before.new is not None:
                value.new, missing = _merged(table, row.new, before.new, row.unsent)
                value.unsent = tuple(one for one in missing if one in before.unsent)
                value.sources = before.sources
            if old is not None and old != name:
                value.sources += ((name, position),)
        if old is not None and old != name:
            pending.values[old] = _Value(row, position, None)
        pending.values.pop(name, None)
        pending.values[name] = value

    def _complete(self, pending: dict[Table, _Pending]) -> None:
        """Take what was not sent from the server."""
        open_ = [(table, value) for table, of in pending.items() for value in of.values.values() if value.unsent]
        if not open_:
            return

        def build(pipeline: Any) -> None:
            for table, value in open_:
                for name, _ in value.sources:
                    pipeline.hget(table.positions, name)
                    if self._form == "json":
                        pipeline.get(name)
                    else:
                        pipeline.hmget(name, value.unsent)
                        pipeline.exists(name)

        answers = iter(self._server.commands(build, at_once=True))
        for table, value in open_:
            ends = [*(since for _, since in value.sources[1:]), value.position]
            for (_, since), end in zip(value.sources, ends, strict=True):
                position, before = next(answers), next(answers)
                there = before is not None if self._form == "json" else bool(next(answers))
                # What comes again finds the row under a later key, and in its former place maybe another one.
                if value.unsent and there and position is not None and since <= position.decode() < end:
                    self._take(table, value, before)
            if value.unsent:
                value.new = None

    def _take(self, table: Table, value: _Value, before: Any) -> None:
        """Take what was not sent from what the server has of a row."""
        if self._form == "json":
            try:
                value.new, missing = _merged(table, value.new, before, value.unsent)
            except ValueError:
                position = value.row.position
                raise SinkRejected(
                    f"the key of a row of table {table.name} has a value that is no JSON object",
                    hint="somebody else has set it",
                    table=table.name,
                    positions=[] if position is None else [position],
                ) from None
            value.unsent = tuple(missing)
        else:
            found = zip(value.unsent, before, strict=True)
            # What is no field is NULL. As JSON strings: they become the same text again.
            rest = {name: None if text is None else _decoded(text) for name, text in found}
            value.new, _ = _merged(table, value.new, json.dumps(rest).encode(), value.unsent)
            value.unsent = ()

    def _calls(self, table: Table, values: list[tuple[str, _Value]], refusal: Refusal) -> Iterator[Call]:
        for start in range(0, len(values), CHUNK):
            keys = [table.positions, table.floor]
            arguments = [table.graves, self._tombstones, self._ttl, self._form]
            of: list[str | bytes] = []
            for name, value in values[start : start + CHUNK]:
                new = value.new
                keys.append(name)
                if new is None:
                    of += (value.position, "0")
                    continue
                if self._form == "json":
                    size = len(new)
                    of += (value.position, "1", new)
                else:
                    # A row without a column that is not NULL is no hash, either.
                    fields = json_fields(new)
                    size = sum(map(len, fields))
                    of += (value.position, str(len(fields)), *fields)
                if size > self._max_value:
                    refusal.add(value.row, f"makes a value of {size} bytes, more than {self._max_value}")
            yield Call(scripts.KEEP, keys, [*arguments, *of])


class Counting:
    """Rows that are counted."""

    scripts = (scripts.COUNT, scripts.FLOOR, scripts.EMPTY)

    def __init__(self, server: Server, template: Template, prefix: str, tombstones: int, amount: str | None) -> None:
        self._server = server
        self._template = template
        self._tables = Tables(template, f"{prefix}:count:{template.text}")
        self._tombstones = str(tombstones)
        self._amount = amount

    def write(self, batch: Batch) -> None:
        """Apply a batch."""
        refusal = Refusal()
        pending: dict[Table, _Pending] = {}
        known: dict[int, _Pending] = {}
        for row in batch.json_rows():
            relation = row.relation
            if relation is None:
                continue
            of = known.get(id(relation))
            if of is None:
                columns = self._template.key(batch.key_columns(relation))
                of = known[id(relation)] = pending.setdefault(self._tables.of(batch, relation, columns), _Pending())
            position = str(row.position_text)
            if row.action == "truncate":
                of.values.clear()
                of.truncated = position
            elif (key := _key_of(row)) is None:
                refuse_key(refusal, row, batch.key_columns(relation))
            else:
                if row.old_key is not None:
                    of.values[_row_name(row.old_key)] = _Value(row, position, None)
                of.values[_row_name(key)] = _Value(row, position, row.new)
        calls, rows = [], []
        for table, of in pending.items():
            made = [(name, value, self._counted(table, value, refusal)) for name, value in of.values.items()]
            for start in range(0, len(made), CHUNK):
                chunk = made[start : start + CHUNK]
                arguments: list[str | bytes] = [table.graves, self._tombstones]
                for name, value, counted in chunk:
                    arguments += (name, value.position, *counted)
                calls.append(Call(scripts.COUNT, [table.positions, table.floor], arguments))
                rows.append([value.row for _, value, _ in chunk])
        refusal.raise_any()
        _truncate(self._server, pending, counted=True)
        for numbers, those in zip(self._server.run(calls), rows, strict=True):
            for number in numbers:
                refusal.add(those[int(number)], "counts for a key that holds something else than a whole number")
        refusal.raise_any()

    def _counted(self, table: Table, value: _Value, refusal: Refusal) -> tuple[str, str]:
        """The counter of a row, and what it adds to it."""
        if value.new is None:
            return "", "0"
        wanted = tuple(dict.fromkeys(table.key if self._amount is None else (*table.key, self._amount)))
        row = dict(zip(wanted, _reader(wanted)(value.new), strict=True))
        absent = [name for name, raw in row.items() if raw is UNSET]
        if absent:
            refusal.add(
                value.row, f"has no {absent[0]}, or it was not sent", "counters are made of columns that are short"
            )
            return "", "0"
        amount = "1"
        if self._amount is not None:
            raw = bytes(row[self._amount])
            amount = "0" if raw == b"null" else raw.decode()
            if not _is_integer(amount):
                refusal.add(value.row, f"has an amount {self._amount} that is not of an integer type")
                return "", "0"
        values = [_text(bytes(row[name])) for name in table.key]
        if None in values:
            return "", "0"  # a row that belongs to nothing counts for nothing
        return table.fill(values), amount  # type: ignore[arg-type]  # none of them is None


@functools.lru_cache(maxsize=1000)
def _reader(columns: tuple[str, ...]) -> Callable[[bytes], Sequence[Any]]:
    """What reads some columns of a row, UNSET where one is not there, and passes over the others."""
    names = {f"column_{place}": name for place, name in enumerate(columns)}

    def slowly(new: bytes) -> Sequence[Any]:
        row = decode_columns(new)
        return [row.get(name, UNSET) for name in columns]

    try:
        shape = msgspec.defstruct("Row", [(field, msgspec.Raw | UnsetType, UNSET) for field in names], rename=names)
    except ValueError:  # a name with a quotation mark or a backslash cannot be that of a field
        return slowly
    decode = msgspec.json.Decoder(shape).decode

    def read(new: bytes) -> Sequence[Any]:
        try:
            return msgspec.structs.astuple(decode(new))
        except REFUSED:
            return slowly(new)

    return read


def _row_name(key: Sequence[str | None]) -> str:
    """A row's key as JSON."""
    if len(key) == 1 and key[0] is not None:  # most are
        return f"[{encode_basestring_ascii(key[0])}]"
    return f"[{', '.join('null' if value is None else encode_basestring_ascii(value) for value in key)}]"


def _truncate(server: Server, pending: Mapping[Table, _Pending], *, counted: bool) -> None:
    """Remove what was written of tables before a TRUNCATE. Cut off in the middle, it is done again."""
    for table, of in pending.items():
        if of.truncated is not None:
            keys = [table.positions, table.floor]
            server.run([Call(scripts.FLOOR, keys, [of.truncated])])
            for rows in pages(server.scan(table.positions)):
                server.run([Call(scripts.EMPTY, keys, [of.truncated, str(int(counted)), *rows])])


def _merged(table: Table, new: bytes | None, before: bytes, unsent: Collection[str]) -> tuple[bytes, list[str]]:
    """A row with what was not sent taken from before, in the table's order; and what is not there, either."""
    assert new is not None
    row, old = decode_columns(new), decode_columns(before, foreign=True)
    row |= {name: old[name] for name in unsent if name in old}
    ordered = {name: row[name] for name in table.columns if name in row}
    return encode_columns(ordered), [name for name in unsent if name not in old]


def _text(raw: bytes) -> str | None:
    """A value of JSON as text; None for null."""
    if raw == b"null":
        return None
    if raw[:1] != b'"':
        return raw.decode()
    # Not msgspec: a lone surrogate stands for a byte that is not UTF-8.
    return str(json.loads(raw)) if b"\\" in raw else raw[1:-1].decode()


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
