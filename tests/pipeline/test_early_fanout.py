"""What one consumer gets is the same whether it is shown early or handed over, whatever its tables go through."""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc import Batch, Pipeline
from pgcdc.errors import SchemaError
from pgcdc.lsn import Position
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.items import Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.schemas import MemorySchemas
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import BatchReader
from tests.pipeline.targets import Recorder
from tests.pipeline.test_fanout import published
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TABLES = {1: "a", 2: "b", 3: "c", 4: "d"}


class AtOnce:
    """A batch that has been written."""

    def answered(self, seconds: float) -> bool:
        """It is."""
        return True

    def finish(self) -> None:
        """Nobody has to."""
        raise AssertionError


@dataclass
class Source:
    """What a server sends: transactions of several tables, which get columns, other names, and are truncated."""

    chance: random.Random
    names: dict[int, str] = field(default_factory=lambda: dict(TABLES))
    shapes: dict[int, list[tuple[str, int]]] = field(default_factory=lambda: {oid: [("id", 23)] for oid in TABLES})
    told: set[int] = field(default_factory=set)
    lsn: int = 500

    def reads(self) -> Iterator[tuple[list[bytes], int]]:
        """Messages as they are read: whole transactions, as a rule."""
        for _ in range(self.chance.randrange(5, 60)):
            messages: list[bytes] = []
            for _ in range(self.chance.choice([1, 1, 1, 3])):
                messages += self._transaction()
            cut = len(messages) if self.chance.random() < 0.85 else self.chance.randrange(1, len(messages))
            yield from ((part, self.lsn) for part in (messages[:cut], messages[cut:]) if part)

    def _transaction(self) -> Iterator[bytes]:
        chance, self.lsn = self.chance, self.lsn + 20
        yield wire.begin(self.lsn)
        few = [chance.choice(list(TABLES))] if chance.random() < 0.2 else list(TABLES)[: chance.choice([1, 1, 2])]
        for _ in range(chance.choice([1, 2, 5, 5, 40])):
            oid = chance.choice(few)
            self._change(oid)
            if oid not in self.told:
                self.told.add(oid)
                yield wire.relation(oid, self.names[oid], self.shapes[oid])
            values: list[Any] = ["1"] * len(self.shapes[oid])
            yield chance.choices(
                [
                    wire.insert(oid, values),
                    wire.update(oid, values),
                    wire.delete(oid, values),
                    wire.truncate([oid]),
                    wire.message(chance.choice("mn"), b"x", lsn=self.lsn),
                ],
                [10, 4, 3, 1, 1],
            )[0]
        yield wire.commit(self.lsn, self.lsn + 8)

    def _change(self, oid: int) -> None:
        what = self.chance.random()
        if what < 0.001:
            self.names[oid] = self.chance.choice(["e", "f", self.names[oid]])
        elif what < 0.008:
            self.shapes[oid] = [*self.shapes[oid], (f"x{self.lsn}", 23)]
        if what < 0.02:  # the server tells a shape again now and then
            self.told.discard(oid)


class Stand:
    """The lanes of one or two consumers, whose targets wait and can be sent to.

    Args:
        seed: Of all that happens.
        is_early: Whether what comes is shown before it is handed over.
    """

    def __init__(self, seed: int, *, is_early: bool) -> None:
        self.got: list[tuple[Any, ...]] = []
        self.begun = 0
        self._is_early = is_early
        self._chance = chance = random.Random(seed)
        pipeline = Pipeline("shop", "", tables=list(TABLES.values()))
        for number in range(chance.choice([1, 1, 1, 2])):
            some: dict[str, Any] = {}
            if chance.random() < 0.4:
                some["tables"] = chance.sample(list(TABLES.values()), chance.randrange(1, 5))
            if chance.random() < 0.2:
                some["actions"] = chance.sample(["insert", "update", "delete", "truncate"], chance.randrange(1, 4))
            if chance.random() < 0.1:
                some["messages"] = ["m"]
            if chance.random() < 0.7:
                some["on_schema_change"] = {"rename_table": "follow"}
            pipeline.add(Recorder(), name=str(number), **some)
        condition, loop = threading.Condition(), asyncio.get_running_loop()
        names = list(pipeline._subscriptions)
        self.lanes = [Lane(name, condition, 10**6, 1 << 30, loop, lambda: None) for name in names]
        for lane in self.lanes:
            lane.send_by(lambda _: AtOnce(), self._written(lane))
        versioning = Versioning("shop", MemorySchemas(), condition)
        versioning.open()
        lanes = {lane.consumer: lane for lane in self.lanes}

        def wait(ready: Callable[[], bool]) -> None:
            with condition:
                assert condition.wait_for(ready, 30)

        self.fanout = Fanout(pipeline._subscriptions, lanes, wait, lambda then, now: None, versioning)
        self.fanout.know([published(oid, name) for oid, name in TABLES.items()], 1)

    def _written(self, lane: Lane) -> Callable[[Batch], None]:
        def written(batch: Batch) -> None:
            item = lane._working
            assert isinstance(item, Rows) and item.batch is batch
            self._take(lane, item)
            lane.done()

        return written

    def _take(self, lane: Lane, item: Rows) -> None:
        batch = item.batch
        runs = [(at, relation, version) for at, relation, _, version in batch.shape_runs()]
        self.got.append((lane.consumer, batch.to_bytes(), batch.span, item.through_lsn, runs))

    def run(self) -> tuple[list[tuple[Any, ...]], dict[str, int], str | None]:
        """What the consumers got, how far they are, and what has ended it."""
        reader, error = BatchReader(), None
        for messages, lsn in Source(self._chance).reads():
            self._join_or_leave(lsn)
            batch = reader.read([wire.xlogdata(message, lsn) for message in messages])
            try:
                self._pass_on(batch, lsn + 8, is_whole=not reader.in_transaction)
            except SchemaError as raised:
                error = str(raised)
                break
        return self.got, {lane.consumer: lane.through_lsn for lane in self.lanes}, error

    def _join_or_leave(self, lsn: int) -> None:
        if len(self.lanes) == 1 or self._chance.random() > 0.1:
            return
        name = self._chance.choice(self.lanes).consumer
        if name in self.fanout._attached:
            self.fanout.detach(name)
        else:
            self.fanout.attach(name, Position(lsn - 25, -1) if self._chance.random() < 0.5 else None)

    def _pass_on(self, batch: Batch, through_lsn: int, *, is_whole: bool) -> None:
        if self._is_early and is_whole:
            for lane in self.lanes:
                lane._looking = True
            assert self.fanout.see(batch) is self.fanout.has_begun
            self.begun += self.fanout.has_begun
        for lane in self.lanes:
            lane._looking = False
        self.fanout.send(batch, through_lsn)
        assert not self.fanout.has_begun
        for lane in self.lanes:
            while lane._items:
                lane._working = item = lane._items.popleft()
                assert isinstance(item, Rows)
                self._take(lane, item)
                lane.done()


@pytest.mark.parametrize("part", range(4))
async def test_what_is_shown_early_is_what_is_handed_over(part: int) -> None:
    begun = ended = 0
    for seed in range(part * 100, part * 100 + 100):
        early, late = Stand(seed, is_early=True), Stand(seed, is_early=False)
        got = late.run()
        assert early.run() == got, seed
        begun += early.begun
        ended += got[2] is not None
    assert begun > 100
    assert ended > 0
