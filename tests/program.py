"""A module of the tests as a process of its own, to be killed, stopped and ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal

REPOSITORY = Path(__file__).parents[1]


class Program:
    """A process; there when it has said that it is running.

    Args:
        module: The module's name.
        errors: Where it writes what goes to stderr.
        arguments: Those of the command line.
    """

    def __init__(self, module: str, errors: Path, *arguments: str) -> None:
        self._errors = errors.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", module, *arguments],
            cwd=REPOSITORY,
            env={"PYTHONPATH": f"{REPOSITORY / 'python'}:{REPOSITORY}", "PATH": ""},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "running\n", errors.read_text()[-3000:]

    def end(self, number: signal.Signals | None = None, seconds: float = 60.0) -> int:
        """Send a signal, wait for the end, and give the exit code."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._errors.close()
