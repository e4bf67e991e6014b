"""TCP ports for the tests' servers: each is one process's own until that process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

from tests.servers.leftovers import alive
from tests.servers.programs import ServerUnavailable

__all__ = ["free_port"]

# Below the range from which the system takes ports for outgoing connections: a client that keeps reconnecting while its
# server is down could be given the server's port as its own, connect to itself, and keep the server from starting.
_PORTS: Final = range(20_000, 32_000)
_TAKEN: Final = Path(tempfile.gettempdir()) / f"pgcdc-ports-{os.getuid()}"


def free_port() -> int:
    """A port on 127.0.0.1 that is nobody's: nothing listens there, and this is never told twice while its teller lives.

    That it is free now is not enough. A server binds its port a second later, or leaves it for a while when a test
    crashes it, and a server of three ports asks three times.

    Raises:
        ServerUnavailable: None is free.
    """
    with _TAKEN.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        # A line is a port and the process that has it. One that was killed as it wrote has left half a line.
        lines = [line.split() for line in file.read().splitlines()]
        taken = {int(line[0]): int(line[1]) for line in lines if len(line) == 2}
        taken = {port: process for port, process in taken.items() if alive(process)}
        for port in random.sample(_PORTS, len(_PORTS)):
            if port not in taken and _can_be_bound(port):
                taken[port] = os.getpid()
                file.truncate(0)
                file.write("".join(f"{port} {process}\n" for port, process in taken.items()))
                return port
    raise ServerUnavailable(f"none of {len(_PORTS)} TCP ports on 127.0.0.1 is free")


def _can_be_bound(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False
