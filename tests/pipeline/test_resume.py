"""Where a consumer goes on: the transaction that commits right at the stored LSN is not skipped."""

from __future__ import annotations

import asyncio
import threading
from typing import Literal

import pytest

from pgcdc import Batch, Pipeline, Position
from pgcdc.lsn import SNAPSHOT_INDEX
from pgcdc.pipeline import StoredPosition
from pgcdc.pipeline.consumer import Consumer
from pgcdc.pipeline.items import Begin, Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.subscription import SinkSubscription
from pgcdc.pipeline.target_sink import SinkTarget
from tests.pipeline.targets import Recorder
from tests.protocol import wire

RELATION = wire.relation(1, "orders", [("id", 23)])
THROUGH = 1048
"""A stored `through_lsn`: the consistent point of a copy, or the `end_lsn` of a commit. Records lie back to back, so
the next commit record can begin right there: nothing between them is of the slot's database."""


def transaction(commit_lsn: int, *numbers: int) -> list[bytes]:
    """A transaction that inserts some rows."""
    inserts = [wire.insert(1, [str(number)]) for number in numbers]
    return [wire.begin(commit_lsn), *inserts, wire.commit(commit_lsn, commit_lsn + 48)]


async def delivered(
    snapshot: Literal["done", "none"], position: Position | None, *messages: bytes, exact: bool = True
) -> list[int]:
    """What a consumer that stands there is given of what the server sends again."""
    pipeline, sink = Pipeline("shop", "", tables=["orders"]), Recorder()
    pipeline.add(sink, name="sink")
    subscription = pipeline._subscriptions["sink"]
    assert isinstance(subscription, SinkSubscription)
    lane = Lane("sink", threading.Condition(), 100, 1 << 20, asyncio.get_running_loop(), lambda: None)
    stored = StoredPosition(
        consumer="sink",
        epoch=1,
        snapshot=snapshot,
        position=position,
        through_lsn=THROUGH,
        slot="pgcdc_shop",
        system_identifier="1",
        timeline=1,
        fingerprint="",
    )
    assert lane.offer(Begin(stored, 5000, exact))
    batch = Batch.of([RELATION, *messages])
    assert lane.offer(Rows(batch, 5000, batch.nbytes))
    lane.close()
    await Consumer(subscription, SinkTarget(subscription), lane).run()
    return [change.new.id for change in sink.changes]


@pytest.mark.parametrize("position", [None, Position(THROUGH, SNAPSHOT_INDEX)], ids=["empty copy", "copy"])
async def test_the_first_transaction_after_a_copy_may_commit_at_its_consistent_point(position: Position | None) -> None:
    """Fact: it often does. Its first change has index 0, and rows of the copy have -1 at the same LSN."""
    assert await delivered("done", position, *transaction(THROUGH, 1, 2)) == [1, 2]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("snapshot", ["done", "none"])
async def test_the_next_transaction_may_commit_where_the_last_one_ended(
    snapshot: Literal["done", "none"], exact: bool
) -> None:
    messages = [*transaction(1000, 1, 2), *transaction(THROUGH, 3, 4)]
    assert await delivered(snapshot, Position(1000, 1), *messages, exact=exact) == [3, 4]
    # The same when nothing of what came before is sent again.
    assert await delivered(snapshot, Position(1000, 1), *messages[4:], exact=exact) == [3, 4]


async def test_a_transaction_that_was_delivered_in_part_goes_on_after_that_part() -> None:
    messages = transaction(THROUGH, 1, 2, 3)
    assert await delivered("done", Position(THROUGH, 0), *messages) == [2, 3]
    # When the server sends other changes than were counted, all of them come again.
    assert await delivered("done", Position(THROUGH, 0), *messages, exact=False) == [1, 2, 3]
