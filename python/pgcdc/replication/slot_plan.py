"""What making, moving and dropping slots would do, and how much WAL that frees; no I/O.

Source: PostgreSQL manual, "pg_replication_slots", "Replication Slots"; server function `KeepLogSeg`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pgcdc.errors import ConfigError, PositionError
from pgcdc.lsn import format_lsn
from pgcdc.replication.plan import PlanStep, PlanWarning, printed, size
from pgcdc.replication.slot import NewSlot, SlotState, check_name, check_slot, lost, missing
from pgcdc.replication.slot_sql import advance_command, create_command, drop_command

__all__ = ["SlotPlan", "changed", "check_room", "plan_slots"]


class SlotPlan(msgspec.Struct, frozen=True):
    """What would become of slots, before it happens; made by `Connection.plan_slots`.

    `str(plan)` is for a terminal, `msgspec.json.encode(plan)` for a program.

    Attributes:
        drop: The slots that are dropped: first, because they may be in the way of others.
        advance: Where slots are moved to.
        create: The slots that are made.
        steps: The commands in their order, each with a sentence.
        warnings: What follows from them that is easily overlooked.
        frees_bytes: How much WAL the server may remove at its next checkpoint, at most, that it keeps for slots now.
        found: The slots that were there and are dropped or moved, as they were.
    """

    drop: tuple[str, ...]
    advance: dict[str, int]
    create: tuple[NewSlot, ...]
    steps: tuple[PlanStep, ...]
    warnings: tuple[PlanWarning, ...]
    frees_bytes: int
    found: tuple[SlotState, ...]

    def __str__(self) -> str:
        text = printed("slots", self.steps, self.warnings)
        if not (self.drop or self.advance):
            return text
        freed = f"at most {size(self.frees_bytes)} of WAL, at the next checkpoint" if self.frees_bytes else "no WAL"
        return f"{text}\n  frees {freed}"


def plan_slots(
    states: Sequence[SlotState],
    create: Sequence[NewSlot],
    advance: Mapping[str, int],
    drop: Sequence[str],
    *,
    database: str,
    server_version: int,
    redo_lsn: int,
    own_pid: int,
) -> SlotPlan:
    """Compare what is there with what is wanted.

    Args:
        states: All slots of the server.
        create: The slots that are wanted.
        advance: Where slots are to be.
        drop: The slots that are not wanted.
        database: The database that we are connected to.
        server_version: The server's version as a number.
        redo_lsn: Where the last checkpoint begins: WAL from there on is kept without any slot.
        own_pid: The process of our own walsender, which temporary slots may belong to.

    Returns:
        The plan.

    Raises:
        ConfigError: When a wish contradicts another one, the server's version, or the slot that is there.
        SlotNotFound: When a slot that is to be moved is not there.
        SlotLost: When a slot that is to be moved has lost its WAL.
        PositionError: When a slot would have to go back, or beyond the end of the WAL.
    """
    # What is ours is nobody else's.
    states = [
        msgspec.structs.replace(state, active_pid=None) if state.active_pid == own_pid else state for state in states
    ]
    there = {state.name: state for state in states}
    _check_wishes([slot.name for slot in create], list(advance), list(drop))
    steps: list[PlanStep] = []
    warnings: list[PlanWarning] = []
    dropped = [there[name] for name in dict.fromkeys(drop) if name in there]
    for state in dropped:
        steps.append(PlanStep(f"slot {state.name} is dropped", drop_command(state.name)))
        warnings += _dropping(state)
    moved = {}
    for name, lsn in advance.items():
        state = _movable(there.get(name), name, lsn, database)
        if lsn != state.confirmed_flush_lsn:
            moved[name] = lsn
            step, more = _moving(state, lsn)
            steps.append(step)
            warnings += more
    created = tuple(slot for slot in create if slot.name in drop or not _is_there(slot, there.get(slot.name), database))
    for slot in created:
        check_name(slot.name)
        steps.append(_making(slot, server_version))
    floor = {state.name: state.restart_lsn for state in states if state.restart_lsn is not None}
    names = {state.name for state in dropped}
    after = {name: max(lsn, moved.get(name, 0)) for name, lsn in floor.items() if name not in names}
    return SlotPlan(
        drop=tuple(state.name for state in dropped),
        advance=moved,
        create=created,
        steps=tuple(steps),
        warnings=tuple([*warnings, *_held_by(after, floor, redo_lsn)] if dropped or moved else warnings),
        frees_bytes=_kept_from(after, redo_lsn) - _kept_from(floor, redo_lsn) if dropped or moved else 0,
        found=tuple(state for state in states if state.name in names or state.name in moved),
    )


def _check_wishes(create: Sequence[str], advance: Sequence[str], drop: Sequence[str]) -> None:
    for name in create:
        if create.count(name) > 1:
            raise ConfigError(f'slot "{name}" is to be made twice', slot=name)
    for name in advance:
        if name in drop or name in create:
            raise ConfigError(
                f'slot "{name}" is to be moved, and made or dropped besides', hint="decide for one", slot=name
            )


def _dropping(state: SlotState) -> list[PlanWarning]:
    warnings = _in_use(state, "dropped")
    if state.synced:
        warnings.append(
            PlanWarning(
                "in_use",
                f"slot {state.name} is synchronised from the primary, and can be dropped only there",
                hint="drop it on the primary",
            )
        )
    elif state.lag_bytes and not state.lost:
        warnings.append(
            PlanWarning(
                "rows_lost",
                f"what slot {state.name} has not confirmed cannot be read any more: what is for it in"
                f" {size(state.lag_bytes)} of WAL",
                hint="read it to its end first; a slot of the same name begins at the present, and needs a snapshot",
            )
        )
    return warnings


def _in_use(state: SlotState, what: str) -> list[PlanWarning]:
    if state.active_pid is None:
        return []
    whose = "belongs to" if state.temporary else "is streamed from by"
    return [
        PlanWarning(
            "in_use",
            f"slot {state.name} {whose} process {state.active_pid}, and cannot be {what} as long as it is",
            hint=f"stop that consumer, or SELECT pg_terminate_backend({state.active_pid}); then make the plan again",
        )
    ]


def _movable(state: SlotState | None, name: str, lsn: int, database: str) -> SlotState:
    if state is None:
        raise missing(name)
    check_slot(state, database)
    if state.lost:
        raise lost(name, state)
    check_room(state, lsn)
    return state


def check_room(state: SlotState, lsn: int) -> None:
    """Refuse to move a slot back, or to where there is no WAL yet.

    Args:
        state: The slot.
        lsn: Where to.

    Raises:
        PositionError: When it cannot be there.
    """
    confirmed = state.confirmed_flush_lsn or 0
    if lsn < confirmed:
        raise PositionError(
            f'slot "{state.name}" is confirmed up to {format_lsn(confirmed)} and cannot go back to {format_lsn(lsn)}',
            hint="what was confirmed is gone: a new slot and a new snapshot begin again",
            slot=state.name,
            lsn=confirmed,
            sqlstate="55000",
        )
    end = confirmed + (state.lag_bytes or 0)
    if lsn > end:
        raise PositionError(
            f'slot "{state.name}" cannot go to {format_lsn(lsn)}: the server\'s WAL ends at {format_lsn(end)}',
            hint="an LSN counts only on the server, and the timeline, that it was read from",
            slot=state.name,
            lsn=end,
        )


def _moving(state: SlotState, lsn: int) -> tuple[PlanStep, list[PlanWarning]]:
    confirmed = state.confirmed_flush_lsn or 0
    way = f"from {format_lsn(confirmed)} to {format_lsn(lsn)}"
    says = f"slot {state.name} moves {way}, over {size(lsn - confirmed)} of WAL"
    warnings = _in_use(state, "moved")
    warnings.append(
        PlanWarning(
            "rows_lost",
            f"no stream from slot {state.name} gives what was committed before {format_lsn(lsn)}",
            hint="make sure that its consumer has it, or does not want it",
        )
    )
    if state.two_phase:
        warnings.append(
            PlanWarning(
                "rows_lost",
                f"slot {state.name} has two_phase: of a transaction that was prepared before {format_lsn(lsn)} and is"
                " still open only its COMMIT PREPARED will come, without its changes",
                hint="SELECT gid FROM pg_prepared_xacts; and move the slot only to before the oldest",
            )
        )
    return PlanStep(says, advance_command(state.name, lsn)), warnings


def _is_there(wanted: NewSlot, state: SlotState | None, database: str) -> bool:
    if state is None:
        return False
    check_slot(state, database)
    if state.lost:
        raise lost(wanted.name, state)
    for what, is_so, want in (
        ("failover", state.failover, wanted.failover),
        ("two_phase", state.two_phase, wanted.two_phase),
        ("temporary", state.temporary, wanted.temporary),
    ):
        if is_so != want:
            raise ConfigError(
                f'slot "{wanted.name}" is there, with {what} {"on" if is_so else "off"}',
                hint="take it as it is; or drop it and make it again, with a new snapshot",
                slot=wanted.name,
            )
    return True


def _making(slot: NewSlot, server_version: int) -> PlanStep:
    kinds = [kind for kind in ("temporary", "failover", "two_phase") if getattr(slot, kind)]
    suffix = f" ({', '.join(kinds)})" if kinds else ""
    says = f"slot {slot.name}{suffix} is made; it waits for every transaction that has written by then"
    return PlanStep(says, create_command(slot, server_version))


def _kept_from(floor: Mapping[str, int], redo_lsn: int) -> int:
    """Where the WAL begins that is kept: for slots, or for the server's own recovery."""
    return min([*floor.values(), redo_lsn])


def _held_by(after: Mapping[str, int], floor: Mapping[str, int], redo_lsn: int) -> list[PlanWarning]:
    """Say what keeps the WAL, when it is neither of the slots concerned nor the server itself."""
    kept = _kept_from(after, redo_lsn)
    holders = [name for name, lsn in after.items() if lsn == kept and floor[name] == lsn]
    if not holders or kept >= redo_lsn:
        return []
    kept_size = size(redo_lsn - kept)
    says = f"slot {holders[0]} keeps the WAL from {format_lsn(kept)} on, {kept_size} that recovery does not need"
    return [PlanWarning("wal_kept", says, hint=f"look after its consumer: connection.slot({holders[0]!r})")]


def changed(now: SlotState | None, then: SlotState) -> bool:
    """Whether a slot is not any more what it was when a plan was made.

    Args:
        now: The slot now.
        then: The slot then.

    Returns:
        Whether it was dropped, made again, moved or lost.
    """
    if now is None:
        return True
    return _identity(now) != _identity(then)


def _identity(state: SlotState) -> tuple[object, ...]:
    return (state.plugin, state.database, state.temporary, state.two_phase, state.confirmed_flush_lsn, state.lost)
