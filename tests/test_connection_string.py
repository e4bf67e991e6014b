"""What is taken for a DSN: SQLAlchemy's URLs mean to libpq what they mean to SQLAlchemy, everywhere a DSN is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

import pgcdc
from pgcdc.connection_string import dsn_of, parameters_of
from pgcdc.eventstore import EventStore
from pgcdc.observe import examine, slots
from pgcdc.pipeline import PostgresPositions
from pgcdc.sinks import Postgres

if TYPE_CHECKING:
    from tests.conftest import Database

SECRET = "s3cr:t/p@ss?#%41 ü"

texts = st.text(st.sampled_from("aZ09é :/@?#%&=+[]\\'\"$,;"), min_size=1, max_size=8)


@settings(derandomize=True, database=None, max_examples=200)
@given(
    driver=st.sampled_from(["postgresql", "postgresql+psycopg", "postgresql+asyncpg", "postgresql+psycopg2"]),
    username=st.none() | texts,
    password=st.none() | texts,
    host=st.none() | st.sampled_from(["db", "db.example", "127.0.0.1", "::1"]),
    port=st.none() | st.integers(1, 65535),
    database=st.none() | texts,
    application=st.none() | texts,
)
def test_a_url_of_sqlalchemy_means_the_same_to_libpq(
    driver: str,
    username: str | None,
    password: str | None,
    host: str | None,
    port: int | None,
    database: str | None,
    application: str | None,
) -> None:
    url = sqlalchemy.URL.create(
        driver,
        username=username,
        password=None if username is None else password,
        host=host,
        port=None if host is None else port,
        database=database,
        query={} if application is None else {"application_name": application},
    )
    expected = {
        "user": url.username,
        "password": url.password,
        "host": url.host,
        "port": None if url.port is None else str(url.port),
        "dbname": url.database,
        "application_name": application,
    }
    expected = {name: value for name, value in expected.items() if value is not None}
    assert conninfo_to_dict(dsn_of(url)) == expected
    text = url.render_as_string(hide_password=False)
    again = sqlalchemy.make_url(text)
    if again == url and driver != "postgresql":  # else libpq reads it
        assert conninfo_to_dict(dsn_of(text)) == expected


@pytest.mark.parametrize(
    ("given_dsn", "expected"),
    [
        ("postgresql+psycopg://", {}),
        ("postgres+asyncpg://db", {"host": "db"}),
        ("POSTGRESQL+PG8000://u@db", {"user": "u", "host": "db"}),
        ("postgresql+psycopg://u:a/b?c#d@db", {"user": "u", "password": "a/b?c#d", "host": "db"}),
        ("postgresql+asyncpg://db?ssl=require&prepared_statement_cache_size=0", {"host": "db", "sslmode": "require"}),
        ("postgresql+psycopg://u@/shop?host=/run/pg", {"user": "u", "dbname": "shop", "host": "/run/pg"}),
        ("postgresql+psycopg:///shop?host=a:1&host=b:2", {"dbname": "shop", "host": "a,b", "port": "1,2"}),
        ("postgresql+psycopg://u@/shop?host=a&host=b:2", {"user": "u", "dbname": "shop", "host": "a,b", "port": ",2"}),
        ("postgresql+psycopg://u@[::1]:5433/shop", {"user": "u", "host": "::1", "port": "5433", "dbname": "shop"}),
        ("postgresql://u@db/shop?host=a,b&port=1,2", {"user": "u", "dbname": "shop", "host": "a,b", "port": "1,2"}),
        ("dbname=shop password='a b'", {"dbname": "shop", "password": "a b"}),
        ("", {}),
    ],
)  # fmt: skip
def test_texts(given_dsn: str, expected: dict[str, str]) -> None:
    assert parameters_of(given_dsn) == expected


@pytest.mark.parametrize(
    "malformed",
    [
        "postgresql+psycopg://u:p@db/shop?connect_args=Gehe1m",
        "postgresql+psycopg://u:p@ss%zzGehe1m@db/shop",
        "mysql+pymysql://u:Gehe1m@db/shop",
        "postgresql://u:%zzGehe1m@db/shop",
        "host=db password='Gehe1m",
    ],
)
def test_what_is_none_is_not_quoted(malformed: str) -> None:
    """Neither by whoever takes one."""
    positions = PostgresPositions(malformed)
    sink = Postgres(malformed)
    for taken in (
        lambda: pgcdc.connect(malformed),
        lambda: parameters_of(malformed),
        positions.open,
        positions.schemas().open,
        lambda: positions.dead_letters().claim("shop", "search", 1),
        sink.open,
        lambda: slots(malformed),
        lambda: examine(malformed),
        lambda: EventStore(malformed).init(),
    ):
        with pytest.raises(pgcdc.ConfigError, match="not a connection string") as caught:
            taken()
        error: BaseException | None = caught.value
        assert error is not None and (error.__context__ is None or error.__suppress_context__)
        assert "Gehe1m" not in f"{error!r} {caught.value.hint}"


def test_the_url_of_another_database() -> None:
    with pytest.raises(pgcdc.ConfigError, match="'mysql', not for PostgreSQL"):
        pgcdc.Pipeline("shop", sqlalchemy.make_url("mysql://u:p@db/shop"), tables=["orders"])


def url_of(database: Database, driver: str) -> sqlalchemy.URL:
    """A URL of SQLAlchemy for a database of the tests."""
    said: dict[str, Any] = conninfo_to_dict(database.dsn)
    return sqlalchemy.URL.create(
        f"postgresql+{driver}",
        username=said["user"],
        password=SECRET,  # which this server does not ask for
        database=said["dbname"],
        query={"host": said["host"], "port": str(said["port"])},
    )


@pytest.mark.parametrize("as_text", [True, False])
async def test_it_is_taken_wherever_a_dsn_is(newest_database: Database, as_text: bool) -> None:
    url = url_of(newest_database, "asyncpg")
    dsn: Any = url.render_as_string(hide_password=False) if as_text else url
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    with pgcdc.connect(dsn) as connection:
        assert connection.database == newest_database.name
    async with pgcdc.aconnect(dsn) as other:
        assert other.database == newest_database.name
    assert slots(dsn) == []
    assert {finding.status for finding in examine(dsn, tables=["orders"])} >= {"ok"}
    with EventStore(dsn, schema="es") as store:
        store.init()
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"])
    seen: list[Any] = []

    @pipeline.on("orders")
    def note(change: pgcdc.Change) -> None:
        seen.append(change.new and change.new.id)
        pipeline.stop()

    pipeline.add(Postgres(dsn, schema="copied"), name="copy")
    newest_database.execute("CREATE SCHEMA copied")
    try:
        await pipeline.arun()
    finally:
        pipeline.destroy()
    assert seen == [1]
    assert SECRET not in repr(pipeline.outline()) + repr(pipeline)
