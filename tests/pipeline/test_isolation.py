"""A slow consumer and the others: nobody waits for it, and nothing is lost, whatever ends (F10, F16, F18, F19).

Over 400 lines because all of it takes a slow consumer, a real server and a spool on a disk.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
import pgcdc.replication
from pgcdc import PositionError, SinkUnavailable, SpoolInUse
from pgcdc.pipeline import MemoryPositions, SpoolOptions, beginning, ownership
from pgcdc.protocol import Spool
from pgcdc.replication import Reconnect
from tests import program
from tests.pipeline.running import DEADLINE, Running, confirmed, flushed, running, slots, until
from tests.pipeline.shop import ORDERS, run_once
from tests.pipeline.targets import Recorder, logged, mirrored
from tests.pipeline.test_reconnect import SOON, terminate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

MANY = 3_000


class Held(Recorder):
    """Takes nothing before it is let; when it is to leave, it is not available."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.leaves = False

    def write(self, batch: pgcdc.Batch) -> None:
        self.reached.set()
        assert self.go_on.wait(DEADLINE)
        if self.leaves:
            raise SinkUnavailable("it has left")
        super().write(batch)

    def leave(self) -> None:
        """The run can be stopped."""
        self.leaves = True
        self.go_on.set()


def ids(sink: Recorder) -> list[int]:
    return [change.new.id for change in sink.changes]


def insert(database: Database, first: int, count: int, size: int = 100) -> int:
    """Transactions of up to 500 rows, of so many bytes that cannot be compressed.

    Returns an LSN before the last one's end: that far the slot is confirmed when all of them are durable somewhere.
    """
    before = 0
    data = f"SELECT string_agg(md5(concat(g, '.', n)), '') FROM generate_series(1, {size // 32}) n"
    with database.connect() as connection:
        for start in range(first, first + count, 500):
            last = min(start + 500, first + count) - 1
            before = flushed(database)
            connection.execute(f"INSERT INTO orders SELECT g, ({data}) FROM generate_series({start}, {last}) g")
    return before


def occupy(database: Database, sink: Held) -> None:
    """It has a row that it does not get done with: what comes after it does not pass because it is alone."""
    database.execute("INSERT INTO orders VALUES (0, 'first')")
    assert sink.reached.wait(DEADLINE)


def shop(database: Database, spool: Path | SpoolOptions | None, **settings: Any) -> pgcdc.Pipeline:
    return pgcdc.Pipeline(
        "shop",
        database.dsn,
        tables=["orders"],
        snapshot="never",
        max_rows_in_flight=settings.pop("max_rows_in_flight", 200),
        spool=spool,
        **settings,
    )


def persistent(directory: Path, **sizes: int) -> SpoolOptions:
    """Wherever tests are run: their directories stay as long as they need them."""
    return SpoolOptions(directory=directory, persistent=True, **sizes)


@pytest.fixture
def empty_orders(newest_database: Database) -> Database:
    newest_database.execute(ORDERS)
    return newest_database


def test_a_consumer_that_hangs_does_not_hold_the_others(database: Database, tmp_path: Path) -> None:
    """They get everything, and it is durable, while it has got nothing; it catches up. Its rows are not in memory."""
    database.execute(ORDERS)
    slow, fast = Held(), Recorder()
    handled: list[int] = []
    pipeline = shop(database, tmp_path)
    pipeline.add(slow, name="slow")
    pipeline.add(fast, name="fast")

    @pipeline.on("orders", "insert", name="handler")
    async def handle(change: pgcdc.Change[Any]) -> None:
        handled.append(change.new.id)  # type: ignore[union-attr]

    try:
        with running(pipeline) as run:
            run.streaming()
            occupy(database, slow)
            insert(database, 1, MANY)
            end = flushed(database)
            until(lambda: len(fast.changes) == len(handled) == MANY + 1, "the others have everything")
            until(lambda: pipeline.statistics().consumers["fast"].through_lsn >= end, "and say so")
            statistics = pipeline.statistics().consumers["slow"]
            assert (slow.changes, statistics.delivered, statistics.waiting) == ([], 0, "spool")
            assert statistics.queued_rows <= 200
            assert statistics.spooled_batches > 0 and statistics.spooled_bytes > MANY * 8
            assert confirmed(database) < end, "the slot waits for it"
            slow.go_on.set()
            run.catch_up(database)
            insert(database, MANY + 1, 1)
            run.catch_up(database)
            until(lambda: pipeline.statistics().consumers["slow"].waiting == "memory", "the spool is read")
            until(lambda: confirmed(database) >= end, "the slot goes on")
    finally:
        slow.go_on.set()
    assert ids(slow) == ids(fast) == handled == list(range(MANY + 2))


def test_the_slot_goes_on_past_a_consumer_that_is_away(
    empty_orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the strength of its spool, without which nothing goes on; the spool outlives the run, and the connection."""
    database, directory = empty_orders, tmp_path / "spool"
    slow = Held()

    def shop_of(sink: Recorder, spool: Path | None = directory) -> pgcdc.Pipeline:
        options = None if spool is None else persistent(spool)
        pipeline = shop(database, options, confirm_spooled=spool is not None, reconnect=SOON)
        pipeline.add(sink, name="slow")
        return pipeline

    try:
        with running(shop_of(slow)) as run:
            run.streaming()
            occupy(database, slow)
            end = insert(database, 1, MANY)
            until(lambda: confirmed(database) >= end, "the slot is confirmed past it")
            assert slow.changes == []
            terminate(database, "walsender")
            end = insert(database, MANY + 1, 1010)
            until(lambda: confirmed(database) >= end, "and so it is after another connection")
            slow.leave()
    finally:
        slow.leave()
    end = confirmed(database)

    files = {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()}
    elsewhere = pgcdc.Pipeline(
        "shop", database.dsn, tables=["orders"], spool=persistent(directory), positions=MemoryPositions()
    )
    elsewhere.add(Recorder(), name="slow")
    with pytest.raises(PositionError, match="no position is stored"):
        elsewhere.run()
    assert {path: path.stat().st_size for path in directory.rglob("*") if path.is_file()} == files, "as it was"

    directory.rename(tmp_path / "aside")
    for spool in (directory, None):
        with pytest.raises(PositionError, match=r"on the strength of spool [0-9a-f]{32}, which is not there") as caught:
            run_once(database, shop_of(Recorder(), spool))
        assert "Pipeline.destroy()" in (caught.value.hint or "")
        assert confirmed(database) == end
    with Spool(directory / "pgcdc_shop" / "slow"):
        pass  # an empty one was made there; it is in nobody's way
    (tmp_path / "lost").mkdir()
    directory.rename(tmp_path / "lost" / "spool")
    (tmp_path / "aside").rename(directory)

    sink = Recorder()
    pipeline = shop_of(sink)
    run_once(database, pipeline)
    assert ids(sink) == list(range(MANY + 1011))
    again = Recorder()
    run_once(database, shop_of(again))
    assert again.changes == [], "what was released may be read again, and is not delivered again"
    # An end of it that is lost is noticed, too: here all of it but its name.
    for segment in (directory / "pgcdc_shop" / "slow").glob("*.segment"):
        segment.unlink()
    run_once(database, shop_of(Recorder()))  # nothing of it was needed any more
    pipeline.destroy()
    assert slots(database) == [] and not (directory / "pgcdc_shop" / "slow").exists()


def test_killed_while_a_target_is_away(empty_orders: Database, tmp_path: Path) -> None:
    """kill -9 with a spool that is not empty, in the middle of a transaction that was spooled in part; twice."""
    database = empty_orders
    module = "tests.pipeline.killed_spooling"

    def start(*arguments: str) -> program.Program:
        return program.Program(module, tmp_path / "stderr.log", database.dsn, str(tmp_path), *arguments)

    first = start()
    until(lambda: slots(database) == ["pgcdc_shop"], "it has its slot")
    until(lambda: _streams(database), "it streams")
    database.execute("INSERT INTO orders VALUES (0, 'first')")
    until(lambda: (tmp_path / "handled.log").read_bytes() != b"", "the mirror has got it, too, and is away")
    end = insert(database, 1, MANY)
    until(lambda: confirmed(database) >= end, f"confirmed past it; {(tmp_path / 'stderr.log').read_text()[-2000:]}")
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    for first_key in (10_000, 20_000):
        dies = start("--die", "1000")
        keys = f"generate_series({first_key}, {first_key + 4_999}) g"  # 7 MB: many reads
        database.execute(
            f"INSERT INTO orders SELECT g, repeat('x', 1500) FROM {keys}",
            "UPDATE orders SET status = 'paid' WHERE id % 100 = 0",
        )
        assert dies.end(None) == -signal.SIGKILL, (tmp_path / "stderr.log").read_text()[-2000:]
    (tmp_path / "up").touch()
    last = start()
    try:
        database.execute("INSERT INTO orders VALUES (-1, 'last')")

        def is_there() -> bool:
            return any(data.startswith("-1|") for data in mirrored(tmp_path / "mirror.db", "orders"))

        until(is_there, "the mirror has the last row", 60, pause=0.1)
    finally:
        code = last.end(signal.SIGTERM)
    assert code == 0, (tmp_path / "stderr.log").read_text()[-2000:]
    rows = database.execute("SELECT concat_ws('|', id, status) FROM orders ORDER BY id")
    assert mirrored(tmp_path / "mirror.db", "orders") == [row for (row,) in rows]
    log = logged(tmp_path / "mirror.db")
    assert [position for position, *_ in log] == sorted({position for position, *_ in log}), "in order, nothing twice"
    handled = {tuple(line.split()) for line in (tmp_path / "handled.log").read_text().splitlines()}
    assert handled == {(position, action, str(key)) for position, action, _, key in log}, "both have the same"


def _streams(database: Database) -> bool:
    return bool(database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop' AND active"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    made = None if os.name != "posix" else subprocess.run(command, capture_output=True, text=True, check=False)
    if made is None or made.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_holds_the_stream_until_there_is_room(
    empty_orders: Database, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The others wait, too, then; what is not durable is not confirmed, and nothing is lost (F10)."""
    database = empty_orders
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_700_000))
    slow, fast = Held(), Recorder()
    pipeline = shop(database, persistent(small_disk / "spool"), confirm_spooled=True)
    pipeline.add(slow, name="slow")
    pipeline.add(fast, name="fast", spool=False)
    try:
        with running(pipeline) as run:
            run.streaming()
            occupy(database, slow)
            end = insert(database, 1, 1500, size=1024)
            until(lambda: pipeline.statistics().consumers["slow"].waiting == "full", "the disk is full")
            assert run.alive
            assert confirmed(database) < end
            filler.unlink()
            until(lambda: confirmed(database) >= end, "it has gone on, and the slot")
            until(lambda: len(fast.changes) == 1501, "the others have everything")
            assert pipeline.statistics().consumers["slow"].waiting == "spool" and slow.changes == []
            slow.go_on.set()
            run.catch_up(database)
    finally:
        slow.go_on.set()
    assert ids(slow) == ids(fast) == list(range(1501))
    assert "No space left on device" in caplog.text and "there is room again" in caplog.text


def test_a_spool_that_may_take_no_more_holds_the_stream(
    empty_orders: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow, fast = Held(), Recorder()
    pipeline = shop(empty_orders, SpoolOptions(directory=tmp_path, max_bytes=60_000, segment_bytes=20_000))
    pipeline.add(slow, name="slow")
    pipeline.add(fast, name="fast")
    try:
        with running(pipeline) as run:
            run.streaming()
            occupy(empty_orders, slow)
            insert(empty_orders, 1, 10_000)
            until(lambda: pipeline.statistics().consumers["slow"].waiting == "full", "it is full")
            assert pipeline.statistics().consumers["slow"].spooled_bytes <= 60_000
            slow.go_on.set()
            run.catch_up(empty_orders)
    finally:
        slow.go_on.set()
    assert ids(slow) == ids(fast) == list(range(10_001))
    assert "consumer 'slow': its spool has no room" in caplog.text


def test_a_table_that_is_added_comes_behind_what_is_in_the_spool(empty_orders: Database, tmp_path: Path) -> None:
    """Its rows have a later position than all that was spooled; afterwards both tables come by the stream."""
    database = empty_orders
    database.execute("CREATE TABLE items (id bigint PRIMARY KEY)", "INSERT INTO items VALUES (7)")

    def shop_with(sink: Recorder, *tables: str) -> pgcdc.Pipeline:
        spool = persistent(tmp_path / "spool")
        pipeline = pgcdc.Pipeline(
            "shop", database.dsn, tables=tables, spool=spool, confirm_spooled=True, max_rows_in_flight=50
        )
        pipeline.add(sink, name="sink")
        return pipeline

    slow, sink = Held(), Recorder()
    try:
        with running(shop_with(slow, "orders")) as run:
            run.streaming()
            occupy(database, slow)
            end = insert(database, 1, 1000)
            until(lambda: confirmed(database) >= end, "the slot is confirmed past it")
            slow.leave()
    finally:
        slow.leave()
    with running(shop_with(sink, "orders", "items")) as run:
        run.streaming()
        run.catch_up(database)
        database.execute("INSERT INTO orders VALUES (2000, 'x')", "INSERT INTO items VALUES (8)")
        run.catch_up(database)
    changes = [(change.table, change.new.id) for change in sink.changes if change.action == "insert"]
    assert changes == [*(("orders", key) for key in range(1001)), ("items", 7), ("orders", 2000), ("items", 8)]
    positions = [change.position for change in sink.changes]
    assert positions == sorted(positions)


def test_a_spool_is_somebody_elses(empty_orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped and has lost its slot may still hold its spool: nobody reads or writes beside it."""
    monkeypatch.setattr(beginning, "TAKE_OVER_WITHIN", 0.2)
    pipeline = shop(empty_orders, tmp_path)
    pipeline.add(Recorder(), name="sink")
    with Spool(tmp_path / "pgcdc_shop" / "sink"):
        with pytest.raises(SpoolInUse, match="belongs to another process"):
            run_once(empty_orders, pipeline)
        with pytest.raises(SpoolInUse):
            pipeline.destroy()
    run_once(empty_orders, pipeline)
    assert confirmed(empty_orders) > 0


def test_what_becomes_of_the_directories(empty_orders: Database, tmp_path: Path) -> None:
    above = tmp_path / "pgcdc_shop"

    def shop_of(*names: str) -> pgcdc.Pipeline:
        pipeline = shop(empty_orders, persistent(tmp_path), confirm_spooled=True)
        for name in names:
            pipeline.add(Recorder(), name=name)
        return pipeline

    run_once(empty_orders, shop_of("a", "b"))
    with Spool(above / "a") as spool:
        id_of_a = spool.id
    shop_of("b", "c").rename("a", "c")
    assert sorted(path.name for path in above.iterdir()) == ["b", "c"]
    with Spool(above / "c") as spool:
        assert spool.id == id_of_a
    with pytest.raises(PositionError):
        shop_of("b").rename("b", "c")
    assert sorted(path.name for path in above.iterdir()) == ["b", "c"]
    shop_of("b").forget("c")
    assert [path.name for path in above.iterdir()] == ["b"]
    run_once(empty_orders, shop_of("b"))
    shop_of("b").destroy()
    assert list(above.iterdir()) == []


@pytest.mark.parametrize("own_slot", [False, True])
def test_a_copy_of_the_database_leaves_the_spool_of_the_original(
    empty_orders: Database, tmp_path: Path, own_slot: bool
) -> None:
    """What is in it may be nowhere else; the copy has the same slot's name, and the same stored positions."""

    def shop_of(database: Database) -> pgcdc.Pipeline:
        pipeline = shop(database, persistent(tmp_path), confirm_spooled=True)
        pipeline.add(Recorder(), name="sink", own_slot=own_slot)
        return pipeline

    run_once(empty_orders, shop_of(empty_orders))
    [kept] = tmp_path.glob("*/sink")
    name = f"{empty_orders.name}_copy"
    with empty_orders.server.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{empty_orders.name}"')
    try:
        copy = type(empty_orders)(empty_orders.server, name)
        with pytest.raises(pgcdc.Error):
            shop_of(copy).run()
        shop_of(copy).rename("sink", "other") if not own_slot else None
        shop_of(copy).forget("other" if not own_slot else "sink")
        shop_of(copy).destroy()
    finally:
        with empty_orders.server.connect() as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    assert sorted(path.name for path in kept.iterdir()) != []
    empty_orders.execute("INSERT INTO orders VALUES (1, 'x')")
    run_once(empty_orders, shop_of(empty_orders))
    shop_of(empty_orders).destroy()
    assert not kept.exists()


@pytest.mark.parametrize("knows", ["old", "new"])
def test_a_directory_of_its_own_goes_with_the_consumers_name(
    empty_orders: Database, tmp_path: Path, knows: str
) -> None:
    """What is in it may be nowhere else: under the other name it is refused before, and there after."""

    def shop_of(name: str) -> tuple[pgcdc.Pipeline, Held]:
        sink = Held()
        pipeline = shop(empty_orders, None)
        pipeline.add(sink, name=name, spool=persistent(tmp_path), confirm_spooled=True)
        return pipeline, sink

    pipeline, slow = shop_of("old")
    run = Running(pipeline)
    run.streaming()
    occupy(empty_orders, slow)
    end = insert(empty_orders, 1, 1_000)
    until(lambda: confirmed(empty_orders) >= end, "confirmed past the consumer", pause=0.1)
    slow.leave()
    run.stop()
    pipeline, sink = shop_of("new")
    with pytest.raises(pgcdc.ConfigError) as caught:
        pipeline.run()
    assert "Pipeline.rename('old', 'new')" in str(caught.value.hint)
    unknowing = shop(empty_orders, None)
    with pytest.raises(PositionError, match="none of the pipeline's directories is that one"):
        unknowing.rename("old", "new")
    shop_of(knows)[0].rename("old", "new")  # either name may be registered with the directory
    sink.go_on.set()
    with running(pipeline) as again:
        again.streaming()
        again.catch_up(empty_orders)
    assert ids(sink) == list(range(1_001))
    pipeline.destroy()


# A standby.


def test_a_standby_waits_and_takes_over(
    new_orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ownership, "TAKE_OVER_WITHIN", 0.2)
    sinks = [Recorder() for _ in range(3)]

    def shop_of(sink: Recorder, **settings: Any) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"], spool=tmp_path, **settings)
        pipeline.add(sink, name="sink")
        return pipeline

    first = Running(shop_of(sinks[0]))
    try:
        first.streaming()
    finally:
        second = Running(shop_of(sinks[1], standby=True))
    try:
        until(lambda: second.pipeline.statistics().source.phase == "standby", "it waits")
        until(
            lambda: "waits as a standby: another process runs the pipeline of slot 'pgcdc_shop'" in caplog.text, "why"
        )
        first.catch_up(new_orders)
        assert sinks[1].opened == 0, "nor does it open what the other one writes to"
        with running(shop_of(sinks[2], standby=True)) as third:
            until(lambda: third.pipeline.statistics().source.phase == "standby", "another one waits")
        assert sinks[2].opened == sinks[2].closed, "and ends as it is told to"
        first.stop()
        until(lambda: second.pipeline.statistics().source.phase == "streaming" or not second.alive, "it has taken over")
        new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
        second.catch_up(new_orders)
    finally:
        first.stop()
        second.stop()
    assert (first.error, second.error) == (None, None)
    assert [ids(sink) for sink in sinks] == [[1], [2], []]
    assert "it takes over" in caplog.text


def test_a_standby_and_an_owner_whose_sessions_end_do_not_wait_for_each_other(
    empty_orders: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One may get the lock while the other has the spool: whoever waits for a spool lets go of the lock."""
    database = empty_orders
    for module, name in ((ownership, "TAKE_OVER_WITHIN"), (beginning, "TAKE_OVER_WITHIN"), (beginning, "LET_GO_FOR")):
        monkeypatch.setattr(module, name, 0.3)
    sinks = [Recorder(), Recorder()]
    runs: list[Running] = []
    try:
        for sink, phase in zip(sinks, ("streaming", "standby"), strict=True):
            # Late enough for the second one, which asks for the lock all the time, to have it before.
            pipeline = shop(database, tmp_path, standby=True, reconnect=Reconnect(first=2, longest=2))
            pipeline.add(sink, name="sink")
            runs.append(Running(pipeline))
            until(lambda of=pipeline, phase=phase: of.statistics().source.phase == phase, phase)  # type: ignore[misc]
        database.execute(
            "SELECT pg_terminate_backend(active_pid, 30000) FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop'",
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        until(lambda: [1] in [ids(sink) for sink in sinks] or not all(run.alive for run in runs), "it goes on")
    finally:
        for run in runs:
            run.stop()
    assert [run.error for run in runs] == [None, None]


def test_a_standby_that_was_cut_off_while_it_waited_takes_the_first_copy(
    new_orders: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was held back meanwhile that nobody would let go of."""
    monkeypatch.setattr(ownership, "TAKE_OVER_WITHIN", 0.3)
    sink = Recorder()
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"], standby=True, reconnect=SOON)
    pipeline.add(sink, name="sink")
    with pgcdc.connect(new_orders.dsn) as owner:
        ownership.own(owner, "pgcdc_shop", lambda _: None)
        run = Running(pipeline)
        try:
            asking = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgcdc%'"
                f" AND query LIKE '%pg_try_advisory_lock%' AND pid <> {ours(owner)}"
            )
            until(lambda: bool(new_orders.execute(asking)), "it waits")
            new_orders.execute(f"SELECT pg_terminate_backend(pid, 30000) FROM ({asking}) a")
            until(lambda: pipeline.statistics().source.phase == "standby" or run.error is not None, "it waits again")
            ownership.disown(owner, "pgcdc_shop")
            run.streaming()
            run.catch_up(new_orders)
        finally:
            run.stop()
    assert run.error is None and ids(sink) == [1]


def ours(connection: pgcdc.replication.Connection) -> int:
    """The session that runs a connection's SQL."""
    [(pid,)] = connection.execute("SELECT pg_backend_pid()")
    return int(pid or 0)


# A slot of one's own.


async def test_a_consumer_with_a_slot_of_its_own_is_a_pipeline_of_its_own(empty_orders: Database) -> None:
    """Two of them in one process: neither's slot waits for the other's consumer."""
    slow, fast = Held(), Recorder()
    first, second = (
        pgcdc.Pipeline(name, empty_orders.dsn, tables=["orders"], snapshot="never", max_rows_in_flight=10)
        for name in ("shop", "search")
    )
    first.add(fast)
    second.add(slow)
    runs = asyncio.gather(first.arun(), second.arun())
    try:
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(until, lambda: _phases(first, second) == {"streaming"}, "both stream")
            await asyncio.to_thread(occupy, empty_orders, slow)
            end = await asyncio.to_thread(insert, empty_orders, 1, 1000)
            await asyncio.to_thread(until, lambda: confirmed(empty_orders, "pgcdc_shop") >= end, "one slot goes on")
            assert confirmed(empty_orders, "pgcdc_search") < end
            assert slow.changes == []
            slow.go_on.set()
            await second.wait(end)
    finally:
        slow.go_on.set()
        first.stop()
        second.stop()
        await runs
    assert ids(fast) == list(range(1001))
    assert ids(slow)[:501] == list(range(501))


def _phases(*pipelines: pgcdc.Pipeline) -> set[str]:
    return {pipeline.statistics().source.phase for pipeline in pipelines}
