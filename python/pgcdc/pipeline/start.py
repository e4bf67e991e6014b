"""What a run begins with: resume, initial copy, or refusal; decided from what is stored and what the server has.

Also whether it may go on with a server that it had lost.

Over 400 lines because every contradiction that stops a start has a sentence and a hint of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost, Error, PositionError, SlotLost, SlotNotFound
from pgcdc.lsn import format_lsn, parse_lsn
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.settings import Settings, settings_beside
from pgcdc.pipeline.spooling import SpoolState
from pgcdc.pipeline.subscription import Subscription
from pgcdc.replication import Connection, SlotState
from pgcdc.replication.session import Session
from pgcdc.replication.slot import synchronised
from pgcdc.replication.sqlstate import ON_STANDBY
from pgcdc.replication.timeline import switch_point

__all__ = [
    "Decision",
    "Server",
    "check_again",
    "check_gone",
    "check_slot",
    "decide",
    "look_at",
    "rows_to_resume",
    "tables_missing",
    "written_lsn",
]

Decision: TypeAlias = Literal["fresh", "again", "adopt", "resume"]
"""`fresh`: nothing is there; `again`: what is there is of no use any more; `adopt`: a slot without positions, taken as
it is; `resume`: go on."""


@dataclass(frozen=True)
class Server:
    """What positions are compared with.

    Attributes:
        system_identifier: Of the cluster.
        timeline: The current one.
        database: The one connected to.
        end_lsn: How far the WAL is flushed (on a standby: replayed).
        switches: Where each earlier timeline ended.
        standby: Whether it is one.
    """

    system_identifier: str
    timeline: int
    database: str
    end_lsn: int
    switches: Mapping[int, int]
    standby: bool


def look_at(connection: Connection, stored: Mapping[str, StoredPosition]) -> Server:
    """Ask the server for what positions are compared with.

    Args:
        connection: A replication connection.
        stored: The stored positions: their timelines' ends are looked up.

    Returns:
        The facts.
    """
    [(end_lsn, standby)] = connection.execute(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        " ELSE pg_catalog.pg_current_wal_flush_lsn() END, pg_catalog.pg_is_in_recovery()"
    )
    switches = {}
    if any(row.timeline < connection.timeline for row in stored.values()):
        with Session.connect(connection.dsn, replication=True) as walsender:
            [(_, history)] = walsender.execute(f"TIMELINE_HISTORY {connection.timeline}")
        for timeline in {row.timeline for row in stored.values()}:
            point = switch_point(history or "", timeline)
            if point is not None:
                switches[timeline] = point
    return Server(
        system_identifier=connection.system_identifier,
        timeline=connection.timeline,
        database=connection.database,
        end_lsn=parse_lsn(end_lsn or "0/0"),
        switches=switches,
        standby=standby == "t",
    )


def written_lsn(connection: Connection) -> int:
    """Ask how far WAL is written, flushed or not: whatever a query saw before this has committed below it.

    Args:
        connection: A replication connection.

    Returns:
        The LSN; on a standby, how far WAL is replayed.

    Source:
        PostgreSQL manual, "System Administration Functions", `pg_current_wal_insert_lsn`.
    """
    [(lsn,)] = connection.execute(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        " ELSE pg_catalog.pg_current_wal_insert_lsn() END"
    )
    return parse_lsn(lsn or "0/0")


def decide(
    settings: Settings,
    subscriptions: Sequence[Subscription],
    stored: Mapping[str, StoredPosition],
    slot: SlotState | None,
    server: Server,
    spools: Mapping[str, SpoolState] | None = None,
) -> Decision:
    """Compare what is stored with what the server has.

    Args:
        settings: The pipeline's.
        subscriptions: The consumers registered now.
        stored: What is stored, by consumer.
        slot: The pipeline's slot, None when it does not exist.
        server: What the server said.
        spools: What is durable in the spools of consumers.

    Returns:
        What to do.

    Raises:
        PositionError: When going on could lose or repeat rows: a person decides.
        SlotNotFound: When the slot that the positions belong to is gone.
        SlotLost: When the server has removed WAL that the slot needed.
        ConfigError: When the slot is not one of this kind or database.
    """
    if slot is not None:
        check_slot(slot, server)
    if not stored:
        if slot is None:
            return "fresh"
        if settings.snapshot == "never":
            _check_lost(slot)
            return "adopt"
        raise _unknown_slot(settings, slot)
    _check_origin(settings, stored, server)
    _check_consumers(settings, subscriptions, stored)
    if settings.snapshot == "always" or _of_no_use(stored, slot):
        return "again"
    try:
        if slot is None:
            raise _slot_gone(settings, stored, server)
        _check_lost(slot)
    except (SlotNotFound, SlotLost):
        if settings.snapshot == "when_needed" and not (slot is None and server.standby):
            return "again"
        raise
    _check_positions(settings, stored, slot, server, spools or {})
    return "resume"


def check_again(
    settings: Settings,
    stored: Mapping[str, StoredPosition],
    slot: SlotState | None,
    server: Server,
    reached_lsn: int,
    spools: Mapping[str, SpoolState] | None = None,
) -> None:
    """Whether a run may go on with a server after its connection was lost.

    Args:
        settings: The pipeline's.
        stored: What is stored, by consumer.
        slot: The pipeline's slot, None when it does not exist.
        server: What the server said.
        reached_lsn: How far WAL was handed over to consumers, stored or not.
        spools: What is durable in the spools of consumers.

    Raises:
        PositionError: When it is not the same WAL, or the slot is further than what is stored.
        SlotNotFound: When the slot is gone.
        SlotLost: When the server has removed WAL that the slot needed.
        ConfigError: When the slot is another one.
        ConnectionLost: When a standby has not replayed enough of it yet.
    """
    if slot is None:
        raise _slot_gone(settings, stored, server)
    check_slot(slot, server)
    _check_lost(slot)
    if server.standby and server.end_lsn < reached_lsn and all(r.timeline == server.timeline for r in stored.values()):
        raise ConnectionLost(
            f"the standby has replayed WAL only up to {format_lsn(server.end_lsn)}, and pipeline {settings.name!r} is"
            f" at {format_lsn(reached_lsn)}",
            slot=settings.slot,
            lsn=reached_lsn,
        )
    ahead = {
        name: msgspec.structs.replace(row, through_lsn=max(row.through_lsn, reached_lsn))
        for name, row in stored.items()
    }
    _check_origin(settings, ahead, server)
    _check_positions(settings, stored, slot, server, spools or {})
    _check_positions(settings, ahead, slot, server, spools or {})


def check_gone(connection: Connection, settings: Settings, stored: Mapping[str, StoredPosition]) -> None:
    """Whether a start would be refused because the slot is gone, before anything is made for it.

    Args:
        connection: A replication connection.
        settings: The pipeline's.
        stored: What is stored, by consumer.

    Raises:
        PositionError: When it is of another server.
        SlotNotFound: When the slot that the positions belong to is gone.
    """
    if not stored or settings.snapshot == "always" or _of_no_use(stored, None):
        return
    server = look_at(connection, stored)
    _check_origin(settings, stored, server)
    if settings.snapshot != "when_needed" or server.standby:
        raise _slot_gone(settings, stored, server)


def _of_no_use(stored: Mapping[str, StoredPosition], slot: SlotState | None) -> bool:
    """Whether all that there is, is a first copy that cannot be gone on with."""
    states = {row.snapshot for row in stored.values()}
    if "begun" not in states or "done" in states:
        return False
    # Killed between the slot's making and its storing, or before any table was finished: begin again.
    return slot is None or slot.lost or not any(row.tables and row.through_lsn for row in stored.values())


def rows_to_resume(
    settings: Settings,
    subscriptions: Collection[str],
    stored: Mapping[str, StoredPosition],
    server: Server,
    fingerprint: str,
    joined_at: int,
    complete: Mapping[str, Collection[int]],
    spools: Mapping[str, str | None] | None = None,
) -> list[StoredPosition]:
    """What is stored when a run goes on, also for consumers that are new.

    Args:
        settings: The pipeline's.
        subscriptions: The names of the consumers registered now.
        stored: What was stored.
        server: What the server said.
        fingerprint: That of what the server sends now.
        joined_at: Up to where the slot is confirmed.
        complete: For each consumer that copies, the OIDs of all its tables.
        spools: The ids of the consumers' spools, where it takes them to go on.

    Returns:
        One for each consumer.
    """
    rows = []
    for name in subscriptions:
        row = stored.get(name)
        wanted = complete.get(name)
        if row is None:
            row = StoredPosition(
                consumer=name,
                epoch=0,
                snapshot="none" if wanted is None else "begun",
                position=None,
                through_lsn=joined_at,
                slot=settings.slot,
                system_identifier=server.system_identifier,
                timeline=server.timeline,
                fingerprint=fingerprint,
                tables=None if wanted is None else {},
            )
        elif row.snapshot != "none" and wanted is not None:
            # Of positions that an earlier version has stored, it is known only that the copy was done.
            had = dict.fromkeys(wanted, 0) if row.tables is None else row.tables
            # A table that a consumer gives up is one that it lacks when it wants it again.
            row = msgspec.structs.replace(row, tables={oid: lsn for oid, lsn in had.items() if oid in wanted})
        rows.append(msgspec.structs.replace(row, timeline=server.timeline, spool=(spools or {}).get(name)))
    return rows


def tables_missing(
    stored: Mapping[str, StoredPosition], complete: Mapping[str, Collection[int]]
) -> dict[str, set[int]]:
    """Find who lacks the rows of which tables.

    Args:
        stored: What is stored, by consumer.
        complete: For each consumer that copies, the OIDs of all its tables.

    Returns:
        OIDs by consumer; those that lack nothing are left out.
    """
    missing = {}
    for name, row in stored.items():
        if row.tables is not None and (oids := set(complete.get(name, ())) - row.tables.keys()):
            missing[name] = oids
    return missing


_ANEW = "call Pipeline.destroy() once: the next start takes a new initial copy"


def check_slot(slot: SlotState, server: Server) -> None:
    """Whether a slot can be a pipeline's.

    Args:
        slot: The slot of its name.
        server: What the server said.

    Raises:
        ConfigError: When it is another kind's, or another database's.
    """
    for what, found, wanted in (("plugin", slot.plugin, "pgoutput"), ("database", slot.database, server.database)):
        if found != wanted:
            raise ConfigError(
                f"slot {slot.name!r} has {what} {found!r}, not {wanted!r}: it is not of this pipeline",
                hint="give the pipeline a slot of its own: Pipeline(…, slot=…)",
                slot=slot.name,
            )
    if slot.synced and server.standby:
        raise synchronised(slot.name)
    if slot.two_phase:
        raise ConfigError(
            f"slot {slot.name!r} decodes transactions when they are prepared (two_phase), before it is known whether"
            " they commit: a pipeline takes only what was committed",
            hint="give the pipeline a slot without two_phase: drop this one and start for a new initial copy, or"
            " Pipeline(…, slot=…)",
            slot=slot.name,
        )


def _check_lost(slot: SlotState) -> None:
    if slot.lost:
        raise SlotLost(
            f"the server has removed WAL that slot {slot.name!r} still needed: what was written since"
            f" {format_lsn(slot.confirmed_flush_lsn or 0)} cannot be read any more",
            hint=f'{_ANEW}; or use snapshot="when_needed"; raise max_slot_wal_keep_size against the next time',
            slot=slot.name,
            lsn=slot.confirmed_flush_lsn,
        )


def _unknown_slot(settings: Settings, slot: SlotState) -> PositionError:
    return PositionError(
        f"slot {slot.name!r} exists, but no position is stored for pipeline {settings.name!r}:"
        " what the slot has already confirmed is not known to be anywhere",
        hint="if the positions are in another store, give that one; else"
        f" SELECT pg_drop_replication_slot('{slot.name}');"
        ' and start again for an initial copy, or use snapshot="never" to take only what the slot still has',
        slot=slot.name,
        lsn=slot.confirmed_flush_lsn,
    )


def _slot_gone(settings: Settings, stored: Mapping[str, StoredPosition], server: Server) -> SlotNotFound:
    through_lsn = min(row.through_lsn for row in stored.values())
    return SlotNotFound(
        f"slot {settings.slot!r} does not exist any more, and pipeline {settings.name!r} is only at"
        f" {format_lsn(through_lsn)}: what was written since then cannot be read",
        hint=ON_STANDBY if server.standby else f'{_ANEW}; or use snapshot="when_needed"',
        slot=settings.slot,
        lsn=through_lsn,
    )


def _check_origin(settings: Settings, stored: Mapping[str, StoredPosition], server: Server) -> None:
    for row in stored.values():
        who = f"the position of consumer {row.consumer!r} ({format_lsn(row.through_lsn)})"
        facts = {"slot": settings.slot, "lsn": row.through_lsn}
        if row.system_identifier != server.system_identifier:
            raise PositionError(
                f"{who} belongs to the cluster {row.system_identifier}, but this server is {server.system_identifier}",
                hint=f"connect to the right server, or {_ANEW}",
                **facts,  # type: ignore[arg-type]
            )
        if row.slot != settings.slot:
            raise PositionError(
                f"{who} belongs to slot {row.slot!r}, not {settings.slot!r}",
                hint=f"Pipeline(…, slot={row.slot!r}), or with that slot: {_ANEW}",
                **facts,  # type: ignore[arg-type]
            )
        if row.timeline != server.timeline:
            switch = server.switches.get(row.timeline)
            if switch is None or row.through_lsn > switch:
                where = "is not one of its ancestors" if switch is None else f"ended at {format_lsn(switch)}"
                raise PositionError(
                    f"{who} is on timeline {row.timeline}, which {where} on this server (timeline {server.timeline}):"
                    " its targets have rows that this server never had",
                    hint=f"empty the targets and {_ANEW}",
                    **facts,  # type: ignore[arg-type]
                )


def _check_consumers(
    settings: Settings, subscriptions: Sequence[Subscription], stored: Mapping[str, StoredPosition]
) -> None:
    gone = sorted(set(stored) - {subscription.name for subscription in subscriptions})
    if gone:
        raise PositionError(
            f"pipeline {settings.name!r} has a stored position for consumer {gone[0]!r}, which is not registered",
            hint=f"register it again; or Pipeline.rename({gone[0]!r}, …) when it has another name now, once more when"
            f" that was cut; or Pipeline.forget({gone[0]!r}), and its dead letters with it, when it is not wanted"
            " (pgcdc consumer rename, pgcdc consumer forget)",
            slot=settings.slot,
            lsn=stored[gone[0]].through_lsn,
        )


def check_own_slots(settings: Settings, stored: Collection[str]) -> None:
    """Refuse a start that would leave the slot of a consumer behind, which keeps WAL for nobody.

    Args:
        settings: The pipeline's.
        stored: The consumers of which something is stored as of one with a slot of its own.

    Raises:
        PositionError: When one of them has none any more.
    """
    gone = sorted(set(stored) - settings.own_slots)
    if gone:
        slot = settings_beside(settings, gone[0], ()).slot
        raise PositionError(
            f"consumer {gone[0]!r} of pipeline {settings.name!r} had a slot of its own, {slot}, and is not registered"
            " with own_slot any more",
            hint=f"register it so again, by this name; or Pipeline.forget({gone[0]!r}) (pgcdc consumer forget) drops"
            " the slot with what is stored of it, its dead letters too",
            slot=slot,
        )


def check_left_behind(settings: Settings, stored: Mapping[str, StoredPosition]) -> None:
    """Refuse a start of consumers with their own slots alone, when some have positions of the pipeline's.

    Args:
        settings: The pipeline's.
        stored: What is stored of its slot.

    Raises:
        PositionError: When something is.
    """
    _check_consumers(settings, (), stored)


def _check_positions(
    settings: Settings,
    stored: Mapping[str, StoredPosition],
    slot: SlotState,
    server: Server,
    spools: Mapping[str, SpoolState],
) -> None:
    for row in stored.values():
        error: Error | None = None
        spool = spools.get(row.consumer)
        is_its = spool is not None and spool.id == row.spool
        covered_lsn = max(row.through_lsn, spool.through_lsn) if spool is not None and is_its else row.through_lsn
        if slot.confirmed_flush_lsn is not None and covered_lsn < slot.confirmed_flush_lsn:
            confirmed = format_lsn(slot.confirmed_flush_lsn)
            error = PositionError(
                f"consumer {row.consumer!r} is only at {format_lsn(row.through_lsn)}, but slot {slot.name!r} has been"
                f" confirmed up to {confirmed}: what is between is lost for it",
                hint=f"if something else reads from this slot, give it another one; then {_ANEW}",
            )
            if row.spool is not None:
                found = f"which ends at {format_lsn(covered_lsn)}" if is_its else "which is not there"
                error = PositionError(
                    f"consumer {row.consumer!r} is only at {format_lsn(row.through_lsn)}, and slot {slot.name!r} has"
                    f" been confirmed up to {confirmed} on the strength of spool {row.spool}, {found}",
                    hint="start with the directory of that spool in its place (Pipeline(…, spool=…)); or, when it is"
                    f" lost, {_ANEW}",
                )
        elif row.through_lsn > server.end_lsn:
            error = PositionError(
                f"consumer {row.consumer!r} is at {format_lsn(row.through_lsn)}, but the server's WAL ends at"
                f" {format_lsn(server.end_lsn)}: the server was set back",
                hint=f"empty the targets and {_ANEW}",
            )
        if error is not None:
            error.slot, error.lsn = settings.slot, row.through_lsn
            raise error
