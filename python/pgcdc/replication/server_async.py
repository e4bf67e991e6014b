"""Whether a server can be streamed from at all, found out before anything is made on it.

Source: PostgreSQL manual, "Logical Decoding", "Replication" (Server Configuration).
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pgcdc.errors import ConfigError
from pgcdc.replication import slots_async as slots
from pgcdc.replication.quoting import literals
from pgcdc.replication.slot import check_name, check_slot, lost

if TYPE_CHECKING:
    from pgcdc.replication.session_async import AsyncSession

__all__ = ["check", "show"]

_OLDEST: Final = 140000
_ON_STANDBY: Final = 160000


async def show(session: AsyncSession, *names: str) -> dict[str, str]:
    """Read settings, in the units in which the server keeps them (milliseconds for times).

    Args:
        session: The connection.
        names: The settings' names.

    Returns:
        Values by name; a name that the version does not know is missing.
    """
    rows = await session.execute(f"SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ({literals(names)})")
    return {name or "": value or "" for name, value in rows}


async def check(session: AsyncSession, database: str, *, slot: str | None, need_new_slot: bool) -> None:
    """Refuse a server that cannot serve a stream; the contract is `check_server`'."""
    if session.server_version < _OLDEST:
        raise ConfigError(
            f"the server is PostgreSQL {session.server_version // 10000}, pgcdc needs 14 or later",
            hint="upgrade the server",
        )
    if session.on_standby and session.server_version < _ON_STANDBY:
        raise ConfigError(
            f"this server is a standby, and one of PostgreSQL {session.server_version // 10000} has no logical slots",
            hint="connect to its primary (target_session_attrs=read-write, where the DSN names several servers);"
            " standbys have logical slots since PostgreSQL 16",
        )
    settings = await show(session, "wal_level", "max_replication_slots", "max_wal_senders")
    if settings["wal_level"] != "logical":
        raise ConfigError(
            f"wal_level is {settings['wal_level']}, logical decoding needs logical",
            hint="ALTER SYSTEM SET wal_level = logical; then restart the server"
            " (on Amazon RDS: rds.logical_replication = 1 in the parameter group)",
        )
    if slot is not None:
        check_name(slot)
        if (found := await slots.state(session, slot)) is not None:
            check_slot(found, database)
            if found.lost:
                raise lost(slot, found)
    if need_new_slot:
        await _check_free_slot(session, int(settings["max_replication_slots"]))


async def _check_free_slot(session: AsyncSession, limit: int) -> None:
    """Refuse when there is no room for another slot."""
    taken = await session.execute("SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots")
    if int(taken[0][0] or 0) < limit:
        return
    raise ConfigError(
        f"all {limit} replication slots of the server are taken",
        hint=await slots.make_room(session),
        sqlstate="53400",
    )
