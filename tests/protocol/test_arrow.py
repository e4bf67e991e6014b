"""Batches as Arrow tables: what three readers find in them is what the events say, in every form, from every server."""

from __future__ import annotations

import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import duckdb
import polars
import pyarrow  # type: ignore[import-untyped]
import pytest
from msgspec import UNSET

from pgcdc.errors import ConfigError, InvalidValue, SchemaError, UnknownRelation
from pgcdc.events import Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, Decoder, RowFormat, TypeCatalog
from pgcdc.protocol.printing import pg_text
from tests.golden.make import VERSIONS
from tests.protocol import wire
from tests.protocol.captures import ALL, FORMS, IDS
from tests.protocol.test_golden import TYPES_TOLD_ALIKE
from tests.protocol.test_json import JSON_TYPES, golden, is_printed, load, said

ROWS = RowFormat("dict", json="text")
# Columns with infinities, 24:00:00 or arrays of several dimensions.
TEXT = {f"public.everyday.c_{name}" for name in ("date", "time", "timestamp", "timestamptz")}
FLOAT4, TIMETZ, NUMERIC, MONEY = 700, 1266, 1700, 790


def text_columns(batch: Batch) -> set[str]:
    """The columns of the captures that Arrow's own types cannot hold."""
    lists = [one for one in batch.relations if one.name == "lists"]
    return TEXT | {f"public.lists.{column.name}" for one in lists for column in one.columns if column.name != "id"}


def expected_value(value: Any, type_oid: int, type_modifier: int, *, as_text: bool) -> Any:
    """What pyarrow makes of a column's value."""
    if value is None or value is UNSET:
        return None
    if as_text and isinstance(value, list):
        return said(value, is_json=type_oid in JSON_TYPES)
    if as_text or (isinstance(value, Decimal) and type_modifier == -1 and type_oid != MONEY):
        return said(value)
    if type_oid == FLOAT4:
        return struct.unpack("f", struct.pack("f", value))[0]
    if type_oid == TIMETZ:
        return said(value)
    if isinstance(value, bytes) and type_oid != 17:
        return said(value)
    if isinstance(value, list) and not is_printed(value):
        return [expected_value(each, 0, 0, as_text=False) for each in value]
    return pg_text(value) if is_printed(value) else value


def expected_rows(batch: Batch, text: set[str]) -> dict[str, list[dict[str, Any]]]:
    """What to_arrow has to hold, from the events."""
    tables: dict[str, list[dict[str, Any]]] = {}

    def columns(relation: Relation, values: dict[str, Any], only_keys: bool = False) -> dict[str, Any]:
        name = f"{relation.schema}.{relation.name}"
        return {
            one.name: expected_value(
                values[one.name], one.type_oid, one.type_modifier, as_text=f"{name}.{one.name}" in text
            )
            for one in relation.columns
            if one.is_key or not only_keys
        }

    for change in batch.changes(ROWS):
        assert isinstance(change, Insert | Update | Delete | Truncate | Message)
        known = change.position is not UNSET
        row: dict[str, Any] = {
            "_position": str(change.position) if known else None,
            "_commit_lsn": change.commit_lsn if known else None,
            "_commit_time": change.commit_time if known else None,
        }
        if isinstance(change, Message):
            fields = {name: getattr(change, name) for name in ("lsn", "transactional", "prefix", "content")}
            tables.setdefault("messages", []).append(row | fields)
            continue
        row["_action"] = change.action
        for relation in change.relations if isinstance(change, Truncate) else [change.relation]:
            values: dict[str, Any] = {one.name: UNSET for one in relation.columns}
            old: Any = UNSET
            if isinstance(change, Insert | Update):
                values, old = change.new, change.old
            elif isinstance(change, Delete):
                values = change.old
            unset = [name for name, value in values.items() if value is UNSET and change.action != "truncate"]
            own = row | {"_unset": unset}
            if any(one.is_key for one in relation.columns):
                own["_old"] = None if old is UNSET else columns(relation, old, only_keys=True)
            names = [
                '"' + name.replace('"', '""') + '"' if {".", '"'} & set(name) else name
                for name in (relation.schema, relation.name)
            ]
            tables.setdefault(".".join(names), []).append(own | columns(relation, values))
    return tables


def plain(value: Any) -> Any:
    """NaN equals NaN, -0.0 is not 0.0, Decimal("1.0") is not Decimal("1.00")."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=UTC)
    return type(value).__name__, repr(value)


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_pyarrow_reads_what_the_events_say(version: int, form: str) -> None:
    """Every column of every change."""
    batch = golden(version, form)
    text = text_columns(batch)
    expected = expected_rows(batch, text)
    tables = batch.to_arrow(text=text)
    assert set(tables) == set(expected)
    compared = 0
    for name, table in tables.items():
        rows = [row for part in table.parts for row in pyarrow.table(part).to_pylist()]
        assert len(rows) == len(expected[name]) == table.num_rows
        for got, wanted in zip(rows, expected[name], strict=True):
            assert set(got) == set(wanted)
            for column, value in wanted.items():
                found = got[column]
                if f"{name}.{column}" in text and name == "public.lists" and found is not None:
                    found = load(found)
                assert plain(found) == plain(value), (name, column)
                compared += 1
    assert compared > 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_binary_give_equal_tables(version: int) -> None:
    """Types, values, what was not sent: for every column whose type is known."""
    text, binary = (golden(version, form) for form in FORMS)
    names = text_columns(text)
    left, right = text.to_arrow(text=names), binary.to_arrow(text=names)
    types = {(one.name, each.name): each.type_oid for one in text.relations for each in one.columns}
    assert list(left) == list(right)
    for name, table in left.items():
        for one, other in zip(table.parts, right[name].parts, strict=True):
            a, b = pyarrow.table(one), pyarrow.table(other)
            assert a.schema.equals(b.schema, check_metadata=True)
            for column in a.column_names:
                if types.get((name.removeprefix("public."), column), 16) in TYPES_TOLD_ALIKE:
                    assert plain(a[column].to_pylist()) == plain(b[column].to_pylist()), (name, column)


UUID_TEXT = str(UUID("12" * 16))
KEY: list[wire.Field] = ["1", None, None, None, None, None]
INSERTS = [
    wire.relation(1, "t", [("id", 20), ("day", 1082), ("at", 1184), ("u", 2950), ("doc", 3802), ("tags", 1009)]),
    wire.begin(0x16B374D848),
    wire.insert(1, ["1", "2024-02-29", "2024-02-29 12:30:00.5+02", UUID_TEXT, '{"a": 1.00}', '{a,NULL,"b c"}']),
    wire.insert(1, ["-9223372036854775808", None, None, None, None, None]),
    wire.update(1, ["2", "0001-01-01", "9999-12-31 23:59:59.999999+00", UNSET, UNSET, "{}"], KEY, kind="K"),
    wire.delete(1, ["2", *[None] * 5]),
]  # fmt: skip


def test_duckdb_reads_it_by_its_name() -> None:
    """Without a copy into anything else; uuid and json are what they are."""
    orders = Decoder().to_arrow(INSERTS)["public.t"]
    assert orders.num_rows == 4
    columns = 'id, day, epoch_us("at"), u, doc, tags, _action, _unset, _old, _position, typeof(u), typeof(doc)'
    relation = duckdb.sql(f"SELECT {columns} FROM orders")
    assert relation is not None
    rows = relation.fetchall()
    micros = wire.microseconds(datetime(2024, 2, 29, 10, 30, 0, 500000, UTC)) + 946_684_800_000_000
    position = str(Position(0x16B374D848, 0))
    assert rows[0] == (
        1, date(2024, 2, 29), micros, UUID("12" * 16), '{"a": 1.00}', ["a", None, "b c"], "insert", [], None, position,
        "UUID", "JSON",
    )  # fmt: skip
    assert rows[1][:6] == (-(2**63), None, None, None, None, None)
    assert rows[1][7] == []
    assert rows[2][6:9] == ("update", ["u", "doc"], {"id": 1})
    assert rows[3][6:9] == ("delete", ["day", "at", "u", "doc", "tags"], None)
    assert rows[3][0] == 2


def test_polars_reads_it() -> None:
    """As a DataFrame, zero copies asked for."""
    frame = polars.DataFrame(Decoder().to_arrow(INSERTS)["public.t"])
    assert frame["id"].to_list() == [1, -(2**63), 2, 2]
    assert frame["_action"].to_list() == ["insert", "insert", "update", "delete"]
    assert frame["at"][0] == datetime(2024, 2, 29, 10, 30, 0, 500000, UTC)
    assert frame["tags"].to_list() == [["a", None, "b c"], None, [], None]
    assert frame["_position"].to_list() == [str(Position(0x16B374D848, index)) for index in range(4)]
    assert frame["_commit_time"].to_list() == [wire.COMMITTED] * 4


def test_the_array_interface_gives_the_same() -> None:
    """For readers that want one array and not a stream."""
    table = Decoder().to_arrow(INSERTS)["public.t"]
    batch = pyarrow.record_batch(table)
    assert batch.to_pylist() == pyarrow.table(table).to_pylist()
    assert pyarrow.schema(table).equals(batch.schema, check_metadata=True)
    assert batch.schema.metadata in (None, {})


def test_data_outlives_what_it_came_from() -> None:
    """The capsules own their memory; an unused one frees it."""
    decoder = Decoder()
    table = decoder.to_arrow(INSERTS)["public.t"]
    unused = table.__arrow_c_stream__(), table.__arrow_c_array__(), table.__arrow_c_schema__()
    del unused
    reader = pyarrow.RecordBatchReader.from_stream(table)
    del table, decoder
    assert reader.read_all().num_rows == 4


def one(type_oid: int, field: wire.Field, *, modifier: int = -1, text: bool = False) -> Any:
    """What pyarrow reads in one column."""
    relation = wire.relation(1, "t", [("c", type_oid)])
    relation = relation[:-4] + struct.pack(">i", modifier)
    names = {"public.t.c"} if text else None
    table = Decoder().to_arrow([relation, wire.insert(1, [field])], text=names)["public.t"]
    return pyarrow.table(table)["c"].to_pylist()[0]


def numeric(precision: int, scale: int) -> int:
    """The type modifier of a numeric with a precision and a scale."""
    return (precision << 16 | scale & 0x7FF) + 4


def test_decimals_are_exact() -> None:
    """Up to 38 digits as decimal128, in both forms; everything else in PostgreSQL's words."""
    assert one(NUMERIC, "-12.30", modifier=numeric(12, 2)) == Decimal("-12.30")
    # -12.30: two groups of four digits, weight 0, negative, display scale 2
    binary = struct.pack(">HhHHHH", 2, 0, 0x4000, 2, 12, 3000)
    assert one(NUMERIC, binary, modifier=numeric(12, 2)) == Decimal("-12.30")
    assert one(NUMERIC, struct.pack(">HhHH", 0, 0, 0, 2), modifier=numeric(12, 2)) == Decimal("0.00")
    nines = "9" + "." + "9" * 37
    assert one(NUMERIC, nines, modifier=numeric(38, 37)) == Decimal(nines)
    groups = [9, *[9999] * 9, 9000]
    binary = struct.pack(">HhHH11H", 11, 0, 0, 37, *groups)
    assert one(NUMERIC, binary, modifier=numeric(38, 37)) == Decimal(nines)
    assert one(NUMERIC, "1" * 38, modifier=numeric(38, 0)) == Decimal("1" * 38)
    assert one(NUMERIC, "1" * 39, modifier=numeric(39, 0)) == "1" * 39
    assert one(NUMERIC, "1200", modifier=numeric(2, -2)) == "1200"
    assert one(NUMERIC, "0.00012", modifier=numeric(2, 5)) == "0.00012"
    assert one(NUMERIC, "NaN") == "NaN"
    for wrong in ("NaN", "1.005", "12345678901.00"):
        with pytest.raises(InvalidValue):
            one(NUMERIC, wrong, modifier=numeric(12, 2))


@pytest.mark.parametrize(
    ("type_oid", "field", "reason", "words"),
    [
        (1082, "infinity", "infinite", "infinity"),
        (1082, struct.pack(">i", -(2**31)), "infinite", "-infinity"),
        (1114, "-infinity", "infinite", "-infinity"),
        (1184, struct.pack(">q", 2**63 - 1), "infinite", "infinity"),
        (1184, "294276-12-31 23:59:59.999999+00", "later than", "294276-12-31 23:59:59.999999+00"),
        (1083, "24:00:00", "24:00:00", "24:00:00"),
        (1007, "{{1,2}}", "dimensions", "[[1,2]]"),
        (1007, "[0:1]={1,2}", "dimensions", '{"lower_bounds":[0],"elements":[1,2]}'),
        (1231, "{1.5,NaN}", None, '["1.5","NaN"]'),
        (25, "\udcf6", "UTF-8", None),
        (114, '{"a":"\\ud83d"}', "half of a surrogate pair", '{"a":"\\ud83d"}'),
        (114, '["\\\\ud83d", "\\ude00"]', "half of a surrogate pair", '["\\\\ud83d", "\\ude00"]'),
        (114, '"\\ud83d\\u0041"', "half of a surrogate pair", '"\\ud83d\\u0041"'),
        (199, '{"\\"\\\\ud83d\\""}', "half of a surrogate pair", '["\\ud83d"]'),
    ],
)
def test_what_arrow_cannot_hold_is_refused_and_had_as_text(
    type_oid: int, field: wire.Field, reason: str | None, words: str | None
) -> None:
    """Never null, never another value; the way out is named in the documentation."""
    if reason is not None:
        with pytest.raises(InvalidValue, match=reason) as caught:
            one(type_oid, field)
        assert caught.value.field == "c"
        assert caught.value.table == "public.t"
    if words is not None:
        assert one(type_oid, field, text=True) == words


def test_json_with_escapes_is_json_in_arrow() -> None:
    """Whole pairs, and what only looks like half of one."""
    for text in ('"\\ud83d\\ude00 \\u00e9"', '"\\\\ud83d"', '{"\\u0061":"\\n"}'):
        assert one(114, text) == text


def test_text_columns_hold_the_words_of_json_lines() -> None:
    """Without quotes around a single value."""
    assert one(17, b"\x00\xff", text=True) == "\\x00ff"
    assert one(16, "t", text=True) == "true"
    assert one(1184, "2024-02-29 12:30:00+00", text=True) == "2024-02-29T12:30:00Z"
    assert one(114, ' {"a":\n1} ', text=True) == ' {"a":\n1} '
    assert one(25, '"\\x', text=True) == '"\\x'
    assert one(999999, '"\\\\x', text=False) == '"\\\\x'
    assert one(999999, b"\x01", text=False) == "\\x01"
    assert one(1266, "01:02:03+05:30") == "01:02:03+05:30"
    assert one(18, "\\377") == "\\377"


def test_dates_before_christ_and_after_9999_are_numbers_in_arrow() -> None:
    """Arrow's range is wider than Python's."""
    stream = [wire.relation(1, "t", [("d", 1082), ("t", 1114)])]
    stream += [wire.insert(1, ["4714-11-24 BC", "4714-11-24 00:00:00 BC"]), wire.insert(1, ["5874897-12-31", None])]
    table = pyarrow.table(Decoder().to_arrow(stream)["public.t"])
    days = -2_451_545 + 10_957
    assert table["d"].cast(pyarrow.int32()).to_pylist() == [days, 2_145_031_948 + 10_957]
    assert table["t"].cast(pyarrow.int64()).to_pylist() == [days * 86_400_000_000, None]


def test_shapes_of_one_table_are_parts() -> None:
    """A column added or retyped begins a part; the same shape said again does not."""
    narrow, wide = wire.relation(1, "t", [("id", 23)]), wire.relation(1, "t", [("id", 23), ("v", 25)])
    one_shape = [narrow, wire.insert(1, ["1"]), narrow, wire.insert(1, ["2"])]
    another = [wide, wire.insert(1, ["3", "x"]), wire.truncate([1])]
    table = Decoder().to_arrow([*one_shape, *another, narrow, wire.insert(1, ["4"])])["public.t"]
    assert [part.num_rows for part in table.parts] == [2, 2, 1]
    assert table.num_rows == 5
    assert [pyarrow.table(part)["id"].to_pylist() for part in table.parts] == [[1, 2], [3, None], [4]]
    assert repr(table) == "<ArrowTable of 5 changes of public.t in 3 shapes>"
    for read in (table.__arrow_c_stream__, table.__arrow_c_array__, table.__arrow_c_schema__):
        with pytest.raises(SchemaError, match=r"public\.t have 3 shapes") as caught:
            read()
        assert caught.value.hint and ".parts" in caught.value.hint
        assert caught.value.table == "public.t"


@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_row_of_more_columns_than_wait_together(form: str) -> None:
    """No server has so wide a table, but bytes can say so: each of its rows waits alone."""
    width = 4097
    value: wire.Field = "7" if form == "text" else struct.pack(">i", 7)
    relation = wire.relation(1, "t", [(f"c{number}", 23, number == 0) for number in range(width)], identity="f")
    row = [value] * width
    stream = [relation, wire.insert(1, row), wire.update(1, row), wire.update(1, row, old=row), wire.delete(1, row)]
    table = pyarrow.table(Decoder().to_arrow(stream)["public.t"])
    assert table["_action"].to_pylist() == ["insert", "update", "update", "delete"]
    assert table["c0"].to_pylist() == table[f"c{width - 1}"].to_pylist() == [7] * 4


def test_tables_and_columns_with_awkward_names() -> None:
    """No two tables share a key, and the table's own columns keep their names."""
    stream = [wire.relation(1, "b", [("_action", 23), ("_old", 25)], schema="a.x"), wire.insert(1, ["1", "mine"])]
    stream += [wire.relation(2, "x.b", [("id", 23)], schema="a"), wire.insert(2, ["1"])]
    stream += [wire.relation(3, "keyless", [("v", 23, False)]), wire.insert(3, ["1"])]
    tables = Decoder().to_arrow(stream)
    assert list(tables) == ['"a.x".b', 'a."x.b"', "public.keyless"]
    row = pyarrow.table(tables['"a.x".b']).to_pylist()[0]
    assert (row["_action"], row["__action"], row["_old"], row["__old"]) == (1, "insert", "mine", None)
    assert "_old" not in pyarrow.table(tables["public.keyless"]).column_names
    assert tables["public.keyless"].table == "public.keyless"


def test_a_catalog_and_what_is_refused() -> None:
    """User-defined types; an unknown relation; text= as a single string; nothing at all."""
    catalog = TypeCatalog()
    catalog.add(70001, "cents", base=20)
    stream = [wire.relation(1, "t", [("c", 70001)]), wire.insert(1, ["12"])]
    assert pyarrow.table(Batch.of(stream).to_arrow(catalog=catalog)["public.t"])["c"].to_pylist() == [12]
    assert pyarrow.table(Batch.of(stream).to_arrow()["public.t"])["c"].to_pylist() == ["12"]
    assert pyarrow.table(Decoder(catalog=catalog).to_arrow(stream)["public.t"])["c"].to_pylist() == [12]
    with pytest.raises(UnknownRelation):
        Decoder().to_arrow([wire.insert(2, ["1"])])
    with pytest.raises(UnknownRelation):
        Decoder().to_arrow([wire.truncate([2])])
    with pytest.raises(ConfigError, match="text="):
        Decoder().to_arrow([], text="public.t.c")
    assert Decoder().to_arrow([wire.begin()]) == {}
