"""What is asked of a server about slots, and the commands that make, move and drop them.

Source: PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT, DROP_REPLICATION_SLOT;
"pg_replication_slots"; "Replication Management Functions"; "System Administration Functions", pg_ls_waldir.
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.lsn import format_lsn
from pgcdc.replication.quoting import identifier, literal, literals
from pgcdc.replication.slot import PLUGIN, NewSlot, SlotState

__all__ = [
    "WAL_END",
    "advance_command",
    "ages_sql",
    "create_command",
    "create_options",
    "drop_command",
    "states_sql",
    "wal_file",
    "with_age",
]


WAL_END: Final = (
    "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
    " ELSE pg_catalog.pg_current_wal_insert_lsn() END"
)
"""Where the WAL ends, on a primary and on a standby."""


def states_sql(name: str | None = None) -> str:
    """Write the query for slots and for where the server's WAL ends.

    Args:
        name: The one that is wanted; None for all.

    Returns:
        The query; `state_of` reads the one column of its rows.
    """
    condition = "" if name is None else f" WHERE slot_name = {literal(name)}"
    return (
        f"SELECT pg_catalog.to_jsonb(s) || pg_catalog.jsonb_build_object('wal_end', {WAL_END})"
        f" FROM pg_catalog.pg_replication_slots s{condition} ORDER BY slot_name"
    )


def ages_sql(slots: Sequence[SlotState], segment_size: int) -> str:
    """Write the query for when the WAL just behind each slot's position was written last.

    The server keeps no such time. A file of the WAL has one: that of the last write to it, before which the WAL at the
    position was written. Names of files end alike on every timeline.

    Args:
        slots: The slots that are behind.
        segment_size: Bytes in one file of the WAL.

    Returns:
        The query: the end of a file's name, and seconds since it was written.
    """
    names = sorted({wal_file(slot.confirmed_flush_lsn or 0, segment_size) for slot in slots})
    return (
        "SELECT pg_catalog.right(name, 16),"
        " pg_catalog.min(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - modification))"
        f" FROM pg_catalog.pg_ls_waldir() WHERE pg_catalog.right(name, 16) IN ({literals(names)}) GROUP BY 1"
    )


def wal_file(lsn: int, segment_size: int) -> str:
    """Name the file of the WAL that an LSN is in, without the timeline.

    Args:
        lsn: The LSN.
        segment_size: Bytes in one file of the WAL.

    Returns:
        The last 16 letters of its name.

    Source:
        PostgreSQL manual, "WAL Internals"; server macro `XLogFileName`.
    """
    return f"{lsn >> 32:08X}{(lsn & 0xFFFFFFFF) // segment_size:08X}"


def with_age(found: SlotState, ages: Mapping[str, float], segment_size: int) -> SlotState:
    """Add to a slot's state how old what it lacks is.

    Args:
        found: The state.
        ages: Seconds since files of the WAL were written, by the end of their names.
        segment_size: Bytes in one file of the WAL.

    Returns:
        The state with `lag_seconds`.
    """
    if found.confirmed_flush_lsn is None or found.lag_bytes is None:
        return found
    if found.lag_bytes == 0:
        return msgspec.structs.replace(found, lag_seconds=0.0)
    age = ages.get(wal_file(found.confirmed_flush_lsn, segment_size))
    # A file's time has no fractions here.
    return found if age is None else msgspec.structs.replace(found, lag_seconds=max(age - 1.0, 0.0))


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


def create_command(wanted: NewSlot, server_version: int, *, export_snapshot: bool = False) -> str:
    """Write the command that creates a slot.

    Args:
        wanted: The slot.
        server_version: The server's version as a number.
        export_snapshot: Whether it exports a snapshot.

    Returns:
        A replication command.

    Raises:
        ConfigError: As `create_options`.
    """
    options = create_options(server_version, wanted.failover, wanted.two_phase, export_snapshot)
    kind = "TEMPORARY LOGICAL" if wanted.temporary else "LOGICAL"
    return f"CREATE_REPLICATION_SLOT {identifier(wanted.name)} {kind} {PLUGIN} {options}"


def drop_command(name: str) -> str:
    """Write the command that drops a slot.

    Args:
        name: The slot's name.

    Returns:
        A replication command.
    """
    return f"DROP_REPLICATION_SLOT {identifier(name)}"


def advance_command(name: str, lsn: int) -> str:
    """Write what moves a slot.

    Args:
        name: The slot's name.
        lsn: Where to.

    Returns:
        SQL.
    """
    target = f"{literal(name)}, {literal(format_lsn(lsn))}"
    return f"SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance({target})"
