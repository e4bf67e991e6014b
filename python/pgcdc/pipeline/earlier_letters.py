"""Dead letters that an earlier run has left under other options: those that a consumer cannot see to in order."""

from __future__ import annotations

from collections.abc import Iterable

from pgcdc.errors import PositionError
from pgcdc.pipeline.deadletter import DeadLetter
from pgcdc.pipeline.holding import HeldBy
from pgcdc.pipeline.options import OnFailure

__all__ = ["of_another_key", "of_another_policy"]


def of_another_policy(consumer: str, on_failure: OnFailure, letters: Iterable[DeadLetter]) -> PositionError | None:
    """Find letters that a consumer cannot see to in order, since it said something else when they were put aside.

    Args:
        consumer: The consumer's name.
        on_failure: What it says now.
        letters: Letters, of other consumers, too.

    Returns:
        The error to be raised; None when there are none.
    """
    holding = on_failure == "hold"
    others = [
        letter
        for letter in letters
        if letter.consumer == consumer
        and (
            not letter.holds
            if holding
            # Nothing waits behind an event without a key.
            else letter.state == "held" or letter.holds not in ("", "[]")
        )
    ]
    if not others:
        return None
    if holding:
        before, why = "park", "later changes of the same rows have passed them, and none would wait"
    else:
        before, why = "hold", "what waits for them would never come, or behind what is newer"
    return PositionError(
        f"consumer {consumer!r} says on_failure={on_failure!r}, but has {len(others)} dead letters from when it said"
        f" {before!r}: {why}",
        hint=f"pgcdc deadletter list shows them; run it with on_failure={before!r} and retry them, or drop them, first",
        table=others[0].table,
        lsn=others[0].position.commit_lsn,
    )


def of_another_key(consumer: str, by: HeldBy, letters: Iterable[DeadLetter]) -> PositionError | None:
    """Find letters behind which later changes would not wait, since the consumer's order goes by another key now.

    Args:
        consumer: The consumer's name.
        by: What its changes are held by now.
        letters: Its letters.

    Returns:
        The error to be raised; None when there are none.
    """
    others = [letter for letter in letters if not by.keeps(letter)]
    if not others:
        return None
    return PositionError(
        f"consumer {consumer!r} keeps order by another key (key=, or the columns of an outbox table) than when"
        f" {len(others)} of its dead letters were put aside: later changes of what they hold would pass them",
        hint="pgcdc deadletter list shows them; run it with the key that they are from and retry them, or drop them,"
        " first",
        table=others[0].table,
        lsn=others[0].position.commit_lsn,
    )
