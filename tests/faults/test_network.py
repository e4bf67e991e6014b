"""The network breaks under load, in every way that the proxy knows (fault F9)."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pgcdc
from pgcdc.replication import Reconnect
from tests.faults.judge import Writers, judge, make_tables, read
from tests.replication.streams import new_name
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)


def test_the_network_breaks(newest_database: Database, long: bool, outcome: Callable[..., None]) -> None:
    """Closed, reset, half closed, cut inside a frame, swallowed."""
    database = newest_database
    make_tables(database)
    mending: list[threading.Thread] = []
    noticed: list[float] = []
    silence = 30.0 if long else 1.0
    with (
        database.server.settings(wal_sender_timeout="60s" if long else "2s"),
        Proxy(database.server.port) as proxy,
        pgcdc.connect(f"{proxy.dsn(database.dsn)} connect_timeout=1") as connection,
    ):
        slot = connection.create_slot(new_name()).name
        with (
            Writers(database, 800 if long else 100) as writers,
            connection.stream(slot, ["p"], reconnect=SOON, receive_timeout=silence) as stream,
        ):

            def cut() -> None:
                proxy.cut_after = 777

            def hole() -> None:
                proxy.hole = True
                mending.append(threading.Thread(target=mend, args=(time.monotonic(),)))
                mending[-1].start()

            def mend(began: float) -> None:
                while stream.connected and time.monotonic() < began + 3 * silence + 30:
                    time.sleep(0.01)
                noticed.append(time.monotonic() - began)
                proxy.close()
                proxy.hole = False

            strikes: list[Callable[[], None]] = [hole, proxy.close, proxy.reset, proxy.half_close, cut]
            strikes *= 4 if long else 1
            proxy.bite = 999  # so that it is in the middle of something
            outages: list[float] = []
            delivered = read(stream, writers, strikes, outages=outages)
            for thread in mending:
                thread.join()
            assert stream.reconnects >= len(strikes) - 1
    twice = judge(database, writers, delivered)
    outcome(
        faults=len(strikes),
        again=" ".join(f"{seconds:.2f}s" for seconds in outages[:5]),
        longest=f"{max(outages):.2f}s",
        noticed=f"{max(noticed):.1f}s",
        rows=sum(len(one.rows) for one in delivered),
        twice=twice,
    )
    assert len(noticed) == (4 if long else 1) and max(noticed) < 2 * silence + 30
