"""The value table of the page "Decoder": each type's literal through a server and the decoder, in text and in binary.

    python -m docs.value_table           writes it into docs/decoder.md
    python -m docs.value_table --check   says whether it is the same as what is written there

Nothing in the table is written by hand but the literals.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
import pyarrow  # type: ignore[import-untyped]

import pgcdc

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE: Final = Path(__file__).parent / "decoder.md"
BEGIN: Final = "<!-- made by docs/value_table.py: begin -->"
END: Final = "<!-- made by docs/value_table.py: end -->"

MADE: Final = """
CREATE EXTENSION citext; CREATE EXTENSION cube; CREATE EXTENSION hstore; CREATE EXTENSION ltree;
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE part AS (name text, price numeric);
CREATE TYPE floatrange AS RANGE (subtype = float8)
"""

TYPES: Final = {
    "Numbers": {
        "int2": "-32768",
        "int4": "42",
        "int8": "9223372036854775807",
        "numeric": "NaN",
        "numeric(12,2)": "9.9",
        "float4": "0.1",
        "float8": "-Infinity",
        "money": "1234.5",
        "oid": "4294967295",
    },
    "Text and bytes": {
        "text": "Grüße",
        "varchar(20)": "two  ",
        "char(4)": "two",
        "name": "orders",
        '"char"': "a",
        "bytea": r"\x00ff",
        "citext": "CamelCase",
        "xml": "<a/>",
    },
    "Truth, time, identity": {
        "bool": "t",
        "date": "2024-02-29",
        "time": "12:30:00.5",
        "timetz": "12:30:00+05:30",
        "timestamp": "2024-02-29 12:30:00",
        "timestamptz": "2024-02-29 12:30:00.25+02",
        "interval": "1 year 2 mons -3 days 04:05:06.7",
        "uuid": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    },
    "What Python's types for time cannot hold": {
        "date ": "infinity",
        "time ": "24:00:00",
        "timestamp ": "0044-03-15 12:00:00 BC",
        "timestamptz ": "294276-12-31 23:59:59+00",
    },
    "Documents": {
        "json": '{"a": [1, 0.1, 1e400, null]}',
        "jsonb": '{"a": [1, 0.1, 12345678901234567890.5]}',
        "jsonpath": "$.a[*] ? (@ > 1)",
        "hstore": "a=>1, b=>NULL",
    },
    "Arrays": {
        "int4[]": "{1,NULL,3}",
        "text[]": "{{a,b},{c,d}}",
        "numeric[]": "[0:1]={1.50,NaN}",
        "mood[]": "{sad}",
        "box[]": "{(1,1),(0,0);(2,2),(1,1)}",
        "int2vector": "1 2 3",
        "oidvector": "1 2",
    },
    "Ranges": {
        "int4range": "[1,10]",
        "int8range": "empty",
        "numrange": "(,1.5]",
        "daterange": "[2024-01-01,infinity)",
        "tsrange": "[2024-01-01 00:00,2024-01-02 00:00)",
        "tstzrange": "[2024-01-01 00:00+00,)",
        "floatrange": "[0.5,1)",
        "int4multirange": "{[1,3),[5,7)}",
        "int8multirange": "{}",
        "nummultirange": "{[1.5,2)}",
        "datemultirange": "{[2024-01-01,2024-01-02)}",
        "tsmultirange": "{[2024-01-01 00:00,)}",
        "tstzmultirange": "{(,2024-01-01 00:00+00)}",
    },
    "Types of the user's": {"mood": "happy", "positive": "42", "part": '("a bolt",0.25)'},
    "Networks": {
        "inet": "192.168.0.1",
        "inet ": "192.168.0.1/24",
        "cidr": "2001:db8::/32",
        "macaddr": "08:00:2b:01:02:03",
        "macaddr8": "08:00:2b:01:02:03:04:05",
    },
    "Geometry": {
        "point": "(1,2.5)",
        "line": "{1,-1,0}",
        "lseg": "[(0,0),(1,1)]",
        "box": "(1,1),(0,0)",
        "path": "[(0,0),(1,1)]",
        "polygon": "((0,0),(1,1),(1,0))",
        "circle": "<(0,0),2>",
        "cube": "(1,2,3)",
    },
    "Bits, trees, search": {
        "bit(5)": "10101",
        "varbit": "101",
        "ltree": "Top.Science",
        "lquery": "Top.*",
        "ltxtquery": "Science & !Art",
        "tsvector": "a:1 cat:2,3B",
        "tsquery": "cat & !dog",
    },
    "The server's own": {
        "pg_lsn": "16/B374D848",
        "xid": "731",
        "xid8": "4294967297",
        "cid": "1",
        "tid": "(42,7)",
        "pg_snapshot": "10:20:10,14",
        "txid_snapshot": "10:20:10,14",
        "refcursor": "cursor",
    },
}
"""Literals by type; a name with a space after it is the same type once more."""

CHANGES: Final = """
SELECT data FROM pg_logical_slot_peek_binary_changes(
    'value_table', NULL, NULL, 'proto_version', '1', 'publication_names', 'value_table', 'binary', %s)
"""
SETTINGS: Final = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c lc_monetary=C -c extra_float_digits=1"


def table(dsn: str) -> str:
    """Send every literal through a server and describe what comes out.

    Args:
        dsn: An empty database of a server with `wal_level = logical`, as superuser.

    Returns:
        The table in Markdown, and below it the names of the types that are given as sent.

    Raises:
        AssertionError: When text and binary differ in a value that the catalog knows.
    """
    with psycopg.connect(dsn, autocommit=True, options=SETTINGS) as connection:
        literals = [(name, literal) for types in TYPES.values() for name, literal in types.items()]
        connection.execute(MADE)
        columns = ", ".join(f"c{number} {name}" for number, (name, _) in enumerate(literals))
        connection.execute(f"CREATE TABLE t ({columns})")
        connection.execute("CREATE PUBLICATION value_table FOR TABLE t")
        connection.execute("SELECT pg_create_logical_replication_slot('value_table', 'pgoutput')")
        connection.execute(
            f"INSERT INTO t VALUES ({', '.join(['%s'] * len(literals))})", [text for _, text in literals]
        )
        catalog = pgcdc.Catalog.load(connection)
        text, binary = (
            [data for (data,) in connection.execute(CHANGES, [form], binary=True)] for form in ("false", "true")
        )
        as_sent = [name for name, oid in _base_types(connection) if not catalog.knows(oid)]
    [relation] = [event for event in pgcdc.Decoder().decode_many(text) if isinstance(event, pgcdc.Relation)]
    rows = list(zip(_described(text, catalog), _described(binary, catalog), literals, relation.columns, strict=True))
    for from_text, from_binary, (name, _), column in rows:
        same = from_text == from_binary
        assert same or not catalog.knows(column.type_oid), f"{name}: {from_text} from text, {from_binary} from binary"
    lines = ["| type | example | Python | JSON | Arrow |", "|---|---|---|---|---|"]
    done = 0
    for heading, types in TYPES.items():
        lines.append(f"| **{heading}** | | | | |")
        for described, _, (name, literal), _ in rows[done : done + len(types)]:
            lines.append(f"| {' | '.join([name.strip(), _code(literal), *map(_code, described)])} |")
        done += len(types)
    rest = f"As sent, str from text and bytes from binary: {', '.join(as_sent)}, and types that no catalog has."
    return "\n".join([*lines, "", *textwrap.wrap(rest, 120)])


def not_in_the_table(dsn: str) -> set[str]:
    """Types of PostgreSQL that have a value of their own and no row in the table.

    Args:
        dsn: Any database of the server.
    """
    catalog = pgcdc.Catalog()
    named = {re.sub(r"\(.*", "", name.strip()).strip('"') for types in TYPES.values() for name in types}
    named |= {"bpchar"}  # which is what char(4) is
    with psycopg.connect(dsn) as connection:
        return {name for name, oid in _base_types(connection) if catalog.knows(oid)} - named


def _base_types(connection: psycopg.Connection[Any]) -> Iterable[tuple[str, int]]:
    """Base types, ranges and multiranges of the system catalog that a column can have and that are no arrays."""
    return connection.execute(
        "SELECT typname, oid::int8 FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
        " AND typtype IN ('b', 'r', 'm') AND typcategory NOT IN ('Z', 'P') AND typname <> 'pg_node_tree' AND NOT EXISTS"
        " (SELECT FROM pg_type e WHERE e.typarray = pg_type.oid) ORDER BY typname"
    ).fetchall()


def _described(messages: list[bytes], catalog: pgcdc.Catalog) -> list[tuple[str, str, str]]:
    """Each column's value as Python prints it, its JSON, and its Arrow type."""
    [row] = [
        e.new for e in pgcdc.Decoder("tuple", catalog=catalog).decode_many(messages) if isinstance(e, pgcdc.Insert)
    ]
    written = msgspec.json.decode(pgcdc.Decoder(catalog=catalog).to_json(messages), type=_Line).new
    names = [f"public.t.c{number}" for number, value in enumerate(row) if _has_no_arrow_value(value)]
    arrow = pyarrow.table(pgcdc.Decoder(catalog=catalog).to_arrow(messages, text=names)["public.t"]).schema
    return [
        (
            repr(value),
            bytes(written[f"c{number}"]).decode(),
            "string, by `text=`" if f"public.t.c{number}" in names else str(arrow.field(f"c{number}").type),
        )
        for number, value in enumerate(row)
    ]


def _has_no_arrow_value(value: Any) -> bool:
    """Whether the column has to be asked for as text: `to_arrow` refuses such a value."""
    nested = isinstance(value, list) and any(isinstance(item, list) for item in value)
    return isinstance(value, pgcdc.PgText | pgcdc.PgArray) or nested


class _Line(msgspec.Struct):
    """A line of `to_json`, its values as they are written."""

    new: dict[str, msgspec.Raw]


def _code(text: str) -> str:
    """Code in a table's cell."""
    if text.endswith("`"):
        return text
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`"


def main(arguments: list[str]) -> int:
    """Write the table, or compare it.

    Args:
        arguments: Nothing, or `--check`.

    Returns:
        The exit code.
    """
    from tests.servers.postgres import PostgresServer

    with PostgresServer(18) as server:
        made = table(server.dsn())
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    new = f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END)[1]}"
    if "--check" in arguments:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
