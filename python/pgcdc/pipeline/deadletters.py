"""The dead letters of a pipeline, for people: listed, shown, asked for to be delivered again, dropped.

None of this delivers anything. Who owns the pipeline does, in the order of its lanes: the process that runs it, within
about a second, or the next one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from pgcdc.errors import ConfigError
from pgcdc.lsn import Position
from pgcdc.pipeline.deadletter import DeadLetter, DeadLetterStore, Which
from pgcdc.pipeline.deadletter_postgres import PostgresDeadLetters
from pgcdc.pipeline.positions import PositionStore
from pgcdc.protocol import Batch

__all__ = ["DeadLetters", "letters_beside"]


def letters_beside(positions: PositionStore, dsn: str) -> DeadLetterStore:
    """Choose where the dead letters of a pipeline are kept, unless that is said.

    Args:
        positions: Where its positions are.
        dsn: Where its source is.

    Returns:
        A store in the same place, where that has one; else in the source's database.
    """
    beside: Callable[[], DeadLetterStore] | None = getattr(positions, "dead_letters", None)
    return PostgresDeadLetters(dsn) if beside is None else beside()


class DeadLetters:
    """The changes that consumers could not be given.

    Args:
        store: Where they are kept.
        pipeline: The pipeline's name, or the names of several; None for those of all pipelines. Consumers that have,
            or had, slots of their own are meant by it, too.
    """

    def __init__(self, store: DeadLetterStore, pipeline: str | Collection[str] | None = None) -> None:
        self._store = store
        names = [pipeline] if isinstance(pipeline, str) else pipeline
        self._pipelines = None if names is None else frozenset(names)

    def list(
        self,
        *,
        consumer: str | None = None,
        table: str | None = None,
        position: Position | None = None,
        since: datetime | None = None,
        ids: Collection[int] | None = None,
        limit: int | None = None,
    ) -> list[DeadLetter]:
        """Read letters, in the order of consumers and positions, without their messages.

        Args:
            consumer: Only of this consumer.
            table: Only of this table: `"orders"`, in the schema public, or `"sales.orders"`.
            position: Only this change, or these rows of the initial copy.
            since: Only those that failed last at this time, with a time zone, or later.
            ids: Only those of these numbers.
            limit: So many at most.

        Raises:
            ConnectionLost: When the store cannot be used now.
        """
        return self._store.find(self._which(consumer, table, position, since, ids), limit)

    def show(self, id: int) -> DeadLetter:
        """Read one letter whole.

        Args:
            id: Its number.

        Returns:
            The letter; `letter.message` is its change, for `events`.

        Raises:
            ConfigError: When there is none of that number.
            ConnectionLost: When the store cannot be used now.
        """
        letter = self._store.read(id)
        if letter is None or not Which(pipelines=self._pipelines, beside=True).means(letter):
            raise ConfigError(f"there is no dead letter {id}", hint="it may have been delivered or dropped")
        return letter

    def retry(
        self,
        *,
        consumer: str | None = None,
        table: str | None = None,
        position: Position | None = None,
        since: datetime | None = None,
        ids: Collection[int] | None = None,
    ) -> Sequence[int]:
        """Ask for letters to be delivered again, by whoever runs the pipeline; those that wait behind one follow it.

        Args:
            consumer: See `list`, as all that follow.
            table: Likewise.
            position: Likewise.
            since: Likewise.
            ids: Likewise.

        Returns:
            The numbers of those that were asked for.

        Raises:
            ConfigError: When all that are meant wait behind others.
            ConnectionLost: When the store cannot be used now.
        """
        found = self._store.find(self._which(consumer, table, position, since, ids))
        failed = [letter.id for letter in found if letter.state == "failed"]
        if found and not failed:
            raise ConfigError(
                "none of these dead letters has failed: they wait behind others of the same rows",
                hint="retry or drop the ones that have failed; these follow by themselves",
            )
        self._store.request(failed)
        return failed

    def drop(
        self,
        *,
        consumer: str | None = None,
        table: str | None = None,
        position: Position | None = None,
        since: datetime | None = None,
        ids: Collection[int] | None = None,
    ) -> int:
        """Remove letters for good; what waits behind one is delivered, by whoever runs the pipeline.

        Args:
            consumer: See `list`, as all that follow.
            table: Likewise.
            position: Likewise.
            since: Likewise.
            ids: Likewise.

        Returns:
            How many there were.

        Raises:
            ConnectionLost: When the store cannot be used now.
        """
        found = self._store.find(self._which(consumer, table, position, since, ids))
        return self._store.remove([letter.id for letter in found])

    @staticmethod
    def batch(letter: DeadLetter) -> Batch:
        """The change of a letter that `show` gave, as it came.

        Args:
            letter: The letter.

        Returns:
            A batch of one change.
        """
        return Batch.from_bytes(letter.message)

    def close(self) -> None:
        """Close the store; the next call opens it again."""
        self._store.close()

    def _which(
        self,
        consumer: str | None,
        table: str | None,
        position: Position | None,
        since: datetime | None,
        ids: Collection[int] | None,
    ) -> Which:
        if since is not None and since.tzinfo is None:
            raise ConfigError("since has no time zone", hint="datetime.now(UTC) - timedelta(hours=1)")
        if table is not None and "." not in table:
            table = f"public.{table}"
        return Which(
            pipelines=self._pipelines,
            beside=True,
            consumer=consumer,
            table=table,
            position=position,
            since=since,
            ids=None if ids is None else frozenset(ids),
        )
