"""A pipeline as a program of its own, to be killed: `python -m tests.pipeline.killed_pipeline DSN FOLDER [--die …]`.

It mirrors the table into FOLDER/mirror.db, whose position is in the same transaction, and appends what a handler with
a stored position is given to FOLDER/handled.log. `--die copy:N` kills it after N rows of the initial copy; `--die
inside:N` when the mirror has committed a batch that ends inside a transaction, at its Nth change or later; `--die
handler:N` when the handler has had the Nth change of one transaction.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pgcdc
from tests.pipeline.targets import SqliteMirror


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", default="never:0")
    arguments = parser.parse_args()
    place, _, number = arguments.die.partition(":")
    copied = 0

    def after_commit(batch: pgcdc.Batch) -> None:
        nonlocal copied
        last = batch.last_position
        assert last is not None
        if last.index < 0:
            copied += batch.changes_count
            if place == "copy" and copied >= int(number):
                die()
        elif place == "inside" and int(number) <= last.index < 4_990:
            die()

    pipeline = pgcdc.Pipeline("shop", arguments.dsn, tables=["orders"], max_rows_in_flight=2_000)
    pipeline.add(SqliteMirror(arguments.folder / "mirror.db", after_commit), name="mirror")
    handled = os.open(arguments.folder / "handled.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @pipeline.on("orders", name="handler")
    def handle(change: pgcdc.Change[Any]) -> None:
        row = change.old if isinstance(change, pgcdc.Delete) else change.new
        position = change.position
        assert isinstance(position, pgcdc.Position)
        os.write(handled, f"{position} {change.action} {row.id}\n".encode())
        if place == "handler" and position.index == int(number):
            die()

    print("running", flush=True)
    pipeline.run()


if __name__ == "__main__":
    main()
