"""Reads are put off while much comes, and never for what comes alone."""

from __future__ import annotations

import pytest

from pgcdc.replication.pace import PAUSE_SECONDS, Pace


def run(pace: Pace, per_second: float, seconds: float, now: float, *, more: bool = False) -> tuple[float, list[float]]:
    """Messages come evenly, and whoever reads them does so as soon as Pace lets him; the time, and all pauses."""
    pauses = []
    end, read_until = now + seconds, now
    while now < end:
        pauses.append(pace.pause(now))
        now = max(now + pauses[-1], read_until + 1 / per_second) + 0.000_01
        messages = int((now - read_until) * per_second)
        pace.read(now, messages, more=more)
        read_until += messages / per_second
    return now, pauses


def test_what_comes_alone_is_read_at_once() -> None:
    pace = Pace()
    assert pace.pause(1000.0) == 0.0
    for number in range(1000):  # small transactions, a millisecond apart, each of whose messages is read by itself
        for message in range(3):
            now = 1000.0 + number * 0.001 + message * 0.000_02
            assert pace.pause(now) == 0.0
            pace.read(now, 1, more=False)


@pytest.mark.parametrize("per_second", [15_000, 100_000, 600_000])
def test_reads_are_put_off_while_much_comes(per_second: float) -> None:
    pace = Pace()
    now, _ = run(pace, per_second, 0.01, 1000.0)
    _, pauses = run(pace, per_second, 0.1, now)
    assert min(pauses) > 0.0
    assert max(pauses) <= PAUSE_SECONDS
    assert len(pauses) == pytest.approx(0.1 / PAUSE_SECONDS, rel=0.2)


def test_a_reader_who_takes_longer_is_not_kept_waiting() -> None:
    pace = Pace()
    now, _ = run(pace, 100_000, 0.01, 1000.0)
    assert pace.pause(now) > 0.0
    assert pace.pause(now + 0.0003) == pytest.approx(PAUSE_SECONDS - 0.0003)
    assert pace.pause(now + PAUSE_SECONDS - 0.000_01) == 0.0
    assert pace.pause(now + 1.0) == 0.0


def test_nobody_waits_for_what_is_there() -> None:
    pace = Pace()
    _, pauses = run(pace, 100_000, 0.01, 1000.0, more=True)
    assert set(pauses) == {0.0}


def test_after_a_silence_the_first_is_read_at_once() -> None:
    pace = Pace()
    now, _ = run(pace, 600_000, 1.0, 1000.0)
    now += 0.05
    assert pace.pause(now) == 0.0
    pace.read(now, 1, more=False)
    assert pace.pause(now) == 0.0
