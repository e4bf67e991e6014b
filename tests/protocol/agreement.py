"""Where the decoder, its lines of JSON, its Arrow tables and the reference differ from each other or from SELECT.

Each function gives the first ten differences: (table, column, number of the row, what was found, what was expected).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import pyarrow  # type: ignore[import-untyped]

from pgcdc.errors import InvalidValue
from pgcdc.events import Insert, Relation
from pgcdc.protocol import Batch, CopyReader, Decoder, RowFormat
from tests.protocol import test_arrow, wire
from tests.protocol.conformance import World
from tests.protocol.views import arrow_found, arrow_view, fits_arrow, json_view, load
from tests.reference import ReferenceDecoder, plain
from tests.reference_values import BadValue, decode_value, text_of

Form: TypeAlias = Literal["text", "binary"]
Rows: TypeAlias = dict[str, list[dict[str, Any]]]
Difference: TypeAlias = tuple[str, str, int, Any, Any]
Cell: TypeAlias = tuple[str, str, int, int, bytes | None]
FORMS: tuple[Form, Form] = ("text", "binary")
ONLY_TEXT = {"t_seg"}
"""Tables with a type that cannot be sent in binary."""


def _cells(world: World) -> Iterator[Cell]:
    """Table, column, number of the row, type, and what SELECT prints."""
    for table, selected in world.tables.items():
        for number, row in enumerate(selected.rows):
            for column, oid, printed in zip(selected.columns, selected.types, row, strict=True):
                yield table, column, number, oid, printed


def _expected(world: World, reader: str, view: Callable[[Cell], Any]) -> list[Any]:
    """What a reader of the database should find, cell after cell; found out once for both forms."""
    if reader not in world.expected:
        world.expected[reader] = list(map(view, _cells(world)))
    return world.expected[reader]


def _rows(events: list[Any]) -> Rows:
    """The inserted rows by table, by id; an error is none."""
    tables: Rows = {}
    for event in events:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Insert):
            tables.setdefault(event.table, []).append(event.new)
    return {name: sorted(some, key=lambda row: int(row["id"])) for name, some in tables.items()}


def _messages(world: World, form: Form) -> list[bytes]:
    return [message for _, message in (world.text if form == "text" else world.binary)]


def referred(world: World, form: Form) -> Rows:
    """The rows as the reference reads them."""
    return _rows(ReferenceDecoder(world.types).decode_many(_messages(world, form)))


def decoded(world: World, form: Form) -> Rows:
    """The rows as the decoder reads them."""
    return _rows(Decoder(rows="dict", catalog=world.catalog).decode_many(_messages(world, form)))


def copied(world: World) -> Rows:
    """The rows as they come out of a binary COPY."""
    relations = [one for one in Batch.of(_messages(world, "binary")).relations if one.name in world.tables]
    rows: Rows = {}
    for relation in relations:
        if relation.name in ONLY_TEXT:
            continue
        reader = CopyReader(relation, 1, format=RowFormat("dict", catalog=world.catalog))
        with world.connection.cursor().copy(f"COPY {relation.name} TO STDOUT (FORMAT binary)") as copy:
            rows |= _rows(list(itertools.chain.from_iterable(reader.read([block]).events() for block in copy)))
        assert reader.finished
    return rows


def of_rows(world: World, rows: Rows) -> list[Difference]:
    """Rows, by whomever they were read, and what the reference reads in what SELECT prints."""
    assert set(world.tables) - set(rows) <= ONLY_TEXT
    assert {name: len(some) for name, some in rows.items()} == {
        name: len(selected.rows) for name, selected in world.tables.items() if name in rows
    }

    def value(cell: Cell) -> Any:
        *_, oid, printed = cell
        return plain(None if printed is None else decode_value(oid, False, printed, world.types))

    differences = []
    for (table, column, number, *_), expected in zip(_cells(world), _expected(world, "rows", value), strict=True):
        if table not in rows:
            continue
        found = rows[table][number][column]
        if plain(found) != expected:
            differences.append((table, column, number, found, expected))
    return differences[:10]


def of_printing(world: World, rows: Rows, leave_out: Callable[[str, Any], bool]) -> tuple[list[Difference], int]:
    """What `pg_text()` says and what SELECT prints; and how many there were.

    Args:
        world: What the server sent and printed.
        rows: As the decoder reads them.
        leave_out: Whether to leave out a value of a table.
    """
    differences, compared = [], 0
    for table, column, number, _, printed in _cells(world):
        value = rows[table][number][column]
        if hasattr(value, "pg_text") and not leave_out(table, value):
            compared += 1
            if value.pg_text().encode() != printed:
                differences.append((table, column, number, value.pg_text(), printed))
    return differences[:10], compared


def of_json(world: World, form: Form) -> list[Difference]:
    """What the lines of JSON say."""
    batch = Batch.of(_messages(world, form))
    found: Rows = {}
    for change in map(load, batch.to_json(catalog=world.catalog).splitlines()):
        found.setdefault(change["table"], []).append(change["new"])
    for some in found.values():
        some.sort(key=lambda row: int(row["id"]))
    views = _expected(world, "json", lambda cell: json_view(*cell[3:], world.types))
    differences = []
    for (table, column, number, *_), expected in zip(_cells(world), views, strict=True):
        value = found[table][number][column]
        if value != expected:
            differences.append((table, column, number, value, expected))
    return differences[:10]


def of_arrow(world: World, form: Form, schema: str = "public") -> list[Difference]:
    """What the Arrow tables hold, read by pyarrow; columns with values that do not fit their Arrow type as text."""
    fits = _expected(world, "fits", lambda cell: fits_arrow(*cell[3:], world.types))
    as_text = {(cell[0], cell[1]) for cell, fit in zip(_cells(world), fits, strict=True) if not fit}
    names = {f"{schema}.{table}.{column}" for table, column in as_text}
    tables = Batch.of(_messages(world, form)).to_arrow(text=names, catalog=world.catalog)
    found = {
        table: sorted(pyarrow.table(tables[f"{schema}.{table}"]).to_pylist(), key=lambda row: int(row["id"]))
        for table in world.tables
    }

    def view(cell: Cell) -> Any:
        return (json_view if cell[:2] in as_text else arrow_view)(*cell[3:], world.types)

    differences = []
    for (table, column, number, oid, _), expected in zip(_cells(world), _expected(world, "arrow", view), strict=True):
        value = found[table][number][column]
        if (table, column) not in as_text:
            value = arrow_found(oid, value, world.types)
        elif isinstance(expected, list | dict):
            value = load(value)
        if test_arrow.plain(value) != test_arrow.plain(expected):
            differences.append((table, column, number, value, expected))
    return differences[:10]


def _raw(message: bytes, columns: int) -> list[tuple[bool, bytes] | None]:
    """The columns of an Insert: whether each is in binary form, and its bytes."""
    at, found = 8, list[tuple[bool, bytes] | None]()
    for _ in range(columns):
        form = message[at : at + 1]
        if form == b"n":
            found.append(None)
            at += 1
            continue
        size = int.from_bytes(message[at + 1 : at + 5], "big")
        found.append((form == b"b", message[at + 5 : at + 5 + size]))
        at += 5 + size
    return found


def _damaged(data: bytes, other: bytes, luck: random.Random) -> bytes:
    """A value's bytes with one to four things changed in them."""
    mutant = bytearray(data)
    for _ in range(luck.choice((1, 1, 1, 2, 4))):
        at = luck.randrange(len(mutant) + 1)
        byte = luck.choice((0, 1, 0xFF, luck.randrange(256), *b'"\\,(){}[]+-:/.019 ;'))
        match luck.randrange(5):
            case 0:
                mutant[at : at + 1] = bytes([byte])
            case 1:
                del mutant[at : at + luck.randrange(1, 4)]
            case 2:
                mutant[at:at] = bytes([byte])
            case 3:  # the end of another value
                mutant[at:] = other[luck.randrange(len(other) + 1) :]
            case _ if at < len(mutant):
                mutant[at] ^= 1 << luck.randrange(8)
    return bytes(mutant)


def of_damaged(world: World, luck: random.Random, count: int) -> tuple[list[Difference], int]:
    """What decoder and reference make of damaged values; and how many both could still read.

    A value that one of them refuses and the other does not is no difference: no server sends it. Whatever else than
    InvalidValue the decoder raises comes through.

    Args:
        world: What the server sent.
        luck: What is damaged, and how.
        count: How many values are damaged.
    """
    cells: dict[tuple[str, str, int], list[tuple[bool, bytes]]] = {}
    relations: dict[bytes, Relation] = {}
    reference = ReferenceDecoder(world.types)
    for message in [*_messages(world, "text"), *_messages(world, "binary")]:
        if message[:1] == b"R":
            event = reference.decode(message)
            assert isinstance(event, Relation)
            relations[message[1:5]] = event
        elif message[:1] == b"I":
            relation = relations[message[1:5]]
            for column, cell in zip(relation.columns, _raw(message, len(relation.columns)), strict=True):
                if cell is not None and len(cell[1]) < 400:
                    cells.setdefault((relation.name, column.name, column.type_oid), []).append(cell)
    decoder = Decoder(rows="tuple", catalog=world.catalog)
    kinds, differences, both = list(cells), list[Difference](), 0
    for number in range(count):
        table, column_name, oid = kinds[number % len(kinds)]
        some = cells[kinds[number % len(kinds)]]
        is_binary, data = luck.choice(some)
        data = _damaged(data, luck.choice(some)[1], luck)
        decoder.decode(wire.relation(1, "t", [("v", oid)]))
        sent: wire.Field = data if is_binary else text_of(data)
        try:
            event = decoder.decode(wire.insert(1, [sent]))
            expected = decode_value(oid, is_binary, data, world.types)
        except (InvalidValue, BadValue):
            continue
        assert isinstance(event, Insert)
        both += 1
        if plain(event.new[0]) != plain(expected):
            differences.append((table, column_name, number, event.new[0], expected))
    return differences[:10], both
