"""What one consumer does where a table changes its shape, before the first change of the new shape that it gets.

In this order: its policy is asked; the migration of the pipeline runs, unless another consumer has seen to that; its
own migration runs; it is told, if it asked for that; and that all this is done is written down. Each step is durable
before the next, so a process that is killed goes on with the step that it was at, and what was done is not done again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from pgcdc.errors import ConfigError, ConnectionLost, Error, MigrationFailed, SchemaError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.foreign import awaited
from pgcdc.pipeline.migrations import Migration, Migrations
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.schemas import WHOLE_PIPELINE, Step, StepState
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Subscription, Table, is_async
from pgcdc.pipeline.target import GaveUp, Target
from pgcdc.pipeline.versioning import Versioning
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch
from pgcdc.protocol.rows import row_plan
from pgcdc.schema import SchemaChange, change_of, named_as_now, reaction_to

__all__ = ["NewShape", "Reshaping", "Together"]

logger = logging.getLogger("pgcdc.pipeline")

Result = TypeVar("Result")

_AGAIN = (
    "nothing of the new shape was delivered or confirmed, and the next start tries again: put the cause right first"
)


class Persist(Protocol):
    """Calls until what is called is available; only this consumer waits meanwhile."""

    async def __call__(self, call: Callable[[], Awaitable[Result]], /) -> Result:
        """Call."""


class NewShape(NamedTuple):
    """Where a batch goes on with a shape that the consumer has not had yet.

    Attributes:
        at: The place of the first change among the batch's messages.
        relation: The shape.
        position: The position of that change.
        version: The number of the version.
    """

    at: int
    relation: Relation
    position: Position
    version: int


class Together:
    """What all consumers of a run share: the versions, the migrations, and that one of the pipeline runs once.

    Args:
        versioning: The versions.
        migrations: The migrations.
    """

    def __init__(self, versioning: Versioning, migrations: Migrations) -> None:
        self.versioning = versioning
        self.migrations = migrations
        self.lock = asyncio.Lock()


class Reshaping:
    """One consumer of one run.

    Args:
        subscription: What it asked for.
        target: What it writes to.
        together: What all consumers share.
    """

    def __init__(self, subscription: Subscription, target: Target, together: Together) -> None:
        self._subscription = subscription
        self._target = target
        self._together = together
        self._versioning = together.versioning
        self._worker = Worker(f"pgcdc-{subscription.name}-schema")
        self._reached: dict[int, int] = {}
        self._start = Position(0, SNAPSHOT_INDEX)
        self._epoch = 0
        self._settled = -1
        self._names: dict[int, Table | None] = {}

    async def begin(self, stored: StoredPosition, persist: Persist) -> None:
        """Find out which shapes the consumer has had.

        Args:
            stored: What is stored for it.
            persist: For what may be away.
        """
        self._epoch = stored.epoch
        self._start = max(Position(stored.through_lsn, SNAPSHOT_INDEX), stored.position or Position(0, SNAPSHOT_INDEX))
        self._reached = self._versioning.reached(self._subscription.name)
        if stored.through_lsn:
            # A table whose rows it still lacks is not among them: with these comes the shape that is its first.
            await self._note_first(
                (oid for oid in self._versioning.newest if stored.tables is None or oid in stored.tables),
                self._start,
                persist,
            )

    async def begin_copy(self, relations: Iterable[Relation], lsn: int, persist: Persist) -> None:
        """Take down the shapes that a copy of existing rows begins with.

        Args:
            relations: The tables that are copied.
            lsn: The snapshot's LSN.
            persist: For what may be away.
        """
        self._start = max(self._start, Position(lsn, SNAPSHOT_INDEX))
        await self._note_first((relation.oid for relation in relations), Position(lsn, SNAPSHOT_INDEX), persist)

    async def _note_first(self, oids: Iterable[int], position: Position, persist: Persist) -> None:
        steps = []
        for oid in oids:
            version = self._versioning.at(oid, position)
            if oid not in self._reached and version is not None and self._name(oid) is not None:
                steps.append(Step(self._subscription.name, oid, version.version, "done", self._epoch))
        await self._record(steps, persist)

    def versioned(self, batch: Batch) -> Batch:
        """Give the versions to a batch that has none: what was read from a file, or made here.

        Args:
            batch: The batch.
        """
        return batch.with_versions(self._versioning.versions)

    def as_now(self, letter: Batch) -> Batch:
        """Give a dead letter the names that its table and columns have by now, where its sink has renamed them, too.

        Args:
            letter: The letter's batch, with versions.

        Returns:
            The same, or with other names. A column that was dropped keeps its own.
        """
        sink = self._subscription.sink if isinstance(self._subscription, SinkSubscription) else None
        if not getattr(sink, "renames_columns", False):
            return letter
        versions = {relation.oid: version for _, relation, _, version in letter.shape_runs()}

        def plan(relation: Relation) -> tuple[Relation, Sequence[int]] | None:
            oid, first = relation.oid, versions.get(relation.oid)
            reached = self._reached.get(oid, 0)
            if first is None or first >= reached:
                return None
            path = [self._versioning.get(oid, number) for number in range(first, reached + 1)]
            shapes = [version.relation for version in path if version is not None]
            if len(shapes) < len(path):
                return None
            named = named_as_now(relation, shapes)
            return None if named is None else (named, range(len(named.columns)))

        return letter.reshaped(plan).with_versions(self._versioning.versions)

    def _name(self, oid: int) -> Table | None:
        """What the consumer calls a table; None when it is none of its tables."""
        if oid not in self._names:
            self._names[oid] = self._versioning.called(oid, self._subscription.tables)
        return self._names[oid]

    def next(self, batch: Batch) -> NewShape | None:
        """Look for a shape that is new to the consumer.

        Args:
            batch: What comes next for it.

        Returns:
            The first; None when there is none.
        """
        generation = self._versioning.generation
        if self._settled == generation:
            return None
        for at, relation, position, version in batch.shape_runs():
            if version is None or position is None or self._name(relation.oid) is None:
                continue
            if version > self._reached.get(relation.oid, 0):
                return NewShape(at, relation, position, version)
        newest = self._versioning.newest
        if len(self._reached) >= len(self._subscription.tables) and all(
            oid in newest and newest[oid].version <= version for oid, version in self._reached.items()
        ):
            self._settled = generation  # until there is another version, no batch needs to be looked at
        return None

    async def enter(self, shape: NewShape, persist: Persist) -> None:
        """Do what is to be done before the first change of a shape.

        Args:
            shape: The shape.
            persist: For what may be away.

        Raises:
            SchemaError: When the consumer is to stop at such a change, or its rows cannot be made any more.
            MigrationFailed: When a migration raised.
        """
        oid = shape.relation.oid
        if oid not in self._reached:
            # It has had no change of this table since versions are stored: those that it had were of this shape.
            first = self._versioning.at(oid, self._start)
            number = shape.version if first is None else min(first.version, shape.version)
            await self._record([Step(self._subscription.name, oid, number, "done", self._epoch)], persist)
            if number == shape.version:
                return
        old = self._versioning.get(oid, self._reached[oid])
        new = self._versioning.get(oid, shape.version)
        assert old is not None and new is not None
        change = change_of(
            old.relation, new.relation, old_version=old.version, version=new.version, position=shape.position
        )
        self._react(change)
        await self._migrate_pipeline(oid, change, persist)
        step = self._versioning.step(self._subscription.name, oid, change.version)
        if step is None or step.state != "migrated":
            migration = self._migration(oid, self._subscription.name)
            if migration is not None:
                await self._migrate(self._subscription.name, migration, change, step, persist)
        await self._tell(change, persist)
        await self._record([Step(self._subscription.name, oid, change.version, "done", self._epoch)], persist)

    def _react(self, change: SchemaChange) -> None:
        name, table = self._subscription.name, f"{change.schema}.{change.table}"
        what = f"table {table} went from version {change.old_version} to {change.version}: {change.summary}"
        policy = self._subscription.options.on_schema_change
        if policy["rename_table"] == "stop":
            # Whether a name is one that nobody knows is seen where rows are handed over; this is a name of before.
            policy = {**policy, "rename_table": "follow"}
        reaction = reaction_to(change, policy)
        if reaction == "stop":
            raise SchemaError(
                f"consumer {name!r} is to stop here: {what}",
                hint="nothing of the new shape was delivered or confirmed; when the target is ready for it, start again"
                f' with on_schema_change="follow" for {", ".join(sorted(change.kinds))}',
                table=table,
                lsn=change.position.commit_lsn,
            )
        if reaction == "warn":
            logger.warning("consumer %r: %s", name, what)
        self._check_row(change, table)

    def _check_row(self, change: SchemaChange, table: str) -> None:
        """Whether rows of a class can be made of the new shape; what transforms make of it is not known before."""
        name, options = self._subscription.name, self._subscription.options
        row = self._subscription.row if isinstance(self._subscription, HandlerSubscription) else None
        if row is not None and not options.transforms and not options.columns:
            try:
                row_plan(change.new, {f"{change.new.schema}.{change.new.name}": row})
            except ConfigError as error:
                raise SchemaError(
                    f"consumer {name!r} cannot be given rows of version {change.version} of table {table}: {error}"
                    f" ({change.summary})",
                    hint=f"give that field of {row.__name__} a default, and start again; nothing of the new shape was"
                    " delivered or confirmed",
                    table=table,
                    lsn=change.position.commit_lsn,
                ) from error

    def _migration(self, oid: int, consumer: str | None) -> Migration | None:
        table = self._name(oid)
        return None if table is None else self._together.migrations.of(table, consumer)

    async def _migrate_pipeline(self, oid: int, change: SchemaChange, persist: Persist) -> None:
        migration = self._migration(oid, None)
        if migration is None:
            return
        async with self._together.lock:  # whoever comes second waits until the first is done
            done = self._versioning.reached(WHOLE_PIPELINE).get(oid, 0)
            if done >= change.version:
                return
            old = self._versioning.get(oid, done)
            if old is not None:
                change = change_of(
                    old.relation,
                    change.new,
                    old_version=done,
                    version=change.version,
                    position=change.position,
                )
            step = self._versioning.step(WHOLE_PIPELINE, oid, change.version)
            await self._migrate(WHOLE_PIPELINE, migration, change, step, persist, after="done")

    async def _migrate(
        self,
        whose: str,
        migration: Migration,
        change: SchemaChange,
        step: Step | None,
        persist: Persist,
        after: StepState = "migrated",
    ) -> None:
        """Run a migration, and write down before and after that it was begun and has ended."""
        oid = change.new.oid
        who = f"consumer {whose!r}" if whose else "the pipeline"
        what = f"for table {change.schema}.{change.table} from version {change.old_version} to {change.version}"
        if step is not None:
            logger.warning("the migration of %s %s was begun before and did not end: it runs again", who, what)
        await self._record([Step(whose, oid, change.version, "begun", self._epoch)], persist)
        logger.info("the migration of %s %s begins", who, what)

        async def call() -> None:
            if is_async(migration):
                result = migration(change.old, change.new)
            else:
                result = await self._worker.call(migration, change.old, change.new)
            await awaited(result)

        try:
            await persist(call)
        except GaveUp:
            raise
        except Exception as error:
            raise MigrationFailed(
                f"the migration of {who} {what} raised {type(error).__name__}",
                hint=_AGAIN,
                table=f"{change.schema}.{change.table}",
                lsn=change.position.commit_lsn,
            ) from error
        await self._record([Step(whose, oid, change.version, after, self._epoch)], persist)
        logger.info("the migration of %s %s is done", who, what)

    async def _tell(self, change: SchemaChange, persist: Persist) -> None:
        try:
            await persist(lambda: self._target.schema_changed(change))
        except GaveUp:
            raise
        except Exception as error:
            why = str(error) if isinstance(error, Error) else f"it raised {type(error).__name__}"
            raise SinkRejected(
                f"consumer {self._subscription.name!r} did not take that table {change.schema}.{change.table} went from"
                f" version {change.old_version} to {change.version}: {why}",
                hint=_AGAIN,
                table=f"{change.schema}.{change.table}",
                lsn=change.position.commit_lsn,
            ) from error

    async def _record(self, steps: list[Step], persist: Persist) -> None:
        if not steps:
            return

        async def call() -> None:
            try:
                await self._worker.call(self._versioning.record, steps)
            except ConnectionLost as error:
                raise SinkUnavailable(f"where schema versions are kept: {error}") from error

        await persist(call)
        for step in steps:
            if step.consumer == self._subscription.name and step.state == "done":
                self._reached[step.oid] = step.version

    async def close(self, timeout: float) -> bool:
        """End the thread of migrations.

        Args:
            timeout: How long one that still runs is waited for, in seconds.

        Returns:
            Whether nothing of it still runs.
        """
        return await self._worker.stop(timeout)
