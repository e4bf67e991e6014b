"""A small transaction is on its way before the stream takes it down as read; what happens in between costs no row."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc import Batch
from pgcdc.errors import ConnectionLost
from pgcdc.pipeline.fanout import MOST_EARLY, Fanout
from pgcdc.replication.link import Link
from pgcdc.replication.progress import Progress
from pgcdc.sinks import postgres
from tests.conftest import Database, _new_database
from tests.pipeline.running import Running, running, until
from tests.pipeline.test_sent import Shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers.postgres import PostgresServer


@pytest.fixture
def target(postgres: PostgresServer) -> Iterator[Database]:
    yield from _new_database(postgres)


class Order:
    """What happens to rows in the source's thread: they are sent, taken down, and their answer is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.early = 0
        self._note(monkeypatch, postgres.Sending, "__init__", "sent", 2)
        self._note(monkeypatch, Progress, "handed_over", "taken down", 1)
        self._note(monkeypatch, postgres.Sending, "answered", "answered", None)

    def _note(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, what: str, place: int | None) -> None:
        method = getattr(owner, name)

        def note(*arguments: Any, **more: Any) -> Any:
            batch = None if place is None else arguments[place]
            if batch is None or batch.changes_count:
                self._add(what)
            return method(*arguments, **more)

        monkeypatch.setattr(owner, name, note)

    def _add(self, what: str) -> None:
        if threading.current_thread().name != "pgcdc-shop-source":
            return
        self.seen.append(what)
        self.early += self.seen[-3:] == ["sent", "taken down", "answered"]

    def goes(self, shop: Shop, run: Running, chance: random.Random) -> None:
        """Until a transaction goes this way."""
        run.streaming()
        before = self.early

        def gone() -> bool:
            shop.work(chance)
            run.catch_up(shop.source)
            return self.early > before

        until(gone, "a transaction is sent before it is taken down")


def is_there(shop: Shop) -> bool:
    """Whether the last transaction is in the target."""
    return bool(shop.target.execute(f"SELECT 1 FROM done WHERE number = {shop.done}"))


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> Order:
    return Order(monkeypatch)


def test_what_is_small_is_sent_before_it_is_taken_down(database: Database, target: Database, order: Order) -> None:
    chance, shop = random.Random(1), Shop(database, target)
    with running(shop.pipeline()) as run:
        order.goes(shop, run, chance)
        before = order.early
        # One that is larger, of the same tables, goes as it did before.
        database.execute(f"INSERT INTO done SELECT g, 'x' FROM generate_series({shop.done + 1}, {shop.done + 40}) g")
        shop.done += MOST_EARLY + 9
        run.catch_up(database)
        assert order.early == before
        shop.check()
        order.goes(shop, run, chance)
    shop.check()
    assert run.error is None


def test_two_consumers_are_handed_over_to(database: Database, target: Database, order: Order) -> None:
    chance, shop = random.Random(2), Shop(database, target)
    pipeline = shop.pipeline()
    seen: list[int] = []

    @pipeline.on("done")
    def note(change: Any) -> None:
        seen.append(change.new.number)

    with running(pipeline) as run:
        run.streaming()
        for _ in range(20):
            shop.work(chance)
            run.catch_up(database)
    assert not order.early
    assert seen == list(range(1, 21))
    shop.check()


@pytest.mark.parametrize("times", [1, 3])
def test_the_server_is_lost_before_it_is_taken_down(
    database: Database, target: Database, order: Order, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """It comes again then, and its target knows it."""
    chance, shop = random.Random(3), Shop(database, target)
    noted = Link._note
    losses: list[str] = []

    def lose(link: Link, batch: Batch) -> None:
        if batch.changes_count and order.seen[-1:] == ["sent"] and len(losses) < times:
            losses.append("lost")
            order.seen.append("lost")
            raise ConnectionLost("lost while it was taken down", hint="", slot="pgcdc_shop")
        noted(link, batch)

    with running(shop.pipeline()) as run:
        order.goes(shop, run, chance)
        monkeypatch.setattr(Link, "_note", lose)
        for _ in range(12):
            shop.work(chance)
            run.catch_up(database)
        assert len(losses) == times
        order.goes(shop, run, chance)
        shop.check()
    assert run.error is None


def test_the_run_ends_before_it_is_taken_down(
    database: Database, target: Database, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for what was begun, and the next run goes on behind it."""
    others = set(threading.enumerate())
    chance, shop = random.Random(4), Shop(database, target)
    failed: list[int] = []
    noted = Link._note

    def fail(link: Link, batch: Batch) -> None:
        if batch.changes_count and order.seen[-1:] == ["sent"]:
            failed.append(shop.done)
            raise ValueError("not of the server")
        noted(link, batch)

    run = Running(shop.pipeline())
    order.goes(shop, run, chance)
    monkeypatch.setattr(Link, "_note", fail)
    for _ in range(100):
        shop.work(chance)
        until(lambda: bool(failed) or is_there(shop), "it ends, or the row is there")
        if failed:
            break
    assert isinstance(run.ended(), ValueError)

    def left() -> list[str]:
        return [one.name for one in set(threading.enumerate()) - others if one.name.startswith("pgcdc-")]

    until(lambda: not left(), "no thread is left behind")
    monkeypatch.setattr(Link, "_note", noted)
    with running(shop.pipeline()) as again:
        again.streaming()
        shop.work(chance)
        again.catch_up(database)
        shop.check()
    assert again.error is None


def test_another_batch_than_the_one_that_was_begun_with_is_handed_over(
    database: Database, target: Database, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun with is its target's business then, and what is handed over has it again, and more."""
    chance, shop = random.Random(5), Shop(database, target)
    send = Fanout.send
    kept: list[Batch] = []
    others = 0

    def send_another(fanout: Fanout, batch: Batch, through_lsn: int, **more: Any) -> None:
        nonlocal others
        if not kept and fanout.has_begun and others < 3:
            kept.append(batch)
            others += 1
            return
        if kept and batch.changes_count:
            batch = Batch.concat([kept.pop(), batch])
        if not kept:
            send(fanout, batch, through_lsn, **more)

    with running(shop.pipeline()) as run:
        order.goes(shop, run, chance)
        monkeypatch.setattr(Fanout, "send", send_another)
        for _ in range(100):
            shop.work(chance)
            until(lambda: bool(kept) or is_there(shop), "it is kept, or the row is there")
            if others == 3:
                break
        shop.work(chance)
        run.catch_up(database)
        assert others == 3
        shop.check()
    assert run.error is None
