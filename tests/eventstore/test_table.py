"""What handlers say of rows: the tables in PostgreSQL, those in memory, and what the words mean, say the same."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgcdc.eventstore import EventStoreError, Table
from pgcdc.eventstore.table import MemoryTable, Writer

if TYPE_CHECKING:
    from tests.conftest import Database

COUNTS = Table("a integer, b text, n bigint, m bigint, t text", key=["a", "b"], name="counts")
KEYS = st.fixed_dictionaries({"a": st.integers(0, 2), "b": st.sampled_from(["x", "y"])})
NUMBERS = st.dictionaries(st.sampled_from(["n", "m"]), st.integers(-5, 5))
WORDS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just("add"), KEYS, NUMBERS),
    st.tuples(
        st.just("put"),
        KEYS,
        st.one_of(NUMBERS, st.fixed_dictionaries({"t": st.one_of(st.none(), st.text("a\"\\'é", max_size=3))})),
    ),
    st.tuples(st.just("delete"), KEYS, st.just({})),
    st.tuples(st.just("get"), KEYS, st.just({})),
)


def meant(rows: dict[Any, dict[str, Any]], word: str, key: dict[str, Any], values: dict[str, Any]) -> Any:
    """What one word means, without any putting together."""
    place = key["a"], key["b"]
    if word == "get":
        return rows.get(place)
    if word == "delete":
        rows.pop(place, None)
        return None
    row = rows.setdefault(place, {"a": key["a"], "b": key["b"], "n": None, "m": None, "t": None})
    for column, value in values.items():
        row[column] = value if word == "put" or row[column] is None else row[column] + value
    return None


@pytest.mark.parametrize("constraint", ["", "CHECK (n > -1000)"], ids=["by INSERT", "by UPDATE and INSERT"])
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=st.lists(st.lists(WORDS, max_size=12), max_size=4))
def test_batches_mean_what_their_words_mean(
    newest_database: Database, constraint: str, batches: list[list[Any]]
) -> None:
    rows: dict[Any, dict[str, Any]] = {}
    memory = MemoryTable(COUNTS)
    with newest_database.connect() as connection:
        if connection.execute("SELECT to_regclass('counts') IS NULL").fetchone() == (True,):
            for statement in COUNTS.create("public"):
                connection.execute(statement)
            if constraint:
                connection.execute(f"ALTER TABLE counts ADD {constraint}")
        connection.execute("DELETE FROM counts")
        writer = Writer(connection, "public", [COUNTS])
        bound = writer.bound["counts"]
        for batch in batches:
            for word, key, values in batch:
                right = meant(rows, word, key, values)
                assert getattr(bound, word)(**key, **values) == right
                found = getattr(memory, word)(**key, **values)
                assert found == (None if right is None else {k: v for k, v in right.items() if k in found})
            writer.write()
            memory.write()
            cursor = connection.execute("SELECT a, b, n, m, t FROM counts")
            assert {(row[0], row[1]): row for row in cursor} == {
                place: tuple(row.values()) for place, row in rows.items()
            }
            assert memory.rows.keys() == rows.keys()


def test_values_of_many_types(newest_database: Database) -> None:
    table = Table(
        "id integer, day date, at timestamptz, price numeric(40,11), bytes bytea, document jsonb, tags text[],"
        " ratio float8, took interval, who uuid, fine boolean",
        key=["id"],
        name="many",
        indexes=["(day DESC)"],
    )
    values: dict[str, Any] = {
        "day": date(2026, 11, 27),
        "at": datetime(2026, 11, 27, 12, tzinfo=UTC),
        "price": Decimal("12345678901234567.12345678901"),
        "bytes": b"\x00\xff",
        "document": {"a": [1, None, "é"]},
        "tags": ["a", 'b"c'],
        "ratio": -math.inf,
        "took": timedelta(hours=1, microseconds=5),
        "who": UUID(int=7),
        "fine": True,
    }
    with newest_database.connect() as connection:
        for statement in table.create("public"):
            connection.execute(statement)
        writer = Writer(connection, "public", [table])
        writer.bound["many"].put(id=1, **values)
        writer.write()
        assert writer.bound["many"].get(id=1) == {"id": 1, **values}
        writer.bound["many"].add(id=1, price=Decimal(1), took=timedelta(hours=1))
        writer.write()
        row = writer.bound["many"].get(id=1)
        assert row is not None
        assert (row["price"], row["took"]) == (values["price"] + 1, timedelta(hours=2, microseconds=5))
        assert writer.bound["many"].get(id=2) is None


NEEDED = Table("id text, status text NOT NULL, note text, number bigserial", key=["id"], name="needed")
CHECKED = Table("id text, qty integer NOT NULL CHECK (qty >= 0), at text", key=["id"], name="checked")
ALONE = Table("a integer, b integer, c integer GENERATED ALWAYS AS (a + b) STORED", key=["a", "b"], name="alone")


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("cut", [1, 2, 100])
def test_how_it_is_cut_makes_no_difference(database: Database, cut: int) -> None:
    """What INSERT would refuse of a row that is not there, is right for one that is."""
    said: list[tuple[str, str, dict[str, Any]]] = [
        ("needed", "put", {"id": "1", "status": "new"}),
        ("checked", "add", {"id": "a", "qty": 10}),
        ("needed", "put", {"id": "1", "note": "call first"}),
        ("checked", "add", {"id": "a", "qty": -4}),
        ("needed", "put", {"id": "1"}),
        ("alone", "put", {"a": 1, "b": 2}),
        ("alone", "put", {"a": 1, "b": 2}),
        ("checked", "put", {"id": "a", "at": "there"}),
        ("needed", "delete", {"id": "1"}),
        ("needed", "put", {"id": "1", "status": "again"}),
        ("needed", "put", {"id": "1", "note": "!"}),
    ]
    with database.connect() as connection:
        tables = [NEEDED, CHECKED, ALONE]
        for table in tables:
            for statement in table.create("public"):
                connection.execute(statement)
        writer = Writer(connection, "public", tables)
        for begin in range(0, len(said), cut):
            for name, word, values in said[begin : begin + cut]:
                getattr(writer.bound[name], word)(**values)
            writer.write()
        assert connection.execute("SELECT id, status, note FROM needed").fetchall() == [("1", "again", "!")]
        assert connection.execute("SELECT * FROM checked").fetchall() == [("a", 6, "there")]
        assert connection.execute("SELECT * FROM alone").fetchall() == [(1, 2, 3)]


def test_what_is_wrong_stays_refused(newest_database: Database) -> None:
    with newest_database.connect() as connection:
        for table in (NEEDED, CHECKED):
            for statement in table.create("public"):
                connection.execute(statement)
        writer = Writer(connection, "public", [NEEDED, CHECKED])
        writer.bound["needed"].put(id="1", note="of nothing")
        with pytest.raises(psycopg.errors.NotNullViolation):
            writer.write()
        writer.bound["checked"].put(id="a", qty=3)
        writer.write()
        writer.bound["checked"].add(id="a", qty=-4)
        with pytest.raises(psycopg.errors.CheckViolation):
            writer.write()
        assert connection.execute("SELECT * FROM checked").fetchall() == [("a", 3, None)]
        # One row in the server, two in Python: nothing that was said of one of them is lost without a word.
        connection.execute("CREATE TABLE many (id numeric PRIMARY KEY, n integer CHECK (n > 0))")
        both = Writer(connection, "public", [Table("", key=["id"], name="many")])
        both.bound["many"].put(id=1, n=1)
        both.write()
        both.bound["many"].add(id=1, n=1)
        both.bound["many"].add(id="1.0", n=1)
        with pytest.raises(EventStoreError, match="not each row of the table many could be written"):
            both.write()


def test_what_cannot_be(newest_database: Database) -> None:
    from pgcdc import ConfigError

    with pytest.raises(ConfigError, match="key= names the columns"):
        Table("a integer", key="a")
    with pytest.raises(ConfigError, match="no name for a table or column"):
        Table("a integer", key=["a"], name="Counts")
    with pytest.raises(ConfigError, match="column a of the key of the table counts was not given"):
        MemoryTable(COUNTS).put(b="x")
    with newest_database.connect() as connection:
        writer = Writer(connection, "public", [COUNTS])
        writer.bound["counts"].put(a=1, b="x", n=1)
        with pytest.raises(ConfigError, match="is not there"):
            writer.write()
