"""What a console is of: a database, and as far as they are known a pipeline, its process and an event store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError
from pgcdc.pipeline import DeadLetters, Pipeline, PipelineOutline, PipelineStatistics, PostgresDeadLetters
from pgcdc.pipeline.settings import BESIDE

if TYPE_CHECKING:
    from pgcdc.eventstore import AsyncEventStore, EventStore
    from pgcdc.schema import SchemaVersion

__all__ = ["Subject"]


class Subject:
    """What is looked at.

    Args:
        dsn: The database, as libpq understands it.
        pipeline: The pipeline that is meant; None: all that the database knows.
        running: Whether this process runs it, so that its statistics say something.
        store: The event store whose projections can be rebuilt, and whose classes are known; None: what the tables say.
        schema: The schema of the event store's tables; that of `store` when there is one.
        states: The class of a stream's state, by the stream's type: then pages show what each event has changed.

    Attributes:
        dsn: The database.
        pipeline: The pipeline's name, None for all.
        outline: What the pipeline is made of, None where none is meant.
        statistics: Gives the numbers of the running pipeline; None where this process runs none.
        store: The event store.
        schema: The schema of its tables.
        states: Classes of states by types of streams.
    """

    def __init__(
        self,
        dsn: str,
        *,
        pipeline: Pipeline | None = None,
        running: bool = False,
        store: EventStore | AsyncEventStore | None = None,
        schema: str = "es",
        states: Mapping[str, type] | None = None,
    ) -> None:
        self.dsn = dsn
        self.pipeline = None if pipeline is None else pipeline.name
        self.outline: PipelineOutline | None = None if pipeline is None else pipeline.outline()
        self.statistics: Callable[[], PipelineStatistics] | None = None
        if pipeline is not None and running:
            self.statistics = pipeline.statistics
        self.store = store
        self.schema = schema if store is None else store._statements.schema
        self.states = dict(states or {})
        self._pipeline = pipeline

    def named(self, pipeline: str) -> str | None:
        """Whose a row is that something was stored in: a consumer with a slot of its own stores under another name.

        Args:
            pipeline: The name that it is stored under.

        Returns:
            The pipeline's name; None where that is none that is meant.
        """
        name, _, _ = pipeline.partition(BESIDE)
        return name if self.outline is None or name == self.outline.name else None

    @property
    def slots(self) -> dict[str, str]:
        """The slots of consumers by their names; none where no pipeline is meant."""
        return {} if self.outline is None else {one.name: one.slot for one in self.outline.consumers}

    @property
    def consumers(self) -> list[str]:
        """The names of the pipeline's consumers; none where no pipeline is meant."""
        return [] if self.outline is None else [one.name for one in self.outline.consumers]

    def letters(self, pipeline: str | None = None) -> DeadLetters:
        """The dead letters; `close` them afterwards, if they are of a database.

        Args:
            pipeline: Where none is meant: only those of this one.
        """
        if self._pipeline is not None:
            return self._pipeline.dead_letters
        return DeadLetters(PostgresDeadLetters(self.dsn), pipeline)

    @contextlib.contextmanager
    def reading(self) -> Iterator[EventStore]:
        """An event store to read with, which knows the classes that are known."""
        from pgcdc.eventstore import EventStore
        from pgcdc.eventstore.event import default_registry

        known = self.store
        if isinstance(known, EventStore):
            yield known
            return
        registry = default_registry if known is None else known._codec.registry
        with EventStore(self.dsn, schema=self.schema, max_connections=1, registry=registry) as store:
            yield store

    @property
    def keeps_letters(self) -> bool:
        """Whether `letters` belong to the pipeline, and are not to be closed."""
        return self._pipeline is not None

    def versions(self, pipeline: str, consumers: Collection[str] = ()) -> list[SchemaVersion]:
        """The versions of a pipeline's tables.

        Args:
            pipeline: Its name.
            consumers: Those of its consumers that have slots of their own, where no pipeline is meant.

        Raises:
            ConfigError: When another pipeline was meant.
            ConnectionLost: When the server that keeps them cannot be reached.
        """
        if self._pipeline is not None:
            if pipeline != self._pipeline.name:
                raise ConfigError(f"this console is of the pipeline {self._pipeline.name}, not of {pipeline}")
            return self._pipeline.schema_history()
        # Of a pipeline that is only asked for its versions the tables make no difference.
        stored = Pipeline(pipeline, self.dsn, tables=["any"], slot="any")
        for name in consumers:
            stored.on("any", name=name, own_slot=True)(_nobody)
        return stored.schema_history()


def _nobody(_change: object) -> None:
    """What a consumer is called with that is never run."""
