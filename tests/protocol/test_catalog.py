"""The types of a database, asked for through every kind of connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

import pgcdc
from pgcdc.protocol.catalog import CATALOG_SQL, Catalog, fill

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
    "pair": False,
    "_pair": False,
    "ranged": False,
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
        "CREATE TYPE ranged AS RANGE (subtype = float8)",
        "CREATE DOMAIN paired AS pair",
        'CREATE SCHEMA "we.ird"',
        'CREATE TYPE "we.ird"."Ty""pe" AS ENUM (\'ä\')',
    )
    rows = database.execute("SELECT typname, oid::int FROM pg_type WHERE oid >= 16384")
    return dict(rows)


def check(catalog: Catalog, oids: dict[str, int]) -> None:
    assert {name: catalog.knows(oids[name]) for name in NAMES} == NAMES
    assert catalog.knows(oids['Ty"pe'])
    assert not catalog.knows(oids["paired"])
    assert catalog.knows(23)


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


def test_a_replication_connection(database: Database, oids: dict[str, int]) -> None:
    with pgcdc.connect(database.dsn) as connection:
        check(Catalog.load(connection), oids)


def test_rows_that_were_asked_for_elsewhere(database: Database, oids: dict[str, int]) -> None:
    check(Catalog.of(database.execute(CATALOG_SQL)), oids)


def test_fill_keeps_what_was_known(database: Database, oids: dict[str, int]) -> None:
    catalog = Catalog()
    catalog.add(99_999_999, "elsewhere", enum=True)
    with database.connect() as connection:
        fill(catalog, connection)
        fill(catalog, connection)
    assert catalog.knows(99_999_999)
    check(catalog, oids)


class Coroutines:
    """As asyncpg and psycopg's asynchronous connections are."""

    async def execute(self, sql: str) -> Any: ...


@pytest.mark.parametrize("connection", [object(), Coroutines(), None])
def test_what_cannot_be_asked(connection: Any) -> None:
    with pytest.raises(pgcdc.ConfigError, match="cannot be asked for types"):
        Catalog.load(connection)
