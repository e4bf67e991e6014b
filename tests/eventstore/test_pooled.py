"""Stores behind a pooler that gives each transaction another process of the server, and those that Ctrl-C has met."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING
from unittest import mock

import psycopg
import pytest

import pgcdc
from pgcdc.eventstore import AsyncEventStore, EventStore
from pgcdc.eventstore import connections as connections_module
from tests.eventstore.contract import CREATED
from tests.eventstore.pooler import Pooler
from tests.pipeline.running import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Database

SCHEMAS = ("one", "two")


@pytest.fixture
def pooler(newest_database: Database, size: int) -> Iterator[Pooler]:
    for schema in SCHEMAS:
        with EventStore(newest_database.dsn, schema=schema) as store:
            store.init()
    known = psycopg.conninfo.conninfo_to_dict(newest_database.dsn)
    with closing(Pooler(f"{known['host']}/.s.PGSQL.{known['port']}", newest_database.name, size)) as made:
        yield made


def streams(database: Database) -> list[list[tuple[str, int]]]:
    return [
        [(name, count) for name, count in database.execute(f"SELECT stream_id, version FROM {schema}.streams")]
        for schema in SCHEMAS
    ]


class Told:
    """How many appends were confirmed, and that the others were refused for the reason that there is."""

    def __init__(self) -> None:
        self.done = {"one": 0, "two": 0}

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        try:
            yield
        except pgcdc.EventStoreError as error:
            if error.sqlstate != "26000":
                raise
            assert "PgBouncer" in str(error.hint)  # noqa: PT017

    def judge(self, database: Database) -> None:
        expected = [[(f"{name}-1", count)] if count else [] for name, count in self.done.items()]
        assert streams(database) == expected


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_store_writes_into_its_own_schema(newest_database: Database, pooler: Pooler, size: int) -> None:
    """What one has prepared is there for the other, under a name that it does not use."""
    told = Told()
    with EventStore(pooler.dsn, schema="one") as one, EventStore(pooler.dsn, schema="two") as two:
        for _ in range(20):
            for name, store in (("one", one), ("two", two)):
                store.append(f"{name}-1", [CREATED])  # is done without, where it was prepared elsewhere
                told.done[name] += 1
                with told.trying():
                    assert len(store.read(f"{name}-1")) == told.done[name]
                with told.trying():
                    store.insert(f"{name}-1", [CREATED], after=told.done[name])
                    told.done[name] += 1
    told.judge(newest_database)
    if size == 1:
        assert told.done == {"one": 40, "two": 40}


@pytest.mark.parametrize("size", [1, 2])
def test_so_does_an_asynchronous_one(newest_database: Database, pooler: Pooler, size: int) -> None:
    told = Told()

    async def append() -> None:
        async with AsyncEventStore(pooler.dsn, schema="one") as one, AsyncEventStore(pooler.dsn, schema="two") as two:
            for _ in range(20):
                for name, store in (("one", one), ("two", two)):
                    with told.trying():
                        await store.append(f"{name}-1", [CREATED])
                        told.done[name] += 1

    asyncio.run(append())
    told.judge(newest_database)
    if size == 1:
        assert told.done == {"one": 20, "two": 20}


def test_what_ctrl_c_has_taken_is_found_again(newest_database: Database) -> None:
    """It can come between any two steps; without the last permit the next call would wait for ever."""
    with EventStore(newest_database.dsn, max_connections=2) as store:
        store.init()
        store.append("order-1", [CREATED])
        for _ in range(2):
            store._connections._free.get()  # and nobody gives it back
        with mock.patch.object(connections_module, "LOOK_AFTER", 0.01):
            assert store.append("order-1", [CREATED]) == 2
            taken = [store._connections.take() for _ in range(2)]
            assert store._connections._free.empty(), "there are no more than before"
            for one in taken:
                store._connections.give(one)


def test_who_looks_keeps_no_other_from_the_queue(newest_database: Database) -> None:
    """Of many that have waited for long one looks: a connection that is given back meanwhile is for the others."""
    with EventStore(newest_database.dsn, max_connections=1) as store:
        connections = store._connections
        taken = connections.take()
        with connections._looking:
            first, second = (threading.Thread(target=connections.find_lost, daemon=True) for _ in range(2))
            first.start()
            until(lambda: connections._looked_at > 0, "the first one looks")
            second.start()
            second.join(30)
            assert first.is_alive()
            assert not second.is_alive()
        first.join(30)
        connections.give(taken)
        assert connections._free.qsize() == 1


@pytest.mark.parametrize("colour", ["threads", "tasks"])
def test_a_forked_process_has_connections_of_its_own(newest_database: Database, colour: str) -> None:
    """Two processes by one connection: each would read what the other has asked for."""
    with EventStore(newest_database.dsn, max_connections=1) as store:
        store.init()
        store.append("order-1", [CREATED])
        parent = store._connections.take()  # in use by a thread that the child does not have
        if colour == "threads":
            child, version = in_child(
                lambda: (store.append("order-2", [CREATED]), store.append("order-1", [CREATED]))[1]
            )
        else:
            runner = asyncio.Runner()
            other = AsyncEventStore(newest_database.dsn, max_connections=1)
            assert [runner.run(other.append("order-2", [CREATED])) for _ in range(2)] == [1, 2]
            child, version = in_child(lambda: asyncio.run(other.append("order-1", [CREATED])))
            assert runner.run(other.append("order-2", [CREATED])) == 3, "the parent's is as it was"
            runner.run(other.close())
            runner.close()
        assert (child, version) == (0, 2)
        assert parent.execute("SELECT 1").fetchall() == [(1,)]
        store._connections.give(parent)
        assert store.append("order-1", [CREATED]) == 3


def in_child(function: Callable[[], int]) -> tuple[int, int]:
    """Calls it in a forked process; how that ended, and what it returned."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(writing, str(function()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), int(text or 0)
