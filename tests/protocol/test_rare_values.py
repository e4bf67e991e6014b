"""The value table for the types that few tables have, on real servers: what a literal becomes, from text and from binary.

The server says what each literal is; the decoder's text, JSON and Arrow forms are held against what the server prints.
"""

# ruff: noqa: E501 (a table reads line by line)

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Any

import msgspec
import polars

from pgcdc import (
    Batch,
    Catalog,
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
    PgText,
    PgTid,
    RowFormat,
)
from pgcdc.protocol.printing import pg_text
from tests.golden.make import connect, peek, select
from tests.protocol.literals import quoted_literal
from tests.reference import plain

if TYPE_CHECKING:
    from tests.conftest import Database


def P(x: float, y: float) -> PgPoint:
    """A point; the server sends floats."""
    return PgPoint(float(x), float(y))


nan, inf = float("nan"), float("inf")


class Anything:
    """For values whose Python form is compared by the other checks only."""


VALUES: list[tuple[str, str, Any]] = [
    ("xid", "4294967295", 4294967295),
    ("cid", "7", 7),
    ("xid8", "18446744073709551615", 18446744073709551615),
    ("pg_lsn", "FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ("pg_lsn", "16/B374D848", 0x16B374D848),
    ("pg_lsn", "0/0", 0),
    ("numeric", "1" + "0" * 17000 + ".5", Decimal("1" + "0" * 17000 + ".5")),
    ("numeric(3,0)", "123", Decimal(123)),
    ("money", "-1234567.89", Decimal("-1234567.89")),
    ("money", "0.05", Decimal("0.05")),
    ("money", "-92233720368547758.08", Decimal("-92233720368547758.08")),
    ("xml", "<a>ä &amp;</a>", "<a>ä &amp;</a>"),
    ("jsonpath", '$."a"[*] ? (@ > 1)', '$."a"[*]?(@ > 1)'),
    ("refcursor", "c", "c"),
    ("interval", "1 year 2 mons -3 days 04:05:06.789", PgInterval(14, -3, 14706789000)),
    ("interval", "-1 mons +00:00:00.000001", PgInterval(-1, 0, 1)),
    ("interval", "0", PgInterval()),
    ("interval", "178956970 years 7 mons 99999999 days 1000000:00:54.775806", PgInterval(2147483647, 99999999, 3600000054775806)),
    ("inet", "192.168.0.1", IPv4Address("192.168.0.1")),
    ("inet", "192.168.0.1/24", IPv4Interface("192.168.0.1/24")),
    ("inet", "0.0.0.0/0", IPv4Interface("0.0.0.0/0")),
    ("inet", "2001:db8::1", IPv6Address("2001:db8::1")),
    ("inet", "fe80::/10", IPv6Interface("fe80::/10")),
    *[("inet", text, IPv6Address(text)) for text in (
        "::", "::1", "::2", "::1.2.3.4", "::ffff:1.2.3.4", "::ffff:0:1", "1::", "1:0:0:2::3", "1:0:2:0:3:0:4:0", "0:1::", "::ffff:0:0")],
    ("cidr", "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
    ("cidr", "10.0.0.1", IPv4Network("10.0.0.1/32")),
    ("cidr", "::ffff:1.2.3.0/120", IPv6Network("::ffff:1.2.3.0/120")),
    ("cidr", "::1/128", IPv6Network("::1")),
    ("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:03"),
    ("macaddr8", "08:00:2b:ff:fe:01:02:03", "08:00:2b:ff:fe:01:02:03"),
    ("bit(9)", "101000001", PgBits(9, 0b101000001)),
    ("varbit", "", PgBits(0, 0)),
    ("varbit", "00000000", PgBits(8, 0)),
    ("varbit", "1" * 1000, PgBits(1000, 2**1000 - 1)),
    ("point", "(0.1,-1e+300)", P(0.1, -1e300)),
    ("point", "(NaN,Infinity)", P(nan, inf)),
    ("line", "{1,-1.5,0}", PgLine(1.0, -1.5, 0.0)),
    ("lseg", "[(0,0),(1,2)]", PgLseg(P(0, 0), P(1, 2))),
    ("box", "(0,0),(1,2)", PgBox(P(1, 2), P(0, 0))),
    ("path", "[(0,0),(1,1),(2,0)]", PgPath((P(0, 0), P(1, 1), P(2, 0)), False)),
    ("path", "((0,0),(1,1))", PgPath((P(0, 0), P(1, 1)), True)),
    ("polygon", "((0,0),(1,1),(2,0))", PgPolygon((P(0, 0), P(1, 1), P(2, 0)))),
    ("circle", "<(1,2),3>", PgCircle(P(1, 2), 3.0)),
    ("tid", "(4294967295,65535)", PgTid(2**32 - 1, 65535)),
    ("tsvector", "'it''s':1A,16383B back\\\\slash:2C,3 'plain'", Anything),
    ("tsvector", "", ""),
    *[("tsquery", text, Anything) for text in (
        "", "fat", "fat & rat | cat", "(fat | rat) & !cat", "!(fat & rat)", "!!fat", "fat:AB & 'it''s':* & cat:*D & b\\\\s", "a <-> b <3> c",
        "a <-> (b <-> c)", "a <-> (b & c)", "(a | b) <-> !c", "a | b | c & d & !(e | f <-> g)", "a <-> b <-> (c | d) <-> (e <2> f)", "!(a <-> b)")],
    ("pg_snapshot", "10:20:10,14,15", "10:20:10,14,15"),
    ("pg_snapshot", "10:10:", "10:10:"),
    ("txid_snapshot", "10:20:10,14", "10:20:10,14"),
    ("int2vector", "1 -2 3", [1, -2, 3]),
    ("int2vector", "", []),
    ("oidvector", "1 4294967295", [1, 4294967295]),
    ("int4range", "[1,9]", PgRange(1, 10)),
    ("int4range", "empty", PgRange(empty=True)),
    ("int4range", "(,)", PgRange(None, None, "()")),
    ("numrange", "(1.50,Infinity]", PgRange(Decimal("1.50"), Decimal("Infinity"), "(]")),
    ("tsrange", "[2024-02-29 12:00:00,infinity)", PgRange(datetime(2024, 2, 29, 12), PgText("infinity"), "[)")),
    ("tstzrange", "[2024-02-29 12:00:00+00,)", PgRange(datetime(2024, 2, 29, 12, tzinfo=UTC), None, "[)")),
    ("daterange", "(,2024-02-29)", PgRange(None, date(2024, 2, 29), "()")),
    ("int8multirange", "{[1,3),[5,9]}", PgMultirange([PgRange(1, 3), PgRange(5, 10)])),
    ("int8multirange", "{}", PgMultirange()),
    ("tsmultirange", "{[2024-01-01,2024-01-02 00:00:00.5],(2025-01-01,)}", PgMultirange([
        PgRange(datetime(2024, 1, 1), datetime(2024, 1, 2, 0, 0, 0, 500000), "[]"), PgRange(datetime(2025, 1, 1), None, "()")])),
    ("textrange", '["a ""b"",","x\\\\y)")', PgRange('a "b",', "x\\y)", "[)")),
    ("textrange", '["",z]', PgRange("", "z", "[]")),
    ("textmultirange", '{[")","}"),["~{","~}"]}', Anything),
    ("float4range", "[0.1,1e+10)", PgRange(0.1, 1e10)),
    ("inetrange", "[::1.2.3.4,::ffff:1.2.3.4]", PgRange(IPv6Address("::1.2.3.4"), IPv6Address("::ffff:1.2.3.4"), "[]")),
    ("mood", "sad", "sad"),
    ("amount", "12.50", Decimal("12.50")),
    ("numbers", "{1,2}", [1, 2]),
    ("numbers[]", '{"{1,2}","{}",NULL}', [[1, 2], [], None]),
    ("pair", '(1,"a ""b"", \\\\c")', {"a": 1, "b": 'a "b", \\c'}),
    ("pair", "(,)", {"a": None, "b": None}),
    ("pair", '(1,"")', {"a": 1, "b": ""}),
    ("nested", '("(1,x)","{""(2,y)"",NULL}","[1,5)","{""a"": [1.5]}",t,1.5)',
     {"p": {"a": 1, "b": "x"}, "ps": [{"a": 2, "b": "y"}, None], "r": PgRange(1, 5), "j": {"a": [1.5]}, "class": True, "f": 1.5}),
    ("alone", "(x)", {"o": "x"}),
    ("nothing", "()", {}),
    ("pair[]", '{"(1,a)",NULL,"(,\\"x y\\")"}', [{"a": 1, "b": "a"}, None, {"a": None, "b": "x y"}]),
    ("paired", "(1,a)", {"a": 1, "b": "a"}),
    ("altered", "(1,2)", {"a": 1, "c": 2}),
    ("used", "(5,five)", {"id": 5, "name": "five"}),
    ("box[]", "{(1,1),(0,0);(2,2),(0,0)}", [PgBox(P(1, 1), P(0, 0)), PgBox(P(2, 2), P(0, 0))]),
    ("interval[]", '{1 day,NULL,"1 mon 00:00:01"}', [PgInterval(0, 1, 0), None, PgInterval(1, 0, 1000000)]),
    ("int4range[]", '{"[1,2)",empty,NULL}', [PgRange(1, 2), PgRange(empty=True), None]),
    ("int4multirange[]", '{"{[1,2),[4,5)}","{}"}', [PgMultirange([PgRange(1, 2), PgRange(4, 5)]), PgMultirange()]),
    ("inet[]", "[0:1]={1.2.3.4,1.2.3.4/8}", PgArray([IPv4Address("1.2.3.4"), IPv4Interface("1.2.3.4/8")], (0,))),
    ("point[]", '{{"(1,2)"},{"(3,4)"}}', [[P(1, 2)], [P(3, 4)]]),
    ("tsvector[]", "{\"'a':1 'b'\"}", ["'a':1 'b'"]),
    ("varbit[]", "{1,01}", [PgBits(1, 1), PgBits(2, 1)]),
    ("xid8[]", "{1}", [1]),
    ("oidvector[]", '{"1 2",""}', [[1, 2], []]),
    ("information_schema.sql_identifier", "x", "x"),
    ("hstore", '"a"=>"1", "b"=>NULL, "c d"=>"\\"x\\\\", "NULL"=>"NULL", ""=>""', {"a": "1", "b": None, "c d": '"x\\', "NULL": "NULL", "": ""}),
    ("hstore", "", {}),
    ("hstore[]", '{"\\"a\\"=>\\"1\\"",""}', [{"a": "1"}, {}]),
    ("citext", "Straße", "Straße"),
    ("citext[]", "{A,b}", ["A", "b"]),
    ("ltree", "Top.Science", "Top.Science"),
    ("lquery", "Top.*{1,2}.!Science", "Top.*{1,2}.!Science"),
    ("ltxtquery", "Europe & !Asia", "Europe & !Asia"),
    ("ltree[]", "{a.b,c}", ["a.b", "c"]),
    ("cube", "(1, 2.5),(3, 4e+100)", "(1, 2.5),(3, 4e+100)"),
    ("cube", "(1, 2)", "(1, 2)"),
    ("cube", "(1, 2),(1, 2)", "(1, 2)"),
    ("cube", "()", "()"),
]  # fmt: skip
NEW_IN_17 = [
    ("interval", "infinity", PgInterval(2**31 - 1, 2**31 - 1, 2**63 - 1)),
    ("interval", "-infinity", PgInterval(-(2**31), -(2**31), -(2**63))),
]
NEW_IN_15 = [("numeric(2,-3)", "12345", Decimal(12000)), ("numeric(3,5)", "0.00123", Decimal("0.00123"))]
TYPES = [
    "CREATE EXTENSION hstore", "CREATE EXTENSION citext", "CREATE EXTENSION ltree", "CREATE EXTENSION cube",
    "CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "CREATE DOMAIN amount AS numeric(12,2)",
    "CREATE DOMAIN numbers AS int[]",
    "CREATE TYPE textrange AS RANGE (subtype = text, collation = \"C\")",
    "CREATE TYPE float4range AS RANGE (subtype = float4)",
    "CREATE TYPE inetrange AS RANGE (subtype = inet)",
    "CREATE TYPE pair AS (a int, b text)",
    'CREATE TYPE nested AS (p pair, ps pair[], r int4range, j jsonb, "class" bool, f float4)',
    "CREATE TYPE alone AS (o text)",
    "CREATE TYPE nothing AS ()",
    "CREATE DOMAIN paired AS pair CHECK (true)",
    "CREATE TYPE altered AS (a int, b text, c int)",
    "ALTER TYPE altered DROP ATTRIBUTE b",
    "CREATE TABLE used (id int, name text)",
]  # fmt: skip


NOT_SAID = {
    "money",
    "pg_lsn",
    "int2vector",
    "oidvector",
    "oidvector[]",
    "numbers[]",
    "float4range",
    "hstore",
    "hstore[]",
    "nested",
}
"""Types whose Python form has not all that PostgreSQL prints: numbers, lists, dicts, and floats of another width."""


def shown(value: Any) -> Any:
    """Composites as dicts, so that the table can say them; all else as `plain` has it."""
    if isinstance(value, list | PgMultirange) and not isinstance(value, PgArray):
        return [type(value).__name__, *map(shown, value)]
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct) and type(value).__module__ == "pgcdc.rows":
        return {field.encode_name: shown(getattr(value, field.name)) for field in msgspec.structs.fields(type(value))}
    if isinstance(value, msgspec.Struct):
        return (type(value).__name__, *(shown(getattr(value, name)) for name in value.__struct_fields__))
    return plain(value)


def test_values(database: Database) -> None:
    """One row with a column for each line of the table."""
    version = database.server.version
    table = VALUES + (NEW_IN_15 if version >= 15 else []) + (NEW_IN_17 if version >= 17 else [])
    with connect(database.dsn) as connection:
        for statement in TYPES:
            connection.execute(statement)
        columns = ", ".join(f"c{number} {type_name}" for number, (type_name, *_) in enumerate(table))
        connection.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
        connection.execute("CREATE PUBLICATION p FOR TABLE t")
        connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        literals = ", ".join(quoted_literal(text) for _, text, _ in table)
        connection.execute(f"INSERT INTO t VALUES (1, {literals})")
        forms = [
            Batch.of([message for _, message in peek(connection, "s", "p", binary=binary)]) for binary in (False, True)
        ]
        catalog = Catalog.load(connection)
        names = [f"c{number}" for number in range(len(table))]
        printed = select(connection, "t")["rows"][0][1:]
    format = RowFormat("dict", catalog=catalog)
    from_text: Any
    from_binary: Any
    (from_text,), (from_binary,) = ([change.new for change in form.changes(format)] for form in forms)  # type: ignore[union-attr]
    text_types = {column.name: column.type_oid for column in forms[0].relations[0].columns}
    json_rows: list[Any] = [json.loads(form.to_json(catalog=catalog))["new"] for form in forms]
    as_text = {f"public.t.{name}" for name in names}
    no_lists = {
        f"public.t.{name}" for name, (_, literal, _) in zip(names, table, strict=True) if literal[:2] in {"{{", "[0"}
    }
    natural = polars.DataFrame(forms[1].to_arrow(catalog=catalog, text=no_lists)["public.t"])
    frames = [polars.DataFrame(form.to_arrow(catalog=catalog, text=as_text)["public.t"]) for form in forms]
    wrong: list[tuple[Any, ...]] = []
    for name, (type_name, literal, expected), text in zip(names, table, printed, strict=True):
        one, other = from_text[name], from_binary[name]
        # Money is given as a number, which is what the server's text of it means.
        words = {text, str(one) if type_name == "money" else text}
        if not catalog.knows(text_types[name]):
            wrong.append((type_name, literal, "unknown"))
        if shown(one) != shown(other) or (expected is not Anything and shown(one) != shown(expected)):
            wrong.append((type_name, literal, one, other))
        in_json = [row[name] for row in json_rows]
        if in_json[0] != in_json[1] or (isinstance(in_json[0], str) and in_json[0] not in words):
            wrong.append((type_name, literal, "JSON", *in_json))
        in_arrow = [frame[name].to_list() for frame in frames]
        if in_arrow[0] != in_arrow[1] or not (
            f"public.t.{name}" in no_lists or {value for value in natural[name] if isinstance(value, str)} <= words
        ):
            wrong.append((type_name, literal, "Arrow", *in_arrow, natural[name].to_list()))
        if type_name not in NOT_SAID and pg_text(one) != text:
            wrong.append((type_name, literal, "pg_text", pg_text(one), text))
    assert wrong == [], "\n".join(map(str, wrong))
