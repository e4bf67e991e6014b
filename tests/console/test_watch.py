"""The numbers that are kept: rates, growth, the age of a place in the WAL; and how numbers are written."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

import pytest

pytest.importorskip("starlette")

from pgcdc.console import wording
from pgcdc.console.observation import NEAR, Observation, Observer
from pgcdc.console.subject import Subject
from pgcdc.console.watch import Watch
from pgcdc.lsn import Position

if TYPE_CHECKING:
    from collections.abc import Iterator


class Told:
    """An observer that sees what it is told."""

    def __init__(self, *seen: Observation) -> None:
        self._seen: Iterator[Observation] = iter(seen)

    def observe(self) -> Observation:
        return next(self._seen)

    def close(self) -> None:
        pass


async def watched(*seen: Observation) -> Watch:
    watch = Watch(cast("Observer", Told(*seen)))
    for _ in seen:
        await watch._look()
    return watch


async def test_rates_are_taken_over_some_seconds() -> None:
    watch = await watched(*(Observation(at=100.0 + second, wal_lsn=1000 + 50 * second) for second in range(9)))
    assert watch.numbers["wal/rate"] == 50.0
    assert watch.texts["wal/rate"] == "50 bytes/s"
    series = watch.series(["wal/rate", "no/such"])
    assert series["at"] == [100.0 + second for second in range(9)]
    assert series["values"] == [[None] + [50.0] * 8, [None] * 9]


async def test_growth_is_of_the_last_minutes_and_needs_half_of_them() -> None:
    few = await watched(*(Observation(at=50.0 * number, wal_lsn=1000 + number) for number in range(3)))
    assert few.growth("wal/written") is None
    many = await watched(*(Observation(at=50.0 * number, wal_lsn=1000 + 50 * max(number, 5)) for number in range(12)))
    assert many.growth("wal/written") == pytest.approx(1.0)
    assert many.growth("no/such") is None


class Hanging:
    """An observer whose server does not answer before it may."""

    def __init__(self) -> None:
        self.may, self.asked = threading.Event(), 0

    def observe(self) -> Observation:
        self.asked += 1
        self.may.wait(60)
        return Observation(at=time.time(), database="shop")

    def alone(self, error: str) -> Observation:
        return Observation(at=time.time(), error=error)

    def close(self) -> None:
        assert self.may.is_set(), "it would wait for the look"


async def test_a_server_that_hangs_is_said_and_not_waited_for() -> None:
    hanging = Hanging()
    watch = Watch(cast("Observer", hanging), within=0.01, every=3600.0, unwatched=3600.0)
    try:
        await watch.start()
        assert watch.is_hanging and watch.seen.error == "the server has not answered for 0 s"
        await watch._look()
        assert (watch.number, hanging.asked) == (2, 1), "it is said again, and not asked again"
        await asyncio.wait_for(watch.refresh(age=0.0, patience=3600.0), 30)
        watch._within = 3600.0
        looking = asyncio.create_task(watch._look())
        await asyncio.sleep(0)
        await asyncio.wait_for(watch.stop(), 10)
        await asyncio.wait_for(looking, 10)
        assert not hanging.may.is_set()
    finally:
        hanging.may.set()


async def test_a_server_that_answers_again_is_seen() -> None:
    hanging = Hanging()
    watch = Watch(cast("Observer", hanging), within=0.01)
    await watch._look()
    assert watch.is_hanging
    watch._within = 60.0
    hanging.may.set()
    await watch._look()
    assert (watch.seen.error, watch.seen.database) == (None, "shop")
    await watch.stop()


async def test_who_waits_is_woken_by_a_look_and_by_the_end() -> None:
    watch = Watch(cast("Observer", Told(Observation(at=1.0), Observation(at=2.0))))
    await watch._look()
    waiting = asyncio.create_task(watch.after(watch.number))
    await asyncio.sleep(0)
    await watch._look()
    assert await waiting == 2
    waiting = asyncio.create_task(watch.after(watch.number))
    await asyncio.sleep(0)
    await watch.stop()
    assert await waiting == 2


def test_how_old_a_place_in_the_wal_is() -> None:
    observer = Observer(Subject("host=/nowhere"))
    for second in range(10):
        observer._follow(100.0 + second, 10**6 + second * 10**6)
    age = observer._age
    assert age(110.0, 0, None) is None
    assert age(110.0, 10**7 - NEAR, NEAR) == 0.0, "positions are not stored more finely"
    assert age(110.0, 10**7 - NEAR - 1, NEAR + 1) == 1.0, "it was written at 109 at the latest"
    assert age(110.0, 5 * 10**6, 5 * 10**6) == 5.0
    assert age(110.0, 10, 10**7 - 10) == 10.0, "as long as has been looked, at least"
    observer._follow(111.0, 5 * 10**5)
    assert age(112.0, 4, 5 * 10**5 - 4) == 1.0, "another server"


def test_the_trail_is_bounded() -> None:
    observer = Observer(Subject("host=/nowhere"))
    for second in range(10_000):
        observer._follow(float(second), second + 1)
    assert len(observer._trail) <= 4000
    assert observer._age(10_000.0, 9_990, 10**6) == 10.0


def test_wording() -> None:
    assert [wording.size(n) for n in (None, 0, 1023, 1024, 1048575, 1 << 20, 5 << 30)] == [
        "–", "0 bytes", "1023 bytes", "1.0 kB", "1.0 MB", "1.0 MB", "5.0 GB",
    ]  # fmt: skip
    assert [wording.span(n) for n in (None, -1, 0, 59.4, 60, 3600, 90000)] == [
        "–", "0 s", "0 s", "59 s", "1 min 0 s", "1 h 0 min", "1 d 1 h",
    ]  # fmt: skip
    assert [wording.rate(n) for n in (None, 0.0, 0.04, 0.4, 12.6, 1234.5)] == ["–", "0", "0", "0.4", "13", "1,234"]
    now = datetime(2026, 11, 27, 18, 30, tzinfo=UTC)
    assert wording.moment(now.astimezone(UTC)) == "2026-11-27 18:30:00 UTC"
    assert wording.ago(now - timedelta(seconds=75), now) == "1 min 15 s ago"
    assert wording.place(Position(0x16B3748, 3)) == "0/16B3748, change 3"
    assert wording.place(Position(0x16B3748, -1)) == "0/16B3748, initial copy"
    assert (wording.lsn(0), wording.count(1234), wording.ago(None, now), wording.place(None)) == (
        "–",
        "1,234",
        "–",
        "–",
    )
