"""What a slot is: its name, its state as the server tells it, and whether it is one that pgcdc can stream from.

Source: PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT; "pg_replication_slots".
"""

# ruff: noqa: S608 (a hint is for a person to read and run)

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec

from pgcdc.errors import ConfigError, SlotLost, SlotNotFound
from pgcdc.lsn import parse_lsn
from pgcdc.replication.quoting import literal
from pgcdc.replication.sqlstate import ON_STANDBY

__all__ = [
    "PLUGIN",
    "NewSlot",
    "Slot",
    "SlotState",
    "check_name",
    "check_slot",
    "existing",
    "lost",
    "missing",
    "state_of",
    "synchronised",
]

PLUGIN: Final = "pgoutput"
_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")


class Slot(msgspec.Struct, frozen=True):
    """A slot as it was when it was created or found.

    Attributes:
        name: The slot's name.
        consistent_point: The LSN from which the slot gives changes: every transaction that commits at or after it.
        snapshot_name: The exported snapshot, which shows the database exactly at the consistent point. It is valid
            until the next replication command on the connection that created the slot.
        created: False when the slot was there before.
    """

    name: str
    consistent_point: int
    snapshot_name: str | None
    created: bool


class NewSlot(msgspec.Struct, frozen=True):
    """A slot that is wanted; what it is like is said at `Connection.create_slot`.

    Attributes:
        name: Its name.
        failover: Whether it is synchronised to standbys (17+).
        two_phase: Whether prepared transactions are decoded at PREPARE (15+).
        temporary: Whether it goes away with the connection.
    """

    name: str
    failover: bool = False
    two_phase: bool = False
    temporary: bool = False


class SlotState(msgspec.Struct, frozen=True):
    """A row of `pg_replication_slots`; what a version does not have is None or False.

    Attributes:
        name: The slot's name.
        plugin: The output plugin; None for a physical slot.
        database: The database it belongs to; None for a physical slot.
        temporary: Whether it goes away with its session.
        active: Whether a process streams from it.
        active_pid: That process.
        restart_lsn: The oldest WAL that it holds; None when it holds none any more.
        confirmed_flush_lsn: Up to where changes were confirmed; None for a physical slot.
        wal_status: `"reserved"`, `"extended"`, `"unreserved"` or `"lost"`.
        safe_wal_size: Bytes that can be written before it may be lost; None without a limit.
        two_phase: Whether prepared transactions are decoded at PREPARE.
        conflicting: Whether it was invalidated on a standby (16+).
        invalidation_reason: Why it was invalidated (17+).
        failover: Whether it is to be synchronised to standbys (17+).
        synced: Whether it was synchronised from the primary (17+).
        inactive_since: Since when no process streams from it, where none does (17+).
        two_phase_at: From which LSN on prepared transactions are decoded at PREPARE (18+).
        xmin: The oldest transaction whose rows VACUUM has to leave for it; None for a logical slot.
        catalog_xmin: The same for rows of the catalog: an old one lets the catalog grow.
        lag_bytes: WAL since `confirmed_flush_lsn`, whether there is anything in it for this slot or not; None for a
            physical slot.
        lag_seconds: How old the WAL just behind `confirmed_flush_lsn` is at least: 0.0 when there is none, None when it
            cannot be known. See `Connection.slot`.
        held_bytes: WAL since `restart_lsn`, which the server keeps for this slot; None when it keeps none.
    """

    name: str
    plugin: str | None
    database: str | None
    temporary: bool
    active: bool
    active_pid: int | None
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    wal_status: str | None
    safe_wal_size: int | None
    two_phase: bool
    conflicting: bool
    invalidation_reason: str | None
    failover: bool
    synced: bool
    inactive_since: datetime | None = None
    two_phase_at: int | None = None
    xmin: int | None = None
    catalog_xmin: int | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    held_bytes: int | None = None

    @property
    def lost(self) -> bool:
        """Whether it can never be used again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


class _Row(msgspec.Struct):
    """The row as JSON, so that one query serves every version."""

    slot_name: str
    plugin: str | None = None
    database: str | None = None
    temporary: bool = False
    active: bool = False
    active_pid: int | None = None
    restart_lsn: str | None = None
    confirmed_flush_lsn: str | None = None
    wal_status: str | None = None
    safe_wal_size: int | None = None
    two_phase: bool | None = None
    conflicting: bool | None = None
    invalidation_reason: str | None = None
    failover: bool | None = None
    synced: bool | None = None
    inactive_since: datetime | None = None
    two_phase_at: str | None = None
    xmin: str | None = None
    catalog_xmin: str | None = None
    wal_end: str | None = None


def check_name(name: str) -> None:
    """Refuse a name that no slot can have, before the server is asked.

    Args:
        name: The slot's name.

    Raises:
        ConfigError: When it is not one.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a replication slot",
            hint="a slot's name has only the letters a to z, digits and underscores, at most 63",
            slot=name,
        )


def state_of(document: str) -> SlotState:
    """Read a row of the view.

    Args:
        document: The row as JSON, so that one query serves every version.

    Returns:
        The slot's state.
    """
    row = msgspec.json.decode(document, type=_Row)
    return SlotState(
        name=row.slot_name,
        plugin=row.plugin,
        database=row.database,
        temporary=row.temporary,
        active=row.active,
        active_pid=row.active_pid,
        restart_lsn=_lsn(row.restart_lsn),
        confirmed_flush_lsn=_lsn(row.confirmed_flush_lsn),
        wal_status=row.wal_status,
        safe_wal_size=row.safe_wal_size,
        two_phase=bool(row.two_phase),
        conflicting=bool(row.conflicting),
        invalidation_reason=row.invalidation_reason,
        failover=bool(row.failover),
        synced=bool(row.synced),
        inactive_since=row.inactive_since,
        two_phase_at=_lsn(row.two_phase_at),
        xmin=None if row.xmin is None else int(row.xmin),
        catalog_xmin=None if row.catalog_xmin is None else int(row.catalog_xmin),
        lag_bytes=_behind(row.confirmed_flush_lsn, row.wal_end),
        held_bytes=_behind(row.restart_lsn, row.wal_end),
    )


def _lsn(text: str | None) -> int | None:
    return None if text is None else parse_lsn(text)


def _behind(lsn: str | None, end: str | None) -> int | None:
    return None if lsn is None or end is None else max(parse_lsn(end) - parse_lsn(lsn), 0)


def check_slot(found: SlotState, database: str) -> None:
    """Refuse a slot that pgcdc cannot stream from.

    Args:
        found: The slot.
        database: The database that we are connected to.

    Raises:
        ConfigError: When it is physical, has another plugin, or belongs to another database.
    """
    # Whoever it belongs to is not asked here, so dropping it is no advice.
    mend = "choose another name: something else needs this one"
    if found.plugin is None:
        raise ConfigError(
            f'slot "{found.name}" is a physical slot, not a logical one',
            hint=f"{mend}, as a standby or a backup does",
            slot=found.name,
        )
    if found.plugin != PLUGIN:
        raise ConfigError(
            f'slot "{found.name}" has the plugin {found.plugin}, pgcdc reads {PLUGIN}', hint=mend, slot=found.name
        )
    if found.database != database:
        raise ConfigError(
            f'slot "{found.name}" belongs to database "{found.database}", this connection is to "{database}"',
            hint=f"connect to that database; or {mend}",
            slot=found.name,
        )


def lost(slot: str, found: SlotState) -> SlotLost:
    """The exception for a slot whose WAL is gone.

    Args:
        slot: Its name.
        found: Its state.

    Returns:
        The exception, to be raised.
    """
    why = f" ({found.invalidation_reason})" if found.invalidation_reason else ""
    return SlotLost(
        f'slot "{slot}" is lost: the server has given up the WAL that it needed{why}',
        hint=f"SELECT pg_drop_replication_slot({literal(slot)}); then a new slot and a new snapshot;"
        " a larger max_slot_wal_keep_size keeps it from happening again",
        slot=slot,
        lsn=found.confirmed_flush_lsn,
        sqlstate="55000",
    )


def synchronised(slot: str) -> ConfigError:
    """The exception for a slot of a standby that follows the one of its primary: it is not to be used there.

    Args:
        slot: Its name.

    Returns:
        The exception, to be raised.
    """
    return ConfigError(
        f'slot "{slot}" of this standby is synchronised from its primary, and of use only when the standby is promoted',
        hint=ON_STANDBY,
        slot=slot,
        sqlstate="55000",
    )


def missing(slot: str) -> SlotNotFound:
    """The exception for a slot that is not there.

    Args:
        slot: Its name.

    Returns:
        The exception, to be raised.
    """
    return SlotNotFound(
        f'slot "{slot}" does not exist',
        hint=f'connection.create_slot("{slot}"), or correct the name: SELECT slot_name FROM pg_replication_slots;',
        slot=slot,
        sqlstate="42704",
    )


def existing(found: SlotState, database: str) -> Slot:
    """Take a slot that was there before for the one that is wanted.

    Args:
        found: The slot.
        database: The database that we are connected to.

    Returns:
        The slot.

    Raises:
        ConfigError: As `check_slot`.
    """
    check_slot(found, database)
    return Slot(found.name, found.confirmed_flush_lsn or 0, None, created=False)
