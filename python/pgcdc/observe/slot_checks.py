"""Checks of slots: whether the pipeline's can be used, how far it is behind, and what others keep.

Source: PostgreSQL manual, "pg_replication_slots"; "max_slot_wal_keep_size".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pgcdc.errors import ConfigError
from pgcdc.observe.facts import Facts
from pgcdc.observe.finding import Finding
from pgcdc.replication.plan import size
from pgcdc.replication.quoting import identifier, literal
from pgcdc.replication.slot import SlotState, check_slot, synchronised

__all__ = ["SLOT_CHECKS", "slot", "slot_lag"]

_GIGABYTE: Final = 1024**3


def slot(facts: Facts) -> Finding:
    """The slot is there and can still be used."""
    title, found = "the slot is usable", facts.slot(facts.asked.slot)
    why = "a slot that has lost its WAL cannot go on: it takes a new one, and a new copy of the tables"
    if facts.asked.slot is None:
        return Finding(check="slot", title=title, status="skipped", found="no slot was named", why=why)
    if found is None and facts.asked.pipeline is None:
        mend = "name one that is there (pgcdc slots), or the pipeline that makes it"
        return Finding(check="slot", title=title, status="failed", found="it does not exist", why=why, mend=mend)
    if found is None and facts.asked.from_kafka:
        return Finding(check="slot", title=title, status="skipped", found="its changes come from Kafka", why=why)
    if found is None and facts.stored is None:
        said = f"it does not exist, and nobody has looked whether {facts.asked.positions} has positions of it"
        return Finding(check="slot", title=title, status="skipped", found=said, why=why)
    if found is None and (stored := facts.stored):
        return Finding(
            check="slot",
            title=title,
            status="warning" if facts.asked.snapshot == "when_needed" else "failed",
            found=f"it does not exist any more, and {stored} stored position{'s are' if stored > 1 else ' is'} of it",
            why="changes since then may be lost: a start is refused until somebody has said how it goes on",
            mend='snapshot="when_needed" takes a new copy; or Pipeline.destroy(), and it begins anew',
        )
    if found is None:
        return Finding(
            check="slot", title=title, status="ok", found="it is made when the pipeline starts first", why=why
        )
    try:
        check_slot(found, facts.database)
        if found.synced and facts.standby:
            raise synchronised(found.name)
    except ConfigError as error:
        return Finding(check="slot", title=title, status="failed", found=str(error), why=why, mend=error.hint)
    if found.lost:
        reason = found.invalidation_reason or found.wal_status or "lost"
        return Finding(
            check="slot",
            title=title,
            status="failed",
            found=f"it is lost ({reason})",
            why=why,
            mend=f"SELECT pg_drop_replication_slot({literal(found.name)});"
            '\n-- then start the pipeline with snapshot="when_needed"',
        )
    room = "" if found.safe_wal_size is None else f", {size(found.safe_wal_size)} before it may be lost"
    close = found.wal_status == "unreserved" or (found.safe_wal_size or _GIGABYTE) < _GIGABYTE // 2
    active = "a process streams from it" if found.active else "no process streams from it"
    return Finding(
        check="slot",
        title=title,
        status="warning" if close or not found.active else "ok",
        found=f"{active}{room}",
        why=why if close else "while nobody streams from a slot the server keeps all WAL since its last position",
        mend="start the consumer, or raise max_slot_wal_keep_size"
        if close
        else None
        if found.active
        else f"start the consumer; or, when nobody needs it: SELECT pg_drop_replication_slot({literal(found.name)});",
    )


def slot_lag(facts: Facts) -> Finding:
    """How far the slot is behind, against the limit at which somebody is to be told."""
    title = f"the slot is less than {facts.asked.lag_seconds:.0f} s behind"
    why = "targets are that old, and the server keeps the WAL since then; a watch on it has to wake somebody up"
    ours = [
        one
        for one in facts.slots
        if one.name == facts.asked.slot or (facts.asked.slot is None and one.lag_bytes is not None)
    ]
    if not ours:
        return Finding(check="slot_lag", title=title, status="skipped", found="there is no slot yet", why=why)
    said, status = [], "ok"
    for one in ours:
        seconds = "an unknown time" if one.lag_seconds is None else f"at least {one.lag_seconds:.0f} s"
        said.append(f"{one.name} {size(one.lag_bytes or 0)}, {seconds}")
        if one.lag_seconds is None:
            status = "warning" if status == "ok" else status
        elif one.lag_seconds > facts.asked.lag_seconds:
            status = "failed"
    unknown = any(one.lag_seconds is None for one in ours)
    mend = "start the consumer, or see which of its targets is slow: pgcdc run logs it"
    grant = f"GRANT pg_monitor TO {identifier(facts.role.name)}; -- seconds are known from the times of WAL files"
    return Finding(
        check="slot_lag",
        title=title,
        status=status,  # type: ignore[arg-type]
        found="; ".join(said),
        why=why,
        mend=mend if status == "failed" else grant if unknown else None,
    )


def other_slots(facts: Facts) -> Finding:
    """A slot that somebody has left behind fills the disk for all."""
    left = [
        one
        for one in facts.slots
        if one.name != facts.asked.slot and not one.active and not one.temporary and (one.held_bytes or 0) > _GIGABYTE
    ]
    return Finding(
        check="other_slots",
        title="no forgotten slot keeps WAL",
        status="warning" if left else "ok",
        found="; ".join(f"{one.name} keeps {size(one.held_bytes or 0)}" for one in left) or "none",
        why="WAL is removed when the last slot needs it no more: one that nobody uses fills the disk",
        mend="\n".join(_of_other(facts, one) for one in left) or None,
    )


def _of_other(facts: Facts, one: SlotState) -> str:
    """What may be done about a slot that is not asked for: who needs it is not to be seen from here."""
    drop = f"SELECT pg_drop_replication_slot({literal(one.name)});"
    if one.synced and facts.standby:
        return f"-- {one.name} follows a slot of the primary: what is done there, happens here"
    if one.plugin is None:
        whose = "a standby or a backup, which begins anew without it"
        return f"-- {one.name} is of {whose}; when that is gone for good: {drop}"
    if one.database != facts.database:
        there = "ask there; if nobody needs it, by a connection to it"
        return f"-- {one.name} is of database {one.database}: {there}: {drop}"
    return f"{drop} -- if nobody needs it"


SLOT_CHECKS: Final[Sequence[Callable[[Facts], Finding]]] = (
    slot,
    slot_lag,
    other_slots,
)
