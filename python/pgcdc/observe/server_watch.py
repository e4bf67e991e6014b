"""What a server says of slots and of its WAL, asked for now and then: nobody who looks waits long for it.

Source: PostgreSQL manual, "System Administration Functions" (pg_current_wal_flush_lsn); "pg_replication_slots".
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from pgcdc.errors import Error
from pgcdc.observe.slots import reaching, slots_of
from pgcdc.replication import SlotState

__all__ = ["Look", "ServerWatch", "until_lost"]

logger = logging.getLogger("pgcdc.observe")

RATE_OVER: Final = 600.0
"""Seconds over which it is counted how much WAL the server writes."""
RATE_FROM: Final = 5.0
"""Seconds that this must be over at least."""
# What is flushed: no more is sent. A standby has what it has replayed.
_LOOK: Final = """SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_flush_lsn() END - '0/0'::pg_catalog.pg_lsn,
    EXTRACT(epoch FROM pg_catalog.clock_timestamp())"""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look showed.

    Attributes:
        at: When it was, in seconds of `time.monotonic`.
        slots: All slots of the server.
        wal_lsn: How far its WAL is flushed.
        wal_bytes_per_second: How much it writes; None until that is known.
        clock_ahead: Seconds by which its clock is ahead of ours.
    """

    at: float
    slots: Sequence[SlotState]
    wal_lsn: int
    wal_bytes_per_second: float | None
    clock_ahead: float

    @property
    def age(self) -> float:
        """Seconds since then."""
        return max(0.0, time.monotonic() - self.at)


class ServerWatch:
    """Looks at a server, from a thread of its own that is there while it is asked; may be asked from any thread.

    Args:
        dsn: Where it is, as libpq understands it.
        fresh: Seconds for which a look is good: many who ask cost the server one query.
        within: Seconds that who asks is kept waiting for a new look.
        stale: Seconds after which a look says nothing any more.
    """

    def __init__(self, dsn: str, *, fresh: float = 1.0, within: float = 2.0, stale: float = 60.0) -> None:
        self._dsn = dsn
        self._fresh = fresh
        self._within = within
        self._stale = stale
        self._lock = threading.Lock()
        self._asking: threading.Thread | None = None
        self._last: Look | None = None
        self._written: deque[tuple[float, int]] = deque()
        self._away = False

    def look(self) -> Look | None:
        """What the server says.

        Returns:
            The last look; a new one if that is too old and the server answers soon. None when it has not answered for
            long.
        """
        with self._lock:
            last = self._last
            if last is not None and last.age < self._fresh:
                return last
            asking = self._asking
            if asking is None or not asking.is_alive():
                asking = self._asking = threading.Thread(target=self._ask, name="pgcdc-watch", daemon=True)
                asking.start()
        asking.join(self._within)
        with self._lock:
            last = self._last
        return None if last is None or last.age > self._stale else last

    def _ask(self) -> None:
        try:
            began, clock = time.monotonic(), time.time()
            with reaching(self._dsn, connect_timeout="5", tcp_user_timeout="10000") as connection:
                connection.execute("SET statement_timeout = '5s'")
                began, clock = time.monotonic(), time.time()
                row = connection.execute(_LOOK).fetchone()
                taken = time.monotonic() - began
                slots = slots_of(connection)
        except Error as error:
            logger.log(logging.DEBUG if self._away else logging.INFO, "what slots keep is not known: %s", error)
            self._away = True
            return
        assert row is not None
        self._away = False
        lsn, ahead = int(row[0]), float(row[1]) - clock - taken / 2
        with self._lock:
            rate = self._rate(began, lsn)
            # Within the time that the answer took nobody knows.
            ahead = 0.0 if abs(ahead) <= taken else ahead
            self._last = Look(at=began, slots=slots, wal_lsn=lsn, wal_bytes_per_second=rate, clock_ahead=ahead)

    def _rate(self, at: float, lsn: int) -> float | None:
        if self._written and lsn < self._written[-1][1]:
            self._written.clear()  # another server answers under this name
        self._written.append((at, lsn))
        while at - self._written[0][0] > RATE_OVER:
            self._written.popleft()
        seconds = at - self._written[0][0]
        return (lsn - self._written[0][1]) / seconds if seconds >= RATE_FROM else None


def until_lost(slot: SlotState, wal_bytes_per_second: float | None) -> float | None:
    """How long a slot can be left alone.

    Args:
        slot: The slot.
        wal_bytes_per_second: How much WAL the server writes.

    Returns:
        Seconds until it may be lost; 0.0 when it is. None when nothing limits what it keeps, or no WAL is written.
    """
    if slot.lost:
        return 0.0
    if slot.safe_wal_size is None or not wal_bytes_per_second:
        return None
    return max(slot.safe_wal_size, 0) / wal_bytes_per_second
