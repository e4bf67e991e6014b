"""How far a stream is: over any stream, cut anywhere and confirmed in any way, against a plain list of what is owed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgcdc
from pgcdc.events import Commit, Message
from pgcdc.protocol import BatchReader
from pgcdc.replication.progress import Progress
from tests.protocol import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

STEP = 100
NOTHING = pgcdc.Batch.of([])


def frames_of(kinds: list[str]) -> list[memoryview]:
    """A stream, item by item: a transaction, a message outside of one, a keepalive."""
    frames = [wire.xlogdata(wire.relation(1, "t", [("id", 23)]), 0)]
    for number, kind in enumerate(kinds, 1):
        lsn = number * STEP
        if kind == "transaction":
            inside = [wire.begin(lsn), wire.insert(1, ["1"]), wire.insert(1, ["2"]), wire.commit(lsn, lsn + 50)]
            frames += [wire.xlogdata(message, lsn + place) for place, message in enumerate(inside)]
        elif kind == "message":
            frames.append(wire.xlogdata(wire.message("m", b"x", lsn=lsn, transactional=False), lsn))
        else:
            frames.append(wire.keepalive(lsn))
    return [memoryview(frame) for frame in frames]


@given(
    kinds=st.lists(st.sampled_from(["transaction", "message", "keepalive"]), max_size=12),
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=30),
    confirming=st.lists(st.booleans(), min_size=1, max_size=30),
)
def test_never_past_what_is_not_confirmed(kinds: list[str], cuts: list[int], confirming: list[bool]) -> None:
    frames = frames_of(kinds)
    reader = BatchReader()
    progress = Progress("s", 0)
    owed: list[Commit | Message] = []
    left = iter([*cuts, *[1] * len(frames)])
    wants = [*confirming, *[True] * len(frames)]
    while frames:
        size = next(left)
        some, frames = frames[:size], frames[size:]
        batch = reader.read(some)
        progress.received_lsn = max(progress.received_lsn, reader.received_lsn)
        progress.idle_lsn = max(progress.idle_lsn, reader.idle_lsn)
        if len(batch):
            progress.handed_over(batch)
        if not reader.in_transaction:
            progress.rest()
        owed += [event for event in batch.events() if isinstance(event, (Commit, Message))]
        # Whatever keepalives said: the server keeps all of what is owed, and sends it again.
        if owed:
            assert progress.told_lsn <= (owed[0].commit_lsn if isinstance(owed[0], Commit) else owed[0].lsn)
        if owed and wants.pop(0):
            progress.confirm(owed.pop(0))
    for event in owed:
        progress.confirm(event)
    if not reader.in_transaction:
        progress.rest()
        assert progress.told_lsn >= progress.idle_lsn, "nothing is owed, so nothing is held back"
        assert progress.resume_lsn >= progress.done_lsn


@pytest.mark.parametrize("kinds", [["transaction"], ["transaction", "message"], ["message", "transaction"]])
def test_where_another_connection_begins(kinds: list[str]) -> None:
    """Behind what was handed over whole, and behind the change that was handed over last."""
    frames = frames_of([*kinds, "transaction"])
    reader = BatchReader()
    progress = Progress("s", 7)
    assert (progress.resume_lsn, progress.skip) == (7, None)
    open_lsn = (len(kinds) + 1) * STEP
    for frame in frames:
        batch = reader.read([frame])
        progress.handed_over(batch)
        if batch.last_position is not None and batch.last_position.commit_lsn == open_lsn:
            assert progress.skip == tuple(batch.last_position)
            assert open_lsn - STEP <= progress.resume_lsn < open_lsn
    assert progress.resume_lsn == open_lsn + 50
    assert progress.skip == (open_lsn + 50, -1)


def test_what_is_kept_holds_the_confirmation() -> None:
    progress = Progress("s", 0)
    progress.received_lsn = 1000
    progress.hold_lsn = 300
    progress.confirm(500)
    assert (progress.told_lsn, progress.resume_lsn) == (300, 300)
    progress.hold_lsn = None
    assert (progress.told_lsn, progress.resume_lsn) == (500, 500)


def handed_over(progress: Progress, lsn: int, hold: int | None = None, spans: Sequence[tuple[int, int]] = ()) -> None:
    """A transaction that was committed there, and ended 50 bytes behind it."""
    progress.handed_over(pgcdc.Batch.of(transaction(lsn)), hold=hold, spans=spans, assembled=True)


def test_what_was_prepared_holds_until_it_is_confirmed() -> None:
    """It was prepared at 300 and came out, with its commit at 1000; another was committed before and is confirmed."""
    progress = Progress("s", 0)
    handed_over(progress, 450, hold=300)
    progress.confirm(500)
    assert (progress.told_lsn, progress.resume_lsn) == (300, 300)
    handed_over(progress, 1000, spans=[(300, 1050)])
    assert (progress.told_lsn, progress.resume_lsn) == (300, 1050)
    progress.confirm(1050)
    assert progress.told_lsn == 1050


def test_nothing_between_prepare_and_commit_prepared_is_told() -> None:
    """Two overlap: at 300 and 400 they were prepared, the first was committed at 1000 and is confirmed."""
    progress = Progress("s", 0)
    handed_over(progress, 1000, hold=400, spans=[(300, 1050)])
    progress.confirm(1050)
    assert (progress.told_lsn, progress.resume_lsn) == (300, 300), "not 400: the first ends behind it"
    handed_over(progress, 2000, hold=1500, spans=[(400, 2050)])
    assert (progress.told_lsn, progress.resume_lsn) == (300, 300), "the third was prepared within the second"
    # Another connection gives the first again.
    handed_over(progress, 1000, hold=400, spans=[(300, 1050)])
    progress.confirm(2050)
    assert (progress.told_lsn, progress.resume_lsn) == (300, 300)
    handed_over(progress, 2000, hold=1500, spans=[(400, 2050)])
    handed_over(progress, 3000, hold=None, spans=[(1500, 3050)])
    assert (progress.told_lsn, progress.resume_lsn) == (300, 3050)
    progress.confirm(3050)
    assert progress.told_lsn == 3050
    handed_over(progress, 4000, hold=3500)
    progress.confirm(4050)
    assert progress.told_lsn == 3500


def test_any_number_of_prepared_transactions() -> None:
    """One that nobody ends holds, and a few thousand come out behind it; it is as if they were known one by one."""
    progress = Progress("s", 0)
    for lsn in range(1000, 500_000, 100):
        handed_over(progress, lsn, hold=500, spans=[(lsn - 90, lsn + 50)])
        progress.confirm(lsn + 50)
        assert progress.told_lsn == progress.resume_lsn == 500
    handed_over(progress, 500_000)
    assert (progress.told_lsn, progress.resume_lsn) == (499_950, 500_050)
    progress.confirm(500_050)
    assert progress.told_lsn == 500_050


@given(
    spans=st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=20),
    lsns=st.lists(st.integers(0, 140), min_size=1, max_size=5),
)
def test_where_nothing_ends_that_was_prepared_before(spans: list[tuple[int, int]], lsns: list[int]) -> None:
    """However they overlap, and in whatever order they come (again)."""
    progress = Progress("s", 0)
    progress.handed_over(NOTHING, received=1000, spans=[(start, start + length) for start, length in spans])
    for lsn in sorted(lsns):
        progress.confirm(lsn)
        expected = lsn
        while inside := [start for start, length in spans if start < expected < start + length]:
            expected = min(inside)
        assert progress.told_lsn == expected


def test_what_was_prepared_and_came_out_at_once_is_no_place_to_begin() -> None:
    progress = Progress("s", 0)
    handed_over(progress, 1000, spans=[(300, 1050)])
    for confirmed, told in [(300, 300), (301, 300), (1049, 300), (1050, 1050)]:
        progress.confirm(confirmed)
        assert progress.told_lsn == told


def test_a_batch_of_an_assembler_may_end_within_a_transaction() -> None:
    """Those that ended before it in the same batch are whole."""
    messages = [*transaction(100), *transaction(200)[:-1]]
    for count in (4, 5, 6, 7):
        progress = Progress("s", 0)
        batch = pgcdc.Batch.of(messages[:count])
        progress.handed_over(batch, assembled=True)
        assert (progress.received_lsn, progress.done_lsn) == (150, 150)
        progress.confirm(150)
        assert progress.flushed_lsn == 150


def transaction(lsn: int) -> list[bytes]:
    return [wire.begin(lsn), wire.relation(1, "t", [("id", 23)]), wire.insert(1, ["1"]), wire.commit(lsn, lsn + 50)]


def test_a_batch_is_confirmed_with_all_that_ends_in_it() -> None:
    messages = [*transaction(100), wire.message("m", b"x", lsn=160, transactional=False), *transaction(200)[:-1]]
    for count, lsn in [(3, 0), (4, 150), (5, 160), (8, 160)]:
        progress = Progress("s", 0)
        batch = pgcdc.Batch.of(messages[:count])
        progress.handed_over(batch, received=1000)
        progress.confirm(batch)
        assert progress.flushed_lsn == lsn
    progress.confirm(NOTHING)
    assert progress.flushed_lsn == 160


@pytest.mark.parametrize("nonsense", [None, "0/16B3748", 3.5, [1]])
def test_what_is_no_place_cannot_be_confirmed(nonsense: Any) -> None:
    with pytest.raises(pgcdc.ConfigError, match=f"not {type(nonsense).__name__}"):
        Progress("s", 0).confirm(nonsense)


def test_what_was_lost_again_while_it_came_again() -> None:
    """A lower position does not take the place of a higher one."""
    frames = frames_of(["transaction"])
    progress = Progress("s", 0)
    reader = BatchReader()
    for frame in frames[:4]:
        progress.handed_over(reader.read([frame]))
    assert progress.skip == (STEP, 1)
    again = BatchReader()
    for frame in frames[:3]:
        progress.handed_over(again.read([frame]))
    assert progress.skip == (STEP, 1)


def test_above_what_was_received() -> None:
    progress = Progress("s", 100)
    progress.confirm(100)
    with pytest.raises(pgcdc.PositionError, match="only the WAL up to 0/64"):
        progress.confirm(101)


@given(
    kinds=st.lists(st.sampled_from(["transaction", "message"]), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=40),
    losses=st.lists(st.integers(1, 30), max_size=4),
)
def test_nothing_is_handed_over_twice(kinds: list[str], cuts: list[int], losses: list[int]) -> None:
    """Wherever connections are lost and batches are cut, the next link's stream goes on behind what was handed over."""
    progress = Progress("s", 0)
    sizes = iter([*cuts, *[1] * 1000])
    handed: list[str] = []

    def follow(frames: list[memoryview], count: int) -> None:
        reader = BatchReader()
        while frames and count > 0:
            size = min(next(sizes), count)
            some, frames, count = frames[:size], frames[size:], count - size
            batch = reader.read(some)
            progress.handed_over(batch)
            handed.extend(kept(progress.unseen(batch)))

    for loss in losses:
        follow(rest_of(kinds, progress.resume_lsn), loss)
        progress.lost()
    follow(rest_of(kinds, progress.resume_lsn), 1000)
    assert handed == kept(BatchReader().read(frames_of(kinds)))


def kept(batch: pgcdc.Batch) -> list[str]:
    return [str(event) for event in batch.events() if isinstance(event, (pgcdc.Insert, Commit, Message))]


def rest_of(kinds: list[str], lsn: int) -> list[memoryview]:
    """As a server sends it that was asked to begin at an LSN: what commits there or behind; messages end at theirs."""
    left = [kind if number * STEP >= lsn + (kind == "message") else "keepalive" for number, kind in enumerate(kinds, 1)]
    return [frame for frame in frames_of(left) if frame[0] == ord("w")]
