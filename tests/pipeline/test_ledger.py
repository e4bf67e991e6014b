"""What is stored when the store went away in the middle of a write: that is asked, not assumed."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from pgcdc import ConnectionLost, Position, PositionError
from pgcdc.pipeline import MemoryPositions, Move, StoredPosition
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.queue import Lane

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST = StoredPosition(
    consumer="sink",
    epoch=1,
    snapshot="done",
    position=Position(100, 0),
    through_lsn=100,
    slot="pgcdc_shop",
    system_identifier="1",
    timeline=1,
    fingerprint="",
    tables={1: 50},
)


class GoesAway(MemoryPositions):
    """A store whose connection breaks at a write, before or after it was done."""

    def __init__(self, *, done: bool) -> None:
        super().__init__()
        self.breaks = False
        self.reopened = 0
        self._done = done

    def open(self) -> None:
        self.reopened += 1

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        if self.breaks and not self._done:
            raise ConnectionLost("before")
        super().move(pipeline, moves)
        if self.breaks:
            raise ConnectionLost("after")


@pytest.mark.parametrize("done", [True, False])
async def test_a_write_that_was_not_answered_may_have_been_done(done: bool) -> None:
    store = GoesAway(done=done)
    store.move("shop", [Move(None, FIRST)])
    lane = Lane("sink", threading.Condition(), 10, 10, asyncio.get_running_loop(), lambda: None)
    ledger = Ledger("shop", store, {"sink": lane})
    ledger.open()
    lane.reach(Position(200, 3), 1)
    store.breaks = True
    with pytest.raises(ConnectionLost):
        ledger.save()
    store.breaks = False
    lane.reach(Position(300, 0), 1)
    assert ledger.save() == 100
    assert store.reopened == 2
    assert store.load("shop")["sink"].position == Position(300, 0)


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("removed", [True, False])
async def test_whoever_wrote_meanwhile_owns_it(done: bool, removed: bool) -> None:
    store = GoesAway(done=done)
    store.move("shop", [Move(None, FIRST)])
    lane = Lane("sink", threading.Condition(), 10, 10, asyncio.get_running_loop(), lambda: None)
    ledger = Ledger("shop", store, {"sink": lane})
    ledger.open()
    lane.reach(Position(200, 3), 1)
    store.breaks = True
    with pytest.raises(ConnectionLost):
        ledger.save()
    store.breaks = False
    if removed:
        store.forget("shop")
    else:
        stored = store.load("shop")["sink"]
        store.move("shop", [Move(stored, msgspec.structs.replace(stored, epoch=2))])
    for ask in (ledger.check, ledger.save):
        with pytest.raises(PositionError, match="was removed" if removed else "has taken over"):
            ask()


async def test_a_table_that_is_lacking_is_stored_as_such() -> None:
    store = MemoryPositions()
    store.move("shop", [Move(None, msgspec.structs.replace(FIRST, tables={1: 50, 2: 60}))])
    lane = Lane("sink", threading.Condition(), 10, 10, asyncio.get_running_loop(), lambda: None)
    ledger = Ledger("shop", store, {"sink": lane})
    ledger.open()
    lane.tables = {1: 50, 2: 60}
    ledger.lack([2, 3])
    lane.reach(Position(200, 0), 1)
    ledger.save()
    assert store.load("shop")["sink"].tables == {1: 50}
