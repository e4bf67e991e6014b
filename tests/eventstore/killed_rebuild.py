"""A rebuild that is killed after its second stretch: `python -m tests.eventstore.killed_rebuild DSN`."""

from __future__ import annotations

import os
import signal
import sys

from pgcdc.eventstore import EventStore, RebuildProgress, rebuild
from tests.eventstore.revenue import Journal, registry


def main() -> None:
    """Rebuild until killed."""
    store = EventStore(sys.argv[1], registry=registry)
    store.projection("journal")(Journal)
    stretches = 0

    def told(progress: RebuildProgress) -> None:
        nonlocal stretches
        stretches += 1
        if stretches == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    print("running", flush=True)
    rebuild(store, "journal", told=told)


if __name__ == "__main__":
    main()
