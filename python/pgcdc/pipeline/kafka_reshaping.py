"""What one partition of a consumer does where a table changes shape: its steps are those of all partitions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from pgcdc.errors import ConnectionLost, SchemaError, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.pipeline.kafka_source import Turn
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.reshaping import NewShape, Persist, Reshaping, Together
from pgcdc.pipeline.subscription import Subscription
from pgcdc.pipeline.target import Target
from pgcdc.pipeline.worker import Worker
from pgcdc.protocol import Batch
from pgcdc.schema import SchemaChange, change_of

__all__ = ["PartitionReshaping"]


class PartitionReshaping(Reshaping):
    """One partition of one consumer.

    Args:
        subscription: What the consumer asked for, under its own name.
        target: What the partition writes to.
        together: What all partitions of all consumers in this process share.
        epoch: That of all of them: partitions do not take steps from each other.
        alone: Gives the lock of what only one process may do at a time.
    """

    def __init__(
        self,
        subscription: Subscription,
        target: Target,
        together: Together,
        epoch: int,
        alone: Callable[[], Turn],
    ) -> None:
        super().__init__(subscription, target, together)
        self._own_epoch = epoch
        self._alone = alone

    async def begin(self, stored: StoredPosition, persist: Persist) -> None:
        """Find out which shapes the consumer has had, in any process."""
        await self._ask(self._versioning.refresh, persist)
        await super().begin(msgspec.structs.replace(stored, epoch=self._own_epoch), persist)

    async def learn(self, batch: Batch, persist: Persist) -> None:
        """Take down the first shapes of tables that nothing is known of.

        Args:
            batch: What comes next.
            persist: For what may be away.

        Raises:
            SchemaError: When rows have a shape that no barrier has announced.
        """
        newest = self._versioning.newest
        runs = [(relation, at) for _, relation, at, _ in batch.shape_runs() if at is not None]
        unknown = [(relation, at) for relation, at in runs if relation.oid not in newest]
        if unknown:
            await self._ask(lambda: self._versioning.begin_with(unknown), persist)
        for relation, at in runs:
            if self._versioning.is_new(relation, at):
                await self._ask(self._versioning.refresh, persist)
                if self._versioning.is_new(relation, at):
                    raise SchemaError(
                        f"table {relation.schema}.{relation.name} has another shape at {at}, and its topic does not say"
                        " so before",
                        hint='the topic is to be written by one sink Kafka(…, format="pgcdc") alone',
                        table=f"{relation.schema}.{relation.name}",
                        lsn=at.commit_lsn,
                    )

    async def settle(self, change: SchemaChange, persist: Persist) -> None:
        """Know a shape that a barrier announces, and what the consumer has done for it by now.

        Args:
            change: What the barrier says.
            persist: For what may be away.
        """
        position = Position(*change.position)
        await self._ask(lambda: self._versioning.settle(change.old, change.new, position), persist)
        self._reached = self._versioning.reached(self._subscription.name)

    async def enter_announced(self, change: SchemaChange, persist: Persist) -> None:
        """Do what the consumer is to do before the first change of a shape, unless that was done.

        Args:
            change: What the barrier says.
            persist: For what may be away.
        """
        position = Position(*change.position)
        version = self._versioning.at(change.new.oid, position)
        if version is None or version.version <= self._reached.get(change.new.oid, 0):
            return
        if not self._migrates(change):
            await self.enter(NewShape(0, change.new, position, version.version), persist)
            return
        # Another consumer's members may be at the pipeline's migration just now, or a process that was taken for dead.
        locking = Worker(f"pgcdc-{self._subscription.name}-lock")
        turn = self._alone()
        try:
            await self._ask(turn.take, persist, locking)
            try:
                await self.settle(change, persist)
                if version.version > self._reached.get(change.new.oid, 0):
                    await self.enter(NewShape(0, change.new, position, version.version), persist)
            finally:
                await locking.call(turn.give_back)
        finally:
            await locking.stop(1.0)

    def _migrates(self, change: SchemaChange) -> bool:
        oid = change.new.oid
        return any(self._migration(oid, whose) is not None for whose in (None, self._subscription.name))

    async def tell_too(self, change: SchemaChange, persist: Persist) -> None:
        """Tell the target of a shape that another partition has entered, unless that one has told it for all.

        Args:
            change: What the barrier says.
            persist: For what may be away.
        """
        if getattr(self._target, "tells_once", False):
            return
        position = Position(*change.position)
        new = self._versioning.at(change.new.oid, position)
        old = None if new is None else self._versioning.get(change.new.oid, new.version - 1)
        if new is not None and old is not None:
            of = change_of(old.relation, new.relation, old_version=old.version, version=new.version, position=position)
            await self._tell(of, persist)

    async def _ask(self, call: Callable[[], None], persist: Persist, worker: Worker | None = None) -> None:
        async def ask() -> None:
            try:
                await (worker or self._worker).call(call)
            except ConnectionLost as error:
                raise SinkUnavailable(f"where schema versions are kept: {error}") from error

        work: Callable[[], Awaitable[None]] = ask
        await persist(work)
