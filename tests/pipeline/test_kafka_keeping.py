"""Sinks that keep how far partitions are, without a broker: notes, what is left out, and who is late."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from pgcdc.errors import PositionError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.pipeline.deadletter import Which
from pgcdc.pipeline.deadletter_sqlite import SqliteDeadLetters
from pgcdc.pipeline.items import Appointment, Begin
from pgcdc.pipeline.kafka_barriers import Barriers
from pgcdc.pipeline.kafka_keeping import KeepingPart, KeepingTarget, Note, Notes
from pgcdc.pipeline.kafka_lane import PartitionConsumer, PartitionLane
from pgcdc.pipeline.kafka_records import Barrier, Mark
from pgcdc.pipeline.kafka_sharing import SharedSink
from pgcdc.pipeline.options import Options, check_options
from pgcdc.pipeline.parking import Desk
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.subscription import SinkSubscription
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange, change_of
from pgcdc.testing import Capture, insert, transaction

TABLE = frozenset({("public", "orders")})


def changes(*keys: int) -> Batch:
    """Each in a transaction of its own."""
    capture = Capture.of([transaction(insert("orders", {"id": key})) for key in keys])
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def copied(*keys: int) -> Batch:
    return Batch.concat(Capture.of([], [insert("orders", {"id": key}) for key in keys]).existing)


def keys(batch: Batch) -> list[int]:
    return [change.new.id for change in batch.changes()]  # type: ignore[union-attr]


class Target:
    """What survives: rows and notes."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.notes: dict[str, str] = {}
        self.owners: dict[str, object] = {}
        self.at: Position | None = None

    def offsets(self) -> dict[str, int]:
        return {name: msgspec.json.decode(note, type=Note).offset for name, note in self.notes.items()}


class Sink:
    """One process's hold on the target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.refused: set[int] = set()
        self.dies_after = 10**9

    def open(self) -> None:
        pass

    def position(self) -> Position | None:
        return self.target.at

    def write(self, batch: Batch) -> None:
        raise AssertionError("it has partitions")

    def close(self) -> None:
        pass

    def part(self, name: str) -> Part:
        return Part(self, name)


class Part:
    def __init__(self, sink: Sink, name: str) -> None:
        self._sink = sink
        self._name = name

    def open(self) -> str | None:
        self._sink.target.owners[self._name] = self
        return self._sink.target.notes.get(self._name)

    def write(self, batch: Batch, note: str) -> None:
        target, sink = self._sink.target, self._sink
        if target.owners[self._name] is not self:
            raise PositionError("somebody else has opened the partition")
        if refused := sink.refused & set(keys(batch)):
            raise SinkRejected(f"not {refused}")
        target.rows += keys(batch)
        target.notes[self._name] = note
        sink.dies_after -= 1
        if sink.dies_after == 0:
            raise KeyboardInterrupt  # nothing more is done or stored

    def rewrite(self, batch: Batch) -> None:
        raise AssertionError("nothing was a dead letter")

    def close(self) -> None:
        pass


class Member:
    """A partition in a process, from an offset of the group's on."""

    def __init__(
        self,
        target: Target,
        start: int = 0,
        mark: Mark | None = None,
        letters: SqliteDeadLetters | None = None,
        **options: Any,
    ) -> None:
        self.sink = Sink(target)
        chosen = check_options("copy", options) if options else Options()
        self.subscription = subscription = SinkSubscription("copy", TABLE, None, True, chosen, sink=self.sink)
        loop = asyncio.get_running_loop()
        given = mark or Mark(partitions=1, epoch=1)
        self.lane = PartitionLane("copy", "shop.orders", 0, start, given, threading.Condition(), 1000, 1 << 20, loop)
        self.notes = Notes("copy", "shop.copy", self.lane, "id", high=1000)
        self.is_ours = False
        self.whole = SharedSink(subscription)
        part = KeepingPart(self.whole, "shop.orders/0", self.notes, self.ours)
        own = SinkSubscription("copy", TABLE, None, True, chosen, sink=part)
        self.desk = None if letters is None else Desk("shop", letters)
        formats = RowFormats()
        self.keeping = KeepingTarget(own, formats, self.notes)
        self.consumer = PartitionConsumer(own, self.keeping, self.lane, desk=self.desk, formats=formats)
        self.consumer.follow(self.notes)
        stored = StoredPosition(
            consumer="copy",
            epoch=1,
            snapshot="none",
            position=None,
            through_lsn=0,
            slot="slot",
            system_identifier="",
            timeline=0,
            fingerprint="",
        )
        self.lane.offer(Begin(stored, 2**64 - 1, exact=False))

    async def ours(self) -> bool:
        return self.is_ours

    def offer(self, batch: Batch, first: int, step: int = 1) -> None:
        offsets = [first + step * number for number in range(batch.changes_count)]
        assert self.lane.offer_rows(batch, offsets, offsets[-1] + 1, batch.nbytes)

    async def run(self) -> None:
        self.lane.close()
        try:
            await self.consumer.run()
        except KeyboardInterrupt:
            pass
        finally:
            await self.whole.close(1)
            if self.desk is not None:
                await self.desk.close(1)


async def test_what_the_target_has_is_left_out_after_a_kill() -> None:
    target = Target()
    member = Member(target)
    member.offer(copied(1, 2, 3), 0)
    member.offer(changes(4, 5), 10)
    await member.run()
    assert (target.rows, target.offsets()) == ([1, 2, 3, 4, 5], {"shop.orders/0": 12})
    assert member.lane.progress()[1].kept == 12
    # The group knows nothing of it.
    again = Member(target)
    again.offer(copied(1, 2, 3), 0)
    again.offer(changes(4, 5, 6), 10)
    again.offer(changes(7), 13)
    await again.run()
    assert (target.rows, target.offsets()) == ([1, 2, 3, 4, 5, 6, 7], {"shop.orders/0": 14})


@pytest.mark.parametrize("dies_after", range(1, 6))
async def test_pieces_of_what_came_at_once_are_known_one_by_one(dies_after: int) -> None:
    """Copied rows share a position, and what was a dead letter stands behind what is newer: only offsets tell."""
    target, old = Target(), changes(20, 21, 22, 23)
    topic = [(copied(1, 2, 3, 4), 0), (old.take([1, 2, 3]), 7), (old.take([0]), 10), (changes(30, 31), 11)]
    for dies in (dies_after, 10**9):
        member = Member(target, max_rows=2)
        member.sink.dies_after = dies
        for batch, first in topic:
            member.offer(batch, first)
        await member.run()
    assert target.rows == [1, 2, 3, 4, 21, 22, 23, 20, 30, 31]


@pytest.mark.parametrize("dies_after", range(1, 7))
async def test_what_is_left_without_dead_letters(tmp_path: Path, dies_after: int) -> None:
    """Also of one batch with copied rows, with what is newer, and with what was a dead letter of the writer's."""
    target, old = Target(), changes(20, 21)
    mixed = Batch.concat([copied(1, 2, 3, 4), old.take([1]), old.take([0]), changes(30, 31, 32)])
    letters = SqliteDeadLetters(tmp_path / "letters.db")
    for dies in (dies_after, 10**9):
        member = Member(target, letters=letters, on_failure="park")
        member.sink.dies_after = dies
        member.sink.refused = {2, 31}
        member.offer(mixed, 10, step=2)
        await member.run()
    assert target.rows == [1, 3, 4, 21, 20, 30, 32]
    assert target.offsets() == {"shop.orders/0": 27}
    found = letters.find(Which(pipelines=frozenset({"shop"})))
    assert sorted(json.loads(letter.key or "")["id"] for letter in found) == ["2", "31"]
    letters.close()


@pytest.mark.parametrize("dies_after", range(1, 5))
async def test_alike_rows_of_a_copy_are_letters_each_after_a_kill(tmp_path: Path, dies_after: int) -> None:
    """Its record tells which one of several it is: a process that goes on in the middle has not seen the others."""
    target, batch = Target(), copied(1, 2, 1, 3, 1, 4, 1, 5, 1)
    letters = SqliteDeadLetters(tmp_path / "letters.db")
    for dies in (dies_after, 10**9):
        member = Member(target, letters=letters, on_failure="park")
        member.sink.dies_after = dies
        member.sink.refused = {1}
        member.offer(batch, 10, step=2)
        await member.run()
    assert target.rows == [2, 3, 4, 5]
    assert len({letter.id for letter in letters.find(Which(pipelines=frozenset({"shop"})))}) == 5
    letters.close()


async def test_a_note_is_of_the_first_change_that_is_not_done() -> None:
    member, batch = Member(Target()), changes(1, 2, 3, 4)
    last = batch.take([2]).last_position
    assert last is not None
    member.offer(batch, 10, step=2)
    member.notes.pass_on(member.notes.come_to(batch, None), lambda: [0, 2])  # 2 is a dead letter
    assert [member.notes.next(done, last).offset for done in (0, 1, 2)] == [10, 14, 16]


async def test_a_note_does_not_pass_what_stands_before_an_old_change() -> None:
    """A dead letter of the sink that writes the topic, which was had from the slot, is left out at the end."""
    member, batch = Member(Target()), changes(1, 2, 3, 4)
    old, first, second, letter = (batch.take([number]) for number in (1, 2, 3, 0))
    skip, last = old.last_position, first.last_position
    assert skip is not None and last is not None
    member.offer(Batch.concat([old, first, second]), 10)
    member.offer(letter, 13)
    left = member.notes.come_to(Batch.concat([old, first, second, letter]), skip)
    assert left.changes_count == 2
    member.notes.pass_on(left, lambda: [0, 1])
    assert [member.notes.next(done, last).offset for done in (1, 2)] == [12, 14]


async def test_a_barrier_that_the_target_has_is_passed() -> None:
    target, truncate = Target(), changes(1)
    position = str(truncate.last_position)
    member = Member(target)
    barrier = Barrier("truncate", position, 5, 1, batch=truncate)
    await member.consumer._open()
    await member.consumer.deliver(truncate, barrier)
    again = Member(target)
    await again.consumer._open()
    assert again.lane.begins == 6
    assert again.lane.mark.has_passed(barrier)
    again.lane._items.popleft()  # its Begin: it has begun
    again.offer(changes(1, 2), 7)
    await again.run()
    assert again.lane.progress()[0] == 9
    last = Member(target)
    nothing: Any = None  # nobody is asked, nobody is met
    barriers = Barriers(last.subscription, None, last.lane, last.consumer, nothing, nothing, nothing, nothing)
    last.lane.offer(Appointment(lambda: barriers.keep(barrier)))
    await last.run()
    assert last.lane.progress()[0] == 9, "it is not set back to a barrier that is done"
    await member.whole.close(1)


class Stored:
    """What the group has of the other partitions."""

    def __init__(self, *others: Mark) -> None:
        self.others = others

    async def commit(self, lane: PartitionLane) -> bool:
        return True

    async def marks(self, topic: str, count: int, *, again: bool) -> dict[int, Mark]:
        return dict(enumerate(self.others))

    async def told(self, topic: str, count: int) -> dict[int, Mark]:
        return await self.marks(topic, count, again=True)

    async def changed(self, seconds: float) -> None:
        raise AssertionError("everybody is there")


@pytest.mark.parametrize("passed", [False, True])
async def test_a_barrier_that_another_partition_has_passed_was_done(passed: bool) -> None:
    """The first partition does it, unless somebody is past it: this one was set back since then."""
    target, truncate = Target(), changes(1)
    position = str(truncate.last_position)
    barrier = Barrier("truncate", position, 5, 2, batch=truncate)
    stands = Mark(at=barrier.id, partitions=2, epoch=1)
    stored = Stored(stands, stands.after(position, barrier) if passed else stands)
    member = Member(target)
    await member.consumer._open()
    nothing: Any = None  # it has no other shape
    barriers = Barriers(member.subscription, None, member.lane, member.consumer, nothing, stored, nothing, nothing)
    await barriers.keep(barrier)
    assert target.rows == ([] if passed else [1])
    assert member.lane.mark.has_passed(barrier)
    await member.whole.close(1)


async def test_who_is_late_writes_nothing_and_waits_for_the_group() -> None:
    target = Target()
    late = Member(target)
    await late.consumer._open()
    owner = Member(target)
    owner.offer(changes(1), 0)
    await owner.run()
    late.offer(changes(1), 0)
    late.lane._items.popleft()  # its Begin: it has begun
    await late.run()
    assert (target.rows, late.consumer.state) == ([1], "stopped")


@pytest.mark.parametrize("wrote", [False, True])
async def test_who_has_the_partition_takes_it_back_unless_it_was_written_to(wrote: bool) -> None:
    """One that was stopped while it opened the partition goes on with that when it wakes up, and then finds out."""
    target = Target()
    owner = Member(target)
    await owner.consumer._open()
    owner.is_ours = True
    other = Part(Sink(target), "shop.orders/0")
    other.open()
    if wrote:
        other.write(changes(1), msgspec.json.encode(Note("id", 1, Mark())).decode())
    owner.offer(changes(2, 3), 5)
    owner.lane._items.popleft()
    if wrote:
        with pytest.raises(PositionError, match="somebody else"):
            await owner.run()
        assert target.rows == [1]
    else:
        await owner.run()
        assert (target.rows, target.offsets()) == ([2, 3], {"shop.orders/0": 7})


async def test_a_target_that_is_away_meanwhile_is_asked_before_anything_is_written() -> None:
    target = Target()
    owner = Member(target)
    await owner.consumer._open()
    owner.is_ours = True
    other = Part(Sink(target), "shop.orders/0")
    other.open()
    opened, away = Part.open, iter([SinkUnavailable("away")])

    def opening(part: Part) -> str | None:
        for error in away:
            other.write(changes(1), "another note")
            opened(part)  # it had its effect, and nobody was told
            raise error
        return opened(part)

    part = owner.keeping._sink
    assert isinstance(part, KeepingPart)
    part.coming = Note("id", 5, Mark())
    with mock.patch.object(Part, "open", opening):
        with pytest.raises(SinkUnavailable):
            await part.write(changes(2))
        with pytest.raises(PositionError, match="somebody else"):
            await part.write(changes(2))
    assert target.rows == [1]
    await owner.whole.close(1)


async def test_who_is_late_and_finds_that_the_owner_is_ahead_is_no_error() -> None:
    target = Target()
    target.notes["shop.orders/0"] = msgspec.json.encode(Note("id", 1001, Mark())).decode()
    late = Member(target)
    await late.run()
    assert late.consumer.state == "stopped"


def other_shape(version: int = 2) -> SchemaChange:
    [before] = changes(1).relations
    [after] = Batch.of(
        [payload for _, payload in Capture.of([transaction(insert("orders", {"id": 1, "more": 2}))]).messages]
    ).relations
    return change_of(before, after, old_version=version - 1, version=version, position=Position(77, 3))


class TellingPart(Part):
    """Of a sink that writes shapes down."""

    def schema_changed(self, change: SchemaChange, note: str) -> None:
        self._sink.target.rows.append(-change.version)
        self._sink.target.notes[self._name] = note


async def test_a_sink_that_writes_shapes_down_is_told_once() -> None:
    """Also when what comes next was not done before a kill: the barrier comes again then."""
    target = Target()
    with mock.patch.object(Sink, "part", lambda sink, name: TellingPart(sink, name)):
        for version in (2, 3):
            for _ in range(2):
                member = Member(target)
                await member.consumer._open()
                assert member.keeping.tells_once
                await member.keeping.schema_changed(other_shape(version))
                await member.whole.close(1)
        member = Member(target)
        member.offer(changes(1), 5)
        await member.run()
        member = Member(target)
        await member.consumer._open()
        await member.keeping.schema_changed(other_shape(3))
        await member.whole.close(1)
    assert (target.rows, target.offsets()) == ([-2, -3, 1], {"shop.orders/0": 6})


@pytest.mark.parametrize(
    ("note", "kept", "why"),
    [
        (None, 7, "has nothing of this partition, and had those up to 7"),
        (Note("id", 5, Mark()), 7, "only the records up to offset 5 of this partition"),
        (Note("former", 5, Mark()), 0, "another topic that was called 'shop.orders'"),
        (Note("id", 1001, Mark()), 0, "which ends at 1000"),
    ],
)
async def test_what_contradicts_itself(note: Note | None, kept: int, why: str) -> None:
    target = Target()
    if note is not None:
        target.notes["shop.orders/0"] = msgspec.json.encode(note).decode()
    member = Member(target, mark=Mark(partitions=1, epoch=1, kept=kept))
    member.is_ours = True
    with pytest.raises(PositionError, match=why):
        await member.run()


async def test_what_came_from_the_slot_is_left_out_once() -> None:
    target, batch = Target(), changes(1, 2, 3)
    target.at = batch.take([1]).last_position
    member = Member(target)
    member.offer(batch, 0)
    await member.run()
    # Of a transaction that it has had a part of, all of it comes again.
    assert (target.rows, target.offsets()) == ([2, 3], {"shop.orders/0": 3})
    again = Member(target)
    again.offer(batch, 0)
    again.offer(batch.take([0]), 3)  # a dead letter of the sink that has written the topic
    await again.run()
    assert target.rows == [2, 3, 1]
