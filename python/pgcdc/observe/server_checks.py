"""Checks of a server's version and settings: each a function of what was asked of it.

Source: PostgreSQL manual, "Logical Replication Configuration Settings"; "Replication" (Server Configuration).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pgcdc.observe.facts import Facts
from pgcdc.observe.finding import Finding, Status

__all__ = ["SERVER_CHECKS"]

_RESTART: Final = "-- then restart the server"
_MANAGED: Final = "-- on a managed server: in its parameter group, or among its server parameters"


def version(facts: Facts) -> Finding:
    """PostgreSQL 14 is the first with all that is needed; logical decoding on a standby came with 16."""
    status: Status = "ok" if facts.version >= 140000 else "failed"
    return Finding(
        check="version",
        title="PostgreSQL 14 or later",
        status=status,
        found=f"{facts.version // 10000}.{facts.version % 10000}",
        why="before 14 large transactions cannot be streamed, and values do not come in binary",
        mend=None if status == "ok" else "upgrade the server",
    )


def wal_level(facts: Facts) -> Finding:
    """With less the WAL does not have what logical decoding needs."""
    level = facts.settings["wal_level"]
    return Finding(
        check="wal_level",
        title="wal_level is logical",
        status="ok" if level == "logical" else "failed",
        found=level,
        why="with less the WAL lacks what changes of rows are read from",
        mend=None
        if level == "logical"
        else f"ALTER SYSTEM SET wal_level = logical;\n{_RESTART}\n"
        "-- Amazon RDS, Aurora: rds.logical_replication = 1 in the parameter group;"
        " Cloud SQL: cloudsql.logical_decoding = on; Azure: the server parameter wal_level",
    )


def standby_feedback(facts: Facts) -> Finding:
    """On a standby the primary's VACUUM removes what a slot of the standby needs, unless it is told."""
    title = "on a standby, hot_standby_feedback is on"
    why = "the primary removes rows of its catalog that a slot of this standby needs, and the slot is invalidated"
    if not facts.standby:
        return Finding(check="standby_feedback", title=title, status="ok", found="this is a primary", why=why)
    if facts.version < 160000:
        return Finding(
            check="standby_feedback",
            title=title,
            status="failed",
            found=f"PostgreSQL {facts.version // 10000} decodes nothing on a standby",
            why="logical decoding on a standby came with PostgreSQL 16",
            mend="connect to the primary",
        )
    on = facts.settings["hot_standby_feedback"] == "on"
    return Finding(
        check="standby_feedback",
        title=title,
        status="ok" if on else "failed",
        found="on" if on else "off",
        why=why,
        mend=None if on else "ALTER SYSTEM SET hot_standby_feedback = on;\nSELECT pg_reload_conf();",
    )


def free_slots(facts: Facts) -> Finding:
    """A pipeline needs one slot, and another one for a moment when a consumer joins later."""
    limit, taken = int(facts.settings["max_replication_slots"]), len(facts.slots)
    free = limit - taken
    needed = 1 + (sum(facts.slot(name) is None for name in facts.asked.slots) if facts.asked.slots else 1)
    status: Status = "ok" if free >= needed else "warning" if free == needed - 1 else "failed"
    return Finding(
        check="free_slots",
        title="replication slots are free",
        status=status,
        found=f"{free} of {limit}, {needed} may be needed",
        why="a pipeline has one slot, and takes another one while it copies for consumers or tables that join later",
        mend=None
        if status == "ok"
        else f"ALTER SYSTEM SET max_replication_slots = {limit + 10};\n{_RESTART}\n{_MANAGED}",
    )


def free_walsenders(facts: Facts) -> Finding:
    """One for the stream, one for a snapshot."""
    limit = int(facts.settings["max_wal_senders"])
    free = limit - facts.walsenders
    status: Status = "ok" if free >= 2 else "warning" if free == 1 else "failed"
    return Finding(
        check="free_walsenders",
        title="walsenders are free",
        status=status,
        found=f"{free} of {limit}",
        why="the stream is sent by one, and a slot is made and a snapshot begun over another one",
        mend=None if status == "ok" else f"ALTER SYSTEM SET max_wal_senders = {limit + 10};\n{_RESTART}\n{_MANAGED}",
    )


def kept_wal(facts: Facts) -> Finding:
    """Without a limit a consumer that is away fills the disk; with a small one it loses its slot."""
    megabytes = int(facts.settings["max_slot_wal_keep_size"])
    unlimited = megabytes < 0
    return Finding(
        check="kept_wal",
        title="max_slot_wal_keep_size limits what slots keep",
        status="warning" if unlimited or megabytes < 1024 else "ok",
        found="no limit" if unlimited else f"{megabytes:,} MB",
        why="without a limit a consumer that is away fills the server's disk; with a small one it loses its slot soon,"
        " and needs a new copy of the tables",
        mend="ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; -- what the disk has room for\nSELECT pg_reload_conf();"
        if unlimited or megabytes < 1024
        else None,
    )


def timeouts(facts: Facts) -> Finding:
    """A client that is gone has to be noticed, and one that is slow left alone."""
    sender = int(facts.settings["wal_sender_timeout"])
    idle = int(facts.settings.get("idle_replication_slot_timeout") or 0)
    bad: list[str] = []
    mend: list[str] = []
    if sender == 0 or sender < 10_000:
        bad.append("wal_sender_timeout is off" if sender == 0 else f"wal_sender_timeout is {sender} ms")
        mend.append("ALTER SYSTEM SET wal_sender_timeout = '60s';")
    if 0 < idle < 86_400:
        bad.append(f"idle_replication_slot_timeout is {idle} s")
        mend.append("ALTER SYSTEM SET idle_replication_slot_timeout = 0;")
    return Finding(
        check="timeouts",
        title="time-outs of replication fit",
        status="warning" if bad else "ok",
        found=", ".join(bad) or f"wal_sender_timeout {sender // 1000} s",
        why="without a time-out a dead connection keeps its slot; with a short one a stream breaks off under load, and"
        " a slot is invalidated while its consumer is away for hours",
        mend="\n".join([*mend, "SELECT pg_reload_conf();"]) if bad else None,
    )


def prepared(facts: Facts) -> Finding:
    """A prepared transaction that is forgotten keeps slots from moving."""
    count = facts.prepared
    return Finding(
        check="prepared_transactions",
        title="no prepared transaction is forgotten",
        status="warning" if count else "ok",
        found=f"{count} older than an hour" if count else "none older than an hour",
        why="WAL since a transaction's beginning is kept until it ends, and its changes come only then",
        mend="SELECT gid, prepared, owner FROM pg_prepared_xacts; -- then COMMIT PREPARED or ROLLBACK PREPARED each"
        if count
        else None,
    )


SERVER_CHECKS: Final[Sequence[Callable[[Facts], Finding]]] = (
    version,
    wal_level,
    standby_feedback,
    free_slots,
    free_walsenders,
    kept_wal,
    timeouts,
    prepared,
)
