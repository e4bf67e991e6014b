# Made from states_async.py by ./dev lint --fix: change that file, not this one.
"""States of streams: folded from their events, with snapshots, now or in the past.

Source: PostgreSQL manual, "Transaction Isolation" (Read Committed).
"""

from __future__ import annotations

import time as clock
from contextlib import closing, suppress
from datetime import datetime
from typing import Any, Final, TypeVar

import psycopg

from pgcdc.eventstore import archived, calling
from pgcdc.eventstore.arguments import LAST, looked_at, moment_of
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.folding import Fold, fold_of
from pgcdc.eventstore.history import history_of
from pgcdc.eventstore.reading import Reading
from pgcdc.eventstore.recorded import HistoryEntry
from pgcdc.eventstore.refusals import hole
from pgcdc.eventstore.snapshots import Shape, SnapshotPolicy, shape_of

__all__ = ["States"]

State = TypeVar("State")
_ROWS: Final = 20_000  # that are in memory at once while a stream is folded


class States(Reading):
    """What a store does that makes a state of events."""

    _folds: dict[type, Fold[Any]]
    _shapes: dict[type, Shape[Any]]
    _policies: dict[type, SnapshotPolicy]

    def load(
        self, stream: str, state: type[State], *, connection: psycopg.Connection[Any] | None = None
    ) -> tuple[State, int]:
        """Fold a stream: `state()`, then `apply(event)` of it for each event, or a method for each kind of event.

        `apply` returns the state after the event. Without it `on_order_paid` takes each `OrderPaid`; it may return
        None, when it has changed the state in its place. Each may take a second argument, the event's `occurred_at`. An
        event that no class is known for changes nothing.

        Where snapshots are on for the class, it begins with the last one, and takes one when the policy says so.

        Args:
            stream: The stream's id.
            state: The class of the state.
            connection: Your own connection, as for `read`.

        Returns:
            The state and the version it is of: what `append` expects. `(state(), 0)` when there is no such stream.

        Raises:
            InvalidEvent: When a payload is not what its class says.
            Exception: What the state's class raises; a note says at which event.
        """
        looked_at(stream)
        fold = self._fold(state)
        policy = self._policies.get(state)
        with self._doing(stream, connection=connection) as used:
            current, version = fold.begin(), 0
            began = clock.perf_counter()
            if policy is not None:
                current, version = self._snapshot(used, stream, state, current)
            begun_at = version
            current, version = self._over(used, fold, stream, current, version, LAST)
            if policy is not None and policy.is_due(version - begun_at, clock.perf_counter() - began):
                self._save(used, stream, state, current, version, is_own=connection is None)
        return current, version

    def state(
        self,
        stream: str,
        state: type[State],
        *,
        at: int | datetime,
        connection: psycopg.Connection[Any] | None = None,
    ) -> tuple[State, int]:
        """Fold a stream up to a moment in its past.

        Args:
            stream: The stream's id.
            state: The class of the state.
            at: A sequence, or an aware time: then all up to before the first event that is later.
            connection: Your own connection, as for `read`.

        Returns:
            The state then, and the version it is of.

        Raises:
            ConfigError: When it is neither, or the time has no zone.
            InvalidEvent: As for `load`.
        """
        looked_at(stream)
        at = moment_of(at)
        fold = self._fold(state)
        with self._doing(stream, connection=connection) as used:
            until = self._until(used, stream, at)
            return self._over(used, fold, stream, fold.begin(), 0, until)

    def history(
        self,
        stream: str,
        state: type[Any] | None = None,
        *,
        at: int | datetime | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> list[HistoryEntry]:
        """Tell how a stream got where it is.

        Args:
            stream: The stream's id.
            state: The class of its state, for what each event has changed; without it the payloads are told.
            at: Up to which moment, as for `state`; None: all.
            connection: Your own connection, as for `read`.

        Returns:
            An entry for each event. All are in memory at once.

        Raises:
            InvalidEvent: As for `load`.
        """
        looked_at(stream)
        at = at if at is None else moment_of(at)
        fold = None if state is None else self._fold(state)
        with self._doing(stream, connection=connection) as used:
            until = LAST if at is None else self._until(used, stream, at)
            events = self._read(stream, 0, until, None, used)
        return history_of(events, fold)

    def drop_snapshots(self, stream_type: str | None = None) -> int:
        """Throw snapshots away; states are folded from their events again.

        Args:
            stream_type: Of which streams; None: all.

        Returns:
            How many there were.
        """
        with self._doing() as connection:
            cursor = connection.execute(self._statements.drop_snapshots, (stream_type, stream_type))
            return cursor.rowcount

    def _fold(self, state: type[State]) -> Fold[State]:
        if state not in self._folds:
            self._codec.adopt(state.__module__)
        return fold_of(self._folds, state, self._codec.registry)

    def _over(
        self,
        used: psycopg.Connection[Any],
        fold: Fold[State],
        stream: str,
        state: State,
        version: int,
        until: int,
    ) -> tuple[State, int]:
        """Fold the events behind a version."""
        statement = self._statements.load_timed if fold.is_timed else self._statements.load
        while True:
            count = 0
            late: list[Any] = []
            with closing(calling.rows(used, statement, (stream, version, until, _ROWS))) as pieces:
                for rows in pieces:
                    count += len(rows)
                    if late or (rows and rows[0][0] > version + 1):
                        late += rows  # the table does not begin there: the archive is asked first, by this connection
                    else:
                        state, version = _whole(fold, rows, state, version, self._codec, stream)
            last = late[0][0] - 1 if late else until
            if last > version and (late or not count):
                given = used, self._statements, self._archive, stream, version, last
                for part in archived.beginning(*given):
                    events = [(e.sequence, e.event_type, e.event_version, e.payload, e.occurred_at) for e in part]
                    state, version = _whole(fold, events, state, version, self._codec, stream)
                state, version = _whole(fold, late, state, version, self._codec, stream)
            if count < _ROWS:
                return state, version

    def _until(self, used: psycopg.Connection[Any], stream: str, at: int | datetime) -> int:
        """The last sequence of a moment."""
        if not isinstance(at, datetime):
            return at
        cursor = calling.cursor(used)
        cursor.execute(self._statements.until, (stream, at))
        row = cursor.fetchone()
        earlier = archived.until_time(used, self._statements, self._archive, stream, at)
        if earlier is not None:
            return earlier
        return LAST if row is None or row[0] is None else row[0]

    def _snapshot(
        self, used: psycopg.Connection[Any], stream: str, state: type[State], begin: State
    ) -> tuple[State, int]:
        """The last snapshot of this shape of the state, or what there is before the first event."""
        shape = shape_of(self._shapes, state)
        cursor = calling.cursor(used, binary=True)
        cursor.execute(self._statements.snapshot, (stream, shape.projector, shape.schema_hash))
        row = cursor.fetchone()
        stored = False if row is None else shape.decode(row[1])
        return (begin, 0) if row is None or stored is False else (stored, row[0])

    def _save(
        self,
        used: psycopg.Connection[Any],
        stream: str,
        state: type[State],
        current: State,
        version: int,
        *,
        is_own: bool,
    ) -> None:
        if not is_own:
            return  # a refusal would abort the caller's transaction
        shape = shape_of(self._shapes, state)
        row = (stream, shape.projector, shape.schema_hash, version, shape.encode(current))
        # A standby, or a role that reads only: the state is right without it.
        with suppress(psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege):
            used.execute(self._statements.save, row)


def _whole(
    fold: Fold[State], rows: list[Any], state: State, version: int, codec: Codec, stream: str
) -> tuple[State, int]:
    """Fold rows of which none is missing: a state without one of its events would be wrong, and nobody would know."""
    after, reached = fold.over(rows, state, version, codec, stream)
    if reached - version != len(rows):
        raise hole(stream, next(n for n, row in enumerate(rows, version) if row[0] != n + 1))
    return after, reached
