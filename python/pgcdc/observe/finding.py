"""What a check has found: in order or not, why that matters, and what puts it right."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

__all__ = ["Finding", "Status"]

Status: TypeAlias = Literal["ok", "warning", "failed", "skipped"]
"""`warning`: it works, and somebody should know; `skipped`: it cannot be found out here, and `found` says why."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One point of `pgcdc doctor`.

    Attributes:
        check: The name of the check, for scripts.
        title: What is asked for.
        status: Whether it is so.
        found: What was found; nothing of rows, and no secret.
        why: What happens when it is not so.
        mend: SQL, or a sentence, that puts it right; None when nothing is to be done.
    """

    check: str
    title: str
    status: Status
    found: str
    why: str
    mend: str | None = None

    def __str__(self) -> str:
        """A line; where something is to be done, the reason and the remedy below it."""
        line = f"{self.status:<8} {self.title}: {self.found}"
        if self.mend is None:
            return line
        below = "\n".join(f"{'':9}{part}" for part in (self.why, *self.mend.splitlines()))
        return f"{line}\n{below}"
