"""A pipeline with a target that is away, as a program: `python -m tests.pipeline.killed_spooling DSN FOLDER [--die N]`.

It mirrors the table into FOLDER/mirror.db while there is a file FOLDER/up; else that target is not available, and what
is for it goes to FOLDER/spool, past which the slot is confirmed. What a handler is given goes to FOLDER/handled.log.
With `--die N` it is killed when the Nth change of a transaction, or a later one, was spooled, but not that one's end.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pgcdc
from pgcdc.pipeline import SpoolOptions
from pgcdc.pipeline.spooling import Backlog
from tests.pipeline.targets import SqliteMirror


class Away(SqliteMirror):
    """A mirror that is not always available."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "mirror.db")
        self._up = folder / "up"

    def write(self, batch: pgcdc.Batch) -> None:
        if not self._up.exists():
            raise pgcdc.SinkUnavailable("the mirror is away")
        super().write(batch)


def main() -> None:
    """Run until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", type=int, default=0)
    arguments = parser.parse_args()
    append = Backlog.append

    def dies(backlog: Backlog, batch: pgcdc.Batch, through_lsn: int) -> None:
        append(backlog, batch, through_lsn)
        last = batch.last_position
        if last is not None and last.index >= arguments.die and last.commit_lsn >= through_lsn:
            backlog.sync()
            os.kill(os.getpid(), signal.SIGKILL)

    if arguments.die:
        Backlog.append = dies  # type: ignore[method-assign, assignment]
    pipeline = pgcdc.Pipeline(
        "shop",
        arguments.dsn,
        tables=["orders"],
        snapshot="never",
        max_rows_in_flight=200,
        spool=SpoolOptions(directory=arguments.folder / "spool", segment_bytes=200_000, persistent=True),
        confirm_spooled=True,
    )
    pipeline.add(Away(arguments.folder), name="mirror")
    handled = os.open(arguments.folder / "handled.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @pipeline.on("orders", name="handler", spool=False)
    def handle(change: pgcdc.Change[Any]) -> None:
        row = change.old if isinstance(change, pgcdc.Delete) else change.new
        os.write(handled, f"{change.position} {change.action} {row.id}\n".encode())

    print("running", flush=True)
    pipeline.run()


if __name__ == "__main__":
    main()
