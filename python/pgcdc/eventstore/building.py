"""What a rebuild does with its new generation: stretches of events become rows, with the place in their transaction.

Whole stretches go one behind the other without waiting for the server: while it writes what one has come to, the
handlers are at work with the next, and that is read meanwhile (ahead.py). Something that cannot be applied so is
applied again, alone and in the plain way, which says why it cannot, or skips it.

Source: PostgreSQL manual, "Pipeline Mode" (libpq).
"""

# ruff: noqa: S608  (what is put in are names that were looked at)

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg import generators

from pgcdc.errors import ConfigError, EventStoreError
from pgcdc.eventstore.ahead import Ahead
from pgcdc.eventstore.commits import Commits, Stretch
from pgcdc.eventstore.generations import Generation, Generations
from pgcdc.eventstore.projecting import reason_of
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.recorded import EventRow
from pgcdc.eventstore.refusals import is_away
from pgcdc.eventstore.skipping import Skipped
from pgcdc.eventstore.table import Writer
from pgcdc.lsn import Position

if TYPE_CHECKING:
    from pgcdc.eventstore.store import EventStore
    from pgcdc.eventstore.store_async import AsyncEventStore

__all__ = ["Building", "RebuildProgress", "projection_of"]

ASYNCHRONOUS: Final = "SET LOCAL synchronous_commit = off"
"""What is lost in a crash of the server comes again: the place is lost with it."""


class RebuildProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rebuild is.

    Attributes:
        name: The projection's name.
        done: How many events were applied.
        total: How many there were when it was asked last.
        seconds: How long it has been going on, since it was begun or resumed.
        rate: Events a second.
    """

    name: str
    done: int
    total: int
    seconds: float
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """How long it will take; None when that is not known yet."""
        return max(self.total - self.done, 0) / self.rate if self.rate else None


class _Source:
    """Stretches, and what reading them has raised: that is raised when all before it is committed."""

    def __init__(self, stretches: Iterator[Stretch]) -> None:
        self._stretches = stretches
        self._raised: Exception | None = None
        self.is_at_end = False

    def next(self) -> Stretch | None:
        """The next one; None at the end."""
        try:
            stretch = next(self._stretches, None)
        except Exception as error:
            self._raised, stretch = error, None
        self.is_at_end = stretch is None
        return stretch

    def raise_what_it_raised(self) -> None:
        """Raise what has ended it."""
        if self._raised is not None:
            raise self._raised


class Building:
    """One projection, on one connection."""

    def __init__(self, store: EventStore | AsyncEventStore, name: str, connection: psycopg.Connection[Any]) -> None:
        self.projection = projection_of(store, name)
        self.statements = store._statements
        self.commits = Commits(self.statements, store._archive)
        self.generations = Generations(self.statements)
        self.skipped = Skipped(self.statements)
        self.connection = connection
        self._dsn = store._dsn
        self._began = time.monotonic()
        self._first = 0
        self._writer: Writer | None = None

    def known(self) -> tuple[Generation | None, Generation | None]:
        """The generation that is live, and the one that is being built."""
        found = self.generations.of(self.connection, self.projection.name)
        live = next((one for one in found if one.status == "live"), None)
        return live, next((one for one in found if one.status == "building"), None)

    def count(self) -> int:
        """How many events there are, in the archive and in the table."""
        es = self.statements.quoted
        query = (
            f"SELECT (SELECT coalesce(sum(events), 0)::bigint FROM {es}.archive_segments) + count(*) FROM {es}.events"
        )
        row = self.connection.execute(query.encode()).fetchone()
        return 0 if row is None else row[0]

    def ahead(self, at: Generation, through_lsn: int) -> Ahead[Stretch]:
        """Read what comes behind a generation, one stretch ahead of who applies it.

        Args:
            at: How far it is.
            through_lsn: Up to where.

        Returns:
            The stretches, as a context.
        """
        return Ahead(
            self._dsn,
            lambda connection, ended: self.commits.after(connection, at.place, through_lsn, ended),
            f"pgcdc-rebuild-{at.name}",
        )

    def fill(self, at: Generation, stretches: Iterator[Stretch]) -> Generator[Generation]:
        """Apply stretches, each in a transaction of its own: the server writes one during the next one's handlers.

        Args:
            at: How far the generation is.
            stretches: What comes behind that.

        Yields:
            How far it is after each stretch.

        Raises:
            EventStoreError: As for `apply`.
        """
        source = _Source(stretches)
        while not source.is_at_end:
            begun: list[Stretch] = []
            try:
                if psycopg.Pipeline.is_supported():
                    with closing(self._fill(at, source, begun)) as filled:
                        for now in filled:
                            at = now
                            yield at
                else:
                    begun += [stretch for stretch in [source.next()] if stretch is not None]
            except Exception as error:
                if is_away(error) or not begun:
                    raise
            if begun:
                at, left = self._committed(at, begun)
                for stretch in left:
                    at = self._plain(at, stretch)
                    yield at
        source.raise_what_it_raised()

    def _fill(self, at: Generation, source: _Source, begun: list[Stretch]) -> Generator[Generation]:
        """As `fill`, until the end, or until something fails: then some of what was begun is not committed."""
        connection = self.connection
        with _pipeline(connection) as pipeline:
            while (stretch := source.next()) is not None:
                begun.append(stretch)
                before = at if len(begun) == 1 else _behind(at, begun[0])
                connection.execute("BEGIN")
                connection.execute(ASYNCHRONOUS)
                moved = self.generations.advance(connection, before, stretch.place, 0, len(stretch.rows))
                self._say(at, stretch.rows)
                pipeline.sync()  # what was sent is done: the one before is committed
                if moved.rowcount != 1:
                    raise self._elsewhere(at)
                if len(begun) > 1:
                    at = _behind(at, begun.pop(0))
                    yield at
                self._writer_to(at).write()
                connection.execute("COMMIT")
                if connection.pgconn.flush():
                    connection.wait(generators.send(connection.pgconn))
            pipeline.sync()
            if begun:
                at = _behind(at, begun.pop())
                yield at

    def _committed(self, at: Generation, begun: Sequence[Stretch]) -> tuple[Generation, Sequence[Stretch]]:
        """How far it is in the database, when something has failed, and what is left of what was begun."""
        self.connection.rollback()
        found = self.generations.of(self.connection, at.name)
        place = next((one.place for one in found if one.generation == at.generation), None)
        if place == at.place:
            return at, begun
        for number, stretch in enumerate(begun, 1):
            at = _behind(at, stretch)
            if place == at.place:
                return at, begun[number:]
        raise self._elsewhere(at)

    def _plain(self, at: Generation, stretch: Stretch) -> Generation:
        with self.connection.transaction():
            self.connection.execute(ASYNCHRONOUS)
            return self.apply(at, stretch)

    def apply(self, at: Generation, stretch: Stretch) -> Generation:
        """Apply a stretch, in the transaction that is open.

        Args:
            at: How far the generation is.
            stretch: What comes behind that.

        Returns:
            How far it is now.

        Raises:
            EventStoreError: When an event of it cannot be applied, or somebody else is at work.
        """
        try:
            self._apply(at, stretch)
        except Exception as error:
            if is_away(error) or isinstance(error, EventStoreError):
                raise
            raise EventStoreError(
                f"the projection {at.name} cannot be built: {reason_of(error)}",
                hint="what is live stays as it is; mend the class, and rebuild it: it goes on there, with --restart"
                " (restart=True) from the beginning",
            ) from error
        if self.generations.advance(self.connection, at, stretch.place, 0, len(stretch.rows)).rowcount != 1:
            raise self._elsewhere(at)
        return _behind(at, stretch)

    @staticmethod
    def _elsewhere(at: Generation) -> EventStoreError:
        return EventStoreError(
            f"the projection {at.name} is being rebuilt by somebody else", hint="let that one end, or stop it"
        )

    def _apply(self, at: Generation, stretch: Stretch) -> None:
        if self.projection.on_failure != "dead_letter":
            self._write(at, stretch.rows)
            return
        try:
            with self.connection.transaction():
                self._write(at, stretch.rows)
        except Exception as error:
            if is_away(error):
                raise
            for position, row in stretch.rows:
                self._write_or_skip(at, position, row)

    def _write(self, at: Generation, rows: Sequence[tuple[Position, EventRow]]) -> None:
        self._say(at, rows)
        self._writer_to(at).write()

    def _say(self, at: Generation, rows: Sequence[tuple[Position, EventRow]]) -> None:
        """Let the handlers say what becomes of rows."""
        writer = self._writer_to(at)
        writer.forget()
        instance = self.projection.owner()
        writer.bind(instance)
        self.projection.apply(instance, rows)

    def _writer_to(self, at: Generation) -> Writer:
        if self._writer is None:
            self._writer = Writer(self.connection, at.schema, self.projection.tables)
        return self._writer

    def _write_or_skip(self, at: Generation, position: Position, row: EventRow) -> None:
        """What cannot be applied is skipped, and will be a dead letter when this generation is live."""
        try:
            with self.connection.transaction():
                self._write(at, [(position, row)])
        except Exception as error:
            if is_away(error):
                raise
            self.skipped.add(self.connection, at, position, row, type(error).__name__, str(error))

    def progress(self, at: Generation, total: int) -> RebuildProgress:
        """How far it is."""
        seconds = time.monotonic() - self._began
        rate = (at.events - self._first) / seconds if seconds > 0 else 0.0
        return RebuildProgress(name=at.name, done=at.events, total=max(total, at.events), seconds=seconds, rate=rate)

    def begun_at(self, at: Generation) -> None:
        """Note from where the rate counts."""
        self._began, self._first = time.monotonic(), at.events


@contextmanager
def _pipeline(connection: psycopg.Connection[Any]) -> Iterator[psycopg.Pipeline]:
    """psycopg's own, which logs nothing of what comes of leaving it when something was raised already."""
    whole = connection.pipeline()
    pipeline = whole.__enter__()
    try:
        yield pipeline
    except BaseException:
        with suppress(psycopg.Error):
            whole.__exit__(None, None, None)
        raise
    whole.__exit__(None, None, None)


def _behind(at: Generation, stretch: Stretch) -> Generation:
    """A generation that has a stretch more."""
    return msgspec.structs.replace(at, place=stretch.place, events=at.events + len(stretch.rows))


def projection_of(store: EventStore | AsyncEventStore, name: str) -> Projection:
    """Find a projection of a store.

    Args:
        store: The store.
        name: The projection's name.

    Returns:
        What was declared.

    Raises:
        ConfigError: When there is none of that name.
    """
    for projection in store.projections:
        if projection.name == name:
            return projection
    names = ", ".join(projection.name for projection in store.projections)
    raise ConfigError(f"there is no projection {name}", hint=f"declared are {names or 'none'}")
