"""One batch to many lanes: filtered once for each distinct filter, shared by the like, decoded once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

import pgcdc
from pgcdc import Batch, Pipeline
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.queue import Lane, Rows
from tests.pipeline.targets import Recorder
from tests.protocol import wire

MESSAGES = [
    wire.relation(1, "orders", [("id", 23)]),
    wire.relation(2, "order_items", [("id", 23)]),
    wire.begin(100),
    wire.insert(1, ["1"]),
    wire.insert(2, ["2"]),
    wire.delete(1, ["1"]),
    wire.commit(100, 108),
]


def never(ready: Callable[[], bool]) -> None:
    """Room is not waited for in these tests."""
    pytest.fail("a lane had no room")


async def handed_over(*messages: bytes) -> dict[str, Rows | None]:
    """What each of four consumers finds in its lane."""
    pipeline = Pipeline("shop", "", tables=["orders", "order_items"])
    for name in ("all", "all again"):
        pipeline.add(Recorder(), name=name)
    pipeline.add(Recorder(), tables=["orders"], actions=["delete"], name="deletes")
    pipeline.add(Recorder(), tables=["order_items"], actions=["truncate"], name="nothing")
    condition = threading.Condition()
    loop = asyncio.get_running_loop()
    lanes = {name: Lane(name, condition, 100, 1 << 20, loop, lambda: None) for name in pipeline._subscriptions}
    Fanout(pipeline._subscriptions, lanes, never).send(Batch.of(messages), 108)
    found: dict[str, Rows | None] = {}
    for name, lane in lanes.items():
        lane.close()
        item = await lane.take()
        assert item is None or isinstance(item, Rows)
        found[name] = item
        if item is None:
            assert lane.through_lsn == 108, "WAL without anything for it is done at once"
    return found


async def test_the_same_filter_gets_the_same_batch_and_the_same_objects() -> None:
    """Two sinks that want the same decode it once."""
    found = await handed_over(*MESSAGES)
    one, other, deletes = found["all"], found["all again"], found["deletes"]
    assert one is not None and other is not None and deletes is not None
    assert one.batch is other.batch
    assert [change.action for change in deletes.batch.changes()] == ["delete"]  # type: ignore[union-attr]
    # A part of it, in the same format, is made of the same objects too.
    assert deletes.batch.changes()[0] is one.batch.changes()[2]
    assert found["nothing"] is None


async def test_what_cannot_be_read_goes_to_everybody() -> None:
    """Whoever it was for, nobody goes past it unknowingly."""
    found = await handed_over(*MESSAGES[:-1], b"?", MESSAGES[-1])
    for rows in found.values():
        assert rows is not None
        assert isinstance(rows.batch.changes()[-1], pgcdc.DecodeError)
