"""Values of types that few tables have, written by hand: of extensions that the test servers lack, and what is no value."""

# ruff: noqa: E501 (a table reads line by line)

from __future__ import annotations

import json
import struct
from decimal import Decimal
from typing import Any

import polars
import pytest

from pgcdc import Batch, Catalog, ConfigError, Insert, InvalidValue, PgText, RowFormat
from pgcdc.protocol import Decoder
from tests.protocol import wire
from tests.reference_values import NAMES

pack = struct.pack
BY_NAME = {
    name: number
    for number, name in enumerate(
        ["vector", "halfvec", "sparsevec", "geometry", "geography", "hstore", "pair", "pairs"], 90001
    )
}


def catalog() -> Catalog:
    """Types of extensions and of the user, by hand."""
    made = Catalog()
    for name, oid in BY_NAME.items():
        if name == "pair":
            made.add(oid, "public.pair", fields=[("a", 23), ("b", 25)])
        elif name == "pairs":
            made.add(oid, "_pair", element=BY_NAME["pair"])
        else:
            made.add(oid, name, like=name)  # type: ignore[arg-type]
    return made


def messages(type_oid: int, sent: wire.Field) -> list[bytes]:
    """A table of one column, and a row."""
    return [wire.relation(1, "t", [("v", type_oid)]), wire.insert(1, [sent])]


def decode(type_oid: int, sent: wire.Field, **options: Any) -> Any:
    """The value in a row: str is the text form, bytes the binary form."""
    _, event = Decoder("tuple", catalog=catalog(), **options).decode_many(messages(type_oid, sent))
    if isinstance(event, Insert):
        return event.new[0]
    raise event  # type: ignore[misc]


POINT = "0101000020E6100000000000000000F03F0000000000000040"
"""PostGIS: `SRID=4326;POINT(1 2)`, little-endian: byte order, type with the flag for an SRID, SRID, coordinates."""
EXTENSIONS: list[tuple[str, str, bytes, Any, Any, Any]] = [
    # pgvector: number of dimensions and an unused field in 16 bits each, then the numbers
    ("vector", "[1,2.5,-0.1]", pack(">hhfff", 3, 0, 1, 2.5, -0.1), [1.0, 2.5, -0.1], [1, 2.5, -0.1], "list"),
    ("vector", "[1e-45,3.4028235e+38]", pack(">hhIf", 2, 0, 1, 3.4028234663852886e38), [1e-45, 3.4028235e38], [1e-45, 3.4028235e38], "list"),
    ("halfvec", "[1,0.5,-65504,6e-08,0.0999755859375]", pack(">hhHHHHH", 5, 0, 0x3C00, 0x3800, 0xFBFF, 0x0001, 0x2E66),
     [1.0, 0.5, -65504.0, 5.9604645e-08, 0.099975586], None, "list"),
    # dimensions, number of elements, an unused field, places from 0, numbers; the text counts from 1
    ("sparsevec", "{1:0.5,3:-2}/5", pack(">iiiiiff", 5, 2, 0, 0, 2, 0.5, -2), "{1:0.5,3:-2}/5", "{1:0.5,3:-2}/5", "string"),
    ("sparsevec", "{}/5", pack(">iii", 5, 0, 0), "{}/5", "{}/5", "string"),
    ("geometry", POINT, bytes.fromhex(POINT), bytes.fromhex(POINT), POINT, "binary"),
    ("geography", POINT, bytes.fromhex(POINT), bytes.fromhex(POINT), POINT, "binary"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "binary", "expected", "line", "arrow"), EXTENSIONS, ids=[row[1][:20] for row in EXTENSIONS]
)
def test_types_of_pgvector_and_postgis(
    name: str, text: str, binary: bytes, expected: Any, line: Any, arrow: str
) -> None:
    """The formats of their documentation and sources; no test server has these extensions."""
    oid = BY_NAME[name]
    if name != "halfvec":  # whose text above is rounded by hand
        assert decode(oid, text) == expected
    assert decode(oid, binary) == expected
    batch = Batch.of(messages(oid, binary))
    written = json.loads(batch.to_json(catalog=catalog()))["new"]["v"]
    assert written == (expected if line is None else line)
    frame = polars.DataFrame(batch.to_arrow(catalog=catalog())["public.t"])
    assert str(frame.schema["v"]).lower().startswith(arrow)
    if name == "sparsevec":
        assert frame["v"].to_list() == [text]


def test_a_vector_s_text_is_its_numbers_as_floats_of_32_bits() -> None:
    """More digits than such a float has make no other number than binary gives."""
    assert decode(BY_NAME["vector"], "[0.1,0.10000000149011612]") == [0.1, 0.1]


@pytest.mark.parametrize(
    ("oid", "sent"),
    [(1082, "infinity"), (1083, "24:00:00"), (1114, pack(">q", 2**63 - 1)), (1184, "0044-03-15 12:00:00+00 BC"), (790, "1.234,56 €"),
     (1182, '{2024-01-01,infinity}'), (3912, "[2024-01-01,infinity)")],
)  # fmt: skip
def test_out_of_range(oid: int, sent: wire.Field) -> None:
    """What Python's types cannot hold: in PostgreSQL's words, or refused, wherever it is."""
    assert "PgText" in repr(decode(oid, sent))
    assert "PgText" in repr(decode(oid, sent, out_of_range="pgtext"))
    with pytest.raises(InvalidValue, match="a value that Python's type for it cannot hold"):
        decode(oid, sent, out_of_range="error")
    with pytest.raises(ConfigError, match='out_of_range="clamp" is neither'):
        RowFormat(out_of_range="clamp")  # type: ignore[call-overload]


def test_money_of_another_locale_is_given_as_printed() -> None:
    """Whose binary form is in units of that locale, too: which, nobody can tell from a number."""
    assert decode(790, "-$1,234.50") == Decimal("-1234.50")
    for text in ("1.234,50 €", "$1,234", "$1234.50", "$12,34.50", "($1.00)", "¥1,234.50"):
        assert decode(790, text) == text
        assert type(decode(790, text)) is PgText


def oid_of(name: str) -> int:
    """The OID of a type, here or in PostgreSQL's own catalog."""
    return BY_NAME.get(name) or NAMES[name][0]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("interval", "1 day 1 day"), ("interval", "1 day 1 year"), ("interval", "P1D"), ("interval", "1:2:3"), ("interval", ""), ("interval", "00:60:00"),
        ("interval", "99999999999 days"), ("interval", "00:00:00 1 day"), ("interval", b"\0" * 15),
        ("inet", "1.2.3"), ("inet", "1.2.3.4/33"), ("inet", "1.2.3.4/+1"), ("inet", "::1/129"), ("inet", b"\x02\x20\0\x04\1\2\3"), ("inet", b"\x04\x20\0\x04\1\2\3\4"),
        ("inet", b"\x02\x21\0\x04\1\2\3\4"), ("cidr", "10.0.0.0"), ("cidr", b"\x02\x08\0\x04\x0a\0\0\0"), ("cidr", "10.0.0.1/8"),
        ("macaddr", "08:00:2b:01:02"), ("macaddr", b"\0" * 8), ("macaddr8", "08:00:2b:01:02:03"), ("macaddr", "08:00:2B:01:02:03"),
        ("varbit", "012"), ("varbit", pack(">i", 9) + b"\1"), ("varbit", pack(">i", 4) + b"\1"), ("varbit", pack(">i", -1)), ("varbit", b"\0"),
        ("point", "(1,2"), ("point", "(1)"), ("point", "(1,2)x"), ("point", "(a,b)"), ("point", b"\0" * 15), ("box", "(1,2)"), ("box", "(1,2),(3,4),(5,6)"),
        ("path", b"\2" + pack(">i", 0)), ("path", b"\1" + pack(">i", 2**31 - 1)), ("polygon", pack(">i", -1)), ("polygon", "((1,2)"),
        ("path", b"\1" + pack(">i", 0)), ("polygon", pack(">i", 0)), ("path", "()"), ("polygon", "()"), ("circle", "<(1,2)>"), ("line", "{1,2}"),
        ("tid", "(1)"), ("tid", "(4294967296,1)"), ("tid", "(1,65536)"), ("tid", b"\0" * 5), ("pg_lsn", "1"), ("pg_lsn", "1/123456789"), ("pg_lsn", "g/1"), ("xid8", "-1"),
        ("xid8", "18446744073709551616"), ("tsvector", pack(">i", 1) + b"a"), ("tsvector", pack(">i", 2**31 - 1)), ("tsquery", pack(">i", 1)), ("tsquery", pack(">i", 1) + b"\2\2"),
        ("tsquery", pack(">i", 1) + b"\3"), ("tsquery", pack(">i", 2) + b"\1\0\0a\0\1\0\0b\0"), ("pg_snapshot", pack(">iqq", 1, 1, 2)),
        ("int2vector", "1,2"), ("int2vector", "1  2"), ("oidvector", "-1"), ("jsonpath", b"\2$"), ("jsonpath", b""),
        ("int4range", ""), ("int4range", "[1,2"), ("int4range", "[,2)"), ("int4range", "[1,2)]"), ("int4range", "[a,2)"), ("int4range", '["1,2)'), ("int4range", b"\x40"),
        ("int4range", b"\x01\0"), ("int4range", b"\x02" + pack(">i", 4)), ("int4range", b"\x18\0"), ("int4range", b""), ("int4multirange", "{[1,2)"), ("int4multirange", "{[1,2),}"),
        ("int4multirange", "{,[1,2)}"), ("int4multirange", pack(">i", 1)), ("int4multirange", pack(">i", 2**31 - 1)), ("int4multirange", pack(">i", 0) + b"\0"),
        ("pair", "(1)"), ("pair", "(1,2,3)"), ("pair", "(1,2"), ("pair", "1,2"), ("pair", '(1,"2)'), ("pair", "(1,2)x"), ("pair", "(a,b)"), ("pair", "()"),
        ("pair", pack(">i", 1)), ("pair", pack(">iIiIi", 2, 23, -1, 23, -1)), ("pair", pack(">iIiIi", 2, 23, -1, 25, 1)), ("pair", pack(">iIiIi", 2, 23, -2, 25, -1)),
        ("pairs", '{"(1)"}'), ("pairs", "{(1,2)}"),
        ("hstore", '"a"'), ("hstore", '"a"=>1'), ("hstore", '"a"=>"1",'), ("hstore", '"a"=>"1", '), ("hstore", 'a=>"1"'), ("hstore", pack(">i", 1)), ("hstore", pack(">i", -1)),
        ("hstore", pack(">iii", 1, -1, -1)), ("vector", "[1,x]"), ("vector", "1,2"), ("vector", "[1e39]"), ("vector", pack(">hh", 1, 0)), ("vector", b"\0"), ("halfvec", pack(">hhf", 2, 0, 1) + b"\0"),
        ("sparsevec", pack(">iii", 5, 1, 0)), ("sparsevec", pack(">iii", 5, -1, 0)), ("geometry", "0"), ("geometry", "0g"),
    ],
)  # fmt: skip
def test_values_that_are_none(name: str, sent: wire.Field) -> None:
    """Refused as an event, as JSON and in Arrow alike, with the place in the message."""
    for read in (
        lambda: decode(oid_of(name), sent),
        lambda: Batch.of(messages(oid_of(name), sent)).to_json(catalog=catalog()),
        lambda: Batch.of(messages(oid_of(name), sent)).to_arrow(catalog=catalog()),
    ):
        with pytest.raises(InvalidValue) as caught:
            read()
        assert caught.value.field == "v"
        assert 0 < caught.value.offset <= len(messages(oid_of(name), sent)[1])


def test_a_composite_type_has_one_class() -> None:
    """Whatever table it is in, so that values compare."""
    decoder = Decoder("tuple", catalog=catalog())
    for table in (1, 2):
        decoder.decode(wire.relation(table, f"t{table}", [("v", BY_NAME["pair"]), ("vs", BY_NAME["pairs"])]))
    rows: Any = [decoder.decode(wire.insert(table, ['(1,"a b")', '{"(1,\\"a b\\")",NULL}'])) for table in (1, 2)]
    (one, (same, none)), (other, _) = rows[0].new, rows[1].new
    assert type(one) is type(other) is type(same)
    assert (one, none) == (same, None)
    assert repr(one) == "pair(a=1, b='a b')"
    with pytest.raises(AttributeError):
        one.a = 2
