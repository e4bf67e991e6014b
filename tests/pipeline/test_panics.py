"""What is no `Exception` (a panic of the Rust half, SystemExit in a handler) ends the pipeline and is its error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.pipeline.target_handler import HandlerTarget
from tests.pipeline.running import Running
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database


class Panic(BaseException):
    """As `pyo3_runtime.PanicException` is one: none that a handler's `except Exception` would take for its own."""


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("place", ["decoding", "handler", "sink"])
def test_a_panic_ends_the_pipeline(
    newest_database: Database, place: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with that as its error: not a consumer that is gone while the rest waits for it for ever."""
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY)")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"])

    def panic(*_: object) -> Any:
        raise Panic("a bug")

    async def panic_later(*_: object) -> None:
        panic()

    if place == "sink":
        sink = Recorder()
        sink.write = panic_later if asynchronous else panic  # type: ignore[method-assign, assignment]
        pipeline.add(sink, name="sink")
    else:
        pipeline.on("orders", "insert", name="handler")(panic_later if asynchronous else panic)
    if place == "decoding":
        monkeypatch.setattr(HandlerTarget, "_prepared", panic)
    run = Running(pipeline)
    run.streaming()
    newest_database.execute("INSERT INTO orders VALUES (1)")
    assert isinstance(run.ended(), Panic)
