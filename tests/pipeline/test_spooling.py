"""A lane with a spool: order, what is durable when, what waits where; without a server (it is in test_isolation.py).

Over 400 lines because a lane's states are driven step by step by the same few functions.
"""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import pgcdc
from pgcdc import Batch, ConfigError, Position, SpoolError
from pgcdc.lsn import SNAPSHOT_INDEX
from pgcdc.pipeline import MemoryPositions, Move, SpoolOptions, StoredPosition, queue
from pgcdc.pipeline.items import Begin, CopyBegin, Rows
from pgcdc.pipeline.ledger import Ledger
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.spooling import Backlog, Place, directory_of, pass_spool_on, remove_spool
from pgcdc.protocol import RowFormat, Spool
from tests.pipeline.targets import Recorder
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE = wire.relation(1, "t", [("id", 23)])
STORED = StoredPosition(
    consumer="c",
    epoch=1,
    snapshot="done",
    position=None,
    through_lsn=50,
    slot="pgcdc_shop",
    system_identifier="1",
    timeline=1,
    fingerprint="",
)


def rows(commit_lsn: int, count: int = 1, *, done: bool = True, first: int = 0) -> Rows:
    """A transaction of some inserts, or as much of it as was read: then it is not done."""
    inserts = [wire.insert(1, [str(number)]) for number in range(first, first + count)]
    messages = [TABLE, wire.begin(commit_lsn), *inserts, *([wire.commit(commit_lsn, commit_lsn + 8)] if done else [])]
    batch = Batch.of(messages)
    return Rows(batch.select(), commit_lsn + 8 if done else commit_lsn - 50, batch.nbytes)


def place(directory: Path, *, confirms: bool = False, **sizes: Any) -> Place:
    return Place("c", "s", directory, SpoolOptions(directory=directory, **sizes), confirms)


def opened(lane: Lane, format: RowFormat[Any], stored: StoredPosition) -> None:
    """As a start does it."""
    lane.spool.open(format)
    state = lane.spool.look_into(stored)
    assert state is not None
    if not state.through_lsn:
        lane.spool.clear()


def spooled_lane(
    directory: Path, *, max_rows: int = 2, confirms: bool = False, stored: StoredPosition = STORED, **sizes: int
) -> Lane:
    """A lane whose spool is open, after its `Begin`, which was taken and done."""
    backlog = Backlog(place(directory, confirms=confirms, **sizes))
    loop = asyncio.get_running_loop()
    lane = Lane("c", threading.Condition(), max_rows, 1 << 30, loop, lambda: None, backlog)
    opened(lane, RowFormat("tuple"), stored)
    lane.offer(Begin(msgspec.structs.replace(stored, spool=lane.spool.id), 10_000, exact=True))
    return lane


def everything(batch: Batch) -> Batch:
    """What an earlier run has spooled is all wanted."""
    return batch


def positions(batch: Batch) -> list[Position]:
    return [change.position for change in batch.changes()]  # type: ignore[misc]


async def begun(lane: Lane) -> None:
    """`Begin` is done."""
    assert isinstance(await lane.take(), Begin)
    lane.done()


async def take(lane: Lane) -> list[Position]:
    """The positions of the next rows, which are in flight now."""
    item = await lane.take()
    assert isinstance(item, Rows)
    return positions(item.batch)


async def next_rows(lane: Lane) -> Rows | None:
    """What comes next; None when nothing does: blocks that only say how far the WAL is done give no rows."""
    taking = asyncio.create_task(lane.take())
    while not taking.done():
        await asyncio.wait([taking], timeout=0.02)
        if not (taking.done() or lane.rows or lane.unread):
            taking.cancel()
            return None
    item = taking.result()
    assert isinstance(item, Rows)
    return item


async def drained(lane: Lane) -> list[Position]:
    """The positions of everything that waits, all of it done."""
    taken = []
    while (lane.rows or lane.unread) and (item := await next_rows(lane)) is not None:
        taken += positions(item.batch)
        assert item.batch.last_position is not None
        lane.reach(item.batch.last_position, item.batch.changes_count)
        lane.done()
    return taken


async def test_what_does_not_fit_waits_in_the_spool_and_comes_in_order(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path)
    await begun(lane)
    for number in range(1, 8):
        assert lane.offer(rows(100 * number))
    assert (lane.waiting, lane.rows, lane.unread) == ("spool", 2, 5)
    assert await drained(lane) == [(100 * number, 0) for number in range(1, 8)]
    assert lane.through_lsn == 708
    assert lane.offer(rows(800))
    assert (lane.waiting, lane.unread) == ("memory", 0), "the spool was read: the next thing waits in memory"
    lane.advance(900)
    assert await drained(lane) == [(800, 0)]
    assert lane.through_lsn == 900
    assert await lane.spool.close(1)


async def test_nothing_overtakes_on_the_way_back(tmp_path: Path) -> None:
    """While the last block of the spool is being read, or is worked on and fills the lane, nothing goes past it."""
    lane = spooled_lane(tmp_path, max_rows=1)
    await begun(lane)
    for number in (1, 2):
        assert lane.offer(rows(100 * number))
    assert await take(lane) == [(100, 0)]
    lane.done()
    reading, go_on = threading.Event(), threading.Event()
    assert lane.spool.backlog is not None
    read = lane.spool.backlog.read

    def slow(most: int, changes: int) -> Any:
        reading.set()
        assert go_on.wait(30)
        return read(most, changes)

    lane.spool.backlog.read = slow  # type: ignore[method-assign]
    taking = asyncio.create_task(lane.take())
    assert await asyncio.to_thread(reading.wait, 30)
    assert lane.offer(rows(300))
    assert lane.unread == 2, "it is behind what is being read"
    go_on.set()
    item = await taking
    assert isinstance(item, Rows) and positions(item.batch) == [(200, 0)]
    assert lane.offer(rows(400))
    lane.done()
    assert lane.offer(rows(500))
    assert await drained(lane) == [(300, 0), (400, 0), (500, 0)]
    await lane.spool.close(1)


@pytest.mark.parametrize("confirms", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_any_interleaving_gives_everything_once_and_in_order(
    tmp_path: Path, seed: int, confirms: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small limits and a small spool, which is full now and then; some batches are parts of one transaction."""
    monkeypatch.setattr(queue, "TRY_AGAIN", 0.0)
    monkeypatch.setattr(queue, "MARK_EVERY", 100)
    monkeypatch.setattr(queue, "MERGED_ROWS", 3)
    chosen = random.Random(seed)
    lane = spooled_lane(tmp_path, max_rows=3, confirms=confirms, max_bytes=2_400, segment_bytes=800)
    await begun(lane)
    got: list[Position] = []
    sent: list[Position] = []
    refused, states = 0, set()

    def send(item: Rows) -> bool:
        taken = lane.offer(item)
        if taken:
            sent.extend(positions(item.batch))
            states.add(lane.waiting)
        return taken

    async def consume() -> None:
        if not (lane.rows or lane.unread) or (item := await next_rows(lane)) is None:
            return
        got.extend(positions(item.batch))
        assert item.batch.last_position is not None
        lane.reach(item.batch.last_position, item.batch.changes_count)
        if chosen.random() < 0.3:
            send(rows(sent[-1].commit_lsn + 100, 2))  # while the consumer works
        lane.done()
        if chosen.random() < 0.5:
            lane.free(lane.finished)

    for number in range(100):
        # The source is faster for a while, then the consumer.
        while chosen.random() < (0.3 if number // 25 % 2 else 0.7):
            await consume()
        item = rows((sent[-1].commit_lsn if sent else 0) + 100, chosen.randint(1, 4))
        while not send(item):
            refused += 1
            assert lane.waiting == "full"
            await consume()
            lane.free(lane.finished)
        if chosen.random() < 0.3:
            lane.advance(sent[-1].commit_lsn + 60)
        assert lane.rows <= 3 + 6, "no more in memory than is allowed, and what was read together"
    while lane.rows or lane.unread:
        await consume()
    assert got == sent
    assert refused and states >= {"memory", "spool"}
    await lane.spool.close(1)


async def test_without_room_the_source_waits_and_goes_on_when_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = spooled_lane(tmp_path, max_rows=1, max_bytes=1_000, segment_bytes=200)
    await begun(lane)
    number = 0
    while lane.offer(rows(100 * (number + 1))):
        number += 1
    assert lane.waiting == "full"
    assert "its spool has no room" in caplog.text
    refused = rows(100 * (number + 1))
    monkeypatch.setattr(queue, "TRY_AGAIN", 1e9)
    assert not lane.offer(refused)
    assert not lane.has_room(refused), "the disk is not tried again and again"
    got = await take(lane)
    lane.done()
    lane.free(lane.finished)
    got += await take(lane)
    lane.done()
    lane.free(lane.finished)
    assert lane.has_room(refused)
    while not lane.offer(refused):
        got += await take(lane)
        lane.done()
        lane.free(lane.finished)
    got += await drained(lane)
    assert got == [(100 * one, 0) for one in range(1, number + 2)]
    assert caplog.text.count("its spool has no room") == 1 and "there is room again" in caplog.text
    await lane.spool.close(1)


async def test_a_batch_that_is_larger_than_the_spool_passes_alone(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path, max_rows=1, max_bytes=400, segment_bytes=400)
    await begun(lane)
    large = rows(300, 2000)
    assert lane.offer(rows(100)) and lane.offer(rows(200)) and not lane.offer(large)
    got = await take(lane)
    lane.done()
    assert not lane.has_room(large)
    assert not lane.offer(large)
    got += await take(lane)
    lane.done()
    assert lane.has_room(large) and lane.offer(large)
    assert lane.waiting == "memory"
    assert got + await drained(lane) == [(100, 0), (200, 0), *((300, index) for index in range(2000))]
    await lane.spool.close(1)


async def test_what_is_in_hand_when_the_server_is_lost_waits_behind_a_full_spool(tmp_path: Path) -> None:
    """A batch is handed over to all lanes or to none; then nothing comes until the server is back."""
    lane = spooled_lane(tmp_path, max_rows=1, max_bytes=400, segment_bytes=400)
    await begun(lane)
    number = 1
    while lane.offer(rows(100 * number)):
        number += 1
    lane.hold()
    assert lane.offer(rows(100 * number))
    assert lane.rows == 2
    lane.release()
    got = await take(lane)
    lane.done()
    while lane.unread:
        got += await take(lane)
        lane.done()
    lane.free(lane.finished)
    assert lane.offer(rows(100 * number + 100))
    assert got + await drained(lane) == [(100 * one, 0) for one in range(1, number + 2)]
    await lane.spool.close(1)


async def test_a_copy_does_not_go_to_the_spool(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path, max_rows=1)
    await begun(lane)
    lane.incomplete = True
    assert lane.offer(rows(100))
    assert not lane.offer(rows(200))
    lane.complete()
    assert lane.offer(CopyBegin([], 150, again=False))
    assert not lane.offer(rows(200)), "what is taken again whole is not kept"
    await lane.spool.close(1)


# What the slot may be confirmed to.


async def test_all_that_is_not_durable_is_in_a_spool_that_is_confirmed_past(tmp_path: Path) -> None:
    """Also what waited in memory when the spool began, and what the consumer works on: it may never be done."""
    directory = tmp_path / "spool"
    lane = spooled_lane(directory, max_rows=3, confirms=True)
    await begun(lane)
    assert lane.offer(rows(100))
    assert await take(lane) == [(100, 0)]  # it hangs
    for number in range(2, 7):
        assert lane.offer(rows(100 * number))
    assert lane.spool.synced_lsn == 0
    lane.spool.sync()
    assert lane.spool.synced_lsn == 608
    assert lane.offer(rows(700))
    assert lane.spool.synced_lsn == 608, "what is not synced does not count"
    assert await lane.spool.close(1)  # a crash keeps as much, or less of what was not synced

    stored = msgspec.structs.replace(STORED, spool=Spool(directory).id)
    lane = spooled_lane(directory, confirms=True, stored=stored)
    assert lane.begin_spool(everything) == Position(708, SNAPSHOT_INDEX)
    await begun(lane)
    assert await drained(lane) == [(100 * number, 0) for number in range(1, 8)]
    await lane.spool.close(1)


async def test_what_was_in_memory_too_comes_once(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path, max_rows=3, confirms=True)
    await begun(lane)
    for number in range(1, 7):
        assert lane.offer(rows(100 * number))
    assert lane.unread == 6
    assert await drained(lane) == [(100 * number, 0) for number in range(1, 7)]
    await lane.spool.close(1)


async def test_a_few_rows_do_not_hold_the_wal_of_others(tmp_path: Path) -> None:
    """A consumer that is away and has little to get: what it has not got is spooled when the WAL behind it grows."""
    condition, loop = threading.Condition(), asyncio.get_running_loop()
    lane = Lane("c", condition, 100, 1000, loop, lambda: None, Backlog(place(tmp_path, confirms=True)))
    opened(lane, RowFormat(), STORED)
    lane.offer(Begin(STORED, 10_000, exact=True))
    await begun(lane)
    assert lane.offer(rows(100))
    lane.advance(1000)
    assert (lane.waiting, lane.unread) == ("memory", 0)
    lane.advance(1100)
    assert (lane.waiting, lane.unread) == ("spool", 1)
    lane.spool.sync()
    assert lane.spool.synced_lsn == 1100
    lane.advance(1100 + queue.MARK_EVERY)
    lane.spool.sync()
    assert lane.spool.synced_lsn == 1100 + queue.MARK_EVERY, "blocks without rows say so"
    assert await drained(lane) == [(100, 0)]
    assert lane.through_lsn == 1100 + queue.MARK_EVERY
    await lane.spool.close(1)


async def test_what_is_taken_together_is_spooled_before_more_of_the_wal_counts(tmp_path: Path) -> None:
    """What a consumer has gathered to what it works on is behind that: a crash between the two loses none of it."""
    lane = spooled_lane(tmp_path, max_rows=2, confirms=True)
    await begun(lane)
    assert lane.offer(rows(100))
    assert await take(lane) == [(100, 0)]
    assert lane.offer(rows(200))
    more = await lane.more(10)
    assert more is not None and positions(more) == [(200, 0)]
    appended: list[int] = []
    assert lane.spool.backlog is not None
    append = lane.spool.backlog.append

    def noted(batch: Batch, through_lsn: int) -> None:
        append(batch, through_lsn)
        appended.append(through_lsn)

    lane.spool.backlog.append = noted  # type: ignore[method-assign]
    assert lane.offer(rows(300))
    assert appended == [0, 208, 308]
    more = await lane.more(10)
    assert more is not None and positions(more) == [(300, 0)], "what is in the spool is gathered, too, once"
    lane.done()
    assert (lane.rows, lane.unread, lane.finished, lane.through_lsn) == (0, 0, 3, 308)
    await lane.spool.close(1)


async def test_a_transaction_that_is_wanted_whole_passes_a_spool_that_is_too_small_for_it(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path, max_rows=1, max_bytes=400, segment_bytes=400)
    await begun(lane)
    whole = rows(1000, 9, done=False).batch
    batches = [Rows(whole.after(Position(1000, n - 1)).up_to(Position(1000, n)), 900, 50) for n in range(9)]
    assert lane.offer(batches[0])
    got = await take(lane)
    offered = 1
    while offered < 9 and lane.offer(batches[offered]):
        offered += 1
    assert lane.waiting == "full" and offered < 9

    async def gather() -> None:
        while len(got) < 9:
            more = await lane.more(None, 1000)
            assert more is not None
            got.extend(positions(more))

    gathering = asyncio.create_task(gather())
    while not gathering.done():
        while offered < 9 and lane.has_room(batches[offered]) and lane.offer(batches[offered]):
            offered += 1
        await asyncio.wait([gathering], timeout=0.02)
    gathering.result()
    assert got == [(1000, index) for index in range(9)]
    await lane.spool.close(1)


class Noted(MemoryPositions):
    """Notes its writes among what else happens."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        self._events.append("stored")
        super().move(pipeline, moves)


async def test_synced_then_stored_then_released_then_confirmed(tmp_path: Path) -> None:
    events: list[str] = []
    store = Noted(events)
    lane = spooled_lane(tmp_path, max_rows=1, confirms=True)
    store.move("shop", [Move(None, msgspec.structs.replace(STORED, spool=lane.spool.id))])
    await begun(lane)
    ledger = Ledger("shop", store, {"c": lane})
    ledger.open()
    backlog = lane.spool.backlog
    assert backlog is not None
    sync, release = backlog.sync, backlog.release

    def noted_sync() -> None:
        events.append("synced")
        sync()

    def noted_release(sequence: int) -> None:
        events.append(f"released {sequence}")
        release(sequence)

    backlog.sync, backlog.release = noted_sync, noted_release  # type: ignore[method-assign]
    for number in (1, 2, 3):
        assert lane.offer(rows(100 * number))
    assert await take(lane) == [(100, 0)]
    lane.reach(Position(100, 0), 1)
    lane.done()
    assert await take(lane) == [(200, 0), (300, 0)]
    lane.reach(Position(300, 0), 2)
    events.clear()
    assert ledger.save() == 308
    assert events == ["synced", "stored"], "what is not done is not released"
    lane.done()
    events.clear()
    assert ledger.save() == 308
    assert events == [], "no more WAL is done than was written down: nothing is released before it is stored"
    assert ledger.save(final=True) == 308
    assert events == ["stored", "released 3"]
    await lane.spool.close(1)


async def test_a_spool_that_cannot_be_synced_is_not_confirmed_past(tmp_path: Path) -> None:
    """The positions are stored nevertheless, and what was synced before still counts."""
    lane = spooled_lane(tmp_path, max_rows=1, confirms=True)
    store = MemoryPositions()
    store.move("shop", [Move(None, msgspec.structs.replace(STORED, spool=lane.spool.id))])
    await begun(lane)
    ledger = Ledger("shop", store, {"c": lane})
    ledger.open()
    for number in (1, 2):
        assert lane.offer(rows(100 * number))
    assert ledger.save() == 208
    assert lane.offer(rows(300))
    assert await take(lane) == [(100, 0)]
    lane.reach(Position(100, 0), 1)

    def fails() -> None:
        raise SpoolError("the disk is gone")

    assert lane.spool.backlog is not None
    lane.spool.backlog.sync = fails  # type: ignore[method-assign]
    with pytest.raises(SpoolError, match="the disk is gone"):
        ledger.save()
    assert store.load("shop")["c"].position == Position(100, 0)
    assert ledger.covered_lsn == 208
    await lane.spool.close(1)


async def test_a_spool_that_nothing_was_confirmed_on_is_emptied(tmp_path: Path) -> None:
    """The server sends it again. So it is with one whose id is not the stored one."""
    for stored in (STORED, msgspec.structs.replace(STORED, spool="another")):
        lane = spooled_lane(tmp_path, max_rows=1, stored=stored)
        assert lane.begin_spool(everything) is None
        await begun(lane)
        for number in range(1, 5):
            assert lane.offer(rows(100 * number))
        assert lane.unread == 3
        await lane.spool.close(1)
    with Spool(tmp_path) as spool:
        assert spool.pending == 3


# A transaction that was spooled in part.


async def test_a_part_of_a_transaction_is_not_given_from_the_spool_of_an_earlier_run(tmp_path: Path) -> None:
    """The server sends it again, whole, and may count its changes otherwise; nor is the part given any later."""
    part = rows(300, 2, done=False)
    lane = spooled_lane(tmp_path, max_rows=1, confirms=True)
    await begun(lane)
    for item in (rows(100), rows(200), part):
        assert lane.offer(item)
    await lane.spool.close(1)

    stored = STORED
    for run in range(3):
        with Spool(tmp_path) as spool:
            stored = msgspec.structs.replace(stored, spool=spool.id)
        lane = spooled_lane(tmp_path, max_rows=1, confirms=True, stored=stored)
        after = lane.begin_spool(everything)
        await begun(lane)
        assert after is not None
        if run == 0:
            assert after == Position(250, SNAPSHOT_INDEX)
            # Of what comes again only three of the changes are sent now: a table was taken out of the publication.
            assert lane.offer(rows(300, 3, first=10))
            assert lane.offer(rows(400))
        expected = [(100, 0), (200, 0), (300, 0), (300, 1), (300, 2), (400, 0)]
        got: list[Any] = []
        while lane.unread:
            read = await next_rows(lane)
            assert read is not None
            for change in read.batch.changes(RowFormat("tuple")):
                assert isinstance(change, pgcdc.Insert)
                got.append((change.position, change.new))
            lane.done()
        assert [position for position, _ in got] == expected
        assert [new for position, new in got if position[0] == 300] == [(10,), (11,), (12,)]
        await lane.spool.close(1)


async def test_what_a_consumer_does_not_want_any_more_is_left_out(tmp_path: Path) -> None:
    lane = spooled_lane(tmp_path, max_rows=1, confirms=True)
    await begun(lane)
    for number in range(1, 4):
        assert lane.offer(rows(100 * number))
    await lane.spool.close(1)
    with Spool(tmp_path) as spool:
        stored = msgspec.structs.replace(STORED, spool=spool.id)
    lane = spooled_lane(tmp_path, max_rows=1, confirms=True, stored=stored)
    lane.begin_spool(lambda batch: batch.after(Position(100, 0)))
    await begun(lane)
    assert lane.offer(rows(400))
    assert await drained(lane) == [(200, 0), (300, 0), (400, 0)]
    await lane.spool.close(1)


# Options.


def test_directories_of_consumers() -> None:
    spool = SpoolOptions(directory="/spools")
    assert directory_of(spool, "pgcdc_shop", "search") == Path("/spools/pgcdc_shop/search")
    for name in ("..", ".", "a/b", "a\\b", "ä", "a b"):
        directory = directory_of(spool, "pgcdc_shop", name)
        assert directory.parent == Path("/spools/pgcdc_shop"), name
        assert ".." not in directory.parts and "." not in directory.name
    assert len({directory_of(spool, "s", name) for name in ("a/b", "a%2Fb", "a.b", "a%2Eb")}) == 4


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"spool": 5}, {}, "the spool of pipeline 'shop' is neither a directory nor SpoolOptions"),
        ({"spool": ""}, {}, "the spool of pipeline 'shop' has no directory"),
        ({}, {"spool": True}, "the spool of consumer 'c' is neither a directory nor SpoolOptions"),
        ({"spool": SpoolOptions(directory="x", max_bytes=0)}, {}, "max_bytes of the spool of pipeline 'shop'"),
        (
            {"spool": SpoolOptions(directory="x", max_bytes=10, segment_bytes=11)},
            {},
            "segment_bytes of the spool of pipeline 'shop'",
        ),
        ({"confirm_spooled": True}, {}, "pipeline 'shop' has no spool that the slot could be confirmed past"),
        ({}, {"confirm_spooled": True}, "consumer 'c' has no spool that the slot could be confirmed past"),
        ({"spool": "x"}, {"spool": False, "confirm_spooled": True}, "consumer 'c' has no spool"),
        ({}, {"confirm_spooled": "yes"}, "confirm_spooled of consumer 'c' is neither True nor False"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pgcdc.Pipeline("shop", "", tables=["t"], **settings).add(Recorder(), name="c", **options)


async def test_two_consumers_do_not_share_a_spool(tmp_path: Path) -> None:
    pipeline = pgcdc.Pipeline("shop", "", tables=["t"])
    pipeline.add(Recorder(), name="a", spool=tmp_path)
    pipeline.add(Recorder(), name="b", spool=tmp_path / ".." / tmp_path.name)
    with pytest.raises(ConfigError, match="consumers 'a' and 'b' have the same spool"):
        await pipeline.arun()


@pytest.mark.parametrize("other", [("b", "s", "cluster 1"), ("a", "t", "cluster 1"), ("a", "s", "cluster 2")])
def test_a_spool_of_another_is_left_as_it_is(tmp_path: Path, other: tuple[str, str, str]) -> None:
    """What is in it may be nowhere else, and a start may empty what it takes for its own."""
    mine = Backlog(Place("a", "s", tmp_path, SpoolOptions(directory=tmp_path), confirms=True))
    mine.open(RowFormat("struct"), "cluster 1")
    mine.append(Batch.of([]), 7)
    mine.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    consumer, slot, cluster = other
    theirs = Backlog(Place(consumer, slot, tmp_path, SpoolOptions(directory=tmp_path), confirms=True))
    with pytest.raises(ConfigError, match="is that of consumer 'a' of slot 's' of cluster 1"):
        theirs.open(RowFormat("struct"), cluster)
    if (slot, cluster) != ("s", "cluster 1"):
        remove_spool(tmp_path, slot, cluster)
    remove_spool(tmp_path, slot, cluster, consumer)
    pass_spool_on(tmp_path, slot, consumer, "new", cluster)
    assert not theirs.is_open
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    mine.open(RowFormat("struct"), "cluster 1")
    assert mine.state.through_lsn == 7
    mine.close()
    remove_spool(tmp_path, "s", "cluster 1", "a")
    assert not tmp_path.exists()


def test_a_directory_that_does_not_stay_is_refused() -> None:
    """`/dev/shm` is a tmpfs; without `confirm_spooled` it will do."""
    volatile = Path("/dev/shm/pgcdc/spool")
    if not volatile.parents[1].is_mount():
        pytest.skip("the system has no /dev/shm")
    place(volatile).check_persistent()
    with pytest.raises(ConfigError, match=r"^the spool of consumer 'c' in .* \(it is on tmpfs\)") as caught:
        place(volatile, confirms=True).check_persistent()
    assert "persistent=True" in (caught.value.hint or "")
    Place("c", "s", volatile, SpoolOptions(directory=volatile, persistent=True), confirms=True).check_persistent()
    with pytest.raises(ConfigError, match="persistent=False says"):
        Place("c", "s", Path("/"), SpoolOptions(directory="/", persistent=False), confirms=True).check_persistent()
