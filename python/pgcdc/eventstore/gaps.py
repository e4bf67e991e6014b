"""What reactors have missed between two slots: kept where they were, and given to them from the table of events.

A slot that is dropped, or lost its WAL, takes no event with it: all are in the table, or in the archive. Projections
read from there in any case. Of a reactor it is written down where it was before its position is forgotten; the next run
gives it what was committed from there up to where the new slot begins, in the order of commits, and only then begins
the stream. Where it is moves with each transaction, so that a crash repeats one at most.
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import isawaitable
from typing import Any, Final, LiteralString

import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import PositionError, SinkUnavailable
from pgcdc.eventstore.commits import Commits, EventRow, Place
from pgcdc.eventstore.projecting import steps_of
from pgcdc.eventstore.reacting import BoundReactor
from pgcdc.eventstore.statements import Statements
from pgcdc.lsn import Position, format_lsn
from pgcdc.pipeline.positions import StoredPosition
from pgcdc.pipeline.retry import Retry, attempts

__all__ = ["Gaps"]

logger = logging.getLogger("pgcdc.eventstore")

_SHAPING: Final = ("where", "columns", "transform", "own_slot")
"""Options with which a pipeline gives a reactor something else than all events, or by another way."""


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

    def fill(
        self,
        connection: psycopg.Connection[Any],
        positioned: Collection[str],
        consumers: Collection[str],
        through_lsn: int,
        loop: asyncio.AbstractEventLoop,
        stopping: Callable[[], bool],
    ) -> None:
        """Give reactors what they have missed. Blocks, and is not for the loop's own thread.

        Args:
            connection: On which, in autocommit mode.
            positioned: Consumers that have positions: the stream goes on where they were.
            consumers: All that there are.
            through_lsn: Up to where the table is read: the stream brings what comes behind.
            loop: Where handlers are called that are coroutine functions.
            stopping: Whether to end; then the next run goes on there.

        Raises:
            PositionError: When a reactor cannot be given an event, or a handler or sink that was added has missed one.
                It says what can be done.
        """
        self.forget(connection, positioned)
        for name, lsn, base_id in connection.cursor(row_factory=tuple_row).execute(self._kept, (self._pipeline,)):
            reactor = self._reactors.get(name)
            if lsn >= through_lsn or name not in consumers:
                continue
            if reactor is not None:
                self._fill(connection, reactor, Place(lsn, base_id), through_lsn, loop, stopping)
                continue
            for stretch in self._commits.after(connection, Place(lsn, base_id), through_lsn):
                if stretch.rows:
                    raise self._refused(f"consumer {name!r}", stretch.rows[0][1], "and is no reactor", name)

    def _fill(
        self,
        connection: psycopg.Connection[Any],
        reactor: BoundReactor,
        place: Place,
        through_lsn: int,
        loop: asyncio.AbstractEventLoop,
        stopping: Callable[[], bool],
    ) -> None:
        done = 0
        for stretch in self._commits.after(connection, place, through_lsn):
            for step in steps_of(stretch):
                if step.rows and (shaping := [one for one in _SHAPING if reactor.options.get(one)]):
                    why = f"and with {shaping[0]}= it is not given events of the table"
                    raise self._refused(f"reactor {reactor.name!r}", step.rows[0][1], why, reactor.name)
                for position, row in step.rows:
                    if stopping():
                        return
                    try:
                        asyncio.run_coroutine_threadsafe(_react(reactor, row, position, stopping), loop).result()
                    except Exception as error:
                        if stopping():
                            return
                        why = f"and its handler raised {type(error).__name__}"
                        raise self._refused(f"reactor {reactor.name!r}", row, why, reactor.name) from error
                    done += 1
                    if position.index < 0:  # what no slot has brought has no order of commits, but that of ids
                        self._moved(connection, reactor, Place(place.lsn, row.id))
                place = step.place
                self._moved(connection, reactor, place)
        if done:
            logger.info("reactor %r was given %d events that were committed while it had no slot", reactor.name, done)

    def _moved(self, connection: psycopg.Connection[Any], reactor: BoundReactor, place: Place) -> None:
        connection.execute(self._move, (format_lsn(place.lsn), place.base_id, self._pipeline, reactor.name))

    @staticmethod
    def _refused(who: str, row: EventRow, why: str, name: str) -> PositionError:
        mend = "give it what store.replay() has"
        if why != "and is no reactor":
            mend = "put the cause right and run it again, it goes on there"
        return PositionError(
            f"{who} has missed event {row.sequence} of the stream {row.stream_id}, which was committed while it had no"
            f" slot, {why}",
            hint=f"{mend}; when it is to begin with what is appended from now on: pipeline.forget({name!r})",
        )


async def _react(reactor: BoundReactor, row: EventRow, position: Position, stopping: Callable[[], bool]) -> None:
    """Call a reactor, again where its options say so; what blocks in a thread."""
    policy: Retry = reactor.options.get("retry", Retry())
    again: tuple[type[Exception], ...] = (SinkUnavailable, *policy.on)
    async for attempt in attempts(policy, lambda error: isinstance(error, again) and not stopping()):
        with attempt:
            if reactor.is_async:
                result: Any = reactor.react(row, position)
                if isawaitable(result):
                    await result
            else:
                await asyncio.to_thread(reactor.react, row, position)
