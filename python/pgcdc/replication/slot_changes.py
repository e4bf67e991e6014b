# Made from slot_changes_async.py by ./dev lint --fix: change that file, not this one.
"""Slots made, moved and dropped by a plan: everything is looked at before the first step, then one after the other.

Slots know no transaction: when a step fails, those before it have been done, and the error says so.

Source: PostgreSQL manual, "pg_replication_slots"; "System Information Functions", pg_control_checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcdc.errors import Error, SlotInUse
from pgcdc.lsn import parse_lsn
from pgcdc.replication import slots
from pgcdc.replication.plan import PlanStale
from pgcdc.replication.slot_plan import SlotPlan, changed, plan_slots
from pgcdc.replication.slot_sql import WAL_END
from pgcdc.replication.sqlstate import Doing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgcdc.replication.session import Session
    from pgcdc.replication.slot import NewSlot

__all__ = ["apply", "plan"]


def plan(
    own_pid: int,
    session: Session,
    database: str,
    create: Sequence[NewSlot],
    advance: Mapping[str, int],
    drop: Sequence[str],
) -> SlotPlan:
    """Plan slots; the contract is `Connection.plan_slots`'."""
    states = slots.states(session)
    doing = Doing("looking at the last checkpoint")
    try:
        [(redo_lsn,)] = session.execute("SELECT redo_lsn FROM pg_catalog.pg_control_checkpoint()", doing=doing)
    except Error as error:
        if error.sqlstate != "42501":
            raise
        # Without the right to look: it is not behind the end of the WAL, and what is freed is said to be "at most".
        [(redo_lsn,)] = session.execute(f"SELECT {WAL_END}", doing=doing)
    return plan_slots(
        states,
        create,
        advance,
        drop,
        database=database,
        server_version=session.server_version,
        redo_lsn=parse_lsn(redo_lsn or ""),
        own_pid=own_pid,
    )


def apply(walsender: Session, session: Session, planned: SlotPlan, database: str, timeout: float) -> None:
    """Do what was planned; the contract is `Connection.apply`'s."""
    if not planned.steps:
        return
    _check_unchanged(walsender, session, planned)
    done: list[str] = []
    try:
        for name in planned.drop:
            slots.drop(walsender, session, name, if_exists=False)
            done.append(f"slot {name} was dropped")
        for name, lsn in planned.advance.items():
            slots.advance(walsender, session, name, lsn, database, timeout=timeout)
            done.append(f"slot {name} was moved")
        for slot in planned.create:
            slots.create(
                walsender,
                session,
                slot.name,
                database,
                temporary=slot.temporary,
                failover=slot.failover,
                two_phase=slot.two_phase,
                if_not_exists=False,
                export_snapshot=False,
                timeout=timeout,
            )
            done.append(f"slot {slot.name} was made")
    except Error as error:
        if done:
            error.add_note(f"before that, {' and '.join(done)}")
        raise


def _check_unchanged(walsender: Session, session: Session, planned: SlotPlan) -> None:
    """Refuse a plan before its first step when slots are not what it was made for."""
    states = {state.name: state for state in slots.states(session)}
    for then in planned.found:
        now = states.get(then.name)
        if changed(now, then):
            raise PlanStale(
                f'the plan for slot "{then.name}" is not applied: it was moved, lost, dropped or made again meanwhile',
                hint="make another plan, and look at it again",
                slot=then.name,
            )
        if now is not None and now.active_pid is not None and now.active_pid != walsender.pgconn.backend_pid:
            error = SlotInUse(
                f'slot "{then.name}" is in use, and the plan is not applied', slot=then.name, sqlstate="55006"
            )
            raise slots.in_use(session, then.name, error)
    for slot in planned.create:
        if slot.name in states and slot.name not in planned.drop:
            raise PlanStale(
                f'the plan for slot "{slot.name}" is not applied: somebody has made it meanwhile',
                hint="make another plan, and look at it again",
                slot=slot.name,
            )
