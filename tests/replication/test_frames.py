"""What is taken from libpq directly is what psycopg gives, payload by payload, whatever the limits are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.protocol import Frames, Libpq
from pgcdc.replication import generators, libpq
from pgcdc.replication.session import Session
from pgcdc.replication.sqlstate import RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgres import PostgresServer

ROWS = "COPY (SELECT repeat(chr(97 + i % 26), i * i % 3000) FROM generate_series(1, 2000) i) TO STDOUT"
EXPECTED = [chr(97 + i % 26).encode() * (i * i % 3000) + b"\n" for i in range(1, 2001)]


@pytest.fixture(scope="module")
def session(newest_postgres: PostgresServer) -> Iterator[Session]:
    with Session.connect(newest_postgres.dsn(), replication=False) as session:
        yield session


def found() -> Libpq:
    """psycopg's libpq. Without it everything works, but slower; so a test has to notice where it is not found."""
    library = libpq.find()
    if library is None and sys.platform == "win32":
        pytest.skip("Windows looks for symbols in one library only")
    assert library is not None
    return library


def test_psycopgs_libpq_is_found() -> None:
    found()


def test_it_is_found_by_psycopg_without_c_too() -> None:
    """psycopg's implementation is chosen when it is imported, so in another process."""
    found()
    program = "from pgcdc.replication.libpq import find, pq; assert pq.__impl__ == 'python'; assert find() is not None"
    environment = {"PSYCOPG_IMPL": "python", "PYTHONPATH": str(Path(pgcdc.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    if "finds no libpq" in done.stderr:
        pytest.skip("this machine has no libpq but psycopg's")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("max_bytes", "max_frames"), [(1 << 20, 10_000), (5_000, 10_000), (1 << 20, 7), (1, 1)])
@pytest.mark.parametrize("how", ["libpq", "psycopg"])
def test_both_ways_give_the_same(session: Session, how: str, max_bytes: int, max_frames: int) -> None:
    way = found() if how == "libpq" else None
    session.results(ROWS)
    payloads: list[bytes] = []
    said = 0
    while said != -1:
        frames = Frames()
        said = libpq.take(session.pgconn, frames, max_bytes, max_frames, way)
        assert len(frames) <= max_frames
        assert frames.nbytes == sum(map(len, frames))
        assert not len(frames) or frames.nbytes - len(frames[len(frames) - 1]) < max_bytes
        payloads += frames
        if said == 0:
            some = Frames()
            session.wait(generators.receive(session.pgconn, some, 1, 1), 1.0)
            payloads += some
    session.finish_copy(RUNNING)
    assert payloads == EXPECTED


def test_what_is_no_copy_is_an_error_of_psycopgs(session: Session) -> None:
    for way in (found(), None):
        with pytest.raises(libpq.psycopg.OperationalError, match="receiving copy data failed: no COPY in progress"):
            libpq.take(session.pgconn, Frames(), 1, 1, way)


def test_a_closed_connection_is_an_error_of_psycopgs(newest_postgres: PostgresServer) -> None:
    closed = Session.connect(newest_postgres.dsn(), replication=False)
    closed.close()
    for way in (found(), None):
        with pytest.raises(libpq.psycopg.OperationalError, match=r"closed|NULL"):
            libpq.take(closed.pgconn, Frames(), 1, 1, way)


def test_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="the connection is closed"):
        Frames().take(found(), 0, 1, 1)
    with pytest.raises(ValueError, match="no address of a function"):
        Libpq(0, 1)
    with pytest.raises(ValueError, match="no address of a function"):
        Libpq(1, 0)
