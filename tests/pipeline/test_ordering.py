"""Several changes at once: each key's in order, the position below the lowest unfinished, nothing done twice."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgcdc
from pgcdc import Batch, Pipeline, Position, SinkUnavailable
from pgcdc.pipeline.ordering import Schedule, parts
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.target import HandlerFailed, SinkFailed
from pgcdc.pipeline.target_handler import HandlerTarget
from pgcdc.pipeline.target_sink import SinkTarget
from pgcdc.sink import TransactionalSink
from tests.pipeline.targets import Recorder
from tests.protocol import wire

RELATION = wire.relation(1, "t", [("id", 23), ("n", 23)])
KEYS = {1: ["id"]}

Change = tuple[str, int, int]
"""What happens to which key, and, of a change of key, the key that it was."""

changes = st.lists(
    st.tuples(
        st.sampled_from(["insert", "update", "delete", "move", "truncate"]), st.integers(0, 4), st.integers(0, 4)
    ),
    min_size=1,
    max_size=30,
)


def message(change: Change) -> bytes:
    """A change as the server sends it."""
    action, key, former = change
    match action:
        case "insert":
            return wire.insert(1, [str(key), "0"])
        case "update":
            return wire.update(1, [str(key), "0"])
        case "move":
            return wire.update(1, [str(key), "0"], [str(former), None], kind="K")
        case "delete":
            return wire.delete(1, [str(key), None])
    return wire.truncate([1])


def batch(of: list[Change], lsn: int = 100) -> Batch:
    """Changes as one transaction."""
    return Batch.of([RELATION, wire.begin(lsn), *map(message, of), wire.commit(lsn, lsn + 8)]).select()


def keys(change: Change) -> set[int] | None:
    """The model: which keys a change is of; None for all."""
    action, key, former = change
    return None if action == "truncate" else {key, former} if action == "move" else {key}


def may_overtake(one: Change, other: Change) -> bool:
    """The model: whether there is no order between two changes."""
    first, second = keys(one), keys(other)
    return first is not None and second is not None and not first & second


def target(handler: Any, concurrency: int, **options: Any) -> HandlerTarget:
    pipeline = Pipeline("shop", "", tables=["t"])
    pipeline.on("t", "insert", "update", "delete", "truncate", concurrency=concurrency, name="c", **options)(handler)
    formats = RowFormats()
    formats.order_by(KEYS)
    return HandlerTarget(pipeline._subscriptions["c"], formats, lambda: False)  # type: ignore[arg-type]


@given(of=changes)
def test_keys_are_those_of_the_model(of: list[Change]) -> None:
    """A change of key has two; a truncate is in order with all."""
    found = batch(of).keys(KEYS)
    for number, change in enumerate(of):
        for other in range(number):
            first, second = found[number], found[other]
            ordered = first is None or second is None or bool(set(first) & set(second))
            assert ordered is not may_overtake(of[other], change)


@given(of=changes, seed=st.integers(0, 2**16))
def test_whatever_ends_first_each_key_is_in_order(of: list[Change], seed: int) -> None:
    """And nothing waits for what it need not wait for."""
    schedule = Schedule(batch(of).keys(KEYS), bytearray(len(of)))
    choices = random.Random(seed)
    running: list[int] = []
    done: set[int] = set()
    while not schedule.over:
        while (number := schedule.next()) is not None:
            running.append(number)
        for number in running:
            assert all(earlier in done or may_overtake(of[earlier], of[number]) for earlier in range(number))
        free = [
            n
            for n in range(len(of))
            if n not in done and all(e in done or may_overtake(of[e], of[n]) for e in range(n))
        ]
        assert sorted(running) == free
        ended = running.pop(choices.randrange(len(running)))
        done.add(ended)
        schedule.finish(ended)
    assert done == set(range(len(of)))


@given(
    of=changes,
    failing=st.sets(st.integers(0, 29), max_size=3),
    times=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None)
def test_what_is_reached_is_done_and_nothing_is_lost(
    of: list[Change], failing: set[int], times: int, seed: int
) -> None:
    """Handlers of any duration that fail now and then, against a model."""
    positions = [Position(100, number) for number in range(len(of))]
    done: list[int] = []
    left = dict.fromkeys(failing & set(range(len(of))), times)
    reached: list[Position] = []
    source = batch(of)
    choices = random.Random(seed)

    async def run() -> None:
        waiting: list[tuple[int, asyncio.Future[None]]] = []

        async def handle(change: Any) -> None:
            number = change.index
            assert all(earlier in done or may_overtake(of[earlier], of[number]) for earlier in range(number))
            future = asyncio.get_running_loop().create_future()
            waiting.append((number, future))
            await future
            if left.get(number):
                left[number] -= 1
                raise SinkUnavailable("not now")
            done.append(number)

        async def end_some() -> None:
            while True:
                await asyncio.sleep(0)
                if waiting:
                    waiting.pop(choices.randrange(len(waiting)))[1].set_result(None)

        def reach(position: Position, _count: int, behind: int) -> None:
            assert behind == positions.index(position) + 1
            assert all(number in done for number in range(behind))
            reached.append(position)

        ending = asyncio.create_task(end_some())
        handler = target(handle, 3)
        try:
            while True:
                try:
                    await handler.write(source, reach)
                except HandlerFailed:
                    continue
                break
        finally:
            ending.cancel()

    asyncio.run(run())
    assert sorted(done) == list(range(len(of)))  # each once: what is done is not done again
    assert reached == sorted(reached)
    assert reached[-1] == positions[-1]


async def test_threads_handle_several_keys_at_once_and_each_in_order() -> None:
    """As many as are asked for: each waits until all are there."""
    together = threading.Barrier(3, timeout=30)
    seen: list[tuple[int, int]] = []

    def handle(change: Any) -> None:
        if change.index < 3:
            together.wait()
        seen.append((change.new.id, change.index))

    handler = target(handle, 3)
    reached: list[tuple[Position, int, int]] = []
    await handler.write(batch([("insert", number % 3, 0) for number in range(30)]), lambda *one: reached.append(one))
    assert await handler.close(30)
    for key in range(3):
        assert [index for of, index in seen if of == key] == list(range(key, 30, 3))
    assert reached[-1][0] == (100, 29)
    assert all(behind == position[1] + 1 for position, _, behind in reached)
    assert sum(count for _, count, _ in reached) == 30


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("blocking", [True, False], ids=["threads", "tasks"])
async def test_a_change_that_fails_is_named_and_what_is_done_is_not_done_again(
    blocking: bool, concurrency: int
) -> None:
    """Also when the rest comes as another batch, without the one that failed."""
    seen: list[int] = []

    def handle(change: Any) -> None:
        if change.index == 2:
            raise ValueError("no")
        seen.append(change.index)

    async def handle_async(change: Any) -> None:
        handle(change)

    handler = target(handle if blocking else handle_async, concurrency)
    reached: list[Position] = []
    source = batch([("insert", number, 0) for number in range(8)])
    with pytest.raises(HandlerFailed) as caught:
        await handler.write(source, lambda position, *_: reached.append(position))
    assert getattr(caught.value.change, "position", None) == (100, 2)
    assert reached[-1] == (100, 1)
    await handler.write(source.after((100, 2)), lambda position, *_: reached.append(position))
    assert await handler.close(30)
    assert sorted(seen) == [0, 1, 3, 4, 5, 6, 7]
    assert reached[-1] == (100, 7)


async def test_a_chosen_key_holds_across_tables() -> None:
    """Whatever the primary keys are."""
    items = wire.relation(2, "items", [("id", 23), ("user_id", 23, True)], identity="f")
    orders = wire.relation(1, "orders", [("id", 23), ("user_id", 23, True)], identity="f")
    stream = [orders, items, wire.begin(), wire.insert(1, ["1", "7"]), wire.insert(2, ["5", "7"]), wire.commit()]
    chosen = {1: ["user_id"], 2: ["user_id"]}
    first, second = Batch.of(stream).keys(chosen, by_table=False)
    assert first == second
    first, second = Batch.of(stream).keys(chosen)
    assert first != second


def test_equal_numbers_are_one_key_and_what_was_not_sent_is_in_order_with_all() -> None:
    """1.0 and 1.00 are the same to an index."""
    relation = wire.relation(1, "t", [("id", 1700), ("n", 23)])
    stream = [
        relation,
        wire.begin(),
        wire.insert(1, ["1.0", "0"]),
        wire.insert(1, ["1.00", "0"]),
        wire.insert(1, ["10", "0"]),
        wire.insert(1, ["1", "0"]),
    ]
    one, same, other, whole = Batch.of(stream).keys(KEYS)
    assert one == same == whole != other
    binary = [
        relation,
        wire.begin(),
        wire.insert(1, [b"\0\1\0\0\0\0\0\1\0\1", "0"]),
        wire.insert(1, [b"\0\1\0\0\0\0\0\2\0\1", "0"]),
    ]
    one, same = Batch.of(binary).keys(KEYS)
    assert one == same
    unknown = wire.relation(1, "t", [("id", 23, False), ("n", 23, True)])
    stream = [
        unknown,
        wire.begin(),
        wire.insert(1, ["1", "0"]),
        wire.update(1, ["1", "0"]),
        wire.delete(1, [None, "0"]),
    ]
    assert [key is None for key in Batch.of(stream).keys(KEYS)] == [False, True, True]


@given(of=changes)
def test_parts_of_a_batch_hold_whole_keys(of: list[Change]) -> None:
    """And no part of a segment must wait for another of it."""
    segments = parts(batch(of).keys(KEYS), None, 3)
    assert sorted(number for segment in segments for part in segment for number in part) == list(range(len(of)))
    last = -1
    for segment in segments:
        numbers = sorted(number for part in segment for number in part)
        assert numbers[0] == last + 1
        last = numbers[-1]
        assert len(segment) <= 3
        for at, part in enumerate(segment):
            assert part == sorted(part)
            for other in segment[at + 1 :]:
                assert all(may_overtake(of[one], of[two]) for one in part for two in other)


async def test_a_sink_gets_parts_of_a_batch_at_once() -> None:
    """What was written of it is not written again when the rest is."""
    together = threading.Barrier(2, timeout=30)
    failures = [SinkUnavailable("not now")]
    sink = Recorder()
    write = sink.write

    def write_part(part: Batch) -> None:
        if not sink.batches:
            together.wait()
        if part.first_position == (100, 0) and failures:
            raise failures.pop()
        write(part)

    sink.write = write_part  # type: ignore[method-assign, assignment]
    pipeline = Pipeline("shop", "", tables=["t"])
    pipeline.add(sink, name="sink", concurrency=2)
    formats = RowFormats()
    formats.order_by(KEYS)
    made = SinkTarget(pipeline._subscriptions["sink"], formats)  # type: ignore[arg-type]
    source = batch([("insert", number % 5, 0) for number in range(20)] + [("truncate", 0, 0), ("insert", 1, 0)])
    reached: list[tuple[Position, int, int]] = []
    while True:
        try:
            await made.write(source, lambda *one: reached.append(one))
        except SinkFailed:
            continue
        break
    assert await made.close(30)
    assert sorted(change.index for change in sink.changes) == list(range(22))
    assert [change.index for change in sink.changes[-2:]] == [20, 21]
    assert reached[-1][0] == (100, 21)
    assert all(behind == position[1] + 1 for position, _, behind in reached)
    assert sum(count for _, count, _ in reached) == 22


def test_a_sink_that_keeps_one_position_is_not_written_to_at_once() -> None:
    class Keeping(Recorder):
        def position(self) -> Position | None:
            return None

    assert isinstance(Keeping(), TransactionalSink)
    with pytest.raises(pgcdc.ConfigError, match="keeps one position together with its data"):
        Pipeline("shop", "", tables=["t"]).add(Keeping(), concurrency=2)
