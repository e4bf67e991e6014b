"""What a failure leaves behind: nothing, without waiting for the cyclic garbage collector.

An exception knows the frames that it went through, and these know the batch. A batch can be large, and the collector
may come late: it counts objects, not bytes.
"""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import SinkRejected, SinkUnavailable
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

QUICK = pgcdc.Retry(first=0.001, longest=0.002)


class Marker:
    """Lives as long as the frame that it is in."""


class Failing:
    """Raises what it is told to for its first writes; knows whether the frames of these are there."""

    def __init__(self, *errors: type[Exception]) -> None:
        self.errors = list(errors)
        self.markers: list[weakref.ref[Marker]] = []
        self.written = 0

    def open(self) -> None: ...

    def write(self, batch: pgcdc.Batch) -> None:
        marker = Marker()
        if self.errors:
            self.markers.append(weakref.ref(marker))
            raise self.errors.pop(0)("not now")
        self.written += batch.changes_count

    def close(self) -> None: ...


class FailingAsync(Failing):
    async def write(self, batch: pgcdc.Batch) -> None:  # type: ignore[override]
        super().write(batch)


@pytest.fixture
def orders(newest_database: Database) -> Database:
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    return newest_database


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("errors", [[SinkUnavailable], [SinkUnavailable] * 3, [SinkRejected]], ids=["1", "3", "no"])
@pytest.mark.parametrize("kind", [Failing, FailingAsync])
def test_of_a_sink(orders: Database, kind: type[Failing], errors: list[type[Exception]]) -> None:
    sink = kind(*errors)
    pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", retry=QUICK, on_failure="park")
    with running(pipeline) as run:
        run.streaming()
        for id in (1, 2, 3):  # with the next ones what was in hand last is let go
            orders.execute(f"INSERT INTO orders VALUES ({id}, 'x')")
            run.catch_up(orders)
        assert len(sink.markers) == len(errors)
        until(lambda: not any(marker() for marker in sink.markers), "what failed is forgotten", seconds=5)


@pytest.mark.parametrize("errors", [[SinkUnavailable], [SinkUnavailable] * 3, [ValueError]], ids=["1", "3", "no"])
@pytest.mark.parametrize("is_async", [False, True])
def test_of_a_handler(orders: Database, is_async: bool, errors: list[type[Exception]]) -> None:
    left, markers = list(errors), list[weakref.ref[Marker]]()

    def handle(change: Any) -> None:
        marker = Marker()
        if left:
            markers.append(weakref.ref(marker))
            raise left.pop(0)("not now")

    async def handle_soon(change: Any) -> None:
        handle(change)

    pipeline = pgcdc.Pipeline("shop", orders.dsn, tables=["orders"])
    options: dict[str, Any] = {"name": "handler", "retry": QUICK, "on_failure": "park"}
    pipeline.on("orders", **options)(handle_soon if is_async else handle)
    with running(pipeline) as run:
        run.streaming()
        for id in (1, 2, 3):
            orders.execute(f"INSERT INTO orders VALUES ({id}, 'x')")
            run.catch_up(orders)
        assert len(markers) == len(errors)
        until(lambda: not any(marker() for marker in markers), "what failed is forgotten", seconds=5)
