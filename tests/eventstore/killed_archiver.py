"""An archiver that is killed: `python -m tests.eventstore.killed_archiver DSN FOLDER PLACE`.

At its second segment: when its file is `written`, when it was read back and `verified`, when the rows are `deleted` and
nothing is committed yet, or when all is `recorded` and nobody knows of it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from pgcdc.eventstore import EventStore, archive, archiving
from pgcdc.sinks.objects import LocalFolder
from tests.eventstore.revenue import registry
from tests.eventstore.test_archive import LATER


def main() -> None:
    """Archive until killed."""
    dsn, folder, place = sys.argv[1:]
    owner, name = {
        "written": (LocalFolder, "put"),
        "verified": (archiving._Archiver, "_record"),
        "deleted": (archiving._Archiver, "_delete"),
        "recorded": (archiving._Archiver, "_record"),
    }[place]
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and place == "verified":
            die()
        result = original(*arguments, **named)
        if calls == 2:
            die()
        return result

    setattr(owner, name, counted)
    store = EventStore(dsn, registry=registry, archive=folder)
    store.retention("*", hot=timedelta(0), warm=timedelta(0))
    print("running", flush=True)
    archive(store, now=LATER, segment_events=20)


if __name__ == "__main__":
    main()
