"""How one waits when threads do."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from pgcdc.replication import generators, waits

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_wait_of_less_than_a_millisecond_sleeps() -> None:
    def waiting(done: Callable[[], bool]) -> generators.Waiting[int]:
        woken = 0
        while not done():
            yield generators.READ
            woken += 1
        return woken

    here, there = socket.socketpair()
    with here, there:
        end = time.monotonic() + 0.05
        assert waits.wait(waiting(lambda: time.monotonic() >= end), here.fileno(), 0.0004) <= 50
        asked = iter([False, True])
        assert waits.wait(waiting(lambda: next(asked)), here.fileno(), 0.0) == 1
