"""Where a pipeline keeps the versions of tables' shapes, and how far each consumer is with them.

The contract of a schema store, and the one in memory. A version is true of the WAL, whoever reads it, so writing one
twice does no harm. A step is what a consumer does once at a version: it is written by the pipeline's owner, and an
earlier owner that wakes up is refused by its epoch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from pgcdc.errors import PositionError
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.schema import SchemaColumn, SchemaVersion

__all__ = [
    "STEP_COLUMNS",
    "VERSION_COLUMNS",
    "WHOLE_PIPELINE",
    "MemorySchemas",
    "SchemaStore",
    "Step",
    "StepState",
    "check_step",
    "check_version",
    "version_from_row",
    "version_to_row",
]

VERSION_COLUMNS = (
    "relation_oid, version, schema_name, table_name, replica_identity, columns, fingerprint, first_lsn, first_index,"
    " seen_at"
)
"""The columns of a table of versions, beside the pipeline's name, in the order of `version_to_row`."""
STEP_COLUMNS = "consumer, relation_oid, version, state, epoch"
"""The columns of a table of steps, beside the pipeline's name, in the order of `Step`."""
WHOLE_PIPELINE = ""
"""Stands for a consumer's name in steps that are done once for all consumers."""

StepState: TypeAlias = Literal["begun", "migrated", "done"]
"""`begun`: a migration was begun; `migrated`: it has returned; `done`: the consumer has nothing more to do at this
version before its first change."""


class Step(msgspec.Struct, frozen=True):
    """How far a consumer is with one version of one table.

    Attributes:
        consumer: The consumer's name, or `WHOLE_PIPELINE`.
        oid: The table.
        version: The version.
        state: How far it is.
        epoch: That of the owner who wrote it.
    """

    consumer: str
    oid: int
    version: int
    state: StepState
    epoch: int


class SchemaStore(Protocol):
    """A durable place for versions and steps.

    Its methods block, and are called from different threads but never from two at a time. What a method has written
    when it returns survives a crash of the machine that keeps it.
    """

    def open(self) -> None:
        """Connect, and create what is missing; called before anything else, again after `close`."""

    def versions(self, pipeline: str) -> list[SchemaVersion]:
        """Read all versions of a pipeline's tables.

        Args:
            pipeline: The pipeline's name.
        """

    def add(self, pipeline: str, versions: Sequence[SchemaVersion]) -> None:
        """Write versions, all or none, durably; of one that is there already the earlier beginning stays.

        Args:
            pipeline: The pipeline's name.
            versions: The versions.

        Raises:
            PositionError: When another shape is there under the same number.
        """

    def steps(self, pipeline: str) -> list[Step]:
        """Read all steps of a pipeline's consumers.

        Args:
            pipeline: The pipeline's name.
        """

    def record(self, pipeline: str, steps: Sequence[Step]) -> None:
        """Write how far consumers are, all or none, durably.

        Args:
            pipeline: The pipeline's name.
            steps: What is true now; what was written before of the same consumer, table and version is replaced.

        Raises:
            PositionError: When a later owner has written one of them, or it is done already.
        """

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Let steps be another consumer's, durably.

        Args:
            pipeline: The pipeline's name.
            consumer: Whose they are.
            new: Whose they are to be.
        """

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Args:
            pipeline: The pipeline's name.
            consumers: Only the steps of these; None for everything of the pipeline.
        """

    def close(self) -> None:
        """Let go of everything; harmless when called twice."""


def version_to_row(version: SchemaVersion) -> tuple[Any, ...]:
    """The values of VERSION_COLUMNS. The names are for people; what is read back is in the JSON, which holds any.

    Args:
        version: What is to be stored.

    Returns:
        One value for each column.
    """
    shape = {
        "schema": version.schema,
        "table": version.table,
        "columns": [[c.name, c.type_oid, c.type_name, c.type_modifier, c.is_key] for c in version.columns],
    }
    return (
        version.oid,
        version.version,
        *(name.encode(errors="backslashreplace").decode() for name in (version.schema, version.table)),
        version.replica_identity,
        json.dumps(shape),
        version.fingerprint,
        format_lsn(version.position.commit_lsn),
        version.position.index,
        version.seen_at.isoformat(),
    )


def version_from_row(row: Sequence[Any]) -> SchemaVersion:
    """Undo `version_to_row`.

    Args:
        row: The values of VERSION_COLUMNS.

    Returns:
        What is stored.
    """
    oid, version, _, _, replica_identity, text, fingerprint, first_lsn, first_index, seen_at = row
    shape = json.loads(text)
    return SchemaVersion(
        oid=int(oid),
        version=version,
        schema=shape["schema"],
        table=shape["table"],
        replica_identity=replica_identity,
        columns=tuple(SchemaColumn(*column) for column in shape["columns"]),
        fingerprint=fingerprint,
        position=Position(parse_lsn(first_lsn), first_index),
        seen_at=datetime.fromisoformat(seen_at),
    )


def check_version(pipeline: str, new: SchemaVersion, stored: SchemaVersion | None) -> None:
    """Make sure that what is stored under a number is what was to be stored.

    Args:
        pipeline: The pipeline's name.
        new: What was to be stored.
        stored: What is.

    Raises:
        PositionError: When it is something else.
    """
    if stored is not None and stored.fingerprint != new.fingerprint:
        raise PositionError(
            f"version {new.version} of table {new.schema}.{new.table} in pipeline {pipeline!r} is stored with another"
            f" shape: that begins at {stored.position}, this at {new.position}",
            hint="let one process alone run this pipeline, and start again: it reads what is stored",
            table=f"{new.schema}.{new.table}",
            lsn=new.position.commit_lsn,
        )


def check_step(pipeline: str, new: Step, stored: Step | None) -> None:
    """Make sure that a step may be written.

    Args:
        pipeline: The pipeline's name.
        new: What is to be written.
        stored: What is there.

    Raises:
        PositionError: When another process wrote it.
    """
    if stored is None or (stored.epoch <= new.epoch and (stored.state != "done" or new.state == "done")):
        return
    who = f"consumer {new.consumer!r} of pipeline" if new.consumer else "pipeline"
    raise PositionError(
        f"another process has taken over {who} {pipeline!r} (epoch {stored.epoch}): version {new.version} of the table"
        f" with OID {new.oid} is {stored.state}",
        hint="let one process alone run this pipeline, and start again",
    )


class MemorySchemas:
    """Versions and steps that end with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, dict[tuple[int, int], SchemaVersion]] = {}
        self._steps: dict[str, dict[tuple[str, int, int], Step]] = {}

    def open(self) -> None:
        """Nothing to do."""

    def versions(self, pipeline: str) -> list[SchemaVersion]:
        """Read all versions of a pipeline's tables."""
        return list(self._versions.get(pipeline, {}).values())

    def add(self, pipeline: str, versions: Sequence[SchemaVersion]) -> None:
        """Write versions, all or none.

        Raises:
            PositionError: When another shape is there under the same number.
        """
        with self._lock:
            stored = dict(self._versions.get(pipeline, {}))
            for version in versions:
                found = stored.get((version.oid, version.version))
                check_version(pipeline, version, found)
                if found is None or version.position < found.position:
                    stored[version.oid, version.version] = version
            self._versions[pipeline] = stored

    def steps(self, pipeline: str) -> list[Step]:
        """Read all steps of a pipeline's consumers."""
        return list(self._steps.get(pipeline, {}).values())

    def record(self, pipeline: str, steps: Sequence[Step]) -> None:
        """Write how far consumers are, all or none.

        Raises:
            PositionError: When a later owner has written one of them, or it is done already.
        """
        with self._lock:
            stored = self._steps.get(pipeline, {})
            new = {(step.consumer, step.oid, step.version): step for step in steps}
            for key, step in new.items():
                check_step(pipeline, step, stored.get(key))
            self._steps[pipeline] = stored | new

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Let steps be another consumer's."""
        with self._lock:
            renamed = [
                msgspec.structs.replace(step, consumer=new) if step.consumer == consumer else step
                for step in self._steps.get(pipeline, {}).values()
            ]
            self._steps[pipeline] = {(step.consumer, step.oid, step.version): step for step in renamed}

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored."""
        with self._lock:
            steps = self._steps.pop(pipeline, {})
            if consumers is None:
                self._versions.pop(pipeline, None)
            else:
                self._steps[pipeline] = {key: step for key, step in steps.items() if step.consumer not in consumers}

    def close(self) -> None:
        """Nothing to do."""
