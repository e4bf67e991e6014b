# Made from slots_async.py by ./dev lint --fix: change that file, not this one.
"""Replication slots: created so that a failure leaves none behind, looked at, dropped; moved and copied.

A temporary slot belongs to the session that made it: only that one can move it or stream from it. That is the walsender
here, also for the functions of SQL, of which it runs those that leave nothing of a table or publication in its caches.

Source: PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT, DROP_REPLICATION_SLOT;
"pg_replication_slots"; "Replication Management Functions"; server file `slotfuncs.c`.
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pgcdc.errors import Error, ReplicationError, SlotInUse, SlotNotFound
from pgcdc.lsn import format_lsn, parse_lsn
from pgcdc.replication.quoting import literal
from pgcdc.replication.session import Session, Slow, StatementTimeout
from pgcdc.replication.slot import (
    PLUGIN,
    NewSlot,
    Slot,
    SlotState,
    check_name,
    check_slot,
    existing,
    lost,
    missing,
    state_of,
)
from pgcdc.replication.slot_plan import check_room
from pgcdc.replication.slot_sql import advance_command, ages_sql, create_command, drop_command, states_sql, with_age
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "advance",
    "copy",
    "create",
    "drop",
    "in_use",
    "make_room",
    "state",
    "states",
    "with_ages",
]

logger = logging.getLogger("pgcdc.replication")
_SLOW_SECONDS: Final = 2.0
"""How long a slot may take before the log says what it waits for."""


def state(session: Session, name: str) -> SlotState | None:
    """Look at a slot.

    Args:
        session: A connection to any database of the server.
        name: The slot's name.

    Returns:
        What the server says about it, None when there is no such slot.
    """
    rows = session.execute(states_sql(name), doing=Doing(f'looking at slot "{name}"', slot=name))
    if not rows:
        return None
    return state_of(rows[0][0] or "")


def states(session: Session) -> list[SlotState]:
    """Look at all slots of the server; the contract is `Connection.slots`'."""
    rows = session.execute(states_sql(), doing=Doing("looking at the slots"))
    return [state_of(row[0] or "") for row in rows]


def with_ages(session: Session, found: Sequence[SlotState]) -> list[SlotState]:
    """Find out how old the WAL is that slots lack; the contract is `Connection.slot`'s.

    Args:
        session: A connection to any database of the server.
        found: Slots, as they were just looked at.

    Returns:
        The same with `lag_seconds`, where the role may look.
    """
    ages: dict[str, float] = {}
    segment_size = 1 << 24
    behind = [slot for slot in found if slot.lag_bytes and slot.confirmed_flush_lsn is not None]
    if behind:
        doing = Doing("looking at the files of the WAL")
        [(may, size)] = session.execute(
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE'),"
            " pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))",
            doing=doing,
        )
        segment_size = int(size or segment_size)
        if may == "t":
            rows = session.execute(ages_sql(behind, segment_size), doing=doing)
            ages = {name or "": float(age or 0) for name, age in rows}
    return [with_age(slot, ages, segment_size) for slot in found]


def create(
    walsender: Session,
    session: Session,
    name: str,
    database: str,
    *,
    temporary: bool,
    failover: bool,
    two_phase: bool,
    if_not_exists: bool,
    export_snapshot: bool,
    timeout: float,
) -> Slot:
    """Create a logical slot for pgoutput; the arguments are those of `Connection.create_slot`."""
    check_name(name)
    if if_not_exists and (found := state(session, name)) is not None:
        return existing(found, database)
    wanted = NewSlot(name, failover=failover, two_phase=two_phase, temporary=temporary)
    command = create_command(wanted, walsender.server_version, export_snapshot=export_snapshot)
    doing = Doing(f'creating slot "{name}"', kind="slot", slot=name)

    def held_up() -> None:
        with suppress(Error):  # whoever waits for the slot is not to fail because of a log line
            holders = _Holders.of(session)
            if holders.gone:
                return  # they ended between the moment that this began and the question
            waiting = "creating slot %s takes long: %s; it goes on waiting for %g s at most"
            logger.warning(waiting, name, holders.waits, timeout)

    try:
        rows = walsender.execute(command, timeout=timeout, doing=doing, slow=Slow(_SLOW_SECONDS, held_up))
    except StatementTimeout:
        raise _held_up(session, name, timeout) from None
    except Error as error:
        if if_not_exists and error.sqlstate == "42710" and (found := state(session, name)) is not None:
            return existing(found, database)  # another process was quicker
        if error.sqlstate == "42710":
            error.hint = f"use it with if_not_exists=True, or SELECT pg_drop_replication_slot({literal(name)});"
        if error.sqlstate == "53400":
            error.hint = make_room(session)
        if error.sqlstate == "55000":
            error.hint = "ALTER SYSTEM SET wal_level = logical; then restart the server"
        raise
    _, consistent_point, snapshot_name, _ = rows[0]
    return Slot(name, parse_lsn(consistent_point or ""), snapshot_name, created=True)


def drop(walsender: Session, session: Session, name: str, *, if_exists: bool) -> None:
    """Drop a slot; the arguments are those of `Connection.drop_slot`."""
    doing = Doing(f'dropping slot "{name}"', kind="slot", slot=name)
    try:
        walsender.execute(drop_command(name), doing=doing)
    except SlotNotFound:
        if not if_exists:
            raise
    except SlotInUse as error:
        raise in_use(session, name, error) from None


def advance(walsender: Session | None, session: Session, name: str, lsn: int, database: str, *, timeout: float) -> int:
    """Move a slot forward; the contract is `Connection.advance_slot`'s."""
    found = _usable(session, name, database)
    check_room(found, lsn)
    runner = session
    if walsender is not None and found.temporary and found.active_pid == walsender.pgconn.backend_pid:
        runner = walsender
    sql = advance_command(name, lsn)
    doing = Doing(f'advancing slot "{name}"', kind="slot", slot=name)
    try:
        [(reached,)] = runner.execute(sql, timeout=timeout, doing=doing)
    except SlotInUse as error:
        raise in_use(session, name, error) from None
    except StatementTimeout:
        raise ReplicationError(
            f'advancing slot "{name}" to {format_lsn(lsn)} did not end within {timeout:g} s',
            hint="the server reads all WAL in between: give it a longer timeout; what it has done so far may count",
            slot=name,
            lsn=lsn,
        ) from None
    return parse_lsn(reached or "")


def copy(runner: Session, session: Session, source: str, name: str, database: str, *, temporary: bool) -> Slot:
    """Copy a slot; the contract is `Connection.copy_slot`'s."""
    check_name(name)
    # Asked first: a slot of another database would become one of this database, at a position that means nothing here.
    _usable(session, source, database)
    doing = Doing(f'copying slot "{source}" to "{name}"', kind="slot", slot=name)
    kind = str(temporary).lower()
    sql = (
        "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot("
        f"{literal(source)}, {literal(name)}, {kind}, {literal(PLUGIN)})"
    )
    try:
        [(lsn,)] = runner.execute(sql, doing=doing)
    except Error as error:
        if error.sqlstate == "42710":
            error.hint = f"choose another name, or SELECT pg_drop_replication_slot({literal(name)});"
        elif error.sqlstate == "42704":
            raise missing(source) from None
        elif error.sqlstate == "53400":
            error.hint = make_room(session)
        raise
    return Slot(name, parse_lsn(lsn or ""), None, created=True)


def _usable(session: Session, name: str, database: str) -> SlotState:
    """A slot of ours that still has its WAL."""
    found = state(session, name)
    if found is None:
        raise missing(name)
    check_slot(found, database)
    if found.lost:
        raise lost(name, found)
    return found


def in_use(session: Session, name: str, error: SlotInUse) -> SlotInUse:
    """Say who has the slot.

    Args:
        session: A connection that can be asked.
        name: The slot's name.
        error: What the server's refusal became.

    Returns:
        The same, with the process in its hint.
    """
    found = state(session, name)
    if found is not None and found.active_pid is not None:
        error.hint = (
            f"process {found.active_pid} of the server streams from it: stop that consumer, or"
            f" SELECT pg_terminate_backend({found.active_pid});"
        )
    return error


def make_room(session: Session) -> str:
    """Say how a server whose slots are all taken gets room for another.

    Args:
        session: A connection that can be asked.

    Returns:
        The hint.
    """
    sql = """SELECT pg_catalog.current_setting('max_replication_slots')::int + 10, (
        SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE NOT active
        ORDER BY restart_lsn, slot_name LIMIT 1)"""
    limit, idle = session.execute(sql)[0]
    # The one that has stood still longest: others may have been made a moment ago, by whoever asks.
    drop = f"; or, if nobody needs it any more, SELECT pg_drop_replication_slot({literal(idle)});" if idle else ""
    return f"ALTER SYSTEM SET max_replication_slots = {limit}; then restart the server{drop}"


_WRITERS: Final = """
SELECT l.pid::text, EXTRACT(epoch FROM pg_catalog.now() - a.xact_start)::bigint::text
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
  AND l.pid <> pg_catalog.pg_backend_pid()
ORDER BY a.xact_start NULLS LAST"""
_PREPARED: Final = """
SELECT gid, EXTRACT(epoch FROM pg_catalog.now() - prepared)::bigint::text
FROM pg_catalog.pg_prepared_xacts ORDER BY prepared"""


class _Holders(msgspec.Struct, frozen=True):
    """What a slot waits for while it is created: every open transaction that has written.

    Attributes:
        waits: As the end of a sentence.
        mend: What ends it.
        gone: Whether they have all ended by now.
    """

    waits: str
    mend: str
    gone: bool = False

    @classmethod
    def of(cls, session: Session) -> _Holders:
        """Ask the server; what the transactions run is not looked at."""
        if session.execute("SELECT pg_catalog.pg_is_in_recovery()")[0][0] == "t":
            return cls(
                "on a standby it waits until the primary logs its running transactions"
                " (there: SELECT pg_log_standby_snapshot();)",
                "on the primary: SELECT pg_log_standby_snapshot();",
            )
        writers = session.execute(_WRITERS)
        prepared = session.execute(_PREPARED)
        holders = [f"process {pid}{_age(age)}" for pid, age in writers]
        holders += [f'prepared transaction "{gid}"{_age(age)}' for gid, age in prepared]
        if not holders:
            return cls("it waited for writing transactions that have ended by now", "try again", gone=True)
        mend = [f"SELECT pg_terminate_backend({pid});" for pid, _ in writers]
        mend += [f"ROLLBACK PREPARED {literal(gid or '')};" for gid, _ in prepared]
        return cls(
            f"it waits for open transactions that have written: {_listed(holders)}",
            f"wait for them and try again with a longer timeout, or end them: {' '.join(mend[:5])}",
        )


def _held_up(session: Session, name: str, timeout: float) -> ReplicationError:
    """Say what kept a slot from being created."""
    holders = _Holders.of(session)
    return ReplicationError(
        f'creating slot "{name}" did not end within {timeout:g} s: {holders.waits}', hint=holders.mend, slot=name
    )


def _age(seconds: str | None) -> str:
    """How long a transaction has been open, where we may know it."""
    return "" if seconds is None else f" (open for {seconds} s)"


def _listed(holders: Sequence[str]) -> str:
    """The first few."""
    more = len(holders) - 5
    return ", ".join(holders[:5]) + (f" and {more} more" if more > 0 else "")
