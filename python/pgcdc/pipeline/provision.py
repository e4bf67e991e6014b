"""What is made for a pipeline before its first run, and removed when it is not wanted any more; as a plan first.

Nothing here is made in another way than a run makes it: the statements are those of the stores and of the publication.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.pipeline import publishing
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.postgres_definitions import OwnTables
from pgcdc.pipeline.postgres_survey import Place, drop_unused, make, survey
from pgcdc.pipeline.postgres_tables import ELSEWHERE
from pgcdc.pipeline.settings import Settings
from pgcdc.pipeline.start import check_gone
from pgcdc.replication import Connection, check_server
from pgcdc.replication.plan import size
from pgcdc.replication.quoting import identifier, literal

__all__ = ["ProvisionPlan", "ProvisionStep", "StepState", "plan_destroy", "plan_init", "provide", "remove_tables"]

StepState: TypeAlias = Literal["made", "removed", "there", "later", "stays", "absent"]
"""`made`, `removed`: what the plan does. `there`, `absent`: it is so already. `later`: a run makes it. `stays`: it is
left, and `says` tells why."""

_SIGNS: Final[dict[StepState, str]] = {
    "made": "+",
    "removed": "-",
    "there": "=",
    "later": ".",
    "stays": "=",
    "absent": ".",
}


class ProvisionStep(msgspec.Struct, frozen=True, kw_only=True):
    """One thing of a pipeline.

    Attributes:
        kind: What it is: `"schema"`, `"table"`, `"publication"`, `"slot"`, `"positions"`, `"spool"`.
        name: Its name.
        state: What becomes of it.
        says: What it is for, or why it becomes this.
        sql: What is run for it; None where that is no SQL, or nothing.
    """

    kind: Literal["schema", "table", "publication", "slot", "positions", "spool"]
    name: str
    state: StepState
    says: str
    sql: str | None = None


class ProvisionPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is made for a pipeline, or removed.

    `str(plan)` is for a terminal, `msgspec.json.encode(plan)` for a program.

    Attributes:
        pipeline: The pipeline's name.
        does: `"init"` or `"destroy"`.
        steps: The things, in the order in which they are made or removed.
        warnings: What is to be known before.
    """

    pipeline: str
    does: Literal["init", "destroy"]
    steps: tuple[ProvisionStep, ...]
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> int:
        """How many things are made or removed."""
        return sum(step.state in ("made", "removed") for step in self.steps)

    def __str__(self) -> str:
        count = self.changes
        what = "nothing to change" if not count else f"{count} change{'s' if count > 1 else ''}"
        lines = [f"{self.does} of pipeline {self.pipeline!r}: {what}"]
        for step in self.steps:
            lines += _wrapped(f"  {_SIGNS[step.state]} {step.kind} {step.name}: {step.says}", "    ")
            if step.sql is not None:
                text = " ".join(step.sql.split()).replace("( ", "(").replace(" )", ")")
                lines += _wrapped(f"      {text};", "        ")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, 116, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


_WHAT_FOR: Final[dict[str, str]] = {
    "positions": "how far each consumer is",
    "dead_letters": "changes that could not be delivered",
    "dead_letter_owners": "which process may write them",
    "schema_versions": "the versions of tables' shapes",
    "schema_migrations": "which migrations were run",
}


def plan_init(
    connection: Connection,
    pipeline: str,
    settings: Sequence[Settings],
    stores: Sequence[Any],
    stored: Mapping[str, Mapping[str, StoredPosition]],
) -> ProvisionPlan:
    """Say what would be made for a pipeline, and what is there; nothing is changed.

    Args:
        connection: A replication connection to the source.
        pipeline: Its name.
        settings: The pipeline's, and those of its consumers that have slots of their own.
        stores: What it keeps positions, versions and dead letters in.
        stored: The positions that are stored, by the name in the settings and by consumer.

    Returns:
        The plan.

    Raises:
        SlotNotFound: When positions are stored of a slot that is gone: a new one would begin behind them.
        PositionError: When they are of another server.
        ConfigError: When the server cannot serve a stream, or is a standby that lacks something, or a table does not
            exist or cannot be published.
        ConnectionLost: When a server that keeps something of it cannot be reached.
    """
    steps: list[ProvisionStep] = []
    if any(one.source is None for one in settings):
        check_server(connection)  # before what is wrong with its tables: another server may be meant
    own, others = _divided(stores)
    for place in survey(own):
        steps += _steps_of_making(place)
    steps += [_kept_elsewhere(store) for store in others]
    warnings: dict[str, None] = {}
    for one in settings:
        if one.source is None:
            if connection.slot(one.slot) is None:
                check_gone(connection, one, stored.get(one.name, {}))
            steps += [step for step in _steps_of_source(connection, one, warnings) if step not in steps]
    return ProvisionPlan(pipeline=pipeline, does="init", steps=tuple(steps), warnings=tuple(warnings))


def provide(connection: Connection, settings: Sequence[Settings], plan: ProvisionPlan, stores: Sequence[Any]) -> None:
    """Make what a plan says.

    Args:
        connection: A replication connection to the source.
        settings: As `plan_init` was given them.
        plan: What it gave.
        stores: As there.

    Raises:
        Error: When something cannot be made; what was made before stays, and another call goes on.
    """
    own, _ = _divided(stores)
    made = {(step.kind, step.name) for step in plan.steps if step.state == "made"}
    if any(kind in ("schema", "table") for kind, _ in made):
        make(own)
    for one in settings:
        if ("publication", one.publication) in made:
            publishing.make(connection, one)
        if ("slot", one.slot) in made:
            connection.create_slot(one.slot, if_not_exists=True)


def plan_destroy(
    connection: Connection, pipeline: str, settings: Sequence[Settings], stores: Sequence[Any], spools: Sequence[str]
) -> ProvisionPlan:
    """Say what would be removed of a pipeline, and what stays; nothing is changed.

    Args:
        connection: A replication connection to the source.
        pipeline: Its name.
        settings: The pipeline's, and those of its consumers that have slots of their own.
        stores: What it keeps positions, versions and dead letters in.
        spools: The directories of its spools.

    Returns:
        The plan.

    Raises:
        ConnectionLost: When a server that keeps something of it cannot be reached.
    """
    steps: list[ProvisionStep] = []
    warnings: list[str] = []
    for one in settings:
        steps.append(_slot_of_destroy(connection, one, warnings))
        step = _publication_of_destroy(connection, one)
        steps += [] if step in steps else [step]
    steps += [_step("spool", path, "removed", "the directory is deleted") for path in spools]
    own, others = _divided(stores)
    names = {one.name for one in settings}
    for place in survey(own):
        steps += _steps_of_removal(place, names, _pipelines_of(connection) - names, warnings)
    for store in others:
        what = "rows of this pipeline are deleted; the file stays"
        steps.append(_step("positions", type(store).__name__, "removed", what))
    return ProvisionPlan(pipeline=pipeline, does="destroy", steps=tuple(steps), warnings=tuple(warnings))


def remove_tables(connection: Connection, plan: ProvisionPlan, stores: Sequence[Any]) -> list[str]:
    """Drop the tables that a plan says, which no pipeline has rows in any more, and a schema that was made for them.

    Args:
        connection: A replication connection to the source.
        plan: What `plan_destroy` gave.
        stores: As there.

    Returns:
        The tables that stay after all, because somebody uses them by now.

    Raises:
        ConnectionLost: When the server cannot be reached.
    """
    own, _ = _divided(stores)
    # Also those that were not there: whoever forgets positions opens the tables, which makes them.
    removed = {step.name for step in plan.steps if step.kind == "table" and step.state in ("removed", "absent")}
    return drop_unused(own, removed) if removed and not _pipelines_of(connection) else []


def _divided(stores: Sequence[Any]) -> tuple[list[OwnTables], list[Any]]:
    """The tables of stores in PostgreSQL, and the other stores, of which each kind counts once."""
    own = [store.own_tables() for store in stores if hasattr(store, "own_tables")]
    others = [store for store in stores if not hasattr(store, "own_tables")]
    return own, others[:1]


def _step(kind: Any, name: str, state: StepState, says: str, sql: str | None = None) -> ProvisionStep:
    return ProvisionStep(kind=kind, name=name, state=state, says=says, sql=sql)


def _steps_of_making(place: Place) -> list[ProvisionStep]:
    missing = [f"{place.schema}.{table.name}" for table in place.tables if not table.exists]
    if place.standby and missing:
        raise ConfigError(
            f"the server that is to keep the pipeline's tables is a standby, where they cannot be made: {missing[0]}",
            hint=ELSEWHERE,
            table=missing[0],
        )
    steps = []
    if not place.schema_exists:
        sql = f"CREATE SCHEMA {identifier(place.schema)}"
        steps.append(_step("schema", place.schema, "made", "for the tables of pipelines", sql))
    for table in place.tables:
        what = _WHAT_FOR.get(table.name, "")
        state: StepState = "there" if table.exists else "made"
        name = f"{place.schema}.{table.name}"
        steps.append(_step("table", name, state, what, None if table.exists else table.sql))
    return steps


def _kept_elsewhere(store: Any) -> ProvisionStep:
    return _step("positions", type(store).__name__, "later", "keeps positions; a run makes what it needs")


def _steps_of_source(connection: Connection, settings: Settings, warnings: dict[str, None]) -> list[ProvisionStep]:
    slot = connection.slot(settings.slot)
    check_server(connection, slot=None if slot is None else settings.slot, need_new_slot=slot is None)
    planned = publishing.planned(connection, settings)
    warnings |= dict.fromkeys(planned.warnings)  # two slots may have the same tables
    if planned.statements:
        says = "gets the tables that it lacks" if planned.exists else "the pipeline's tables"
        step = _step("publication", settings.publication, "made", says, ";\n".join(planned.statements))
    else:
        whose = "" if planned.ours else "; it was not made by this pipeline"
        step = _step("publication", settings.publication, "there", f"publishes the pipeline's tables{whose}")
    return [step, _slot_of_init(settings, exists=slot is not None)]


def _slot_of_init(settings: Settings, *, exists: bool) -> ProvisionStep:
    if exists:
        return _step("slot", settings.slot, "there", "exists")
    if settings.snapshot == "never":
        sql = f"SELECT pg_create_logical_replication_slot({literal(settings.slot)}, 'pgoutput')"
        return _step("slot", settings.slot, "made", "keeps WAL from now on, for the first run", sql)
    if settings.snapshot == "only":
        return _step("slot", settings.slot, "later", "is temporary: it lasts as long as the copy")
    return _step(
        "slot",
        settings.slot,
        "later",
        "the first run makes it together with the copy of the rows that are there: one that was made now could not say"
        " what is in the copy, and would keep WAL until then",
    )


def _slot_of_destroy(connection: Connection, settings: Settings, warnings: list[str]) -> ProvisionStep:
    slot = connection.slot(settings.slot)
    if slot is None:
        return _step("slot", settings.slot, "absent", "does not exist")
    if slot.database != connection.database:
        return _step("slot", settings.slot, "stays", f"is that of database {slot.database}")
    if slot.active:
        warnings.append(f"process {slot.active_pid} streams from slot {settings.slot}: stop it before")
    frees = "" if slot.held_bytes is None else f"; it keeps {size(slot.held_bytes)} of WAL"
    drop = f"SELECT pg_drop_replication_slot({literal(settings.slot)})"
    return _step("slot", settings.slot, "removed", f"is dropped{frees}", drop)


def _publication_of_destroy(connection: Connection, settings: Settings) -> ProvisionStep:
    state = publishing.found(connection, settings)
    if not state.exists:
        return _step("publication", settings.publication, "absent", "does not exist")
    if not state.ours:
        return _step("publication", settings.publication, "stays", "it was not made by this pipeline")
    drop = f"DROP PUBLICATION {identifier(settings.publication)}"
    return _step("publication", settings.publication, "removed", "is dropped", drop)


def _pipelines_of(connection: Connection) -> set[str]:
    """The pipelines that have made a publication in this database, run or not."""
    rows = connection.execute("SELECT pg_catalog.obj_description(oid, 'pg_publication') FROM pg_catalog.pg_publication")
    begin = publishing.MADE_FOR
    return {text[len(begin) + 1 : -1] for (text,) in rows if text is not None and text.startswith(begin)}


def _steps_of_removal(place: Place, pipelines: set[str], others: set[str], warnings: list[str]) -> list[ProvisionStep]:
    steps = []
    users = others | {name for table in place.tables for name in table.rows} - pipelines
    for table in place.tables:
        name = f"{place.schema}.{table.name}"
        count = sum(rows for pipeline, rows in table.rows.items() if pipeline in pipelines)
        rows = f"{count:,} row{'s' if count != 1 else ''} of this pipeline {'are' if count != 1 else 'is'} deleted"
        if not table.exists:
            steps.append(_step("table", name, "absent", "does not exist"))
        elif users:
            kept = f"{rows}; the table stays, for pipeline{'s' if len(users) > 1 else ''} {', '.join(sorted(users))}"
            steps.append(_step("table", name, "stays", kept))
        else:
            drop = f"DROP TABLE {identifier(place.schema)}.{identifier(table.name)}"
            steps.append(_step("table", name, "removed", f"{rows}, and the table is dropped", drop))
        if table.name == "dead_letters" and count:
            warnings.append(f"{count:,} dead letter{'s are' if count > 1 else ' is'} lost: nobody was given them")
    if not place.schema_exists:
        steps.append(_step("schema", place.schema, "absent", "does not exist"))
    elif users or place.others or not place.schema_is_ours:
        why = "it was not made by pgcdc" if not place.schema_is_ours else "something else is in it"
        steps.append(_step("schema", place.schema, "stays", "other pipelines use it" if users else why))
    else:
        drop = f"DROP SCHEMA {identifier(place.schema)}"
        steps.append(_step("schema", place.schema, "removed", "it is empty then, and is dropped", drop))
    return steps
