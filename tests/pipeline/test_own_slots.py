"""Consumers with a slot of their own: nobody waits for anybody, and they run, stop and go as one pipeline.

Over 400 lines because each moment of one half is tried beside the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

import pgcdc
from pgcdc import ConfigError, PositionError, SinkRejected
from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor
from pgcdc.pipeline import MemoryPositions, SqlitePositions, ownership
from pgcdc.testing import play
from tests.demo import running as program
from tests.pipeline.running import DEADLINE, Running, confirmed, flushed, running, slots, until
from tests.pipeline.shop import ORDERS, left_behind, publications
from tests.pipeline.targets import Recorder, mirrored
from tests.pipeline.test_isolation import MANY, Held, ids, insert
from tests.program import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


class Refuses(Recorder):
    """Takes all but one row."""

    def __init__(self, refused: int) -> None:
        super().__init__()
        self.refused = refused

    def write(self, batch: pgcdc.Batch) -> None:
        for change in batch.changes():
            if change.new.id == self.refused:  # type: ignore[union-attr]
                raise SinkRejected("not this one", positions=[change.position])  # type: ignore[list-item]
        super().write(batch)


def two(database: Database, own: Any, shared: Any = None, **settings: Any) -> pgcdc.Pipeline:
    """A pipeline of one consumer with a slot of its own, and one that has none, unless it is left out."""
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], max_rows_in_flight=200, **settings)
    if shared is not None:
        pipeline.add(shared, name="cache")
    pipeline.add(own, name="search", own_slot=True)
    return pipeline


def both_stream(run: Running) -> None:
    def streams() -> bool:
        statistics = run.pipeline.statistics()
        sources = [statistics.source, *statistics.own_slots.values()]
        return not run.alive or (bool(statistics.own_slots) and all(one.phase == "streaming" for one in sources))

    until(streams, "both slots stream")
    if run.error is not None:
        raise run.error


def test_nobody_waits_for_it_and_no_spool_is_needed(database: Database) -> None:
    """It hangs, and its queue is full; the other gets everything, and its slot is confirmed. Then it catches up."""
    database.execute(ORDERS, "INSERT INTO orders VALUES (-1, 'old')")
    slow, fast = Held(), Recorder()
    pipeline = two(database, slow, fast)
    try:
        with running(pipeline) as run:
            assert slow.reached.wait(DEADLINE)
            insert(database, 0, MANY)
            end = flushed(database)
            until(lambda: len(fast.changes) == MANY + 1, "the other has everything")
            until(lambda: confirmed(database) >= end, "and its slot is confirmed")
            statistics = pipeline.statistics()
            assert set(statistics.consumers) == {"cache", "search"}
            assert (statistics.consumers["search"].delivered, slow.changes) == (0, [])
            assert slots(database) == ["pgcdc_shop", "pgcdc_shop__search"]
            with pytest.raises(TimeoutError):
                pipeline.wait_sync(end, 0.05)
            slow.go_on.set()
            run.catch_up(database)
            until(lambda: confirmed(database, "pgcdc_shop__search") >= end, "its own slot is confirmed")
    finally:
        slow.go_on.set()
    assert ids(slow) == ids(fast) == list(range(-1, MANY))
    assert [one.slot for one in pipeline.outline().consumers] == ["pgcdc_shop", "pgcdc_shop__search"]


def test_it_goes_on_where_it_was_and_goes_with_the_pipeline(new_orders: Database) -> None:
    first = Recorder()
    with running(two(new_orders, first, Recorder())) as run:
        both_stream(run)
    new_orders.execute("INSERT INTO orders VALUES (2, 'new')")
    own, shared = Recorder(), Recorder()
    pipeline = two(new_orders, own, shared)
    with running(pipeline) as run:
        both_stream(run)
        run.catch_up(new_orders)
        with pytest.raises(ConfigError, match="runs"):
            pipeline.destroy()
    assert (ids(first), ids(own), ids(shared)) == ([1], [2], [2])
    assert publications(new_orders) == ["pgcdc_shop", "pgcdc_shop__search"]
    pipeline.destroy()
    assert left_behind(new_orders) == ([], [], 0)


def test_alone_it_is_all_that_runs(new_orders: Database) -> None:
    own = Recorder()
    pipeline = two(new_orders, own)
    with running(pipeline) as run:
        both_stream(run)
        run.catch_up(new_orders)
        assert slots(new_orders) == ["pgcdc_shop__search"] == pipeline.outline().slots
        assert pipeline.statistics().source.phase == "streaming"
    pipeline.stop()  # after the last run it does nothing
    with running(pipeline) as run:  # an earlier stop does not end a later run
        both_stream(run)
    assert ids(own) == [1]


def test_its_error_ends_all_and_nothing_is_lost(new_orders: Database) -> None:
    own, shared = Refuses(3), Recorder()
    run = Running(two(new_orders, own, shared))
    both_stream(run)
    new_orders.execute("INSERT INTO orders SELECT g, 'new' FROM generate_series(2, 4) g")
    error = run.ended()
    assert isinstance(error, SinkRejected) and "'search'" in str(error) + str(getattr(error, "__notes__", ""))
    own.refused = 0
    with running(two(new_orders, own, shared)) as again:
        both_stream(again)
        again.catch_up(new_orders)
    assert ids(shared) == [1, 2, 3, 4]
    assert sorted(set(ids(own))) == [1, 2, 3, 4]


def test_its_dead_letters_are_the_pipelines(new_orders: Database) -> None:
    own = Refuses(2)
    pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    pipeline.add(Recorder(), name="cache")
    pipeline.add(own, name="search", own_slot=True, on_failure="park")
    with running(pipeline) as run:
        both_stream(run)
        new_orders.execute("INSERT INTO orders VALUES (2, 'bad'), (3, 'good')")
        run.catch_up(new_orders)
        [letter] = pipeline.dead_letters.list()
        assert (letter.pipeline, letter.consumer, pipeline.dead_letters.show(letter.id).id) == (
            "shop/search",
            "search",
            letter.id,
        )
        own.refused = 0
        assert list(pipeline.dead_letters.retry(consumer="search")) == [letter.id]
        until(lambda: not pipeline.dead_letters.list(), "it is delivered")
    assert sorted(ids(own)) == [1, 2, 3]


def test_a_migration_of_its_own_runs_with_it(new_orders: Database) -> None:
    seen: list[tuple[str, int]] = []
    own = Recorder()
    pipeline = two(new_orders, own, Recorder())
    for consumer in (None, "search"):

        @pipeline.migrate("orders", consumer=consumer)
        def migrate(old: pgcdc.Relation, new: pgcdc.Relation, whose: str = str(consumer)) -> None:
            seen.append((whose, len(new.columns) - len(old.columns)))

    with running(pipeline) as run:
        both_stream(run)
        new_orders.execute("ALTER TABLE orders ADD COLUMN note text", "INSERT INTO orders VALUES (2, 'new', 'x')")
        run.catch_up(new_orders)
    assert sorted(seen) == [("None", 1), ("search", 1)]


def test_a_migration_of_the_pipeline_needs_somebody_on_its_slot(new_orders: Database) -> None:
    pipeline = two(new_orders, Recorder())
    pipeline.migrate("orders")(lambda old, new: None)
    with pytest.raises(ConfigError, match="which no consumer gets"):
        pipeline.run()


def test_from_the_pipelines_slot_to_its_own_and_back(new_orders: Database) -> None:
    """What it had is refused until somebody says that it may go; nothing is left on the server in between."""
    shared = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    shared.add(Recorder(), name="search")
    shared.add(Recorder(), name="cache")
    with running(shared) as run:
        run.streaming()
    moved = two(new_orders, Recorder(), Recorder())
    with pytest.raises(PositionError, match="'search', which is not registered"):
        moved.run()
    moved.forget("search")
    with running(moved) as run:
        both_stream(run)
    assert slots(new_orders) == ["pgcdc_shop", "pgcdc_shop__search"]
    moved.forget("search")
    assert (slots(new_orders), publications(new_orders)) == (["pgcdc_shop"], ["pgcdc_shop"])


def test_with_the_last_one_its_slot_goes(new_orders: Database) -> None:
    """There and back; a slot that nobody has a position for would keep WAL for nobody, and a start would refuse it."""

    def shop(own_slot: bool) -> tuple[pgcdc.Pipeline, Recorder]:
        sink = Recorder()
        pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
        pipeline.add(sink, name="search", own_slot=own_slot)
        return pipeline, sink

    for own_slot, slot in ((False, "pgcdc_shop"), (True, "pgcdc_shop__search"), (False, "pgcdc_shop")):
        pipeline, sink = shop(own_slot)
        with running(pipeline) as run:
            until(lambda sink=sink: len(sink.changes) == 1, "copied")  # type: ignore[misc]
            run.catch_up(new_orders)
        assert (slots(new_orders), publications(new_orders)) == ([slot], [slot])
        pipeline.forget("search")
        assert (slots(new_orders), publications(new_orders)) == ([], [])


def test_a_stop_before_the_run_stops_both(new_orders: Database) -> None:
    pipeline = two(new_orders, Recorder(), Recorder())
    pipeline.stop()
    pipeline.run()
    assert {one.phase for one in (pipeline.statistics().source, *pipeline.statistics().own_slots.values())} == {
        "stopped"
    }


@pytest.mark.parametrize("shared", [True, False], ids=["both kinds", "own slots only"])
@pytest.mark.parametrize("moments", [0, 1, 3, 10, 40])
def test_a_stop_at_any_moment_of_a_second_run_ends_it(new_orders: Database, shared: bool, moments: int) -> None:
    pipeline = two(new_orders, Recorder(), Recorder() if shared else None)
    with running(pipeline) as run:
        both_stream(run)
    again = Running(pipeline)
    until(lambda: pipeline._joint, "it has begun")  # before, a stop is one after the last run
    for _ in range(moments):
        pipeline.statistics()
        threading.Event().wait(0.01)
    again.stop()
    assert again.error is None


@pytest.mark.parametrize("shared", [True, False], ids=["both kinds", "own slots only"])
@pytest.mark.parametrize("refused", [True, False], ids=["refused", "stopped"])
def test_who_waits_for_what_does_not_begin_is_told(new_orders: Database, shared: bool, refused: bool) -> None:
    pipeline = two(new_orders, Recorder(), Recorder() if shared else None)
    if refused:
        new_orders.execute("DROP TABLE orders")
    else:
        pipeline.stop()
    futures = pipeline._reaching(flushed(new_orders))
    assert len(futures) == 1 + shared
    with pytest.raises(ConfigError, match="orders") if refused else contextlib.nullcontext():
        pipeline.run()
    for future in futures:
        # One that had begun is stopped by the refusal of the other.
        with pytest.raises(pgcdc.Error, match="was stopped before it was so far" + "|orders" * refused):
            future.result(0)


@pytest.mark.parametrize("how", ["stopped", "cancelled"])
def test_a_stop_is_heard_while_the_store_does_not_answer(newest_database: Database, how: str) -> None:
    """Where all have slots of their own, what is stored of the pipeline's is looked at first."""
    newest_database.execute(ORDERS)
    looks, answers, ended = threading.Event(), threading.Event(), threading.Event()
    pipeline = two(newest_database, Recorder())

    def hangs() -> None:
        looks.set()
        answers.wait(DEADLINE)
        ended.set()

    async def cancel() -> None:
        task = asyncio.create_task(pipeline.arun())
        assert await asyncio.to_thread(looks.wait, DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    try:
        with mock.patch.object(pipeline, "_check_alone", hangs):
            if how == "cancelled":
                asyncio.run(cancel())
            else:
                run = Running(pipeline)
                assert looks.wait(DEADLINE)
                run.stop()
                assert run.error is None
            assert not ended.is_set()
    finally:
        answers.set()
    assert ended.wait(DEADLINE)
    assert slots(newest_database) == []


def test_a_standby_that_is_stopped_ends_in_a_second_run_too(new_orders: Database) -> None:
    waiting = two(new_orders, Recorder(), Recorder(), standby=True)
    with running(waiting) as run:
        both_stream(run)
    with running(two(new_orders, Recorder(), Recorder())) as other:
        both_stream(other)
        again = Running(waiting)
        until(lambda: waiting.statistics().source.phase == "standby", "it waits")
        again.stop()
        assert again.error is None


def test_played_it_is_one_of_them() -> None:
    own, shared = Recorder(), Recorder()
    pipeline = pgcdc.Pipeline("shop", tables=["orders"], positions=MemoryPositions())
    pipeline.add(shared, name="cache")
    pipeline.add(own, name="search", own_slot=True)
    play(pipeline, [pgcdc.testing.insert("orders", {"id": 1, "status": "new"})])
    assert len(own.changes) == len(shared.changes) == 1


@pytest.mark.parametrize("name", ["Search", "s" * 60])
def test_a_name_that_no_slot_can_have_is_refused(name: str) -> None:
    pipeline = pgcdc.Pipeline("shop", tables=["orders"])
    with pytest.raises(ConfigError, match="cannot be the name of a replication slot"):
        pipeline.add(Recorder(), name=name, own_slot=True)
    with pytest.raises(ConfigError, match="neither True nor False"):
        pipeline.add(Recorder(), name="search", own_slot="search")  # type: ignore[arg-type]


class OnlyOnce:
    """A store of positions as somebody else may have written it."""

    def __init__(self) -> None:
        self.store = MemoryPositions()
        self.open, self.load, self.close = self.store.open, self.store.load, self.store.close
        self.move, self.forget = self.store.move, self.store.forget


def test_a_store_that_cannot_be_opened_again_is_refused(new_orders: Database) -> None:
    pipeline = two(new_orders, Recorder(), Recorder(), positions=OnlyOnce())
    with pytest.raises(ConfigError, match="cannot be opened once more") as caught:
        pipeline.run()
    assert "again()" in str(caught.value.hint)


def test_positions_in_a_file_serve_both(new_orders: Database, tmp_path: Path) -> None:
    for expected in ([1], [1, 2]):
        own, shared = Recorder(), Recorder()
        with running(two(new_orders, own, shared, positions=SqlitePositions(tmp_path / "positions.db"))) as run:
            both_stream(run)
            run.catch_up(new_orders)
        assert ids(own) == ids(shared) == expected[-1:]
        new_orders.execute("INSERT INTO orders VALUES (2, 'new') ON CONFLICT DO NOTHING")


def test_a_configuration_file_says_it(new_orders: Database, tmp_path: Path) -> None:
    file = tmp_path / "pgcdc.toml"
    file.write_text(
        f"""
        [pipeline]
        name = "shop"
        dsn = "{new_orders.dsn}"
        tables = ["orders"]
        [consumers.search]
        sink = "sqlite"
        own_slot = true
        options = {{ path = "{tmp_path / "shop.db"}" }}
        """
    )
    pipeline = build(str(file), Redactor({}))
    with running(pipeline) as run:
        both_stream(run)
        assert slots(new_orders) == ["pgcdc_shop__search"]


def test_another_pipeline_of_the_name_is_another(new_orders: Database) -> None:
    """Whatever it is called: what is stored of it, and its slot, are not the consumer's."""
    names = ("shop_search", "shop__search")
    for name in names:
        other = pgcdc.Pipeline(name, new_orders.dsn, tables=["orders"])
        other.add(Recorder(), name="search")
        with running(other) as run:
            run.streaming()
            run.catch_up(new_orders)
    there = slots(new_orders)
    assert sorted(there) == sorted(f"pgcdc_{name}" for name in names)
    mine = two(new_orders, Recorder(), Recorder())
    with pytest.raises(pgcdc.Error, match="slot"):
        mine.run()
    mine.forget("search")
    mine.destroy()
    assert slots(new_orders) == there
    stored = new_orders.execute("SELECT pipeline, consumer FROM pgcdc.positions")
    assert sorted(stored) == sorted((name, "search") for name in names)
    with pytest.raises(ConfigError, match="cannot be the name of a pipeline"):
        pgcdc.Pipeline("shop/search", new_orders.dsn, tables=["orders"])


def test_a_slot_of_its_own_is_not_left_behind(new_orders: Database) -> None:
    """One that keeps WAL for nobody fills the server's disk."""
    with running(two(new_orders, Recorder(), Recorder())) as run:
        both_stream(run)

    def without(name: str, *, own_slot: bool) -> pgcdc.Pipeline:
        pipeline = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
        pipeline.add(Recorder(), name="cache")
        pipeline.add(Recorder(), name=name, own_slot=own_slot)
        return pipeline

    for name, own_slot in (("search", False), ("finder", True)):
        with pytest.raises(PositionError, match="'search' of pipeline 'shop' had a slot of its own") as caught:
            without(name, own_slot=own_slot).run()
        assert "Pipeline.forget('search')" in str(caught.value.hint)
    with pytest.raises(PositionError, match="cannot be renamed"):
        without("finder", own_slot=True).rename("search", "finder")
    bare = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    assert any("pgcdc_shop__search" in step.name for step in bare.plan_destroy().steps)
    without("search", own_slot=False).forget("search")
    assert "pgcdc_shop__search" not in slots(new_orders)
    with running(two(new_orders, Recorder(), Recorder())) as run:
        both_stream(run)
    bare.destroy()
    assert left_behind(new_orders)[:1] == ([],)
    assert new_orders.execute("SELECT count(*) FROM pgcdc.positions") == [(0,)]


def test_the_pipelines_slot_is_not_left_behind(new_orders: Database) -> None:
    """Its last consumer goes to a slot of its own: nothing would look at what it had."""
    shared = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    shared.add(Recorder(), name="search")
    with running(shared) as run:
        run.streaming()
    moved = two(new_orders, Recorder())
    with pytest.raises(PositionError, match="'search', which is not registered"):
        moved.run()
    moved.forget("search")
    with running(moved) as run:
        both_stream(run)
        assert moved.statistics().name == "shop"
        with pytest.raises(ConfigError, match="while the pipeline runs"):
            moved.add(Recorder(), name="late")
        new_orders.execute("ALTER TABLE orders ADD COLUMN note text", "INSERT INTO orders VALUES (2, 'new', 'x')")
        run.catch_up(new_orders)
    assert [version.version for version in moved.schema_history("orders")] == [1, 2]


def test_the_way_out_is_that_of_the_consumer(new_orders: Database) -> None:
    with running(two(new_orders, Recorder(), Recorder())) as run:
        both_stream(run)
    new_orders.execute("SELECT pg_drop_replication_slot('pgcdc_shop__search')")
    with pytest.raises(pgcdc.Error, match="pgcdc_shop__search") as caught:
        two(new_orders, Recorder(), Recorder()).run()
    assert "Pipeline.forget('search')" in str(caught.value.hint) and "destroy" not in str(caught.value.hint)


def test_nothing_begins_beside_a_start_that_is_refused(new_orders: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the pipeline, in which both were on its slot: two would write to one target."""
    monkeypatch.setattr(ownership, "TAKE_OVER_WITHIN", 0.3)
    before, after = Recorder(), Recorder()
    shared = pgcdc.Pipeline("shop", new_orders.dsn, tables=["orders"])
    shared.add(Recorder(), name="cache")
    shared.add(before, name="search")
    with running(shared) as run:
        run.streaming()
        with pytest.raises(pgcdc.SlotInUse):
            two(new_orders, after, Recorder()).run()
        assert (after.opened, slots(new_orders)) == (0, ["pgcdc_shop"])
    waiting = two(new_orders, after, Recorder(), standby=True)
    waiting.forget("search")
    with running(shared := two(new_orders, Recorder(), Recorder())) as run:
        both_stream(run)
        standby = Running(waiting)
        until(lambda: waiting.statistics().source.phase == "standby", "it waits")
        assert after.opened == 0
        standby.stop()
        assert standby.error is None


def test_who_looks_from_outside_sees_both_slots(new_orders: Database, tmp_path: Path) -> None:
    file = tmp_path / "pgcdc.toml"
    sink = 'sink = "tests.pipeline.targets:Recorder"'
    file.write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{new_orders.dsn}"\ntables = ["orders"]\n'
        f"[consumers.cache]\n{sink}\n[consumers.search]\n{sink}\nown_slot = true\n"
    )
    with running(build(str(file), Redactor({}))) as run:
        both_stream(run)
        lag = program.run("lag", str(file), "--json")
        assert [json.loads(line)["name"] for line in lag.stdout.splitlines()] == ["pgcdc_shop", "pgcdc_shop__search"]
        doctor = program.run("doctor", str(file), "--json")
        findings = [json.loads(line) for line in doctor.stdout.splitlines()]
        usable = [one["found"] for one in findings if one["check"] == "slot"]
        assert len(usable) == 2 and "pgcdc_shop__search" in "".join(one["title"] for one in findings)
    script = program.run("doctor", str(file), "--role", "app").stdout
    assert script.count("CREATE PUBLICATION") == 2


@pytest.mark.parametrize("shared", [True, False], ids=["both kinds", "own slots only"])
def test_killed_and_ended_by_a_signal_both_have_all(new_orders: Database, tmp_path: Path, shared: bool) -> None:
    """Two kills while it is written to, then SIGTERM: both targets are equal to the source, nothing came twice."""
    names = ["cache", "search"] if shared else ["search"]
    file = tmp_path / "pgcdc.toml"
    consumers = "".join(
        f'[consumers.{name}]\nsink = "tests.pipeline.targets:SqliteMirror"\n'
        f"own_slot = {str(name == 'search').lower()}\noptions = {{ path = '{tmp_path / name}.db' }}\n"
        for name in names
    )
    file.write_text(f'[pipeline]\nname = "shop"\ndsn = "{new_orders.dsn}"\ntables = ["orders"]\n{consumers}')
    paths = f"{REPOSITORY / 'python'}:{REPOSITORY}"

    def all_have(count: int) -> bool:
        files = [tmp_path / f"{name}.db" for name in names]
        with contextlib.suppress(sqlite3.OperationalError):  # it has just been made
            return all(one.exists() and len(mirrored(one, "orders")) >= count for one in files)
        return False

    written = 1
    for last in (False, False, True):
        process = program.start("run", str(file), PYTHONPATH=paths)
        try:
            until(partial(all_have, written), "both have what there was")
            rows = f"generate_series({written + 1}, {written + 500}) g"
            new_orders.execute(f"INSERT INTO orders SELECT g, 'new' FROM {rows}")
            written += 500
            if last:
                until(partial(all_have, written), "both have everything")
                process.terminate()
        finally:
            if not last or sys.exc_info()[0] is not None:
                process.kill()
            ended = program.finish(process)
        assert ended.code == (0 if last else -9), ended.stderr
    expected = [row for (row,) in new_orders.execute("SELECT id || '|' || status FROM orders ORDER BY id")]
    for name in names:
        assert mirrored(tmp_path / f"{name}.db", "orders") == expected
