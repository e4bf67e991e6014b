"""What a slot is: its name, its state as the server tells it, and whether it is one that pgcdc can stream from.

Source: PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT; "pg_replication_slots".
"""

# ruff: noqa: S608 (a hint is for a person to read and run)

from __future__ import annotations

import re
from typing import Final

import msgspec

from pgcdc.errors import ConfigError, SlotLost
from pgcdc.lsn import parse_lsn
from pgcdc.replication.quoting import literal

__all__ = ["PLUGIN", "Slot", "SlotState", "check_name", "check_slot", "create_options", "existing", "lost", "state_of"]

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
        restart_lsn=None if row.restart_lsn is None else parse_lsn(row.restart_lsn),
        confirmed_flush_lsn=None if row.confirmed_flush_lsn is None else parse_lsn(row.confirmed_flush_lsn),
        wal_status=row.wal_status,
        safe_wal_size=row.safe_wal_size,
        two_phase=bool(row.two_phase),
        conflicting=bool(row.conflicting),
        invalidation_reason=row.invalidation_reason,
        failover=bool(row.failover),
        synced=bool(row.synced),
    )


def check_slot(found: SlotState, database: str) -> None:
    """Refuse a slot that pgcdc cannot stream from.

    Args:
        found: The slot.
        database: The database that we are connected to.

    Raises:
        ConfigError: When it is physical, has another plugin, or belongs to another database.
    """
    mend = f"choose another name, or drop it: SELECT pg_drop_replication_slot({literal(found.name)});"
    if found.plugin is None:
        raise ConfigError(f'slot "{found.name}" is a physical slot, not a logical one', hint=mend, slot=found.name)
    if found.plugin != PLUGIN:
        raise ConfigError(
            f'slot "{found.name}" has the plugin {found.plugin}, pgcdc reads {PLUGIN}', hint=mend, slot=found.name
        )
    if found.database != database:
        raise ConfigError(
            f'slot "{found.name}" belongs to database "{found.database}", this connection is to "{database}"',
            hint=f"connect to that database, or {mend}",
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


def create_options(server_version: int, failover: bool, two_phase: bool, export_snapshot: bool) -> str:
    """Write the options of CREATE_REPLICATION_SLOT, in the form that the version reads.

    Args:
        server_version: The server's version as a number.
        failover: Whether it is synchronised to standbys.
        two_phase: Whether prepared transactions are decoded at PREPARE.
        export_snapshot: Whether it exports a snapshot.

    Returns:
        The options.

    Raises:
        ConfigError: When the version does not know one.
    """
    if failover and server_version < 170000:
        raise ConfigError("failover slots need PostgreSQL 17", hint="leave failover out")
    if two_phase and server_version < 150000:
        raise ConfigError("two-phase decoding by pgoutput needs PostgreSQL 15", hint="leave two_phase out")
    if server_version < 150000:
        return "EXPORT_SNAPSHOT" if export_snapshot else "NOEXPORT_SNAPSHOT"
    options = [f"SNAPSHOT {literal('export' if export_snapshot else 'nothing')}"]
    options += ["TWO_PHASE"] if two_phase else []
    options += ["FAILOVER"] if failover else []
    return f"({', '.join(options)})"
