"""The versions of tables' shapes in one run: found by whoever hands rows over, durable before a row has one.

The source has a new version written by another thread and answers the server meanwhile; consumers write their steps
from their own. A lock keeps them apart: the store is used by one at a time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from pgcdc.errors import ConnectionLost
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.schemas import SchemaStore, Step
from pgcdc.pipeline.subscription import Table
from pgcdc.protocol import Batch, SchemaVersions
from pgcdc.replication import PublishedTable
from pgcdc.schema import History, SchemaVersion, change_of

__all__ = ["Versioning"]

logger = logging.getLogger("pgcdc.pipeline")

CLOSE_WITHIN = 1.0
"""Seconds that a write which still hangs at the end is waited for."""


class Versioning:
    """The versions of one run.

    Args:
        pipeline: The pipeline's name.
        store: Where they are kept.
        condition: Notified when a write has ended.

    Attributes:
        generation: Goes up with every version that is new.
        versions: What batches carry.
    """

    def __init__(self, pipeline: str, store: SchemaStore, condition: threading.Condition) -> None:
        self.generation = 0
        self._pipeline = pipeline
        self._store = store
        self._condition = condition
        self._lock = threading.Lock()
        self._opened = False
        self._away = False
        self._history = History()
        self._steps: dict[tuple[str, int, int], Step] = {}
        self.versions: SchemaVersions = self._history.frozen()

    def open(self) -> None:
        """Open the store and read what is in it; blocks.

        Raises:
            ConnectionLost: When it is away.
            Error: When it cannot be used.
        """
        with self._lock:
            self._store.open()
            self._opened = True
            self._history = History(self._store.versions(self._pipeline))
            self._steps = {(step.consumer, step.oid, step.version): step for step in self._store.steps(self._pipeline)}
            self.versions = self._history.frozen()
            self.generation += 1

    def close(self) -> None:
        """Close the store, unless somebody hangs in it."""
        if not self._lock.acquire(timeout=CLOSE_WITHIN):
            logger.warning("pipeline %r: its schema store still hangs and is left behind", self._pipeline)
            return
        try:
            if self._opened:
                self._opened = False
                self._store.close()
        finally:
            self._lock.release()

    def _write(self, write: Callable[[], None]) -> None:
        """Use the store, under the lock; when it was away it is opened again first."""
        if not self._opened:
            raise ConnectionLost("the schema store was closed: the run has ended")
        try:
            if self._away:
                self._store.close()
                self._store.open()
                self._away = False
            write()
        except ConnectionLost:
            self._away = True
            raise

    # Whoever shares the store with other processes that have the same consumers.

    def refresh(self) -> None:
        """Read again what is stored; blocks.

        Raises:
            ConnectionLost: When the store is away.
        """
        with self._lock:
            self._write(self._read)

    def _read(self) -> None:
        history = History(self._store.versions(self._pipeline))
        history.type_names = self._history.type_names
        self._steps = {(step.consumer, step.oid, step.version): step for step in self._store.steps(self._pipeline)}
        self._history, self.versions = history, history.frozen()
        self.generation += 1

    def settle(self, old: Relation, new: Relation, position: Position) -> None:
        """Write down that a table has another shape from a position on, if that is not known; blocks.

        Args:
            old: The shape before; a table that nothing is known of had it first.
            new: The shape from there on.
            position: Where it begins.

        Raises:
            ConnectionLost: When the store is away.
            PositionError: When another shape is stored under the same number.
        """
        with self._lock:
            self._write(self._read)
            self._add([(old, Position(position.commit_lsn, SNAPSHOT_INDEX))] * (new.oid not in self.newest))
            self._add([(new, position)])

    def is_new(self, relation: Relation, position: Position) -> bool:
        """Whether a row has a shape that is behind all that is known of its table.

        Args:
            relation: The row's shape.
            position: The row's position.
        """
        return self._history.next(relation, position) is not None

    def begin_with(self, relations: Iterable[tuple[Relation, Position]]) -> None:
        """Write down the first shapes of tables that nothing is known of; blocks.

        Args:
            relations: Shapes, and where they were seen.

        Raises:
            ConnectionLost: When the store is away.
            PositionError: When another shape is stored as the first.
        """
        with self._lock:
            self._write(self._read)
            self._add([(relation, at) for relation, at in relations if relation.oid not in self.newest])

    # Whoever hands rows over.

    def learn_types(self, tables: Iterable[PublishedTable]) -> None:
        """Remember what types are called.

        Args:
            tables: The published tables.
        """
        for table in tables:
            for column, name in zip(table.relation.columns, table.column_types, strict=True):
                self._history.type_names[column.type_oid] = name

    def observe(
        self, batch: Batch, wanted: Callable[[Relation], bool], wait: Callable[[Callable[[], bool]], None]
    ) -> Batch:
        """Find the versions that begin in a batch, and write them down.

        Args:
            batch: What comes next in the stream, or of a copy.
            wanted: Whether any consumer gets changes of a relation.
            wait: Waits for the shared condition until a predicate holds, or raises when the run is being stopped.

        Returns:
            The batch, with the versions.

        Raises:
            ConnectionLost: When the store is away.
            Error: When it cannot be written.
        """
        # Each batch comes by here before anybody has it, and mostly there is nothing to be found.
        if not all(map(self._history.has_newest, batch.relations)):
            self._note(((relation, at) for _, relation, at, _ in batch.shape_runs() if at and wanted(relation)), wait)
        return batch.with_versions(self.versions)

    def are_newest(self, relations: Iterable[Relation]) -> bool:
        """Whether shapes are known to be the newest of their tables; they are until `generation` is another.

        Args:
            relations: The shapes.
        """
        return all(map(self._history.has_newest, relations))

    def begin(self, relations: Iterable[Relation], lsn: int, wait: Callable[[Callable[[], bool]], None]) -> bool:
        """Take down which shape tables have in a snapshot.

        Args:
            relations: The tables.
            lsn: The snapshot's.
            wait: As for `observe`.

        Returns:
            Whether that was possible: not when rows behind the snapshot were handed over that have another shape, and
            those before it, too. A table was altered just before and just after it then.

        Raises:
            ConnectionLost: When the store is away.
            Error: When it cannot be written.
        """
        position = Position(lsn, SNAPSHOT_INDEX)
        try:
            self._note(((relation, position) for relation in relations), wait)
        except LookupError:
            return False
        return True

    def fits(self, relations: Iterable[Relation], lsn: int) -> bool:
        """Whether a snapshot has no shape that is new, but for tables that nothing is known of.

        Args:
            relations: The tables.
            lsn: The snapshot's.
        """
        position = Position(lsn, SNAPSHOT_INDEX)
        with self._lock:
            found = [self._history.next(relation, position) for relation in relations]
        return all(version is None or version.version == 1 for version in found)

    def _note(self, seen: Iterable[tuple[Relation, Position]], wait: Callable[[Callable[[], bool]], None]) -> None:
        # Mostly there is nothing; then nobody waits for the store either, which another may be using just now.
        history = self._history
        # What follows a change may go back to the shape before it, so it is looked at again with it.
        candidates = list(seen)
        if not any(_find(history, relation, position) for relation, position in candidates):
            return
        failed: list[BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                with self._lock:
                    self._add(candidates)
            except BaseException as error:
                failed.append(error)
            finally:
                ended.set()
                with self._condition:
                    self._condition.notify_all()

        # The store may hang, and the server wants to be answered.
        threading.Thread(target=work, name=f"pgcdc-{self._pipeline}-schemas", daemon=True).start()
        wait(ended.is_set)
        if failed:
            raise failed[0]

    def _add(self, candidates: Sequence[tuple[Relation, Position]]) -> None:
        """Write down what is new, and only then know it; under the lock."""
        new = History(self._history.of())
        new.type_names = self._history.type_names
        versions = []
        for relation, position in candidates:
            version = _find(new, relation, position)
            if version is not None:
                versions.append(version)
                new.add(version)
        if not versions:
            return  # somebody else was first
        self._write(lambda: self._store.add(self._pipeline, versions))
        for version in versions:
            self._tell(version, new)
        self._history = new
        self.versions = new.frozen()
        self.generation += 1

    def _tell(self, version: SchemaVersion, history: History) -> None:
        before = history.get(version.oid, version.version - 1)
        if before is not None:
            logger.info(
                "pipeline %r: table %s.%s has version %d from %s on: %s",
                self._pipeline,
                version.schema,
                version.table,
                version.version,
                version.position,
                change_of(before.relation, version.relation).summary,
            )

    # Consumers.

    def at(self, oid: int, position: Position) -> SchemaVersion | None:
        """The version of a table that is in force at a position."""
        return self._history.at(oid, position)

    def get(self, oid: int, number: int) -> SchemaVersion | None:
        """One version of a table."""
        return self._history.get(oid, number)

    @property
    def newest(self) -> Mapping[int, SchemaVersion]:
        """The newest version of each table."""
        return self._history.newest

    def called(self, oid: int, tables: Collection[Table]) -> Table | None:
        """Which of some names a table has, or had.

        Args:
            oid: The table.
            tables: The names.

        Returns:
            The latest; None when it never had one of them.
        """
        for version in reversed(self._history.of(lambda one: one.oid == oid)):
            if (version.schema, version.table) in tables:
                return version.schema, version.table
        return None

    def reached(self, consumer: str) -> dict[int, int]:
        """The highest version of each table that a consumer has done everything for.

        Args:
            consumer: Its name, or `WHOLE_PIPELINE`.

        Returns:
            Numbers by OID.
        """
        reached: dict[int, int] = {}
        for step in list(self._steps.values()):
            if step.consumer == consumer and step.state == "done":
                reached[step.oid] = max(step.version, reached.get(step.oid, 0))
        return reached

    def step(self, consumer: str, oid: int, version: int) -> Step | None:
        """How far a consumer is with a version."""
        return self._steps.get((consumer, oid, version))

    def record(self, steps: Sequence[Step]) -> None:
        """Write steps down, durably; blocks.

        Args:
            steps: The steps.

        Raises:
            PositionError: When another process owns the pipeline by now.
            ConnectionLost: When the store is away.
        """
        with self._lock:
            self._write(lambda: self._store.record(self._pipeline, steps))
            self._steps |= {(step.consumer, step.oid, step.version): step for step in steps}


def _find(history: History, relation: Relation, position: Position) -> SchemaVersion | None:
    """The version that begins with a row; of a copy's rows, with the snapshot that they are of."""
    return (history.fit if position.index == SNAPSHOT_INDEX else history.next)(relation, position)
