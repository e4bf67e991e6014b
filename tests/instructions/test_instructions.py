"""Decoding does not get slower unnoticed: instructions a change, against what was counted last (`count.py`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.instructions import count

# Other compilers and interpreters make other instructions of the same code; a lost fast way costs more than this.
SAME_VERSIONS = 0.03
OTHER_VERSIONS = 0.20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("counted", "version"), [(count.count_rust, "rustc"), (count.count_python, "python")], ids=["rust", "python"]
)
def test_no_more_instructions_than_counted_last(counted: Callable[[], dict[str, int]], version: str) -> None:
    if reason := count.missing():
        pytest.skip(reason)
    known, own = count.known(), count.versions()
    same = all(known[name] == own[name] for name in ("rustc", version))
    tolerance = SAME_VERSIONS if same else OTHER_VERSIONS
    found = counted()
    print(found)
    expected = known["instructions a change"]
    more = {
        what: f"{number:,} instead of {expected[what]:,}"
        for what, number in found.items()
        if number > expected[what] * (1 + tolerance)
    }
    assert not more, f"instructions a change: {more}; where that is meant: python -m tests.instructions.count"
    if same:
        fewer = {what: number for what, number in found.items() if number < expected[what] * (1 - tolerance)}
        assert not fewer, f"it got faster: keep it so with python -m tests.instructions.count ({fewer})"
