"""Ports of the tests' servers: no two are told the same one, whoever asks."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.servers import ports

_ROOT = Path(__file__).resolve().parents[2]
_OTHER = """
import sys
from tests.servers.ports import free_port
print(*(free_port() for _ in range(200)), flush=True)
sys.stdin.read()
"""


def test_no_port_is_told_twice() -> None:
    """Not to one that asks again before its server listens, and not to processes that ask at once."""
    with ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _OTHER], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for _ in range(2)
        ]
        told = [ports.free_port() for _ in range(200)]
        for other in others:
            assert other.stdout is not None
            told += [int(port) for port in other.stdout.readline().split()]
        assert len(told) == len(set(told)) == 600
        for other in others:
            other.communicate(timeout=60)
    # What ended processes had is free again.
    ports.free_port()
    kept = {line.split()[1] for line in ports._TAKEN.read_text().splitlines()}
    assert not kept & {str(other.pid) for other in others}
