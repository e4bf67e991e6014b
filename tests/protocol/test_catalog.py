"""The types of a database, asked for through every kind of connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import pytest
from psycopg.rows import dict_row
from psycopg2.extras import RealDictCursor

import pgcdc
from pgcdc.protocol.catalog import CATALOG_SQL, Catalog, add_rows
from tests.golden.types import FILE, rows, written
from tests.protocol import wire
from tests.servers.programs import VERSIONS

if TYPE_CHECKING:
    from tests.conftest import Database

NAMES = {
    "mood": True,
    "_mood": True,
    "short": True,
    "shorter": True,
    "_shorter": True,
    "moody": True,
    "numbers": True,
    "pair": True,
    "_pair": True,
    "paired": True,
    "pairs": True,
    "_pairs": True,
    "ranged": True,
    "ranged_multi": True,
    "_ranged_multi": True,
    "holder": False,
    "_holder": False,
    "held": False,
    "hstore": True,
    "_hstore": True,
    "lquery": True,
    "gtrgm": False,
    "used": True,
    "_used": True,
    "unused": False,
}


@pytest.fixture
def oids(database: Database) -> dict[str, int]:
    """A database with types of every kind; their OIDs by name."""
    database.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "CREATE DOMAIN short AS varchar(5)",
        "CREATE DOMAIN shorter AS short CHECK (length(value) < 3)",
        "CREATE DOMAIN moody AS mood",
        "CREATE DOMAIN numbers AS int[]",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE TYPE ranged AS RANGE (subtype = float8, multirange_type_name = ranged_multi)",
        "CREATE DOMAIN paired AS pair",
        "CREATE DOMAIN pairs AS pair[]",
        "CREATE TYPE holder AS (r regclass)",
        "CREATE DOMAIN held AS holder",
        "CREATE EXTENSION hstore",
        "CREATE EXTENSION ltree",
        "CREATE EXTENSION pg_trgm",
        "CREATE TABLE used (a int, b text)",
        "CREATE TABLE unused (a int, u used[])",
        'CREATE SCHEMA "we.ird"',
        'CREATE TYPE "we.ird"."Ty""pe" AS ENUM (\'ä\')',
    )
    rows = database.execute("SELECT typname, oid::int FROM pg_type WHERE oid >= 16384")
    return dict(rows)


def check(catalog: Catalog, oids: dict[str, int]) -> None:
    assert {name: catalog.knows(oids[name]) for name in NAMES} == NAMES
    assert catalog.knows(oids['Ty"pe'])
    assert catalog.knows(23)
    assert not catalog.knows(2205), "a regclass is a name as text and a number in binary"


def test_psycopg(database: Database, oids: dict[str, int]) -> None:
    with database.connect() as connection:
        check(Catalog.load(connection), oids)
        check(Catalog.load(connection.cursor()), oids)


def test_psycopg_in_a_transaction(database: Database, oids: dict[str, int]) -> None:
    with database.connect() as connection:
        connection.autocommit = False
        connection.execute("CREATE TYPE fresh AS ENUM ('x')")
        catalog = Catalog.load(connection)
        ((fresh,),) = connection.execute("SELECT 'fresh'::regtype::oid::int").fetchall()
        assert catalog.knows(fresh)
        connection.rollback()


def test_psycopg2(database: Database, oids: dict[str, int]) -> None:
    connection = psycopg2.connect(database.dsn)
    try:
        check(Catalog.load(connection), oids)
    finally:
        connection.close()


def test_drivers_that_give_dicts(database: Database, oids: dict[str, int]) -> None:
    with psycopg.connect(database.dsn, row_factory=dict_row) as connection:
        check(Catalog.load(connection), oids)
    older = psycopg2.connect(database.dsn, cursor_factory=RealDictCursor)
    try:
        check(Catalog.load(older), oids)
    finally:
        older.close()


def test_a_replication_connection(database: Database, oids: dict[str, int]) -> None:
    with pgcdc.connect(database.dsn) as connection:
        check(Catalog.load(connection), oids)


def test_rows_that_were_asked_for_elsewhere(database: Database, oids: dict[str, int]) -> None:
    check(Catalog.of(database.execute(CATALOG_SQL)), oids)


def test_adding_keeps_what_was_known(database: Database, oids: dict[str, int]) -> None:
    catalog = Catalog()
    catalog.add(99_999_999, "elsewhere", enum=True)
    rows = database.execute(CATALOG_SQL)
    add_rows(catalog, rows)
    add_rows(catalog, rows)
    assert catalog.knows(99_999_999)
    check(catalog, oids)


class Coroutines:
    """As asyncpg and psycopg's asynchronous connections are."""

    async def execute(self, sql: str) -> Any: ...


@pytest.mark.parametrize("connection", [object(), Coroutines(), None])
def test_what_cannot_be_asked(connection: Any) -> None:
    with pytest.raises(pgcdc.ConfigError, match="cannot be asked for types"):
        Catalog.load(connection)


def test_the_table_of_types_is_what_the_servers_say(database: Database) -> None:
    """Each server's OIDs are in it; and of PostgreSQL's own types those are known that it has, no others."""
    with database.connect() as connection:
        found = rows(connection)
        oids = {oid for (oid,) in connection.execute("SELECT oid::int8 FROM pg_type WHERE oid < 10000").fetchall()}
    table = FILE.read_text().splitlines()
    assert {line.strip() for line in written(found).splitlines() if "Builtin::" in line} <= {
        line.strip() for line in table
    }
    if database.server.version == VERSIONS[-1]:
        assert written(found).splitlines() == table
    assert {oid for oid in oids if Catalog().knows(oid)} == {oid for both in found for oid in both[:2]} - {0}


def test_types_of_an_extension_are_known_by_the_extension(database: Database) -> None:
    """Not by their name: somebody else's type of that name is something else."""
    database.execute(
        "CREATE TYPE vector AS (x float4, y float4)", "CREATE TYPE cube AS ENUM ('a')", "CREATE SCHEMA other"
    )
    database.execute("CREATE EXTENSION cube SCHEMA other")
    catalog = Catalog.of(database.execute(CATALOG_SQL))
    oids = dict(
        database.execute("SELECT oid::regtype::text, oid::int FROM pg_type WHERE typname IN ('vector', 'cube')")
    )
    sent: dict[str, Any] = {"vector": "(1,2.5)", "cube": "a", "other.cube": "(1),(2)"}
    decoder = pgcdc.Decoder("dict", catalog=catalog)
    decoder.decode(wire.relation(1, "t", [(name, oids[name]) for name in sent]))
    event = decoder.decode(wire.insert(1, list(sent.values())))
    assert isinstance(event, pgcdc.Insert)
    assert (event.new["vector"].x, event.new["vector"].y) == (1.0, 2.5)
    assert (event.new["cube"], event.new["other.cube"]) == ("a", "(1),(2)")


@pytest.mark.parametrize(
    "arguments",
    [
        {}, {"base": 23, "enum": True}, {"like": "json"}, {"like": "gtsvector"}, {"range": 3904, "subtype": 23},
        {"element": 23, "delimiter": ""}, {"element": 23, "delimiter": "ab"}, {"fields": [], "element": 23},
    ],
)  # fmt: skip
def test_what_is_no_type(arguments: Any) -> None:
    with pytest.raises(pgcdc.ConfigError, match=r"type some\.thing \(99\)"):
        Catalog().add(99, "some.thing", **arguments)


def test_entries_that_make_no_sense_are_unknown_types() -> None:
    """Circles, chains without end, parts that are not known, and a multirange of what is no range."""
    catalog = Catalog()
    catalog.add(90001, "circle", base=90002)
    catalog.add(90002, "circle", element=90003)
    catalog.add(90003, "circle", fields=[("a", 23), ("b", 90001)])
    catalog.add(90004, "itself", element=90004)
    catalog.add(90005, "multirange", range=23)
    catalog.add(90006, "partly", fields=[("a", 23), ("b", 2205)])
    catalog.add(90007, "beyond", subtype=99999)
    for oid in range(91000, 191000):
        catalog.add(oid, "chain", base=oid + 1)
    for oid in range(92000, 92030):
        catalog.add(oid, "twice", fields=[("a", oid + 1), ("b", oid + 1)])
    catalog.add(92030, "twice", fields=[("a", 23)])
    for oid in (*range(90001, 90008), 91000, 92000):
        assert not catalog.knows(oid), oid
    assert catalog.knows(92020)


def test_types_may_be_added_in_any_order() -> None:
    """A type is known as soon as all that it is made of is."""
    catalog = Catalog()
    catalog.add(90003, "pairs", element=90002)
    catalog.add(90002, "public.pair", fields=[("x", 90001), ("class", 25)])
    decoder = pgcdc.Decoder("tuple", catalog=catalog)
    decoder.decode(wire.relation(1, "t", [("v", 90003)]))
    message = wire.insert(1, ['{"(1.50,a)",NULL}'])
    as_sent = decoder.decode(message)
    catalog.add(90001, "price", base=1700)
    event = decoder.decode(message)
    assert isinstance(as_sent, pgcdc.Insert) and isinstance(event, pgcdc.Insert)
    assert as_sent.new == ('{"(1.50,a)",NULL}',)
    ((pair, none),) = event.new
    assert (type(pair).__name__, str(pair.x), pair.class_, none) == ("pair", "1.50", "a", None)
