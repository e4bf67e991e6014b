"""The value table: what each everyday type becomes in Python, written out by hand, from text and from binary.

Over 400 lines, because most of it is tables.
"""

# ruff: noqa: E501 (a table reads line by line)

from __future__ import annotations

import copy
import pickle
import random
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc.errors import InvalidValue
from pgcdc.events import Insert
from pgcdc.protocol import Decoder, PgArray, PgText
from tests.protocol import wire
from tests.reference import plain
from tests.reference_values import SCALARS, decode_value

UTC = UTC


def decode(type_name: str, sent: wire.Field, *, array: bool = False, decoder: Decoder | None = None) -> Any:
    """One value through a decoder: str is the text form, bytes the binary form."""
    decoder = decoder or Decoder(rows="tuple")
    decoder.decode(wire.relation(1, "t", [("v", SCALARS[type_name][1] if array else SCALARS[type_name][0])]))
    event = decoder.decode(wire.insert(1, [sent]))
    assert isinstance(event, Insert)
    return event.new[0]


def zone(**offset: int) -> timezone:
    """A time zone."""
    return timezone(timedelta(**offset))


def pack(format: str, *values: Any) -> bytes:
    """Big-endian."""
    return struct.pack(">" + format, *values)


def numeric(weight: int, sign: int, scale: int, *digits: int) -> bytes:
    """numeric's binary form."""
    return pack(f"HhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)


BOTH: list[tuple[str, str, bytes, Any]] = [
    ("bool", "t", b"\x01", True),
    ("bool", "f", b"\x00", False),
    ("int2", "-32768", pack("h", -32768), -32768),
    ("int4", "2147483647", pack("i", 2147483647), 2147483647),
    ("int8", "-9223372036854775808", pack("q", -(2**63)), -(2**63)),
    ("oid", "4294967295", pack("I", 2**32 - 1), 2**32 - 1),
    ("float8", "0.1", pack("d", 0.1), 0.1),
    ("float8", "-0", pack("d", -0.0), -0.0),
    ("float8", "5e-324", pack("d", 5e-324), 5e-324),
    ("float8", "9.999999999999999e+22", pack("d", 1e23), 1e23),
    ("float8", "NaN", pack("d", float("nan")), float("nan")),
    ("float8", "Infinity", pack("d", float("inf")), float("inf")),
    ("float8", "-Infinity", pack("d", float("-inf")), float("-inf")),
    ("float4", "0.1", pack("f", 0.1), 0.1),
    ("float4", "3.4028235e+38", pack("f", 3.4028234663852886e38), 3.4028235e38),
    ("float4", "1e-45", pack("I", 1), 1e-45),
    ("float4", "-0", pack("f", -0.0), -0.0),
    ("float4", "NaN", pack("f", float("nan")), float("nan")),
    ("float4", "-Infinity", pack("f", float("-inf")), float("-inf")),
    ("float4", "1.6777216e+07", pack("f", 2.0**24), 16777216.0),
    ("numeric", "0", numeric(0, 0, 0), Decimal(0)),
    ("numeric", "0.00", numeric(0, 0, 2), Decimal("0.00")),
    ("numeric", "12.50", numeric(0, 0, 2, 12, 5000), Decimal("12.50")),
    ("numeric", "-0.00010", numeric(-1, 0x4000, 5, 1), Decimal("-0.00010")),
    ("numeric", "10000", numeric(1, 0, 0, 1), Decimal(10000)),
    ("numeric", "1" + "0" * 400, numeric(100, 0, 0, 1), Decimal("1" + "0" * 400)),
    ("numeric", "NaN", numeric(0, 0xC000, 0), Decimal("NaN")),
    ("numeric", "Infinity", numeric(0, 0xD000, 0x20), Decimal("Infinity")),
    ("numeric", "-Infinity", numeric(0, 0xF000, 0x20), Decimal("-Infinity")),
    ("text", "", b"", ""),
    ("text", "äöü 漢字 😀", "äöü 漢字 😀".encode(), "äöü 漢字 😀"),
    ("text", "a\udcff\udc80b", b"a\xff\x80b", "a\udcff\udc80b"),
    ("varchar", "v", b"v", "v"),
    ("bpchar", "a  ", b"a  ", "a  "),
    ("name", "n", b"n", "n"),
    ('"char"', "a", b"a", "a"),
    ('"char"', "", b"\x00", ""),
    ('"char"', "\\200", b"\x80", "\\200"),
    ('"char"', "\udc80", b"\x80", "\\200"),  # as 14 and 15 send it
    ("bytea", "\\x00ff7f", b"\x00\xff\x7f", b"\x00\xff\x7f"),
    ("bytea", "\\x", b"", b""),
    ("bytea", "a\\\\b\\377", b"a\\b\xff", b"a\\b\xff"),  # bytea_output = escape
    ("date", "2000-01-01", pack("i", 0), date(2000, 1, 1)),
    ("date", "0001-01-01", pack("i", -730119), date(1, 1, 1)),
    ("date", "9999-12-31", pack("i", 2921939), date(9999, 12, 31)),
    ("date", "10000-01-01", pack("i", 2921940), PgText("10000-01-01")),
    ("date", "0001-12-31 BC", pack("i", -730120), PgText("0001-12-31 BC")),
    ("date", "4714-11-24 BC", pack("i", -2451545), PgText("4714-11-24 BC")),
    ("date", "5874897-12-31", pack("i", 2145031948), PgText("5874897-12-31")),
    ("date", "infinity", pack("i", 2**31 - 1), PgText("infinity")),
    ("date", "-infinity", pack("i", -(2**31)), PgText("-infinity")),
    ("time", "00:00:00", pack("q", 0), time(0)),
    ("time", "23:59:59.999999", pack("q", 86399999999), time(23, 59, 59, 999999)),
    ("time", "12:34:56.7", pack("q", 45296700000), time(12, 34, 56, 700000)),
    ("time", "24:00:00", pack("q", 86400000000), PgText("24:00:00")),
    ("timetz", "12:00:00+05:30", pack("qi", 43200000000, -19800), time(12, tzinfo=zone(hours=5, minutes=30))),
    ("timetz", "12:00:00-00:30", pack("qi", 43200000000, 1800), time(12, tzinfo=zone(minutes=-30))),
    ("timetz", "12:00:00+00", pack("qi", 43200000000, 0), time(12, tzinfo=UTC)),
    ("timetz", "12:00:00+15:59:59", pack("qi", 43200000000, -57599), time(12, tzinfo=zone(seconds=57599))),
    ("timetz", "24:00:00-08", pack("qi", 86400000000, 28800), PgText("24:00:00-08")),
    ("timestamp", "2000-01-01 00:00:00", pack("q", 0), datetime(2000, 1, 1)),
    ("timestamp", "1999-12-31 23:59:59.999999", pack("q", -1), datetime(1999, 12, 31, 23, 59, 59, 999999)),
    ("timestamp", "infinity", pack("q", 2**63 - 1), PgText("infinity")),
    ("timestamp", "-infinity", pack("q", -(2**63)), PgText("-infinity")),
    ("timestamp", "10000-01-01 00:00:00", pack("q", 2921940 * 86400000000), PgText("10000-01-01 00:00:00")),
    ("timestamp", "0001-12-31 00:00:00.5 BC", pack("q", -730120 * 86400000000 + 500000), PgText("0001-12-31 00:00:00.5 BC")),
    ("timestamptz", "2024-02-29 12:30:00+00", pack("q", 762525000000000), datetime(2024, 2, 29, 12, 30, tzinfo=UTC)),
    ("timestamptz", "infinity", pack("q", 2**63 - 1), PgText("infinity")),
    ("timestamptz", "0001-12-31 12:00:00+00 BC", pack("q", -730120 * 86400000000 + 43200000000), PgText("0001-12-31 12:00:00+00 BC")),
    ("timestamptz", "294276-12-31 23:59:59.999999+00", pack("q", 9223371331199999999), PgText("294276-12-31 23:59:59.999999+00")),
    ("uuid", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", UUID(int=0xF81D4FAE7DEC11D0A76500A0C91E6BF6).bytes, UUID(int=0xF81D4FAE7DEC11D0A76500A0C91E6BF6)),
    ("json", ' {"a": [1, 2.50]} ', b' {"a": [1, 2.50]} ', {"a": [1, 2.5]}),
    ("jsonb", '{"a": null}', b'\x01{"a": null}', {"a": None}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("type_name", "text", "binary", "expected"), BOTH, ids=[f"{row[0]}:{row[1][:32]!a}" for row in BOTH]
)
def test_text_and_binary_give_this_value(type_name: str, text: str, binary: bytes, expected: Any) -> None:
    """The same value, of the same type, from both forms; the reference agrees."""
    assert plain(decode(type_name, text)) == plain(expected)
    assert plain(decode(type_name, binary)) == plain(expected)
    oid = SCALARS[type_name][0]
    assert plain(decode_value(oid, False, text.encode("utf-8", "surrogateescape"))) == plain(expected)
    assert plain(decode_value(oid, True, binary)) == plain(expected)


def test_a_timestamptz_printed_in_another_zone_is_the_same_instant_in_utc() -> None:
    """Consumers that forgot to pin TimeZone get the right instant; the zone printed there is the session's, not the row's."""
    assert plain(decode("timestamptz", "2024-02-29 18:00:00+05:30")) == plain(datetime(2024, 2, 29, 12, 30, tzinfo=UTC))
    assert plain(decode("timestamptz", "0001-01-01 00:30:00+01")) == plain(PgText("0001-12-31 23:30:00+00 BC"))


JSON: list[tuple[str, Any]] = [
    ("1", 1),
    ("-0", 0),
    ("123456789012345678901234567890", 123456789012345678901234567890),
    ("1.0", 1.0),
    ("0.1", 0.1),
    ("0.10", 0.1),
    ("-0.0", -0.0),
    ("1E5", 100000.0),
    ("5e-324", 5e-324),
    ("1.7976931348623157e308", 1.7976931348623157e308),
    ("9007199254740993", 9007199254740993),
    ("9007199254740993.0", Decimal("9007199254740993.0")),
    ("0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
    ("1e400", Decimal("1e400")),
    ("1e-400", Decimal("1e-400")),
    ("4.9e-324", Decimal("4.9e-324")),
    ("9" * 5000, 10**5000 - 1),
    ("-" + "9" * 5000 + ".5", Decimal("-" + "9" * 5000 + ".5")),
    ("true", True),
    ("null", None),
    ('""', ""),
    ('"\\u00e9\\n\\ud83d\\ude00\\/\\\\"', "é\n😀/\\"),
    ('"\\ud800"', "\ud800"),
    ('"\\u0000"', "\x00"),
    ("[]", []),
    ("{}", {}),
    ('{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
    ("[[[]],{}]", [[[]], {}]),
    ("\t[ 1 ,\n2 ]\r ", [1, 2]),
]


@pytest.mark.parametrize(
    ("document", "expected"), JSON, ids=[row[0][:30].encode("unicode_escape").decode() for row in JSON]
)
def test_json_values(document: str, expected: Any) -> None:
    """As json.loads, and no digit lost: a number that a float cannot hold is an int or a Decimal."""
    for type_name, binary in (("json", document.encode()), ("jsonb", b"\x01" + document.encode())):
        assert plain(decode(type_name, document)) == plain(expected)
        assert plain(decode(type_name, binary)) == plain(expected)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=12,
    )
)
def test_any_json_document(document: Any) -> None:
    """The reference, which stands on the standard library, reads every document alike."""

    def write(value: Any) -> str:
        if isinstance(value, Decimal):
            return f"{value:e}" if value.adjusted() > 50 or value.adjusted() < -50 else f"{value:f}"
        if isinstance(value, list):
            return "[" + ",".join(map(write, value)) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{write(key)}:{write(item)}" for key, item in value.items()) + "}"
        import json

        return json.dumps(value)

    text = write(document)
    assert plain(decode("json", text)) == plain(decode_value(SCALARS["json"][0], False, text.encode()))


@pytest.mark.parametrize(
    "document", ["", " ", "{", "[1,]", "nul", "NaN", "Infinity", "01", "1.", ".5", '"\t"', "[1] 2", "+1", "{'a':1}"]
)
def test_what_is_not_json(document: str) -> None:
    """InvalidValue, which names the column."""
    with pytest.raises(InvalidValue) as caught:
        decode("json", document)
    assert caught.value.field == "v"


@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_json_nested_deeply_is_a_value_and_no_crash(bracket: str) -> None:
    """However deep (a thread's stack of 8 MB has 42 bytes for each); what does not end is refused all the same."""
    close = "]" if bracket == "[" else "}"
    for depth in (100, 20_000, 200_000):
        assert decode("json", bracket * depth + "1" + close * depth)
        with pytest.raises(InvalidValue):
            decode("json", bracket * depth + "1" + close * (depth - 1))


def array(oid: int, dimensions: list[tuple[int, int]], items: list[bytes | None]) -> bytes:
    """An array's binary form; dimensions are (length, lower bound)."""
    parts = [pack("iiI", len(dimensions), None in items, oid)]
    parts += [pack("ii", *dimension) for dimension in dimensions]
    parts += [pack("i", -1) if item is None else pack("i", len(item)) + item for item in items]
    return b"".join(parts)


def ints(*values: int | None) -> list[bytes | None]:
    """Elements of an int4 array."""
    return [None if value is None else pack("i", value) for value in values]


ARRAYS: list[tuple[str, str, bytes, Any]] = [
    ("int4", "{}", array(23, [], []), []),
    ("int4", "{1,NULL,-3}", array(23, [(3, 1)], ints(1, None, -3)), [1, None, -3]),
    ("int4", "{{1,2},{3,4}}", array(23, [(2, 1), (2, 1)], ints(1, 2, 3, 4)), [[1, 2], [3, 4]]),
    ("int4", "{{{1},{2}}}", array(23, [(1, 1), (2, 1), (1, 1)], ints(1, 2)), [[[1], [2]]]),
    ("int4", "[0:1]={1,2}", array(23, [(2, 0)], ints(1, 2)), PgArray([1, 2], (0,))),
    ("int4", "[-2:-1][3:3]={{1},{2}}", array(23, [(2, -2), (1, 3)], ints(1, 2)), PgArray([[1], [2]], (-2, 3))),
    ("int4", "[1:1][2:3]={{1,2}}", array(23, [(1, 1), (2, 2)], ints(1, 2)), PgArray([[1, 2]], (1, 2))),
    (
        "text",
        '{"",NULL,"NULL",null_,"a,b","{x}","q\\"\\\\",ä," s "}',
        array(25, [(9, 1)], [b"", None, b"NULL", b"null_", b"a,b", b"{x}", b'q"\\', "ä".encode(), b" s "]),
        ["", None, "NULL", "null_", "a,b", "{x}", 'q"\\', "ä", " s "],
    ),
    ("bool", "{t,f}", array(16, [(2, 1)], [b"\1", b"\0"]), [True, False]),
    ("bytea", '{"\\\\x00ff"}', array(17, [(1, 1)], [b"\0\xff"]), [b"\0\xff"]),
    ("jsonb", '{"{\\"a\\": 1}",null}', array(3802, [(2, 1)], [b'\1{"a": 1}', None]), [{"a": 1}, None]),
    ("timestamptz", '{"2000-01-01 00:00:00+00",infinity}', array(1184, [(2, 1)], [pack("q", 0), pack("q", 2**63 - 1)]),
     [datetime(2000, 1, 1, tzinfo=UTC), PgText("infinity")]),
    ("numeric", "{1.10}", array(1700, [(1, 1)], [numeric(0, 0, 2, 1, 1000)]), [Decimal("1.10")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("type_name", "text", "binary", "expected"), ARRAYS, ids=[f"{row[0]}:{row[1][:32]!a}" for row in ARRAYS]
)
def test_arrays(type_name: str, text: str, binary: bytes, expected: Any) -> None:
    """Lists of lists; NULL elements; a PgArray where an index does not begin at 1."""
    assert plain(decode(type_name, text, array=True)) == plain(expected)
    assert plain(decode(type_name, binary, array=True)) == plain(expected)
    oid = SCALARS[type_name][1]
    assert plain(decode_value(oid, False, text.encode())) == plain(expected)
    assert plain(decode_value(oid, True, binary)) == plain(expected)


@pytest.mark.parametrize(
    ("type_name", "sent"),
    [
        ("bool", "true"), ("bool", ""), ("bool", b""), ("bool", b"\x02"),
        ("int2", "32768"), ("int4", "x"), ("int4", ""), ("int4", "-"), ("int4", " 1"), ("int4", "1 "), ("int4", "1_0"),
        ("int4", "２"), ("int8", "9223372036854775808"), ("oid", "-1"), ("int4", b"\0\0\0"), ("int8", b"\0" * 9),
        ("float8", "1x"), ("float8", ""), ("float8", "nan"), ("float8", "inf"), ("float8", "0x10"), ("float8", b"\0" * 4),
        ("numeric", "1..2"), ("numeric", "abc"), ("numeric", ""), ("numeric", "1_0"), ("numeric", b"\0"),
        ("numeric", numeric(0, 0, 0, 10000)), ("numeric", numeric(0, 0x1234, 0, 1)), ("numeric", numeric(0, 0, 0, 1)[:-1]),
        ("bytea", "\\x0"), ("bytea", "\\xgg"), ("bytea", "a\\b"), ("bytea", "\\400"),
        ("date", "2024-02-30"), ("date", "2023-02-29"), ("date", "01/02/2024"), ("date", "0000-01-01"), ("date", ""),
        ("date", b"\0"), ("time", "25:00:00"), ("time", "12:60:00"), ("time", "24:00:01"), ("time", pack("q", 86400000001)),
        ("time", pack("q", -1)), ("timestamp", "2024-01-01"), ("timestamp", "2024-01-01T00:00:00"),
        ("timestamptz", "2024-01-01 00:00:00"), ("timetz", "12:00:00"), ("timetz", pack("qi", 0, 2**31 - 1)),
        ("timetz", pack("qi", 0, -(2**31))), ("uuid", "f81d4fae"), ("uuid", "g" * 36), ("uuid", b"\0" * 15),
        ("jsonb", b""), ("jsonb", b"\x02{}"), ("jsonb", b"{}"), ('"char"', "ab"), ('"char"', b"ab"),
    ],
)  # fmt: skip
def test_values_that_are_none(type_name: str, sent: wire.Field) -> None:
    """InvalidValue with reason, column and offset; never a guess, never the value in the text."""
    message = wire.insert(1, [sent])
    with pytest.raises(InvalidValue) as caught:
        decode(type_name, sent)
    assert caught.value.reason
    assert caught.value.field == "v"
    assert 0 < caught.value.offset <= len(message)


@pytest.mark.parametrize(
    "sent",
    [
        "", "{", "}", "{1", "{1,}", "{,1}", "{1}}", "{{1},2}", "{1,{2}}", '{"1}', "{1}x", "[0:1]={1", "[0:1]{1,2}", "[a:b]={1}",
        "[0:5]={1,2}", "{1 2}", "x{1}", "{1\\", "{x}",
        b"", array(23, [(2, 1)], ints(1)), array(23, [(1, 1)], ints(1, 2)), array(25, [(1, 1)], [b"a"]),
        pack("iiI", -1, 0, 23), pack("iiI", 7, 0, 23) + pack("ii", 1, 1) * 7, pack("iiIii", 1, 0, 23, 2**31 - 1, 1),
        pack("iiIii", 1, 0, 23, -1, 1), pack("iiI", 6, 0, 23) + pack("ii", 2**31 - 1, 1) * 6,
        pack("iiIiii", 1, 0, 23, 1, 1, -2), pack("iiIiii", 1, 0, 23, 1, 1, 2**31 - 1),
    ],
)  # fmt: skip
def test_arrays_that_are_none(sent: wire.Field) -> None:
    """Refused before anything of the announced size is made."""
    with pytest.raises(InvalidValue):
        decode("int4", sent, array=True)


def test_arrays_nested_too_deep_are_an_error_and_no_crash() -> None:
    """PostgreSQL has six dimensions; the text form could announce any number."""
    assert decode("int4", "{" * 6 + "1" + "}" * 6, array=True) == [[[[[[1]]]]]]
    with pytest.raises(InvalidValue):
        decode("int4", "{" * 100_000 + "1" + "}" * 100_000, array=True)


def float4_bits() -> list[int]:
    """All powers of two and their neighbours, where intervals are lopsided, and some that chance picks."""
    luck = random.Random(4)
    bits = [(exponent << 23) + step for exponent in range(255) for step in (-1, 0, 1) if (exponent << 23) + step > 0]
    return bits + [luck.randrange(1, 0x7F800000) for _ in range(3000)] + list(range(1, 60))


def test_float4_is_the_number_that_postgresql_prints() -> None:
    """From the four bytes, on all lopsided intervals: what the reference finds with exact fractions."""
    decoder = Decoder(rows="tuple")
    decoder.decode(wire.relation(1, "t", [("v", 700)]))
    bits = float4_bits()
    events: list[Any] = decoder.decode_many([wire.insert(1, [pack("I", value)]) for value in bits])
    wrong = [
        hex(b) for b, event in zip(bits, events, strict=True) if event.new[0] != decode_value(700, True, pack("I", b))
    ]
    assert wrong == []


@given(st.integers(-(2**63) + 1, 2**63 - 2))
def test_any_timestamp(microseconds: int) -> None:
    """The calendar, over all that eight bytes can say."""
    for type_name in ("timestamp", "timestamptz"):
        expected = plain(decode_value(SCALARS[type_name][0], True, pack("q", microseconds)))
        assert plain(decode(type_name, pack("q", microseconds))) == expected
    days = microseconds // 2**32
    assert plain(decode("date", pack("i", days))) == plain(decode_value(1082, True, pack("i", days)))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_numeric_text(value: Decimal) -> None:
    """Every digit and the scale."""
    text = f"{value:f}"
    if value.is_zero():
        text = text.lstrip("-")
    assert plain(decode("numeric", text)) == plain(Decimal(text))


def test_a_numeric_of_any_length() -> None:
    """More digits than the default context of the decimal module keeps, and than int() reads."""
    text = "9" * 131072 + "." + "1" * 16383
    value = decode("numeric", text)
    assert str(value) == text
    digits = numeric(32767, 0, 0, *[9999] * 32768)
    assert str(decode("numeric", digits)) == "9" * 131072


def test_uuids_are_whole_objects() -> None:
    """They are made without calling the class; nothing may tell."""
    made = decode("uuid", "f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    called = UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    assert type(made) is UUID
    assert (made, hash(made), repr(made), made.is_safe) == (called, hash(called), repr(called), called.is_safe)
    assert pickle.loads(pickle.dumps(made)) == called
    assert copy.deepcopy(made) == called
    assert pickle.dumps(made) == pickle.dumps(called)


def test_pgtext_and_pgarray() -> None:
    """A str and a list that say what they are, and survive pickling."""
    text, array_ = decode("date", "infinity"), decode("int4", "[0:1]={1,2}", array=True)
    assert type(text) is PgText
    assert text == "infinity"
    assert type(array_) is PgArray
    assert (list(array_), array_.lower_bounds) == ([1, 2], (0,))
    assert array_ != [1, 2], "the same elements under other indexes are another array"
    assert pickle.loads(pickle.dumps(text)) == text
    again = pickle.loads(pickle.dumps(array_))
    assert (again, again.lower_bounds) == (array_, (0,))
    assert type(decode("int4", "[1:2]={1,2}", array=True)) is list


def test_values_of_unknown_types_are_as_sent() -> None:
    """str when they came as text, bytes when they came in binary (a regclass, and a type that no catalog has)."""
    decoder = Decoder(rows="tuple")
    decoder.decode(wire.relation(1, "t", [("a", 2205), ("b", 999999)]))
    text, binary = decoder.decode_many([wire.insert(1, ["orders", "x\udcff"]), wire.insert(1, [b"\0" * 4, b"\xff"])])
    assert isinstance(text, Insert) and isinstance(binary, Insert)
    assert text.new == ("orders", "x\udcff")
    assert binary.new == (b"\0" * 4, b"\xff")
