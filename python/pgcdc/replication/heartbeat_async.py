"""A logical message now and then, so that there is WAL in a database that nobody writes to.

A slot's `restart_lsn` moves only when the server logs what transactions are running, which it does only when there is
WAL; and who measures lag by the age of the last event has none to go by.

Source: PostgreSQL manual, "Replication Management Functions", `pg_logical_emit_message`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pgcdc.errors import Error
from pgcdc.replication import waits_async as waits
from pgcdc.replication.libpq import psycopg

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgcdc.replication.session_async import AsyncSession

__all__ = ["PREFIX", "AsyncHeartbeat"]

logger = logging.getLogger("pgcdc.replication")

PREFIX: Final = "pgcdc.heartbeat"
"""The prefix of the messages."""


class AsyncHeartbeat:
    """Writes a message at an interval, for as long as it is held.

    Args:
        seconds: The interval.
        ask: Makes a session; each message has its own, so nothing is kept open in between.
        slot: The slot that it is for, for the log.
    """

    def __init__(self, seconds: float, ask: Callable[[], Awaitable[AsyncSession]], slot: str) -> None:
        self._seconds = seconds
        self._ask = ask
        self._slot = slot
        self._failed = False
        self._beating = waits.Periodic(self._beat, f"pgcdc-{slot}-heartbeat")

    def stop(self) -> None:
        """End it; what is under way may take as long as a connection takes to be made, and is not waited for."""
        self._beating.stop(wait=False)

    async def _beat(self) -> float | None:
        try:
            async with await self._ask() as session:
                await session.execute(f"SELECT pg_catalog.pg_logical_emit_message(false, '{PREFIX}', '')")
        except (Error, psycopg.Error) as error:  # psycopg's when the walsender beside it is just being made again
            # The stream does not depend on it, and meets by itself whatever is wrong with the server.
            if not self._failed:
                logger.warning("no heartbeat could be written for slot %s: %s", self._slot, error)
            self._failed = True
        else:
            self._failed = False
        return self._seconds
