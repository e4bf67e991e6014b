"""Lines in Debezium's envelope: field by field what Debezium emitted for the same WAL, but for its known bugs.

Over 400 lines, because all that differs is listed here, in one place, with the reason.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, InvalidValue, UnknownRelation
from pgcdc.events import Relation
from pgcdc.protocol import Batch, Catalog, CopyReader, DebeziumEnvelope, Decoder, TypeCatalog
from tests.golden.debezium import make as golden
from tests.golden.make import VERSIONS, peek
from tests.protocol import wire
from tests.protocol.captures import capture

if TYPE_CHECKING:
    from tests.conftest import Database

ENVELOPES: dict[str, dict[str, Any]] = {
    "default": {},
    "strings": {"decimal": "string", "time": "isostring"},
    "unknown": {"unknown": True},
}
PRIMARY_KEYS = {"public.whole": ["id"], "toasted_full": ["id"], "indexed": ["id"]}
UNAVAILABLE = "__debezium_unavailable_value"
UNAVAILABLE_BYTES = base64.b64encode(UNAVAILABLE.encode()).decode()
UNAVAILABLES = (UNAVAILABLE, UNAVAILABLE_BYTES, [UNAVAILABLE], list(UNAVAILABLE.encode()))
MISSING = object()

Field = tuple[str, str, str, Any, Any]
"""Table, `before` or `after`, column, Debezium's value, ours."""


def is_garbage(theirs: Any) -> bool:
    """Whether this is what Debezium makes of an array in an array: null, or the name of a Java object."""
    return isinstance(theirs, list) and all(item is None or str(item).startswith("[Ljava.") for item in theirs)


def to_milliseconds(item: Any) -> Any:
    """A time of day as Debezium gives it in a list: without microseconds, and 24:00:00 as 0."""
    if isinstance(item, int):
        return item // 1000 * 1000 % 86_400_000_000
    if isinstance(item, str):
        return item.replace("24:00:00Z", "00:00:00Z").replace(".999999", ".999" if item.startswith("23") else "")
    return item


def is_list(value: Any) -> bool:
    """Whether this is a list with something in it."""
    return isinstance(value, list) and bool(value)


def is_same_shape(theirs: Any, ours: Any) -> bool:
    """Whether texts in Base64 differ only in the zeros with which Java writes whole numbers."""
    if is_list(theirs):
        return all(map(is_same_shape, theirs, ours))
    if theirs is None or is_list(ours):
        return False
    return base64.b64decode(theirs).decode().replace(".0", "") == base64.b64decode(ours).decode()


LEFT_OUT = ("many_name", "many_xml", "many_point", "many_money", "many_interval", "many_varbit")

KNOWN: dict[str, Callable[[Field], bool]] = {
    "NaN and the infinities of a precise numeric are null": lambda f: (
        f[3] is None and isinstance(f[4], dict) and f[4]["scale"] is None
    ),
    "infinite dates, timestamps and intervals are some number or day": lambda f: (
        f[4] in ("infinity", "-infinity") and f[3] is not None
    ),
    "timestamps beyond 64 bits of microseconds overflow": lambda f: isinstance(f[4], int) and f[4] >= 2**63 > f[3],
    "24:00:00 is 00:00:00 in isostring": lambda f: (f[3], f[4]) == ("00:00:00Z", "24:00:00Z"),
    "a name is null": lambda f: f[0] == "one_name" and f[3] is None,
    "a float4 has the digits that Java prints": lambda f: (
        f[0] == "one_float4" and struct.pack(">f", f[3]) == struct.pack(">f", f[4])
    ),
    "a numeric of negative scale has a scale of 2046": lambda f: f[0] == "one_numeric_3__2",
    "arrays in arrays are null or the names of Java objects": lambda f: (
        (f[3] is None or is_garbage(f[3])) and is_list(f[4]) and is_list(f[4][0])
    ),
    "times in arrays lose microseconds and 24:00:00": lambda f: (
        f[0] in ("many_time", "many_timetz") and f[3] == [to_milliseconds(item) for item in f[4]]
    ),
    "infinite timestamps in arrays are some number or day": lambda f: f[0] == "many_timestamp" and "infinity" in f[4],
    "arrays of enums, of ltree and tsvector, and of types it does not know are null when there is a NULL in them": (
        lambda f: f[3] is None and is_list(f[4]) and None in f[4]
    ),
    "arrays of bit are null": lambda f: f[0] == "many_bit_5" and f[3] is None,
    "int2vector and oidvector are empty": lambda f: f[0] in ("one_int2vector", "one_oidvector") and f[3] == [],
    "types that have no value in common in their two forms are given as they came, in binary too": lambda f: (
        f[0] == "one_regclass"
    ),
    "arrays of names, xml, points, money, intervals and varbit are left out, asked for or not": lambda f: (
        f[0] in LEFT_OUT and f[3] is MISSING
    ),
    "geometric types have the digits that Java prints": lambda f: (
        f[0].removeprefix("one_").removeprefix("many_") in ("line", "lseg", "box", "path", "polygon", "circle")
        and is_same_shape(f[3], f[4])
    ),
    "lquery is a type that it does not know, and we cannot tell from ltree": lambda f: f[0] == "one_lquery",
    "columns of the old row that were not sent are 0 or empty where they are NOT NULL, or their default": lambda f: (
        f[1] == "before" and f[0] in ("strict", "toasted", "indexed") and f[4] is None
    ),
    "NULL in a column with a default is the default": lambda f: f[:3] == ("strict", "after", "maybe") and f[4] is None,
    "unchanged TOAST values are null where there is no room for words": lambda f: (
        f[0] == "unsent" and f[3] is None and f[4] in UNAVAILABLES
    ),
}
"""Where Debezium says something else than the database: what it says, and whether a field is a case of it."""

NOT_IN = {
    "NaN and the infinities of a precise numeric are null": ("strings",),
    "timestamps beyond 64 bits of microseconds overflow": ("strings",),
    "24:00:00 is 00:00:00 in isostring": ("default", "unknown"),
    "a name is null": ("unknown",),
    "arrays of names, xml, points, money, intervals and varbit are left out, asked for or not": ("default", "strings"),
    "geometric types have the digits that Java prints": ("default", "strings"),
    "types that have no value in common in their two forms are given as they came, in binary too": (
        "default",
        "strings",
        "text",
    ),
}
"""In which modes, or in which form, that does not show."""

REFUSED = {("one_timetz", 4)}
"""Rows that Debezium does not emit because it fails: the timetz 24:00:00-15:59:59."""


@cache
def debezium(mode: str) -> dict[tuple[int, str, str], dict[str, Any]]:
    """What Debezium emitted, without tombstones, by LSN, table and operation."""
    events = golden.read_events("default")
    if mode != "default":
        for event in golden.read_events(mode):
            events[event["number"]] = event
    return by_change([event["value"] for event in events if event["value"]])


def by_change(lines: list[dict[str, Any]]) -> dict[tuple[int, str, str], dict[str, Any]]:
    """Lines by what there is one of."""
    changes = {(line["source"]["lsn"], line["source"]["table"], line["op"]): line for line in lines}
    assert len(changes) == len(lines)
    return changes


@cache
def catalog() -> TypeCatalog:
    """The types of the golden database."""
    types = TypeCatalog()
    for one in golden.read_types():
        if one["kind"] == "d":
            types.add(one["oid"], one["name"], base=one["base"], modifier=one["modifier"])
        elif one["kind"] == "e":
            types.add(one["oid"], one["name"], enum=True)
        elif one["kind"] == "c":
            types.add(one["oid"], one["name"], fields=[tuple(field) for field in one["fields"]])
        elif one["element"]:
            types.add(one["oid"], one["name"], element=one["element"])
        elif one["name"] != "isbn":
            types.add(one["oid"], one["name"], like=one["name"])
    return types


def lines(form: str, envelope: DebeziumEnvelope) -> list[dict[str, Any]]:
    """Our lines for the same WAL."""
    captured = golden.read_messages(form)
    written = Decoder(catalog=catalog()).to_json(
        [message for _, message in captured], [lsn for lsn, _ in captured], envelope=envelope
    )
    return [json.loads(line) for line in written.splitlines()]


@pytest.mark.parametrize("form", golden.FORMS)
@pytest.mark.parametrize("mode", golden.MODES)
def test_every_field_is_debeziums(mode: str, form: str) -> None:
    """Source, operation, and every column of every row, in the same order; nothing more and nothing less."""
    ours = lines(
        form, DebeziumEnvelope("shop", db="postgres", version="3.6.1.Final", keys=PRIMARY_KEYS, **ENVELOPES[mode])
    )
    theirs = debezium(mode)
    order = list(theirs)
    assert [key for key in by_change(ours) if key in theirs] == order
    refused, compared, cases = set(), 0, Counter[str]()
    for key, line in by_change(ours).items():
        table, value = key[1], theirs.get(key)
        if value is None:
            refused.add((table, line["after"]["id"]))
            continue
        assert list(line) == [*value, "ts_ms", "ts_us", "ts_ns"] or list(line)[1] == "ts_ms"
        assert {name: line[name] for name in value if name not in ("before", "after")} == {
            name: value[name] for name in value if name not in ("before", "after")
        }
        for side in ("before", "after"):
            assert (value.get(side) is None) == (line.get(side) is None)
            left, right = value.get(side) or {}, line.get(side) or {}
            columns = {**left, **right}
            for column in columns:
                field = (table, side, column, left.get(column, MISSING), right.get(column, MISSING))
                compared += 1
                if field[3] != field[4]:
                    reasons = [
                        reason for reason, is_case in KNOWN.items() if field[4] is not MISSING and is_case(field)
                    ]
                    assert reasons, field
                    cases[reasons[0]] += 1
    assert refused == REFUSED
    assert compared > 1400
    assert set(KNOWN) - set(cases) == {reason for reason in KNOWN if {mode, form} & set(NOT_IN.get(reason, ()))}


@pytest.mark.parametrize("version", VERSIONS)
def test_text_and_binary_streams_give_the_same_lines(version: int) -> None:
    """Of the captures of all servers, byte for byte in the tables whose types all are known."""
    text, binary = (Batch.of([message for _, message in capture(version, form)]) for form in golden.FORMS)
    tables = {
        ("public", name) for name in ("everyday", "lists", "toasted", "toasted_full", "keys", "altered", "by_index")
    }
    for envelope in (DebeziumEnvelope(), DebeziumEnvelope(decimal="string", time="isostring")):
        lines = text.select(tables).to_json(envelope)
        assert lines == binary.select(tables).to_json(envelope)
        assert len(lines.splitlines()) > 60


NOT_A_PLACE = base64.b64encode(struct.pack("<BIdd", 1, 1, float("nan"), float("-inf"))).decode()
"""The WKB of a point that is nowhere."""


def value(type_oid: int, field: wire.Field, *, modifier: int = -1, old: str | None = None, **settings: Any) -> Any:
    """How one value is written."""
    relation = wire.relation(1, "t", [("id", 23), ("c", type_oid)])
    stream = [
        relation[:-4] + struct.pack(">i", modifier),
        wire.update(1, ["1", field], None if old is None else ["1", old]),
    ]
    line = json.loads(Decoder().to_json(stream, envelope=DebeziumEnvelope(**settings)))
    return line["after"]["c"]


def numeric(precision: int, scale: int) -> int:
    """The type modifier of a numeric."""
    return (precision << 16 | scale & 0x7FF) + 4


@given(st.integers(-(10**120), 10**120) | st.integers(-(2**20), 2**20), st.integers(0, 40))
def test_decimals_are_whole_numbers_in_the_fewest_bytes(units: int, scale: int) -> None:
    """For a reader that does what Java's BigInteger does."""
    text = f"{Decimal(units).scaleb(-scale, None):f}" if units.bit_length() < 80 else f"{units}"
    scale = scale if units.bit_length() < 80 else 0
    written = base64.b64decode(value(1700, text, modifier=numeric(200, scale)), validate=True)
    assert int.from_bytes(written, "big", signed=True) == units
    assert len(written) == (units + (units < 0)).bit_length() // 8 + 1


@given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda number: -600 < number.adjusted() < 600))
def test_decimals_of_any_scale_are_equal_numbers(number: Decimal) -> None:
    """The scale is that of the shortest fraction."""
    written = value(1700, f"{number:f}")
    units = int.from_bytes(base64.b64decode(written["value"], validate=True), "big", signed=True)
    assert Fraction(units, 10 ** written["scale"]) == Fraction(number)
    assert written["scale"] == 0 or units % 10
    assert value(1700, f"{number:f}", decimal="string") == f"{number:f}"


@given(st.binary())
def test_bytea_is_base64(raw: bytes) -> None:
    """As Python's own."""
    assert value(17, raw) == value(17, "\\x" + raw.hex()) == base64.b64encode(raw).decode()


@given(st.datetimes(), st.integers(0, 6))
def test_times_are_those_that_python_knows(moment: datetime, digits: int) -> None:
    """Numbers from 1970 on, and text that Python reads as the same moment."""
    since_1970 = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    text = f"{moment:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0")
    assert value(1114, text) == since_1970
    assert value(1114, text, modifier=3) == since_1970 // 1000
    assert value(1082, text[:10]) == (moment.date() - datetime(1970, 1, 1).date()).days
    assert datetime.fromisoformat(value(1114, text, time="isostring")) == moment.replace(tzinfo=UTC)
    zoned = value(1184, text + "+00", modifier=digits)
    assert datetime.fromisoformat(zoned) == moment.replace(tzinfo=UTC)
    assert len(zoned) >= len("2000-01-01T00:00:00Z") + (digits and digits + 1)


@pytest.mark.parametrize(
    ("type_oid", "modifier", "field", "expected"),
    [
        (1700, numeric(3, -2), "12300", base64.b64encode(b"\x7b").decode()),
        (1700, numeric(5, 2), "1", base64.b64encode(b"\x64").decode()),
        (1700, numeric(5, 2), "1.2300", base64.b64encode(b"\x7b").decode()),
        (1700, numeric(300, 250), "0." + "0" * 249 + "1", base64.b64encode(b"\x01").decode()),
        (1700, numeric(5, 2), "-Infinity", {"scale": None, "value": "-Infinity"}),
        (1700, -1, "0.00", {"scale": 0, "value": "AA=="}),
        (1700, -1, "-100", {"scale": 0, "value": "nA=="}),
        (1083, 3, "12:00:00.001", 43_200_001),
        (1083, 4, "12:00:00.001", 43_200_001_000),
        (1266, -1, "24:00:00-15:59:59", "15:59:59Z"),
        (1266, -1, "24:00:00+15:59", "08:01:00Z"),
        (1266, -1, "01:02:03.5+05:30", "19:32:03.5Z"),
        (1184, 0, "2024-02-29 12:30:00+00", "2024-02-29T12:30:00Z"),
        (1184, -1, "0001-01-01 00:00:00+00 BC", "0000-01-01T00:00:00.000000Z"),
        (1114, -1, "infinity", "infinity"),
        (1082, -1, "-infinity", "-infinity"),
        (1007, -1, "[0:1]={1,NULL}", [1, None]),
        (1007, -1, "{{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (3802, -1, '{"a": 1}', '{"a": 1}'),
        (790, -1, "$1,234.50", base64.b64encode(b"\x01\xe2\x3a").decode()),
        (790, -1, "1.234,50 €", "1.234,50 €"),
        (1186, -1, "-1 mons +1 day 00:00:00.000001", -2_543_399_999_999),
        (1186, -1, "-infinity", "-infinity"),
        (1560, 1, "1", True),
        (1561, 1, "{1,0}", [True, False]),
        (1560, 9, "100000001", base64.b64encode(b"\x01\x01").decode()),
        (1562, -1, "", ""),
        (869, -1, "::1", "::1"),
        (3904, -1, "[1,10)", "[1,10)"),
        (600, -1, "(NaN,-Infinity)", {"x": "NaN", "y": "-Infinity", "wkb": NOT_A_PLACE, "srid": None}),
        (22, -1, "1 2", [1, 2]),
        (25, -1, UNSET, UNAVAILABLE),
        (1700, -1, UNSET, UNAVAILABLE),
        (1562, -1, UNSET, UNAVAILABLE_BYTES),
        (17, -1, UNSET, UNAVAILABLE_BYTES),
        (1009, -1, UNSET, [UNAVAILABLE]),
        (1001, -1, UNSET, [UNAVAILABLE_BYTES]),
        (1007, -1, UNSET, list(UNAVAILABLE.encode())),
        (2951, -1, UNSET, ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]),
    ],
)
def test_how_a_value_is_written(type_oid: int, modifier: int, field: wire.Field, expected: Any) -> None:
    """What a reader may rely on."""
    assert value(type_oid, field, modifier=modifier) == expected


def test_types_of_extensions() -> None:
    """Those that no server of the tests has, from bytes as their documentation describes them."""
    types = TypeCatalog()
    types.add(70001, "geometry", like="geometry")
    types.add(70002, "vector", like="vector")
    plain, located = bytes.fromhex("0101000000" + "00" * 16), bytes.fromhex("0101000020E6100000" + "00" * 16)
    stream = [wire.relation(1, "t", [("g", 70001), ("h", 70001), ("v", 70002)])]
    rows: list[list[wire.Field]] = [
        [plain.hex(), located, "[1,2.5]"],
        [plain, located.hex(), bytes.fromhex("000200003f80000040200000")],
    ]
    for row in rows:
        line = json.loads(Decoder(catalog=types).to_json([*stream, wire.insert(1, row)], envelope="debezium"))
        assert line["after"] == {
            "g": {"wkb": base64.b64encode(plain).decode(), "srid": None},
            "h": {"wkb": base64.b64encode(located).decode(), "srid": 4326},
            "v": [1.0, 2.5],
        }


def test_columns_of_unknown_types_are_left_out_or_written_whole() -> None:
    """As the caller says; in binary as PostgreSQL prints them, too."""
    stream = [
        wire.relation(1, "t", [("id", 23), ("l", 3220), ("m", 791)]),
        wire.insert(1, ["1", b"\0" * 7 + b"\1", "{$1.00}"]),
    ]
    (line,) = written(stream)
    assert line["after"] == {"id": 1}
    (line,) = written(stream, unknown=True)
    assert line["after"] == {"id": 1, "l": base64.b64encode(b"0/1").decode(), "m": ["ZA=="]}


def test_domains_are_written_as_their_base_type_with_its_modifier(database: Database) -> None:
    """As a server's catalog says, through domains over domains; arrays of them are unknown to Debezium."""
    database.execute(
        "CREATE DOMAIN price AS numeric(10,2)",
        "CREATE DOMAIN discount AS price CHECK (VALUE < 100)",
        "CREATE DOMAIN moment AS timestamp(3)",
        "CREATE TABLE t (id int PRIMARY KEY, p price, d discount, m moment, a price[])",
        "CREATE PUBLICATION p FOR TABLE t",
        "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')",
        "INSERT INTO t VALUES (1, 1.5, 2, '1970-01-01 00:00:01', '{1}')",
    )
    with database.connect() as connection:
        decoder = Decoder(catalog=Catalog.load(connection))
        for binary in (False, True):
            messages = [message for _, message in peek(connection, "debezium", "p", binary=binary)]
            (line,) = map(json.loads, decoder.to_json(messages, envelope="debezium").splitlines())
            assert line["after"] == {"id": 1, "p": "AJY=", "d": "AMg=", "m": 1000}


def test_unchanged_values_come_from_the_old_row_where_it_has_them() -> None:
    """As under REPLICA IDENTITY FULL."""
    assert value(25, UNSET, old="before") == "before"


def written(stream: list[bytes], lsns: list[int] | None = None, **settings: Any) -> list[dict[str, Any]]:
    """Lines of a stream made by hand."""
    envelope = DebeziumEnvelope(**settings)
    return [json.loads(line) for line in Decoder().to_json(stream, lsns, envelope=envelope).splitlines()]


def test_a_changed_key_makes_another_row() -> None:
    """By the columns that the stream marks, or those that the caller names."""
    relation = wire.relation(1, "t", [("id", 23), ("v", 25)])
    whole = wire.relation(2, "w", [("id", 23, True), ("v", 25, True)], identity="f")
    changes = [
        relation,
        whole,
        wire.update(1, ["2", "v"], ["1", None], kind="K"),
        wire.update(1, ["1", "w"], ["1", None], kind="K"),
        wire.update(2, ["2", "v"], ["1", "v"]),
        wire.update(2, ["1", "w"], ["1", "v"]),
    ]
    rows = [(line["op"], line["before"], line["after"]) for line in written(changes)]
    assert rows == [
        ("d", {"id": 1, "v": None}, None),
        ("c", None, {"id": 2, "v": "v"}),
        ("u", {"id": 1, "v": None}, {"id": 1, "v": "w"}),
        ("u", {"id": 1, "v": "v"}, {"id": 2, "v": "v"}),
        ("u", {"id": 1, "v": "v"}, {"id": 1, "v": "w"}),
    ]
    assert [line["op"] for line in written(changes, keys={"w": ["id"]})] == ["d", "c", "u", "d", "c", "u"]
    assert [line["op"] for line in written(changes, keys={"public.w": ("v",)})] == ["d", "c", "u", "u", "d", "c"]


def test_what_came_before_is_said_across_calls() -> None:
    """`sequence` begins with the end of the transaction before, whichever call it came in; the first has none."""
    decoder = Decoder()
    transaction = [
        wire.begin(1000),
        wire.relation(1, "t", [("id", 23)]),
        wire.insert(1, ["1"]),
        wire.commit(1000, 1048),
    ]
    lsns = [900, 0, 950, 1048]
    sources = [json.loads(decoder.to_json(transaction, lsns, envelope="debezium"))["source"] for _ in range(2)]
    assert [source["sequence"] for source in sources] == ['[null,"950"]', '["1048","950"]']
    assert [source["lsn"] for source in sources] == [950, 950]
    decoder.to_json([wire.message("p", b"", lsn=2000, transactional=False)], envelope="debezium")
    again = json.loads(decoder.to_json(transaction, envelope="debezium"))["source"]
    assert (again["sequence"], again["lsn"], again["txId"]) == ('["2000",null]', None, 7)


def test_where_a_transaction_came_from_is_said_in_all_of_its_batches() -> None:
    """Also in those that do not hold the Origin message, and not of the transaction after it."""
    decoder = Decoder()
    messages = [
        wire.begin(1000),
        wire.origin(77, "elsewhere"),
        wire.relation(1, "t", [("id", 23)]),
        wire.insert(1, ["1"]),
    ]
    sources = [json.loads(decoder.to_json(part, envelope="debezium"))["source"] for part in (messages, messages[3:])]
    assert [(source["origin"], source["origin_lsn"]) for source in sources] == [("elsewhere", 77)] * 2
    for changes in (Batch.of(messages).select({("public", "t")}), Batch.concat([Batch.of(messages).select()])):
        assert json.loads(changes.to_json("debezium"))["source"]["origin"] == "elsewhere"
    after = json.loads(decoder.to_json([wire.begin(2000), messages[3]], envelope="debezium"))
    assert (after["source"]["origin"], after["source"]["origin_lsn"]) == (None, None)


def test_times_of_processing_are_the_commit_s_or_the_caller_s() -> None:
    """No clock is read: the same bytes give the same lines."""
    stream = [wire.begin(), wire.relation(1, "t", [("id", 23)]), wire.insert(1, ["1"]), wire.message("p", b"x")]
    committed = (wire.COMMITTED - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    row, message = written(stream)
    assert (row["ts_ms"], row["ts_us"], row["ts_ns"]) == (committed // 1000, committed, committed * 1000)
    assert message["ts_ms"] == committed // 1000
    assert "ts_us" not in message
    batch = Batch.of(stream)
    row, message = map(json.loads, batch.to_json(DebeziumEnvelope("shop").at(1_700_000_000_123_456_789)).splitlines())
    assert (row["ts_ms"], row["ts_us"], row["ts_ns"]) == (
        1_700_000_000_123,
        1_700_000_000_123_456,
        1_700_000_000_123_456_789,
    )
    assert (message["ts_ms"], message["source"]["name"]) == (1_700_000_000_123, "shop")
    assert row["source"]["ts_us"] == committed


def test_rows_of_an_initial_copy() -> None:
    """Read, not created; the source's LSN is the consistent point."""
    relation = Decoder().decode(wire.relation(1, "t", [("id", 23)]))
    assert isinstance(relation, Relation)
    copied = CopyReader(relation, 5000).read(
        [wire.copy_header() + wire.copy_row([b"\x00\x00\x00\x07"]) + wire.COPY_TRAILER]
    )
    line = json.loads(copied.to_json(DebeziumEnvelope().at(7_000_000)))
    source = line["source"]
    assert (line["op"], line["before"], line["after"]) == ("r", None, {"id": 7})
    assert (source["snapshot"], source["lsn"], source["txId"], source["ts_ms"]) == ("true", 5000, None, 7)
    assert source["sequence"] == '[null,"5000"]'


def test_names_are_escaped() -> None:
    """Of schemas, tables, columns and what the caller says."""
    stream = [wire.relation(1, 't"\\', [('c"', 25)], schema='s"'), wire.insert(1, ['"'])]
    (line,) = written(stream, name='n"', db='d"', version='v"')
    source = line["source"]
    assert (source["schema"], source["table"], line["after"]) == ('s"', 't"\\', {'c"': '"'})
    assert (source["name"], source["db"], source["version"]) == ('n"', 'd"', 'v"')
    assert line["source"]["connector"] == "postgresql"


def test_the_first_bad_change_is_raised() -> None:
    """With its table and field, as for plain lines."""
    relation = wire.relation(1, "t", [("id", 23), ("n", 1700), ("b", 17)])
    bad: list[tuple[list[wire.Field], str]] = [
        (["x", None, None], "id"),
        (["1", "1,5", None], "n"),
        (["1", None, "\\xz"], "b"),
    ]
    for row, field in bad:
        with pytest.raises(InvalidValue) as caught:
            written([relation, wire.insert(1, row)])
        assert (caught.value.field, caught.value.table) == (field, "public.t")
    with pytest.raises(InvalidValue, match="more digits"):
        value(1700, "1.005", modifier=numeric(5, 2))
    with pytest.raises(InvalidValue, match="more digits"):
        value(1700, "12345", modifier=numeric(3, -2))
    for stream in ([wire.insert(2, ["1"])], [relation, wire.truncate([1, 2])]):
        with pytest.raises(UnknownRelation):
            written(stream)
    with pytest.raises(DecodeError, match="3 columns"):
        written([wire.relation(1, "t", [("id", 23)]), wire.delete(1, ["1", "2", "3"])])


def test_what_is_asked_for_is_checked() -> None:
    """Modes and keys."""
    for settings in ({"decimal": "double"}, {"time": "connect"}, {"keys": {"t": "id"}}):
        with pytest.raises(ConfigError):
            DebeziumEnvelope(**settings)
    with pytest.raises(TypeError):
        DebeziumEnvelope(keys=[("t", ["id"])])  # type: ignore[arg-type]
