"""What a plan is made of: steps that are run as they stand, sentences for people, warnings in good time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from pgcdc.errors import ReplicationError

__all__ = ["PlanStale", "PlanStep", "PlanWarning", "WarningKind", "named_some", "printed", "size"]

WarningKind = Literal[
    "rows_lost",
    "snapshot_needed",
    "writes_fail",
    "targets_stay",
    "renamed",
    "not_included",
    "unchecked",
    "in_use",
    "wal_kept",
]
"""What a warning is about.

`rows_lost`: what is written from now on, or was not confirmed yet, is in no stream. `snapshot_needed`: there are rows
that no stream gives. `writes_fail`: the server will refuse UPDATE and DELETE of whoever uses the table. `targets_stay`:
targets keep what the stream no longer corrects. `renamed`: rows come under another table's name. `not_included`: what
one could take for published, and is not. `unchecked`: what could not be looked at. `in_use`: a process has the slot.
`wal_kept`: another slot keeps the WAL.
"""


class PlanStale(ReplicationError):
    """What a plan was made for is not there any more as it was: make another plan, and look at it again."""


class PlanStep(msgspec.Struct, frozen=True):
    """One thing that a plan does.

    Attributes:
        says: What becomes of it, as a sentence.
        command: What is run: SQL, or a replication command.
    """

    says: str
    command: str


class PlanWarning(msgspec.Struct, frozen=True):
    """What a plan, or what it leaves as it is, has as a consequence that is easily overlooked.

    Attributes:
        kind: What it is about.
        says: A sentence.
        tables: The tables concerned, `schema.name`.
        hint: What to do about it.
    """

    kind: WarningKind
    says: str
    tables: tuple[str, ...] = ()
    hint: str | None = None


def named_some(names: Sequence[str]) -> str:
    """The first few names of many.

    Args:
        names: The names.

    Returns:
        `a, b, c` or `a, b, c, d, e and 7 more`.
    """
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")


def size(count: int) -> str:
    """Print a number of bytes for people.

    Args:
        count: Bytes.

    Returns:
        `712 bytes`, `3.4 MB`: in steps of 1024, with the letters of `pg_size_pretty`.
    """
    if count < 1024:
        return f"{count} bytes"
    amount = count / 1024
    for unit in ("kB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"


def printed(about: str, steps: Sequence[PlanStep], warnings: Sequence[PlanWarning]) -> str:
    """Print a plan for a terminal.

    Args:
        about: What it is for: `publication "shop"`.
        steps: What it does.
        warnings: What is to be known.

    Returns:
        Lines without a newline at the end.
    """
    count = len(steps)
    lines = [f"{about}: {count} change{'s' if count > 1 else ''}" if steps else f"{about}: nothing to change"]
    for number, step in enumerate(steps, 1):
        lines += [f"  {number}. {step.says}", f"     {step.command};"]
    for warning in warnings:
        lines.append(f"  warning: {warning.says}")
        if warning.hint is not None:
            lines.append(f"     hint: {warning.hint}")
    return "\n".join(lines)
