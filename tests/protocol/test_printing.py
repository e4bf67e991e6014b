"""`pg_text()`: what the server prints for the same value."""

from __future__ import annotations

import copy
import pickle
import random
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest

import pgcdc
from pgcdc import (
    PgArray,
    PgBits,
    PgBox,
    PgCircle,
    PgInterval,
    PgLine,
    PgLseg,
    PgMultirange,
    PgPath,
    PgPoint,
    PgPolygon,
    PgRange,
    PgTid,
)
from pgcdc.protocol.printing import float_text, pg_text

if TYPE_CHECKING:
    from tests.conftest import Database

P = PgPoint
STRUCTS: list[tuple[Any, str, str]] = [
    (PgInterval(), "interval", "00:00:00"),
    (PgInterval(14, -3, 1), "interval", "1 year 2 mons -3 days +00:00:00.000001"),
    (PgInterval(-12, 1, -3_600_500_000), "interval", "-1 years +1 day -01:00:00.5"),
    (PgInterval(-1, 0, 5), "interval", "-1 mons +00:00:00.000005"),
    (PgInterval(microseconds=1 - 2**63), "interval", "-2562047788:00:54.775807"),
    (PgBits(9, 5), "varbit", "000000101"),
    (PgBits(0, 0), "varbit", ""),
    (PgTid(2**32 - 1, 65535), "tid", "(4294967295,65535)"),
    (PgPoint(-0.0, 1e23), "point", "(-0,9.999999999999999e+22)"),
    (PgPoint(float("nan"), float("-inf")), "point", "(NaN,-Infinity)"),
    (PgLine(1, -1.5, 0), "line", "{1,-1.5,0}"),
    (PgLseg(P(0, 0), P(1, 2)), "lseg", "[(0,0),(1,2)]"),
    (PgBox(P(1, 2), P(0, 0)), "box", "(1,2),(0,0)"),
    (PgPath((P(0, 0), P(1, 1)), True), "path", "((0,0),(1,1))"),
    (PgPath((P(0, 0),), False), "path", "[(0,0)]"),
    (PgPolygon((P(0, 0), P(1, 1), P(1, 0))), "polygon", "((0,0),(1,1),(1,0))"),
    (PgCircle(P(0, 1e15), 2), "circle", "<(0,1e+15),2>"),
    (PgRange(1, 10), "int4range", "[1,10)"),
    (PgRange(None, 10, "()"), "int4range", "(,10)"),
    (PgRange(empty=True), "int4range", "empty"),
    (PgRange(date(2024, 1, 1), None), "daterange", "[2024-01-01,)"),
    (PgRange(Decimal("1.50"), Decimal("Infinity"), "[]"), "numrange", "[1.50,Infinity]"),
    (PgRange(datetime(2024, 2, 29), datetime(2024, 3, 1, 1, 2, 3, 450000)), "tsrange",
     '["2024-02-29 00:00:00","2024-03-01 01:02:03.45")'),
    (PgRange(datetime(2024, 2, 29, tzinfo=UTC), None, "()"), "tstzrange", '("2024-02-29 00:00:00+00",)'),
    (PgMultirange([PgRange(1, 3), PgRange(5, None, "[)")]), "int4multirange", "{[1,3),[5,)}"),
    (PgMultirange(), "int4multirange", "{}"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "type_name", "text"), STRUCTS, ids=[row[2] or "nothing" for row in STRUCTS])
def test_structs(newest_database: Database, value: Any, type_name: str, text: str) -> None:
    """The server, given this text, prints it again; so it is the server's way to write the value."""
    assert value.pg_text() == text
    with newest_database.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        (printed,) = connection.execute(f"SELECT %s::{type_name}::text", (text,)).fetchone() or ("",)
    assert printed == text


def test_infinite_intervals(newest_database: Database) -> None:
    highest, lowest = PgInterval(2**31 - 1, 2**31 - 1, 2**63 - 1), PgInterval(-(2**31), -(2**31), -(2**63))
    assert (highest.pg_text(), lowest.pg_text()) == ("infinity", "-infinity")
    sent = newest_database.execute("SELECT interval_send('infinity'), interval_send('-infinity')")[0]
    pack = struct.Struct(">qii").pack
    assert sent == tuple(pack(each.microseconds, each.days, each.months) for each in (highest, lowest))


def test_floats(newest_database: Database) -> None:
    """All powers of two and ten with their neighbours, and what chance finds."""
    luck = random.Random(8)
    bits = [(exponent << 52) + step for exponent in range(1, 2047) for step in (-1, 0, 1)]
    bits += [
        struct.unpack(">Q", struct.pack(">d", float(f"1e{n}")))[0] + step
        for n in range(-320, 309)
        for step in (-1, 0, 1)
    ]
    bits += [luck.randrange(0x7FF0000000000000) for _ in range(4000)]
    floats = [struct.unpack(">d", struct.pack(">Q", each))[0] for each in bits]
    floats += [-each for each in floats[:50]] + [luck.randrange(-(10**6), 10**6) / 8 for _ in range(500)]
    literal = "{" + ",".join(map(repr, floats)) + "}"
    printed = newest_database.execute(
        f"SELECT f::text FROM unnest('{literal}'::float8[]) WITH ORDINALITY t(f, n) ORDER BY n"
    )
    assert [float_text(each) for each in floats] == [text for (text,) in printed]


class Pair(msgspec.Struct, frozen=True):
    """As a composite type is given."""

    a: Any
    b: Any


OTHERS: list[tuple[Any, str, str]] = [
    (Pair(1, None), "(int4, text)", "(1,)"),
    (Pair('a "b"\\', ""), "(text, text)", '("a ""b""\\\\","")'),
    (Pair(PgRange(1, 2), [1, None]), "", '("[1,2)","{1,NULL}")'),
    ([["a b", "NULL"], [None, 'x"\\']], "text[]", '{{"a b","NULL"},{NULL,"x\\"\\\\"}}'),
    (PgArray([[1], [2]], (-2, 3)), "int4[]", "[-2:-1][3:3]={{1},{2}}"),
    ([PgBox(P(1, 1), P(0, 0)), PgBox(P(2, 2), P(0, 0))], "box[]", "{(1,1),(0,0);(2,2),(0,0)}"),
    ([PgMultirange([PgRange(1, 2)]), PgMultirange()], "int4multirange[]", '{"{[1,2)}","{}"}'),
    (True, "", "t"),
    (b"\x00\xff", "bytea", "\\x00ff"),
    (time(1, 2, 3, 400, tzinfo=timezone(timedelta(hours=-5, minutes=-30))), "timetz", "01:02:03.0004-05:30"),
    (UUID(int=1), "uuid", "00000000-0000-0000-0000-000000000001"),
    (10**5000, "numeric", "1" + "0" * 5000),
]  # fmt: skip


@pytest.mark.parametrize(("value", "type_name", "text"), OTHERS, ids=[row[2][:40] for row in OTHERS])
def test_what_ranges_and_composites_hold(newest_database: Database, value: Any, type_name: str, text: str) -> None:
    assert pg_text(value) == text
    if type_name and not type_name.startswith("("):
        assert newest_database.execute(f"SELECT $outer${text}$outer$::{type_name}::text") == [(text,)]


@pytest.mark.parametrize("value", [{"a": 1}, object(), PgRange({}, None)])
def test_what_cannot_be_printed(value: Any) -> None:
    with pytest.raises(TypeError, match="no value that can be printed"):
        pg_text(value)


@pytest.mark.parametrize("value", [row[0] for row in STRUCTS], ids=[row[2] or "nothing" for row in STRUCTS])
def test_values_are_values(value: Any) -> None:
    """Equal to their copies, hashable where they are structs, readable, and msgspec writes them."""
    again = pickle.loads(pickle.dumps(value))
    assert type(again) is type(value)
    assert type(value) in {getattr(pgcdc, name) for name in pgcdc.__all__}
    if "NaN" not in value.pg_text():
        assert again == value == copy.deepcopy(value)
        assert repr(value).startswith(type(value).__name__ + "(")
    if isinstance(value, msgspec.Struct):
        hash(value)
    encoded = msgspec.json.encode(value)
    if isinstance(value, msgspec.Struct) and not isinstance(value, PgRange) and b"null" not in encoded:
        assert msgspec.json.decode(encoded, type=type(value)) == value
