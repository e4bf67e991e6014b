"""Several threads with one decoder or one batch, and calls from within a call: an answer or an error, never a hang.

A row class whose `__post_init__` waits holds a call at a known place, so nothing here depends on luck.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from pgcdc.errors import InvalidValue
from pgcdc.events import Insert
from pgcdc.protocol import Batch, BatchReader, Decoder, RowFormat
from tests.protocol import wire
from tests.protocol.captures import messages
from tests.reference import plain

TABLE = wire.relation(1, "t", [("id", 23), ("v", 25)])
ROW = wire.insert(1, ["1", "a"])
IN_USE = "in use by another call"
LONGEST = 30
"""Seconds that anything here may wait before it is called a hang."""


class Called(msgspec.Struct):
    """A row that calls whoever wants to know that it is being made."""

    id: int
    v: str

    called = staticmethod(lambda: None)

    def __post_init__(self) -> None:
        type(self).called()


@pytest.fixture
def calling() -> Iterator[Callable[[Callable[[], Any]], type[Called]]]:
    """Sets what is called when a row is made."""

    def set_it(called: Callable[[], Any]) -> type[Called]:
        Called.called = staticmethod(called)
        return Called

    yield set_it
    set_it(lambda: None)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def meanwhile(
    first: Callable[[], Any], inside: threading.Event, leave: threading.Event, second: Callable[[], Any]
) -> Any:
    """What `second` gives or raises while another thread is inside of `first`."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first)
        try:
            assert inside.wait(LONGEST)
            return second()
        finally:
            leave.set()
            running.result(LONGEST)


def test_a_decoder_that_is_in_use_says_so(calling: Any) -> None:
    """It follows one stream, so that two calls at a time cannot both be right."""
    inside, leave = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert leave.wait(LONGEST)

    decoder = Decoder(types={"t": calling(wait)})
    decoder.decode(TABLE)
    calls: list[Callable[[], Any]] = [
        lambda: decoder.decode(ROW),
        lambda: decoder.decode_many([ROW]),
        lambda: decoder.to_json([ROW]),
        lambda: decoder.to_arrow([ROW]),
        lambda: decoder.catalog,
    ]

    def all_refused() -> None:
        for call in calls:
            with pytest.raises(RuntimeError, match=IN_USE):
                call()

    meanwhile(lambda: decoder.decode(ROW), inside, leave, all_refused)
    assert isinstance(decoder.decode(ROW), Insert), "afterwards it is as usable as ever"


def test_a_row_class_that_calls_its_own_decoder(calling: Any) -> None:
    """It gets the error, and with it the row is refused; no deadlock."""
    decoder: Decoder[Any] = Decoder(types={"t": calling(lambda: decoder.decode(ROW))})
    decoder.decode(TABLE)
    (event,) = decoder.decode_many([ROW])
    assert isinstance(event, InvalidValue)
    assert isinstance(event.__cause__, RuntimeError)
    assert IN_USE in str(event.__cause__)
    calling(lambda: None)
    assert isinstance(decoder.decode(ROW), Insert)


def test_readers_that_are_in_use_say_so() -> None:
    """The frames may come from an iterator, and that may do anything."""
    reader = BatchReader()

    def frames() -> Iterator[bytes]:
        yield wire.xlogdata(TABLE)
        with pytest.raises(RuntimeError, match=IN_USE):
            reader.read([])
        with pytest.raises(RuntimeError, match=IN_USE):
            _ = reader.idle_lsn
        yield wire.xlogdata(ROW)

    assert len(reader.read(frames())) == 2  # type: ignore[arg-type]
    assert len(reader.read([])) == 0


def test_a_row_class_that_asks_for_the_batch_that_it_is_made_for(calling: Any) -> None:
    """It gets the events, made by a call of its own; everybody has the same objects in the end."""
    batch = Batch.of([TABLE, ROW])
    seen: list[Any] = []

    def ask() -> None:
        if not seen:
            seen.append(None)
            seen.append(batch.events(rows))

    rows = RowFormat(types={"t": calling(ask)})
    events = batch.events(rows)
    assert [type(event).__name__ for event in events] == ["Relation", "Insert"]
    assert events[1] is seen[1][1]
    assert batch.changes(rows)[0] is events[1]


def test_threads_do_not_wait_for_each_other_at_a_batch(calling: Any) -> None:
    """One that is held up while it makes events holds up nobody; both have the same objects."""
    inside, leave = threading.Event(), threading.Event()

    def wait_first() -> None:
        if not inside.is_set():
            inside.set()
            assert leave.wait(LONGEST)

    batch = Batch.of([TABLE, ROW])
    rows = RowFormat(types={"t": calling(wait_first)})
    results: list[Any] = []
    got = meanwhile(lambda: results.append(batch.events(rows)), inside, leave, lambda: batch.events(rows))
    assert len(got) == 2
    assert all(one is other for one, other in zip(got, results[0], strict=True))


def test_many_threads_at_one_batch(restless: None) -> None:
    """Events, JSON lines, Arrow and parts of it, in all threads at once: each as one thread alone gets it."""
    captured = messages(18, "binary")
    batch = Batch.of(captured)
    dicts = RowFormat("dict")
    plain_rows = Batch.of([TABLE, *[ROW] * 500])
    alone = Batch.of(captured)
    expected = plain(alone.events(dicts)), alone.to_json(), len(alone.select(actions=["insert"]))
    start = threading.Barrier(8)

    def work(_: int) -> Any:
        start.wait(LONGEST)
        events, lines = batch.events(dicts), batch.to_json()
        assert plain_rows.to_arrow()["public.t"].num_rows == 500
        part = batch.select(actions=["insert"])
        assert all(one is other for one, other in zip(part.events(dicts), part.events(dicts), strict=True))
        return events, lines, len(part)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for events, lines, inserts in results:
        assert (lines, inserts) == expected[1:]
        assert all(one is other for one, other in zip(events, results[0][0], strict=True))
    assert plain(results[0][0]) == expected[0]


def test_many_threads_at_one_decoder(restless: None) -> None:
    """Each call gives what it gives alone, or says that the decoder is in use."""
    decoder = Decoder("dict")
    decoder.decode_many([TABLE])
    rows = [ROW] * 50
    expected = plain(decoder.decode_many(rows))
    start = threading.Barrier(4)

    def work(_: int) -> tuple[int, int]:
        start.wait(LONGEST)
        done = refused = 0
        for _ in range(200):
            try:
                events = decoder.decode_many(rows)
            except RuntimeError as error:
                if IN_USE not in str(error):
                    raise
                refused += 1
            else:
                assert plain(events[-1]) == expected[2][-1]
                done += 1
        return done, refused

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert sum(done for done, _ in results) > 0
    assert all(done + refused == 200 for done, refused in results)
    assert plain(decoder.decode_many(rows)) == expected
