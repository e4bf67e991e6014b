"""A pipeline over three tables as a program, to be killed: `python -m tests.pipeline.killed_copy DSN FOLDER …`.

It mirrors the tables into FOLDER/mirror.db, whose position is in the same transaction, and notes in FOLDER/copied.log
how many rows of which table each batch of a copy had, and of which snapshot. `--hold N` makes it stand still when it
has that many rows of copies, until it is killed; `--late` adds a consumer that was not there before, FOLDER/late.db.
"""

from __future__ import annotations

import argparse
import os
import threading
from pathlib import Path

import pgcdc
from tests.pipeline.targets import SqliteMirror

TABLES = ("a", "b", "c")


def main() -> None:
    """Run until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hold", type=int)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--late", action="store_true")
    arguments = parser.parse_args()
    noted = os.open(arguments.folder / "copied.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    copied = 0

    def after_commit(batch: pgcdc.Batch) -> None:
        nonlocal copied
        last = batch.last_position
        assert last is not None
        if last.index >= 0:
            return
        copied += batch.changes_count
        for relation in batch.relations:
            os.write(noted, f"{relation.name} {last.commit_lsn} {batch.changes_count}\n".encode())
        if arguments.hold is not None and copied >= arguments.hold:
            threading.Event().wait()

    pipeline = pgcdc.Pipeline(
        "shop",
        arguments.dsn,
        tables=TABLES,
        max_rows_in_flight=500,
        snapshot_connections=arguments.connections,
    )
    pipeline.add(SqliteMirror(arguments.folder / "mirror.db", after_commit), name="mirror")
    if arguments.late:
        pipeline.add(SqliteMirror(arguments.folder / "late.db"), name="late")
    print("running", flush=True)
    pipeline.run()


if __name__ == "__main__":
    main()
