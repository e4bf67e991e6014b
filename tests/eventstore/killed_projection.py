"""Projections as a program to be killed: `python -m tests.eventstore.killed_projection DSN before|after N`.

It is killed at the Nth batch of the projection `revenue`: when its rows and its place are written and not committed, or
when they are committed and nobody knows of it yet.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any
from unittest import mock

from pgcdc.eventstore import EventStore
from pgcdc.eventstore.generations import Generations
from pgcdc.eventstore.projecting import Projecting
from tests.eventstore.revenue import Journal, Revenue, registry


def main() -> None:
    """Run until killed."""
    dsn, place, number = sys.argv[1:]
    count = itertools.count(1)

    def die() -> None:
        if next(count) == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    advance, write = Generations.advance, Projecting.write

    def advancing(self: Generations, connection: Any, at: Any, *arguments: Any) -> Any:
        result = advance(self, connection, at, *arguments)
        if place == "before" and at.name == "revenue":
            die()
        return result

    def writing(self: Projecting, batch: Any) -> None:
        write(self, batch)
        if place == "after" and self.name == "revenue":
            die()

    store = EventStore(dsn, registry=registry)
    store.projection("revenue")(Revenue)
    store.projection("journal")(Journal)
    with mock.patch.object(Generations, "advance", advancing), mock.patch.object(Projecting, "write", writing):
        print("running", flush=True)
        store.pipeline(rows=5).run()


if __name__ == "__main__":
    main()
