"""What reactors have missed between two slots: kept where they were, and given to them from the table of events.

A slot that is dropped, or lost its WAL, takes no event with it: all are in the table, or in the archive. Projections
read from there in any case. Of a reactor it is written down where it was before its position is forgotten; the next run
gives it what was committed from there up to where the new slot begins, in the order of commits, and only then begins
the stream. Where it is moves with each transaction, so that a crash repeats one at most. Events of a key that waited
behind a dead letter come first: what is behind them in the table must not pass them.
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import isawaitable
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import DecodeError, PositionError, SinkUnavailable
from pgcdc.events import Insert
from pgcdc.eventstore.commits import Commits, EventRow, Place
from pgcdc.eventstore.projecting import rows_of, steps_of
from pgcdc.eventstore.reacting import BoundReactor
from pgcdc.eventstore.statements import Statements
from pgcdc.lsn import Position, format_lsn
from pgcdc.pipeline.deadletter import DeadLetterStore, Which
from pgcdc.pipeline.holding import holds_from_text
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.retry import Retry, attempts
from pgcdc.protocol import Batch

__all__ = ["Gaps"]

logger = logging.getLogger("pgcdc.eventstore")

_SHAPING: Final = ("where", "columns", "transform", "own_slot")
"""Options with which a pipeline gives a reactor something else than all events, or by another way."""

_BETWEEN: Final = "was committed while it had no slot"
_LETTER: Final = "is a dead letter that later ones wait for"


class _Giving(NamedTuple):
    """A reactor that is given events, from where its dead letters are, and how."""

    reactor: BoundReactor
    letters: DeadLetterStore
    loop: asyncio.AbstractEventLoop
    stopping: Callable[[], bool]


class Gaps:
    """Those of one pipeline.

    Args:
        pipeline: Its name.
        statements: Of the store.
        commits: The order of commits.
        reactors: Its reactors, as they are called.
    """

    def __init__(
        self, pipeline: str, statements: Statements, commits: Commits, reactors: Iterable[BoundReactor]
    ) -> None:
        es: LiteralString = statements.quoted
        self._pipeline = pipeline
        self._format = rows_of(statements.schema)
        self._commits = commits
        self._reactors = {one.name: one for one in reactors}
        self._keep: LiteralString = (
            f"INSERT INTO {es}.reactors (pipeline, name, commit_lsn) VALUES (%s, %s, %s::pg_lsn)"
            " ON CONFLICT (pipeline, name) DO UPDATE SET commit_lsn = EXCLUDED.commit_lsn, base_id = 0, kept_at = now()"
        )
        self._kept: LiteralString = (
            f"SELECT name, (commit_lsn - '0/0'::pg_lsn)::bigint, base_id FROM {es}.reactors WHERE pipeline = %s"
        )
        self._move: LiteralString = (
            f"UPDATE {es}.reactors SET commit_lsn = %s::pg_lsn, base_id = %s WHERE pipeline = %s AND name = %s"
        )
        self._forget: LiteralString = f"DELETE FROM {es}.reactors WHERE pipeline = %s AND name = ANY (%s)"

    def keep(self, connection: psycopg.Connection[Any], stored: Mapping[str, StoredPosition]) -> None:
        """Write down where reactors are, and handlers and sinks that were added, before that is forgotten.

        Args:
            connection: On which, in autocommit mode.
            stored: The pipeline's positions, by consumer; but for projections.
        """
        for name, row in stored.items():
            # A transaction may commit exactly where WAL was done up to, and the last one may have been done in part.
            lsn = max(row.through_lsn, 0 if row.position is None else row.position.commit_lsn)
            connection.execute(self._keep, (self._pipeline, name, format_lsn(max(lsn - 1, 0))))

    def forget(self, connection: psycopg.Connection[Any], names: Collection[str]) -> bool:
        """Forget where reactors were: they have positions again, or are not wanted.

        Args:
            connection: On which, in autocommit mode.
            names: Their names.

        Returns:
            Whether there was anything to forget.
        """
        return connection.execute(self._forget, (self._pipeline, list(names))).rowcount > 0

    def are_kept(self, connection: psycopg.Connection[Any], positioned: Collection[str]) -> bool:
        """Whether it is written down where any are that have no position.

        Args:
            connection: On which, in autocommit mode.
            positioned: Those that have.
        """
        return any(row[0] not in positioned for row in self._rows(connection))

    def fill(
        self,
        connection: psycopg.Connection[Any],
        positioned: Collection[str],
        consumers: Collection[str],
        through_lsn: int,
        letters: DeadLetterStore,
        loop: asyncio.AbstractEventLoop,
        stopping: Callable[[], bool],
    ) -> None:
        """Give reactors what they have missed. Blocks, and is not for the loop's own thread.

        For the owner of the pipeline alone: two at once would give it twice.

        Args:
            connection: On which, in autocommit mode.
            positioned: Consumers that have positions: the stream goes on where they were.
            consumers: All that there are.
            through_lsn: Up to where the table is read: the stream brings what comes behind.
            letters: Where dead letters are kept.
            loop: Where handlers are called that are coroutine functions.
            stopping: Whether to end; then the next run goes on there.

        Raises:
            PositionError: When a reactor cannot be given an event, or a handler or sink that was added has missed one.
                It says what can be done.
        """
        self.forget(connection, positioned)
        for name, lsn, base_id in self._rows(connection):
            reactor = self._reactors.get(name)
            if lsn >= through_lsn or name not in consumers:
                continue
            if reactor is not None:
                giving = _Giving(reactor, letters, loop, stopping)
                self._fill(connection, giving, Place(lsn, base_id), through_lsn)
                continue
            for stretch in self._commits.after(connection, Place(lsn, base_id), through_lsn):
                if stretch.rows:
                    raise self._refused(f"consumer {name!r}", stretch.rows[0][1], "and is no reactor", name)

    def _rows(self, connection: psycopg.Connection[Any]) -> list[tuple[str, int, int]]:
        return connection.cursor(row_factory=tuple_row).execute(self._kept, (self._pipeline,)).fetchall()

    def _fill(self, connection: psycopg.Connection[Any], giving: _Giving, place: Place, through_lsn: int) -> None:
        reactor, first, done = giving.reactor, True, 0
        for stretch in self._commits.after(connection, place, through_lsn):
            for step in steps_of(stretch):
                if step.rows and (shaping := [one for one in _SHAPING if reactor.options.get(one)]):
                    why = f"and with {shaping[0]}= it is not given events of the table"
                    raise self._refused(f"reactor {reactor.name!r}", step.rows[0][1], why, reactor.name)
                if step.rows and first:
                    first = False
                    logger.info("reactor %r is given what was committed while it had no slot", reactor.name)
                    if not self._give_held(giving):
                        return
                for position, row in step.rows:
                    if not self._give(giving, position, row, _BETWEEN):
                        return
                    done += 1
                    if position.index < 0:  # what no slot has brought has no order of commits, but that of ids
                        self._moved(connection, reactor, Place(place.lsn, row.id))
                place = step.place
                self._moved(connection, reactor, place)
        if done:
            logger.info("reactor %r was given %d events that were committed while it had no slot", reactor.name, done)

    def _give_held(self, giving: _Giving) -> bool:
        """Give a reactor its dead letters that later events wait for; False when it is to end."""
        letters, name = giving.letters, giving.reactor.name
        for one in letters.find(Which(pipelines=frozenset({self._pipeline}), consumer=name)):
            letter = letters.read(one.id) if holds_from_text(one.holds) else None
            if letter is None:
                continue
            for change in Batch.from_bytes(letter.message).changes(self._format):
                if isinstance(change, DecodeError):
                    raise change
                if isinstance(change, Insert) and not self._give(giving, letter.position, change.new, _LETTER):
                    return False
            letters.remove([letter.id])
        return True

    def _give(self, giving: _Giving, position: Position, row: EventRow, which: str) -> bool:
        """Give a reactor an event; False when it is to end."""
        reactor, stopping = giving.reactor, giving.stopping
        if stopping():
            return False
        try:
            asyncio.run_coroutine_threadsafe(_react(reactor, row, position, stopping), giving.loop).result()
        except Exception as error:
            if stopping():
                return False
            why = f"and its handler raised {type(error).__name__}"
            raise self._refused(f"reactor {reactor.name!r}", row, why, reactor.name, which) from error
        return True

    def _moved(self, connection: psycopg.Connection[Any], reactor: BoundReactor, place: Place) -> None:
        connection.execute(self._move, (format_lsn(place.lsn), place.base_id, self._pipeline, reactor.name))

    @staticmethod
    def _refused(who: str, row: EventRow, why: str, name: str, which: str = _BETWEEN) -> PositionError:
        mend = "give it what store.replay() has"
        if why != "and is no reactor":
            mend = "put the cause right and run it again, it goes on there"
        return PositionError(
            f"{who} has missed event {row.sequence} of the stream {row.stream_id}, which {which}, {why}",
            hint=f"{mend}; when it is to begin with what is appended from now on: pipeline.forget({name!r})",
        )


async def _react(reactor: BoundReactor, row: EventRow, position: Position, stopping: Callable[[], bool]) -> None:
    """Call a reactor, again where its options say so; what blocks in a thread."""
    policy: Retry = reactor.options.get("retry", Retry())
    again: tuple[type[Exception], ...] = (SinkUnavailable, *policy.on)

    def goes_on(error: BaseException) -> bool:
        if not isinstance(error, again) or stopping():
            return False
        logger.warning(
            "reactor %r cannot be given event %d of the stream %s, which it has missed: %s; all consumers wait for it",
            *(reactor.name, row.sequence, row.stream_id, type(error).__name__),
        )
        return True

    async for attempt in attempts(policy, goes_on):
        with attempt:
            if reactor.is_async:
                result: Any = reactor.react(row, position)
                if isawaitable(result):
                    await result
            else:
                await asyncio.to_thread(reactor.react, row, position)
