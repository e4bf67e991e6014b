"""Consumers with a slot of their own: nobody waits for anybody, and they run, stop and go as one pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import ConfigError, PositionError, SinkRejected
from pgcdc.cli.building import build
from pgcdc.cli.redaction import Redactor
from pgcdc.pipeline import MemoryPositions, SqlitePositions
from pgcdc.testing import play
from tests.pipeline.running import DEADLINE, Running, confirmed, flushed, running, slots, until
from tests.pipeline.shop import ORDERS, left_behind, publications
from tests.pipeline.targets import Recorder
from tests.pipeline.test_isolation import MANY, Held, ids, insert

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
            assert slots(database) == ["pgcdc_shop", "pgcdc_shop_search"]
            with pytest.raises(TimeoutError):
                pipeline.wait_sync(end, 0.05)
            slow.go_on.set()
            run.catch_up(database)
            until(lambda: confirmed(database, "pgcdc_shop_search") >= end, "its own slot is confirmed")
    finally:
        slow.go_on.set()
    assert ids(slow) == ids(fast) == list(range(-1, MANY))
    assert [one.slot for one in pipeline.outline().consumers] == ["pgcdc_shop", "pgcdc_shop_search"]


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
    assert publications(new_orders) == ["pgcdc_shop", "pgcdc_shop_search"]
    pipeline.destroy()
    assert left_behind(new_orders) == ([], [], 0)


def test_alone_it_is_all_that_runs(new_orders: Database) -> None:
    own = Recorder()
    pipeline = two(new_orders, own)
    with running(pipeline) as run:
        both_stream(run)
        run.catch_up(new_orders)
        assert slots(new_orders) == ["pgcdc_shop_search"]
        assert pipeline.statistics().source.phase == "streaming"
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
            "shop_search",
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
    assert slots(new_orders) == ["pgcdc_shop", "pgcdc_shop_search"]
    moved.forget("search")
    assert (slots(new_orders), publications(new_orders)) == (["pgcdc_shop"], ["pgcdc_shop"])


def test_a_stop_before_the_run_stops_both(new_orders: Database) -> None:
    pipeline = two(new_orders, Recorder(), Recorder())
    pipeline.stop()
    pipeline.run()
    assert {one.phase for one in (pipeline.statistics().source, *pipeline.statistics().own_slots.values())} == {
        "stopped"
    }


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
        assert slots(new_orders) == ["pgcdc_shop_search"]
