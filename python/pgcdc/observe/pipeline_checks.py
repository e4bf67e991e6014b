"""Checks of what a pipeline says of itself, and of what its tables show: points 3 to 7 of the checklist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pgcdc.observe.facts import Facts
from pgcdc.observe.finding import Finding
from pgcdc.pipeline.outline import PipelineOutline

__all__ = ["PIPELINE_CHECKS", "PipelineCheck"]

PipelineCheck: TypeAlias = Callable[[PipelineOutline, Facts], Finding]


def positions(outline: PipelineOutline, facts: Facts) -> Finding:
    """Point 3: each consumer keeps its last position durably, and goes on from it."""
    return Finding(
        check="positions",
        title="each consumer goes on from a position that is stored durably",
        status="ok" if outline.durable else "failed",
        found=f"{outline.positions}; {facts.stored} of {len(outline.consumers)} consumers have one"
        if outline.durable and facts.stored is not None
        else outline.positions,
        why="without it a start begins anew, or skips what came meanwhile",
        mend=None if outline.durable else "leave positions= out, or give PostgresPositions or SqlitePositions",
    )


def schema_plan(outline: PipelineOutline, _: Facts) -> Finding:
    """Point 4: what happens when a table has another shape is decided, and not left to chance."""
    undecided = [
        one.name
        for one in outline.consumers
        if one.tables
        and not one.migrations
        and all(one.on_schema_change[kind] == "follow" for kind in ("drop", "retype"))
    ]
    return Finding(
        check="schema_plan",
        title="each consumer has a plan for schema changes",
        status="warning" if undecided else "ok",
        found=f"without a migration, and following whatever happens: {', '.join(undecided)}"
        if undecided
        else "by migrations and policies",
        why="a column that is added is followed by itself; one that is dropped or gets another type may mean something"
        " to the target",
        mend='on_schema_change={"drop": "stop", "retype": "stop"}, or @pipeline.migrate("TABLE", consumer="NAME")'
        if undecided
        else None,
    )


def dead_letters(outline: PipelineOutline, facts: Facts) -> Finding:
    """Point 5: a change that fails is stored before it is confirmed."""
    stopping = [one.name for one in outline.consumers if one.on_failure == "stop"]
    waiting = facts.store.get("dead_letters", 0)
    said = f"{waiting} are there; " if waiting else ""
    return Finding(
        check="dead_letters",
        title="what fails becomes a dead letter before it is confirmed",
        status="warning" if stopping or waiting else "ok",
        found=said + (f"these stop instead: {', '.join(stopping)}" if stopping else "each consumer parks or holds"),
        why="one that stops loses nothing, and the server keeps its WAL until somebody has seen to it",
        mend="; ".join(
            [
                *(['on_failure="hold" where order within a key matters, else "park"'] if stopping else []),
                *(["pgcdc deadletter list"] if waiting else []),
            ]
        )
        or None,
    )


def schema_change_tried(outline: PipelineOutline, facts: Facts) -> Finding:
    """Point 6: a table was altered while the pipeline ran, and it is known what happened."""
    title = "a schema change was tried while the pipeline ran"
    why = "the first one should not be that of production"
    count = facts.store.get("schema_versions")
    if count is None or not outline.tables:
        return Finding(
            check="schema_change_tried",
            title=title,
            status="skipped",
            found="versions of tables are kept elsewhere, or none yet" if outline.tables else "it has no tables",
            why=why,
        )
    return Finding(
        check="schema_change_tried",
        title=title,
        status="ok" if count else "warning",
        found=f"{count} change{'s' * (count > 1)} of tables followed" if count else "none was seen yet",
        why=why,
        mend=None
        if count
        else f"ALTER TABLE {outline.tables[0]} ADD COLUMN tried int; -- in a copy of the database, while it runs",
    )


def replay(outline: PipelineOutline, _: Facts) -> Finding:
    """Point 7: the same stretch twice gives the same state; of a function nobody can see that from outside."""
    exact = [one.name for one in outline.consumers if one.keeps_position]
    others = [one.name for one in outline.consumers if not one.keeps_position]
    return Finding(
        check="replay",
        title="replaying a stretch gives the same state",
        status="skipped" if others else "ok",
        found=(f"exactly once: {', '.join(exact)}; " if exact else "")
        + (f"cannot be seen from outside: {', '.join(others)}" if others else "all keep the position with the data"),
        why="after a crash what was delivered and not yet stored as such comes again",
        mend="pgcdc.testing.contracts.SinkContract and pgcdc.testing.play show it (docs/testing.md)"
        if others
        else None,
    )


PIPELINE_CHECKS: Final[Sequence[PipelineCheck]] = (positions, schema_plan, dead_letters, schema_change_tried, replay)
