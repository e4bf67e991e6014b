"""One process owns a pipeline: an advisory lock beside the stream says so, from before the slot is made.

The slot itself is held only while it is streamed from. Without the lock a second process could take a slot whose
initial copy is still going on for one that was left behind, and drop it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

from pgcdc.errors import SlotInUse
from pgcdc.replication import Connection, SlotState

__all__ = ["TAKE_OVER_WITHIN", "disown", "own"]

_CLASS = 0x70676364  # "pgcd": the first half of the key of all locks of pgcdc.

TAKE_OVER_WITHIN = 5.0
"""Seconds that the lock is tried for: a server notices only after a moment that a killed process is gone."""


def own(
    connection: Connection,
    slot: str,
    pause: Callable[[float], None],
    standby: Callable[[SlotInUse], None] | None = None,
) -> SlotState | None:
    """Take the lock of a slot's pipeline, for as long as the connection lasts, and wait until nobody uses the slot.

    Args:
        connection: The replication connection of this run.
        slot: The slot's name.
        pause: Waits so many seconds, or raises when the run is being stopped.
        standby: Told who has it, each time that it was waited for in vain; it is waited for as long as that takes then.

    Returns:
        The slot; None when it does not exist. When it is active even now, something else than pgcdc uses it.

    Raises:
        SlotInUse: When another process has it, and nobody is told.

    Source:
        PostgreSQL manual, "Advisory Lock Functions"; view `pg_locks`.
    """
    unsigned, key = _keys(slot)
    # A network that was cut tells the server nothing: the lock would outlive us by hours.
    connection.execute("SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3")
    deadline = time.monotonic() + TAKE_OVER_WITHIN
    while True:
        [(taken,)] = connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({_CLASS}, {key})")
        if taken == "t":
            break
        if time.monotonic() > deadline:
            error = _in_use(connection, slot, unsigned)
            if standby is None:
                raise error
            standby(error)
            deadline = time.monotonic() + TAKE_OVER_WITHIN
        pause(0.1)
    # A killed process's two sessions end one after the other.
    while (state := connection.slot(slot)) is not None and state.active and time.monotonic() < deadline:
        pause(0.1)
    return state


def disown(connection: Connection, slot: str) -> None:
    """Give the lock of a slot's pipeline back.

    Args:
        connection: The connection that has it.
        slot: The slot's name.
    """
    connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({_CLASS}, {_keys(slot)[1]})")


def _keys(slot: str) -> tuple[int, int]:
    """The second half of the lock's key, as pg_locks shows it, unsigned, and as functions take it, signed."""
    unsigned = zlib.crc32(slot.encode())
    return unsigned, unsigned - (unsigned >> 31 << 32)


def _in_use(connection: Connection, slot: str, unsigned: int) -> SlotInUse:
    holders = connection.execute(
        "SELECT pid FROM pg_catalog.pg_locks"  # noqa: S608 (numbers of ours)
        f" WHERE locktype = 'advisory' AND classid = {_CLASS} AND objid = {unsigned} AND granted"
        " AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"
    )
    pid = holders[0][0] if holders else "unknown"
    return SlotInUse(
        f"another process runs the pipeline of slot {slot!r} (server process {pid})",
        hint=f"let it work, or stop it; pg_stat_activity has under pid {pid} where it runs",
        slot=slot,
        sqlstate="55006",
    )
