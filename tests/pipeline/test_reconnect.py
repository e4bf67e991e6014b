"""A pipeline that loses the server goes on when it is back (faults F3, F4, F9), or says why it cannot (F5, F19).

Over 400 lines because each way to lose a server is cut and judged by the same few functions.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
from pgcdc import Position, PositionError
from pgcdc.pipeline import MemoryPositions, PostgresPositions, StoredPosition, ownership
from pgcdc.pipeline.source import Source
from pgcdc.pipeline.start import Server, check_again
from pgcdc.pipeline.tenure import Tenure
from pgcdc.replication import Reconnect, SlotState
from tests.pipeline.running import DEADLINE, Running, confirmed, running, until
from tests.pipeline.shop import run_once, shop
from tests.pipeline.targets import Recorder, SqliteMirror, logged
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pgcdc.pipeline.reading import Early
    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)
BIG = 5_000


class Gate(Recorder):
    """Takes no more from a certain row on, until it is let."""

    def __init__(self, row: int) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._row = row

    def write(self, batch: pgcdc.Batch) -> None:
        before = len(self.changes)
        super().write(batch)
        if self._row in self.ids[before:]:
            self.reached.set()
            assert self.go_on.wait(DEADLINE)

    @property
    def ids(self) -> list[int]:
        return [change.new.id for change in self.changes]


def terminate(database: Database, kind: str, *, wait: bool = True) -> None:
    """Ends the walsenders or ordinary sessions (`client backend`) of pgcdc, and waits until they are gone."""
    database.execute(
        f"SELECT pg_terminate_backend(pid{', 30000' if wait else ''}) FROM pg_stat_activity"
        " WHERE datname = current_database()"
        f" AND backend_type = '{kind}' AND pid <> pg_backend_pid() AND application_name LIKE 'pgcdc%'"
    )


def reconnecting(run: Running) -> None:
    until(lambda: run.pipeline.statistics().source.phase == "reconnecting", "it has noticed")


def test_a_transaction_that_is_cut_in_the_middle_comes_once(
    orders: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its walsender ends when lanes are full of a part of it; what they hold is not asked for again."""
    reached, go_on = threading.Event(), threading.Event()

    def after_commit(batch: pgcdc.Batch) -> None:
        if batch.last_position is not None and batch.last_position.index >= 0:
            reached.set()
            assert go_on.wait(DEADLINE)

    pipeline = shop(orders, SqliteMirror(tmp_path / "mirror.db", after_commit), max_rows_in_flight=500, reconnect=SOON)
    handled: list[tuple[int, int, int]] = []

    @pipeline.on("orders", "insert", snapshot="never")
    def handle(change: pgcdc.Change[Any]) -> None:
        position = change.position
        assert isinstance(position, pgcdc.Position) and isinstance(change, pgcdc.Insert)
        handled.append((*position, change.new.id))

    with running(pipeline) as run:
        run.streaming()
        orders.execute(f"INSERT INTO orders SELECT g, repeat('x', 1000) FROM generate_series(101, {100 + BIG}) g")
        assert reached.wait(DEADLINE)
        # It ends when it can tell its client, that is when lanes have room: in the middle of the transaction.
        terminate(orders, "walsender", wait=False)
        go_on.set()
        run.catch_up(orders)
        orders.execute("INSERT INTO orders VALUES (2, 'behind')")
        run.catch_up(orders)
        until(lambda: confirmed(orders) > handled[-1][0], "it is confirmed")
    assert caplog.text.count("the server is back; it goes on from") == 1
    wanted = [*range(101, 101 + BIG), 2]
    assert [key for *_, key in handled] == wanted
    assert [index for _, index, _ in handled] == [*range(BIG), 0]
    assert len({lsn for lsn, *_ in handled}) == 2, "a transaction is one"
    assert [key for *_, key in logged(tmp_path / "mirror.db")] == wanted


@pytest.mark.parametrize("lost", ["walsender", "client backend"])
def test_each_of_its_sessions_can_be_lost(new_orders: Database, lost: str, caplog: pytest.LogCaptureFixture) -> None:
    """The one beside the walsender has the lock that says who owns the pipeline."""
    sink = Recorder()
    with running(shop(new_orders, sink, reconnect=SOON)) as run:
        run.streaming()
        for key in (2, 3):
            terminate(new_orders, lost)
            new_orders.execute(f"INSERT INTO orders VALUES ({key}, 'new')")
            run.catch_up(new_orders)
            until(lambda: confirmed(new_orders) > sink.changes[-1].commit_lsn, "stored and confirmed")
    assert [change.new.id for change in sink.changes] == [1, 2, 3]
    if lost == "walsender":
        assert caplog.text.count("the server is away, connecting again") == 2
        assert caplog.text.count("the server is back; it goes on from") == 2


def test_the_server_crashes_with_the_positions_in_it(orders: Database) -> None:
    sink = Recorder()
    with running(shop(orders, sink, reconnect=SOON)) as run:
        run.streaming()
        for key in (2, 3):
            orders.execute(f"INSERT INTO orders VALUES ({key}, 'new')")
            run.catch_up(orders)
            orders.server.crash()
            reconnecting(run)
            orders.server.start()
        orders.execute("INSERT INTO orders VALUES (4, 'new')")
        run.catch_up(orders)
        until(lambda: confirmed(orders) > sink.changes[-1].commit_lsn, "stored and confirmed")
    assert [change.new.id for change in sink.changes] == [1, 2, 3, 4]


def test_a_position_store_elsewhere_is_lost(new_orders: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Consumers go on, and nothing is confirmed before it is stored."""
    sink = Recorder()
    with Proxy(new_orders.server.port) as proxy:
        store = PostgresPositions(proxy.dsn(new_orders.dsn))
        with running(shop(new_orders, sink, positions=store, reconnect=SOON)) as run:
            run.streaming()
            run.catch_up(new_orders)
            proxy.refuse = True
            proxy.close()
            new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
            run.catch_up(new_orders)
            until(lambda: "its position store is away" in caplog.text, "it is missed")
            assert confirmed(new_orders) <= sink.changes[-1].commit_lsn
            proxy.refuse = False
            until(lambda: confirmed(new_orders) > sink.changes[-1].commit_lsn, "stored and confirmed")
    assert [change.new.id for change in sink.changes] == [1, 2]


def test_a_lost_network_while_lanes_are_full(new_orders: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """One consumer has a batch that the other has no room for yet when the connection breaks: it gets it then."""
    database = new_orders
    sink, fast = Gate(101), Recorder()
    looked = threading.Semaphore(0)
    confirm = Source._confirm

    def counted(source: Source, tenure: Tenure) -> None:
        looked.release()
        confirm(source, tenure)

    monkeypatch.setattr(Source, "_confirm", counted)
    with Proxy(database.server.port) as proxy:
        pipeline = pgcdc.Pipeline(
            "shop", proxy.dsn(database.dsn), tables=["orders"], max_rows_in_flight=300, reconnect=SOON
        )
        pipeline.add(sink, name="sink")
        pipeline.add(fast, name="fast")
        with running(pipeline) as run:
            run.streaming()

            def look(times: int) -> None:
                while looked.acquire(blocking=False):
                    pass
                for _ in range(times):
                    assert looked.acquire(timeout=DEADLINE)

            def fast_has_more() -> bool:
                return len(fast.changes) - 1 > run.pipeline.statistics().consumers["sink"].queued_rows

            last = 100
            while not fast_has_more():
                database.execute(f"INSERT INTO orders SELECT g, 'new' FROM generate_series({last + 1}, {last + 10}) g")
                last += 10
                assert last < 50_000
                if fast_has_more():
                    look(2)  # it may be in the midst of handing over
            assert sink.reached.wait(DEADLINE)
            proxy.reset()
            look(3)
            sink.go_on.set()
            run.catch_up(database)
            proxy.cut_after = 777
            database.execute("INSERT INTO orders SELECT g, repeat('x', 100) FROM generate_series(60001, 60100) g")
            run.catch_up(database)
    wanted = [1, *range(101, last + 1), *range(60_001, 60_101)]
    assert sink.ids == wanted
    assert [change.new.id for change in fast.changes] == wanted


def test_nothing_more_is_read_when_the_session_beside_is_lost(
    new_orders: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes that are full take what is in hand when it is noticed, and the walsender would go on without an end."""
    database, sink, waiting = new_orders, Gate(101), threading.Event()
    reads: list[Tenure] = []
    noticed_after: list[int] = []
    read, wait, look = Tenure.read, Source._wait, Source._watch

    def counted(tenure: Tenure, timeout: float, early: Early | None = None) -> pgcdc.Batch:
        reads.append(tenure)
        return read(tenure, timeout, early)

    def waits(source: Source, ready: Callable[[], bool]) -> None:
        waiting.set()
        wait(source, ready)

    def looks(source: Source) -> None:
        try:
            look(source)
        except pgcdc.ConnectionLost:
            noticed_after.append(len(reads))
            raise

    monkeypatch.setattr(Tenure, "read", counted)
    monkeypatch.setattr(Source, "_wait", waits)
    monkeypatch.setattr(Source, "_watch", looks)
    monkeypatch.setattr(Source, "_confirm", lambda source, tenure: None)  # it would notice, too, if it had anything
    with running(shop(database, sink, max_rows_in_flight=300, reconnect=SOON)) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (101, 'gate')")
        assert sink.reached.wait(DEADLINE)
        waiting.clear()
        database.execute("INSERT INTO orders SELECT g, 'new' FROM generate_series(102, 5000) g")
        assert waiting.wait(DEADLINE)
        terminate(database, "client backend")
        until(lambda: reads[-1] is not reads[0], "it has connected again")
        sink.go_on.set()
        run.catch_up(database)
    assert reads.count(reads[0]) == noticed_after[0]
    assert sink.ids == [1, *range(101, 5001)]


def test_nothing_is_delivered_while_the_server_is_away_however_full_lanes_are(new_orders: Database) -> None:
    """What was in hand when the connection was lost waits with the rest: another process may own it all by now."""
    database = new_orders
    go_on, under_way = threading.Event(), threading.Event()
    handled: list[int] = []

    def handle(change: pgcdc.Change[Any]) -> None:
        assert isinstance(change, pgcdc.Insert)
        handled.append(change.new.id)
        if change.new.id == 2:
            under_way.set()
            assert go_on.wait(DEADLINE)

    with Proxy(database.server.port) as proxy:
        dsn = proxy.dsn(database.dsn)
        pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"], max_rows_in_flight=5, reconnect=SOON)
        pipeline.on("orders", "insert", name="handler")(handle)
        with running(pipeline) as run:
            run.streaming()

            def consumer() -> Any:
                return run.pipeline.statistics().consumers["handler"]

            database.execute("INSERT INTO orders VALUES (2, 'new'), (3, 'new')")
            assert under_way.wait(DEADLINE)
            for id in range(4, 30):
                database.execute(f"INSERT INTO orders VALUES ({id}, 'new')")
            until(lambda: consumer().queued_rows >= 5, "the lane is full")
            proxy.refuse = True
            proxy.close()
            reconnecting(run)
            go_on.set()
            # It has the third in hand as well, and must not handle it; or nothing.
            until(lambda: consumer().state == "retrying" or consumer().delivered == 2, "the change in hand is done")
            assert handled == [1, 2]
            proxy.refuse = False
            run.catch_up(database)
    assert handled == list(range(1, 30))


@pytest.mark.parametrize("still", [True, False], ids=["and has it", "and is over"])
def test_another_process_took_over_meanwhile(
    new_orders: Database, monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    """What is in the lanes of the first is the second's business then: nothing of it is delivered any more."""
    monkeypatch.setattr(ownership, "TAKE_OVER_WITHIN", 1.0)
    database, first, second = new_orders, Gate(2), Recorder()
    handled: list[int] = []

    def handle(change: pgcdc.Change[Any]) -> None:
        assert isinstance(change, pgcdc.Insert)
        handled.append(change.new.id)
        assert change.new.id != 2 or first.go_on.wait(DEADLINE)

    with Proxy(database.server.port) as proxy:
        pipeline = pgcdc.Pipeline("shop", proxy.dsn(database.dsn), tables=["orders"], reconnect=SOON)
        pipeline.add(first, name="sink")
        pipeline.on("orders", "insert", name="handler")(handle)
        run = Running(pipeline)
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'new'), (3, 'new')")
        assert first.reached.wait(DEADLINE)
        under_way = first.ids  # one row or both, as they were read
        until(lambda: 2 in handled, "the handler has it, too")
        database.execute("INSERT INTO orders VALUES (4, 'queued')")
        until(lambda: run.pipeline.statistics().consumers["sink"].queued_rows == 3, "it is queued")
        proxy.refuse = True
        proxy.close()
        reconnecting(run)
        other_pipeline = shop(database, second)
        other_pipeline.on("orders", "insert", name="handler")(lambda change: None)
        other = Running(other_pipeline)
        other.streaming()
        other.catch_up(database)
        if not still:
            other.stop()
        before = confirmed(database)
        first.go_on.set()
        proxy.refuse = False
        error = run.ended()
        assert isinstance(error, PositionError) and "another process has taken over consumer" in str(error)
        if still:
            other.stop()
        assert other.error is None
    assert first.ids == under_way
    assert handled == [1, 2], "a call that was under way is finished, and nothing more is done"
    assert [change.new.id for change in second.changes] == [2, 3, 4]
    assert confirmed(database) >= before


@pytest.mark.parametrize(
    ("done", "kind", "says"),
    [
        ("SELECT pg_drop_replication_slot('pgcdc_shop')", pgcdc.SlotNotFound, "does not exist any more"),
        (
            "SELECT pg_replication_slot_advance('pgcdc_shop', pg_current_wal_lsn())",
            PositionError,
            "what is between is lost",
        ),
        ("DROP PUBLICATION pgcdc_shop", pgcdc.PublicationNotFound, "pgcdc_shop"),
    ],
)
def test_what_cannot_be_put_right_ends_it_at_once(
    new_orders: Database, done: str, kind: type[pgcdc.Error], says: str
) -> None:
    with Proxy(new_orders.server.port) as proxy:
        store = MemoryPositions()
        pipeline = pgcdc.Pipeline("shop", proxy.dsn(new_orders.dsn), tables=["orders"], positions=store, reconnect=SOON)
        pipeline.add(Recorder(), name="sink")
        run = Running(pipeline)
        run.streaming()
        run.catch_up(new_orders)
        proxy.refuse = True
        proxy.close()
        reconnecting(run)
        until(lambda: new_orders.execute("SELECT active FROM pg_replication_slots") == [(False,)], "the server noticed")
        new_orders.execute("INSERT INTO orders VALUES (2, 'lost')", done)
        proxy.refuse = False
        error = run.ended()
        assert isinstance(error, kind) and says in str(error)
        assert error.hint


def test_what_was_not_published_while_it_was_away(new_orders: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noticed before anything is streamed: what comes next would be taken for all that there is."""
    database, begun = new_orders, threading.Semaphore(0)
    enter = Tenure.__enter__

    def counted(tenure: Tenure) -> Tenure:
        begun.release()
        return enter(tenure)

    monkeypatch.setattr(Tenure, "__enter__", counted)
    with Proxy(database.server.port) as proxy:
        store = MemoryPositions()
        pipeline = pgcdc.Pipeline("shop", proxy.dsn(database.dsn), tables=["orders"], positions=store, reconnect=SOON)
        pipeline.add(Recorder(), name="sink")
        run = Running(pipeline)
        run.streaming()
        run.catch_up(database)
        assert begun.acquire(blocking=False)
        proxy.refuse = True
        proxy.close()
        reconnecting(run)
        database.execute(
            "ALTER PUBLICATION pgcdc_shop DROP TABLE orders",
            "INSERT INTO orders VALUES (2, 'unpublished')",
            "ALTER PUBLICATION pgcdc_shop ADD TABLE orders",
        )
        proxy.refuse = False
        error = run.ended()
    assert isinstance(error, PositionError) and "put back into" in str(error)
    assert not begun.acquire(blocking=False)


def test_it_gives_up_when_it_is_told_to(new_orders: Database) -> None:
    with Proxy(new_orders.server.port) as proxy:
        policy = Reconnect(first=0.01, longest=0.01, give_up=0.3)
        pipeline = pgcdc.Pipeline("shop", proxy.dsn(new_orders.dsn), tables=["orders"], reconnect=policy)
        pipeline.add(Recorder(), name="sink")
        run = Running(pipeline)
        run.streaming()
        proxy.refuse = True
        proxy.close()
        assert isinstance(run.ended(), pgcdc.ConnectionLost)


def test_a_stop_while_the_server_is_away(new_orders: Database) -> None:
    """It returns soon; what could not be stored or confirmed comes again."""
    database, sink = new_orders, Recorder()
    with Proxy(database.server.port) as proxy:
        pipeline = pgcdc.Pipeline("shop", proxy.dsn(database.dsn), tables=["orders"])
        pipeline.add(sink, name="sink")
        run = Running(pipeline)
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'new')")
        run.catch_up(database)
        proxy.refuse = True
        proxy.close()
        reconnecting(run)
        began = time.monotonic()
        run.stop()
        assert time.monotonic() - began < 8
        assert run.error is None
    database.execute("INSERT INTO orders VALUES (3, 'new')")
    run_once(database, shop(database, sink))
    ids = [change.new.id for change in sink.changes]
    assert ids in ([1, 2, 3], [1, 2, 2, 3]), "the last second may come again"


STORED = StoredPosition(
    consumer="sink",
    epoch=1,
    snapshot="done",
    position=Position(900, 0),
    through_lsn=900,
    slot="pgcdc_shop",
    system_identifier="7",
    timeline=1,
    fingerprint="",
)
SLOT = SlotState("pgcdc_shop", "pgoutput", "shop", False, False, None, 1, 900, "reserved", *[None] * 6)  # type: ignore[arg-type]
SERVER = Server("7", timeline=1, database="shop", end_lsn=5000, switches={}, standby=False)


@pytest.mark.parametrize(
    ("server", "slot", "kind"),
    [
        ({}, {}, None),
        ({"timeline": 2, "switches": {1: 1000}}, {}, None),
        ({"timeline": 2, "switches": {1: 999}}, {}, PositionError),  # what was handed over is not in it
        ({"timeline": 2}, {}, PositionError),
        ({"system_identifier": "8"}, {}, PositionError),
        ({"end_lsn": 999}, {}, PositionError),  # put back from a backup
        ({"end_lsn": 999, "standby": True}, {}, pgcdc.ConnectionLost),  # late: it is asked again
        ({"end_lsn": 999, "standby": True, "timeline": 2}, {}, PositionError),
        ({}, {"confirmed_flush_lsn": 901}, PositionError),
        ({}, {"wal_status": "lost"}, pgcdc.SlotLost),
        ({}, {"two_phase": True}, pgcdc.ConfigError),
        ({}, {"synced": True}, None),  # of a standby that was promoted
        ({"standby": True}, {"synced": True}, pgcdc.ConfigError),
        ({}, None, pgcdc.SlotNotFound),
        ({"standby": True}, None, pgcdc.SlotNotFound),
    ],
)
def test_what_is_compared_when_the_server_is_back(
    server: dict[str, Any], slot: dict[str, Any] | None, kind: type[pgcdc.Error] | None
) -> None:
    """Stored is 900; up to 1000 was handed over."""
    settings = pgcdc.Pipeline("shop", "", tables=["orders"])._settings
    now = None if slot is None else msgspec.structs.replace(SLOT, **slot)
    found = dataclasses.replace(SERVER, **server)
    if kind is None:
        check_again(settings, {"sink": STORED}, now, found, 1000)
        return
    with pytest.raises(kind) as caught:
        check_again(settings, {"sink": STORED}, now, found, 1000)
    if kind in (pgcdc.ConfigError, pgcdc.SlotNotFound) and (slot is None or "synced" in slot):
        # Nothing is lost when a server of several has answered that is not the primary.
        hint = caught.value.hint or ""
        assert ("destroy()" in hint, "target_session_attrs=read-write" in hint) == (not found.standby, found.standby)
