"""Small transactions that the source's thread writes to another PostgreSQL itself, whatever befalls that meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.pipeline import Retry
from pgcdc.sinks import Postgres, postgres
from tests.conftest import Database, _new_database
from tests.pipeline.running import Running, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgres import PostgresServer

KEYS = 8
SOON = Retry(first=0.01, longest=0.1)


@pytest.fixture
def target(postgres: PostgresServer) -> Iterator[Database]:
    yield from _new_database(postgres)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Of each wait for the target's answer: whether it was the source's thread, and whether it had it in time."""
    noted: list[tuple[bool, bool]] = []
    answered = postgres.Sending.answered

    def note(sending: postgres.Sending, seconds: float) -> bool:
        in_time = answered(sending, seconds)
        noted.append((threading.current_thread().name == "pgcdc-shop-source", in_time))
        return in_time

    monkeypatch.setattr(postgres.Sending, "answered", note)
    return noted


class Shop:
    """Counters, and a table without a key that says what was done, in the order in which it was."""

    def __init__(self, source: Database, target: Database) -> None:
        self.source, self.target, self.done = source, target, 0
        self.sink: Postgres
        source.execute(
            # More than this nobody may wait for an answer.
            f"ALTER DATABASE {source.name} SET wal_sender_timeout = '2s'",
            "CREATE TABLE counters (id int PRIMARY KEY, n int)",
            "CREATE TABLE done (number int, word text)",
            f"INSERT INTO counters SELECT g, 0 FROM generate_series(1, {KEYS}) g",
        )
        target.execute(
            "CREATE TABLE done (place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number int, word text)"
        )

    def pipeline(self) -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", self.source.dsn, tables=["counters", "done"])
        self.sink = Postgres(self.target.dsn)
        made.add(self.sink, name="copy", retry=SOON)
        return made

    def work(self, chance: random.Random) -> None:
        """One small transaction."""
        self.done += 1
        one, other = chance.randint(1, KEYS), chance.randint(1, KEYS)
        statements = [
            f"UPDATE counters SET n = n + 1 WHERE id IN ({one}, {other})",
            f"INSERT INTO done VALUES ({self.done}, 'word {one}')",
        ]
        if chance.random() < 0.1:
            statements.append(f"DELETE FROM counters WHERE id = {one}")
            statements.append(f"INSERT INTO counters VALUES ({one}, {-self.done})")
        with self.source.connect() as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement)

    def check(self) -> None:
        """All is there once, and in its order."""
        for query in ("SELECT * FROM counters ORDER BY id", "SELECT number, word FROM done ORDER BY number"):
            assert self.target.execute(query) == self.source.execute(query)
        numbers = [number for (number,) in self.target.execute("SELECT number FROM done ORDER BY place")]
        assert numbers == list(range(1, self.done + 1))

    def backends(self) -> list[int]:
        """Of the sink."""
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgcdc sink'"
        )
        return [pid for (pid,) in self.target.execute(query)]

    def answers(self) -> tuple[Any, Any]:
        """Who streams, and when it was heard of the client last."""
        [row] = self.source.execute(
            "SELECT s.active_pid, extract(epoch FROM r.reply_time)::float8 FROM pg_replication_slots s"
            " JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = 'pgcdc_shop'"
        )
        return row[0], row[1]

    def answered(self) -> None:
        """Until the client has answered for longer than the server has patience, on the same connection."""
        pid, since = self.answers()
        until(lambda: self.answers()[1] > since + 2.5, "the server is answered", pause=0.05)
        assert self.answers()[0] == pid

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """The server's process that serves the sink stands still."""
        pids = self.backends()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody has a table."""
        with self.target.connect() as connection, connection.transaction():
            connection.execute("LOCK TABLE counters IN ACCESS EXCLUSIVE MODE")
            yield

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """The connection of the sink is gone, perhaps in the midst of something."""
        self.target.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pgcdc sink'"
        )
        yield


def begun(shop: Shop, run: Running, waits: list[tuple[bool, bool]], chance: random.Random) -> None:
    """Until transactions go this way."""
    run.streaming()

    def goes() -> bool:
        shop.work(chance)
        run.catch_up(shop.source)
        return (True, True) in waits

    until(goes, "the source's thread writes")


@pytest.mark.parametrize("seed", range(2))
def test_a_target_that_hangs_or_ends(
    database: Database, target: Database, waits: list[tuple[bool, bool]], seed: int
) -> None:
    chance, shop = random.Random(seed), Shop(database, target)
    with running(shop.pipeline()) as run:
        begun(shop, run, waits, chance)
        ways = [shop.stopped, shop.locked, shop.ended, shop.ended, shop.ended]
        chance.shuffle(ways)
        for way in ways:
            for _ in range(chance.randint(1, 6)):
                shop.work(chance)
            if chance.random() < 0.5:
                run.catch_up(database)
            with way():
                for _ in range(chance.randint(1, 4)):
                    shop.work(chance)
                if way != shop.ended:
                    shop.answered()
                for _ in range(chance.randint(0, 2)):
                    shop.work(chance)
            if chance.random() < 0.5:
                run.catch_up(database)
        run.catch_up(database)
        shop.check()
        del waits[:]
        begun(shop, run, waits, chance)
    shop.check()
    assert run.error is None


def test_what_hangs_at_a_stop_is_there_once(
    database: Database, target: Database, waits: list[tuple[bool, bool]]
) -> None:
    chance, shop = random.Random(1), Shop(database, target)
    with running(shop.pipeline()) as run:
        begun(shop, run, waits, chance)
        with shop.locked():
            shop.work(chance)
            # By whichever thread: the target's may not have come back to its wait when this came.
            hanging = "SELECT 1 FROM pg_locks WHERE NOT granted"
            until(lambda: bool(target.execute(hanging)), "it hangs", pause=0.05)
            shop.answered()
            run.stop()
            left = shop.sink
    # It may be written by then, or undone: whoever stopped it did not wait for it.
    until(lambda: not any(one.name.startswith("pgcdc-shop-") for one in threading.enumerate()), "the call is over")
    left.close()
    with running(shop.pipeline()) as run:
        run.streaming()
        run.catch_up(database)
        shop.check()
