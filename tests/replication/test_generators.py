"""The generators go on where they stopped: a driver that gives up at every wait gets the same as one that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg import pq, waiting

from pgcdc.protocol import Frames
from pgcdc.replication import generators
from pgcdc.replication.session import Session
from tests.replication.reading import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.pq.abc import PGresult

    from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def session(newest_postgres: PostgresServer) -> Iterator[Session]:
    with Session.connect(newest_postgres.dsn(), replication=False) as session:
        yield session


def impatient(generator: generators.Waiting[bool]) -> bool:
    """Drive a generator without ever waiting."""
    try:
        next(generator)
        generator.send(waiting.Ready.NONE)
    except StopIteration as stopped:
        return bool(stopped.value)
    raise AssertionError("a generator must return when it is told that the time is over")


def test_collect_goes_on(session: Session) -> None:
    session.pgconn.send_query(b"SELECT pg_sleep(0.05); SELECT 42")
    results: list[PGresult] = []
    assert impatient(generators.flush(session.pgconn))
    assert not impatient(generators.collect(session.pgconn, results)), "nothing can be there yet"

    def done() -> bool:
        return bool(waiting.wait(generators.collect(session.pgconn, results), session.pgconn.socket, 0.0))

    until(done)
    assert [result.get_value(0, 0) for result in results] == [b"", b"42"]


def test_receive_is_bounded_and_loses_nothing(session: Session) -> None:
    session.results("COPY (SELECT repeat('x', 100) || i FROM generate_series(1, 1000) i) TO STDOUT")
    rows: list[bytes] = []
    state = generators.Drained.DRY
    while state is not generators.Drained.ENDED:
        frames = Frames()
        state = session.wait(generators.receive(session.pgconn, frames, 500, 7), 1.0)
        assert len(frames) <= 7
        assert frames.nbytes - len(frames[len(frames) - 1]) < 500 if frames else True
        rows += map(bytes, frames)
    results: list[PGresult] = []
    session.wait(generators.collect(session.pgconn, results), 1.0)
    assert [result.status for result in results] == [pq.ExecStatus.COMMAND_OK]
    assert rows == [b"x" * 100 + b"%d\n" % number for number in range(1, 1001)]


async def test_an_asynchronous_driver_takes_the_same_generators(session: Session) -> None:
    session.pgconn.send_query(b"SELECT 1")
    results: list[PGresult] = []
    assert await waiting.wait_async(generators.flush(session.pgconn), session.pgconn.socket, 1.0)
    for _ in range(30):
        if await waiting.wait_async(generators.collect(session.pgconn, results), session.pgconn.socket, 1.0):
            break
    assert results[0].get_value(0, 0) == b"1"
