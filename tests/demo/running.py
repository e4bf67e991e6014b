"""Runs the real command in a process of its own, and looks at what it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.conftest import Database

_PYTHON = Path(__file__).parents[2] / "python"


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The closing line, which has to be all of stdout."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, self
        report: dict[str, Any] = json.loads(lines[0])
        return report


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command, with this package on its path and warnings that end it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "PYTHONPATH": str(_PYTHON), "PYTHONWARNINGS": "error", **variables}


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Starts `pgcdc` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", "pgcdc.cli", *arguments],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 120) -> Ended:
    """Waits for the end of a command."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Ended(process.returncode, stdout, stderr)


def run(*arguments: str, **variables: str) -> Ended:
    """Runs `pgcdc` with these arguments."""
    return finish(start(*arguments, **variables))


def left_behind(database: Database) -> dict[str, int]:
    """What a demo that is over must not have left on a server."""
    [counts] = database.execute(
        """
        SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
               (SELECT count(*) FROM pg_publication),
               (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
                                                    AND nspname <> 'public'),
               (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
               (SELECT count(*) FROM pg_stat_activity WHERE application_name ~ 'pgcdc' AND datname = current_database())
        """
    )
    return dict(zip(("slots", "publications", "schemas", "tables", "sessions"), counts, strict=True))


NOTHING = dict.fromkeys(("slots", "publications", "schemas", "tables", "sessions"), 0)
