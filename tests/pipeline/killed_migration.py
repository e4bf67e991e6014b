"""A pipeline with a migration, as a program of its own: `python -m tests.pipeline.killed_migration DSN FOLDER [--die]`.

What happens is appended to FOLDER/log: `migrate`, a row's id, `schema`. With `--die` it is killed in the midst of the
migration; with `--die-after` when the migration has returned, before the first row of the new shape is handled.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import pgcdc


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die", action="store_true")
    parser.add_argument("--die-after", action="store_true")
    arguments = parser.parse_args()
    log = os.open(arguments.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    pipeline = pgcdc.Pipeline("shop", arguments.dsn, tables=["orders"])

    @pipeline.on("orders", "insert", "schema", name="handler")
    def handle(change: Any) -> None:
        if change.action == "schema" and arguments.die_after:
            die()
        os.write(log, f"{'schema' if change.action == 'schema' else change.new.id}\n".encode())

    @pipeline.migrate("orders", consumer="handler")
    def migrate(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        os.write(log, f"migrate {len(old.columns)} {len(new.columns)}\n".encode())
        if arguments.die:
            die()

    print("running", flush=True)
    pipeline.run()


if __name__ == "__main__":
    main()
