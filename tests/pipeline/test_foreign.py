"""Users' code raises what is no usual exception: a cancellation of its own, a StopIteration. Nobody dies unseen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import SinkError
from pgcdc.testing import Table, insert, play
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = Table("orders", {"id": "int8"}, key=("id",))
CHANGES = [insert(TABLE, {"id": number}) for number in range(3)]


async def cancels_itself(_: Any) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(60))
    inner.cancel()
    await inner


def says_cancelled(_: Any) -> None:
    raise asyncio.CancelledError


def has_no_next(_: Any) -> None:
    next(iter([]))


async def has_no_next_async(_: Any) -> None:
    next(iter([]))


def pipeline_with_another() -> tuple[pgcdc.Pipeline, Recorder]:
    pipeline, other = pgcdc.Pipeline("shop", tables=["orders"]), Recorder()
    pipeline.add(other, name="other")
    return pipeline, other


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("handler", [cancels_itself, says_cancelled, has_no_next, has_no_next_async])
def test_a_handler_that_raises_it_has_dead_letters(handler: Callable[[Any], Any], concurrency: int) -> None:
    pipeline, other = pipeline_with_another()
    pipeline.on("orders", name="handler", on_failure="park", concurrency=concurrency)(handler)
    play(pipeline, CHANGES)
    assert [change.new.id for change in other.changes] == [0, 1, 2]
    letters = pipeline.dead_letters.list()
    assert [letter.consumer for letter in letters] == ["handler"] * 3
    assert {letter.error_type for letter in letters} <= {"RuntimeError", "StopIteration"}


@pytest.mark.parametrize("handler", [cancels_itself, says_cancelled, has_no_next, has_no_next_async])
def test_and_stops_the_pipeline_where_it_may(handler: Callable[[Any], Any]) -> None:
    pipeline, _ = pipeline_with_another()
    pipeline.on("orders", name="handler")(handler)
    with pytest.raises(SinkError, match="handler"):
        play(pipeline, CHANGES)


@pytest.mark.parametrize("handler", [says_cancelled, has_no_next])
@pytest.mark.parametrize("what", ["transform", "where"])
def test_a_filter_or_transform_that_raises_it_has_dead_letters(handler: Callable[[Any], Any], what: str) -> None:
    pipeline, other = pipeline_with_another()
    sink = Recorder()
    one_of_them: Any = lambda change: handler(change) if change.new.id == 1 else change  # noqa: E731
    pipeline.add(sink, name="sink", on_failure="park", **{what: one_of_them})
    play(pipeline, CHANGES)
    assert [change.new.id for change in sink.changes] == [0, 2]
    assert [change.new.id for change in other.changes] == [0, 1, 2]
    assert [letter.error_type for letter in pipeline.dead_letters.list()] == ["RuntimeError"]


class Raising(Recorder):
    """A blocking sink one method of which raises."""

    def __init__(self, method: str, error: Callable[[Any], Any]) -> None:
        super().__init__()
        self.method = method
        self.error = error

    def open(self) -> None:
        if self.method == "open":
            self.error(None)

    def write(self, batch: pgcdc.Batch) -> None:
        if self.method == "write":
            self.error(None)
        super().write(batch)

    def close(self) -> None:
        if self.method == "close":
            self.error(None)


class AsyncRaising:
    """One whose methods are coroutines."""

    def __init__(self, method: str) -> None:
        self.method = method

    async def open(self) -> None:
        if self.method == "open":
            await cancels_itself(None)

    async def write(self, batch: pgcdc.Batch) -> None:
        if self.method == "write":
            await cancels_itself(None)

    async def close(self) -> None:
        if self.method == "close":
            await cancels_itself(None)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("method", ["open", "write", "close"])
@pytest.mark.parametrize("kind", ["stops", "cancelled", "async"])
def test_a_sink_that_raises_it_is_told_of(kind: str, method: str, concurrency: int) -> None:
    pipeline, _ = pipeline_with_another()
    sink: Any = AsyncRaising(method) if kind == "async" else None
    if sink is None:
        sink = Raising(method, has_no_next if kind == "stops" else says_cancelled)
    pipeline.add(sink, name="sink", concurrency=concurrency)
    with pytest.raises(pgcdc.Error, match="sink"):
        play(pipeline, CHANGES)


def test_a_migration_that_is_cancelled_within_is_told_of() -> None:
    pipeline, _ = pipeline_with_another()
    pipeline.on("orders", name="handler")(lambda _: None)

    @pipeline.migrate("orders", consumer="handler")
    async def migrate(_: pgcdc.Relation, __: pgcdc.Relation) -> None:
        await cancels_itself(None)

    wider = Table("orders", {"id": "int8", "note": "text"}, key=("id",))
    with pytest.raises(pgcdc.MigrationFailed, match="handler"):
        play(pipeline, [*CHANGES, insert(wider, {"id": 9, "note": "x"})])
