# Made from slots_async.py by ./dev lint --fix: change that file, not this one.
"""Replication slots: created so that a failure leaves none behind, looked at, dropped.

Source: PostgreSQL manual, "Streaming Replication Protocol", CREATE_REPLICATION_SLOT, DROP_REPLICATION_SLOT;
"pg_replication_slots".
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from pgcdc.errors import Error, ReplicationError, SlotInUse, SlotNotFound
from pgcdc.lsn import parse_lsn
from pgcdc.replication.quoting import identifier, literal
from pgcdc.replication.session import Session, Slow, StatementTimeout
from pgcdc.replication.slot import PLUGIN, Slot, SlotState, check_name, create_options, existing, state_of
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["create", "drop", "in_use", "make_room", "state"]

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
    sql = f"SELECT pg_catalog.to_jsonb(s) FROM pg_catalog.pg_replication_slots s WHERE slot_name = {literal(name)}"
    rows = session.execute(sql, doing=Doing(f'looking at slot "{name}"', slot=name))
    if not rows:
        return None
    return state_of(rows[0][0] or "")


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
    options = create_options(walsender.server_version, failover, two_phase, export_snapshot)
    kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
    command = f"CREATE_REPLICATION_SLOT {identifier(name)} {kind} {PLUGIN} {options}"
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
        walsender.execute(f"DROP_REPLICATION_SLOT {identifier(name)}", doing=doing)
    except SlotNotFound:
        if not if_exists:
            raise
    except SlotInUse as error:
        raise in_use(session, name, error) from None


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
        SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE NOT active ORDER BY slot_name LIMIT 1)"""
    limit, idle = session.execute(sql)[0]
    drop = f"SELECT pg_drop_replication_slot({literal(idle)}); if it is not needed any more, or " if idle else ""
    return f"{drop}ALTER SYSTEM SET max_replication_slots = {limit}; then restart the server"


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
                "on a standby it waits until the primary logs its running transactions",
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
