"""A pipeline whose handler raises on poisoned rows, as a program of its own, to be killed.

`python -m tests.pipeline.killed_letters DSN FOLDER DIE`: DIE is `before:N` or `after:N`, the Nth write to the store of
dead letters (of letters, or of what was delivered) where it is killed; or `never:0`. The handler appends what it takes
to FOLDER/handled.log, and raises as long as there is no file FOLDER/cured.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pgcdc
from pgcdc.pipeline import DeadLetter, PostgresDeadLetters
from pgcdc.pipeline import run as run_module

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class Deadly(PostgresDeadLetters):
    """Kills its process at a write."""

    def __init__(self, dsn: str, die: str) -> None:
        super().__init__(dsn)
        self._place, _, number = die.partition(":")
        self._left = int(number)

    def _write(self, write: Callable[[], Any]) -> Any:
        self._left -= 1
        if self._left == 0 and self._place == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = write()
        if self._left == 0 and self._place == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        self._write(lambda: super(Deadly, self).add(letters, epoch))

    def remove(self, ids: Collection[int]) -> int:
        return self._write(lambda: super(Deadly, self).remove(ids))  # type: ignore[no-any-return]


def make(dsn: str, folder: Path, die: str) -> pgcdc.Pipeline:
    """The pipeline."""
    letters = Deadly(dsn, die)
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"], snapshot="never", dead_letters=letters)
    handled = os.open(folder / "handled.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @pipeline.on("orders", "insert", "update", name="handler", on_failure="hold")
    def handle(change: Any) -> None:
        if change.new.status == "poison" and not (folder / "cured").exists():
            raise ValueError("poison")
        os.write(handled, f"{change.new.id} {change.new.status}\n".encode())

    return pipeline


if __name__ == "__main__":
    run_module.SAVE_EVERY = 0.05  # so that what was asked for is soon seen
    print("running", flush=True)
    make(sys.argv[1], Path(sys.argv[2]), sys.argv[3]).run()
