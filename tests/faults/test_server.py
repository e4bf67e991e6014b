"""The server goes away under load: its walsender is terminated, it crashes, it is restarted (faults F3 and F4)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pgcdc
from pgcdc.replication import Reconnect
from tests.faults.judge import Writers, judge, make_tables, read
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)


def test_the_server_goes_away(database: Database, long: bool, outcome: Callable[..., None]) -> None:
    make_tables(database)
    restarts: list[threading.Thread] = []

    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
        with (
            Writers(database, 600 if long else 60) as writers,
            connection.stream(slot, ["p"], reconnect=SOON) as stream,
        ):

            def terminate() -> None:
                database.execute(f"SELECT pg_terminate_backend({connection.backend_pid}, 30000)")

            def crash() -> None:
                database.server.crash()
                database.server.start()

            def restart() -> None:  # in a thread: a server that is stopped waits for what we have not confirmed yet
                restarts.append(threading.Thread(target=database.server.restart, args=("fast",)))
                restarts[-1].start()

            strikes = [terminate, crash, restart] * (10 if long else 1)
            outages: list[float] = []
            delivered = read(stream, writers, strikes, outages=outages)
            for thread in restarts:
                thread.join()
            assert stream.reconnects >= len(strikes) - 1
        twice = judge(database, writers, delivered)
        outcome(
            faults=len(strikes), again=f"{max(outages):.2f}s", rows=sum(len(one.rows) for one in delivered), twice=twice
        )
        again = pgcdc.connect(database.dsn)
        with again:
            state = again.slot(slot)
            assert state is not None and not state.lost, "never dropped or made again"
