# Made from store_async.py by ./dev lint --fix: change that file, not this one.
"""The event store in PostgreSQL: append, read, fold.

Over 400 lines for the docstrings of its methods, which are the reference: one class has all that is done with a stream.

Source: PostgreSQL manual, "Transaction Isolation" (Read Committed), "COPY".
"""

from __future__ import annotations

import os
import random
import time
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from uuid import UUID

import msgspec
import psycopg

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConcurrencyConflict, ConfigError, EventStoreError, SinkUnavailable
from pgcdc.eventstore import archived, calling, grouping, inspecting, migrating, repeating, waiting
from pgcdc.eventstore.archives import Archive, archive_of
from pgcdc.eventstore.arguments import behind, looked_at, moment_of, piece_of, version_of
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.commits import recorded_of
from pgcdc.eventstore.connections import Connections
from pgcdc.eventstore.context import current_metadata
from pgcdc.eventstore.declaring import Declarations
from pgcdc.eventstore.envelopes import placed_of, recorded_of_all
from pgcdc.eventstore.event import Event, Registry, default_registry
from pgcdc.eventstore.findings import Finding, StoreStatistics
from pgcdc.eventstore.folding import Fold, fold_of
from pgcdc.eventstore.history import history_of
from pgcdc.eventstore.lines import Lines
from pgcdc.eventstore.plan import Plan, Profile
from pgcdc.eventstore.recorded import HistoryEntry, Placed, Recorded
from pgcdc.eventstore.refusals import answered, conflict, hole, refused, see_encoding
from pgcdc.eventstore.request import Append, Expected, RetentionClass, encode_events
from pgcdc.eventstore.segments import Segment
from pgcdc.eventstore.snapshots import Shape, SnapshotPolicy, shape_of
from pgcdc.eventstore.statements import Statements, expected_number

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["EventStore"]

State = TypeVar("State")
_ROWS: Final = 20_000  # that are in memory at once while a stream is folded
_LAST: Final = 2**63 - 1
_JSON: Final = msgspec.json.Decoder(dict[str, Any])


class EventStore(Declarations):
    """Events in one table of a PostgreSQL database, in streams.

    Any number of tasks or threads can use it, by up to `max_connections` connections. `init()` makes the tables.

    Args:
        dsn: Where to connect to, as libpq understands it, or a URL of SQLAlchemy; also PG* variables and service files.
        schema: The schema of the tables.
        events: Classes of events, or modules of such, for names that several classes have.
        registry: Where classes are looked up; that of all classes that name no other.
        snapshots: For which states snapshots are taken, and when: `{Order: Every(100)}`. Off without it: measure first.
        max_payload_bytes: The most that a payload may have as JSON; the database has a limit of its own (`init`).
        max_connections: How many there are at most. Appends of one event that wait for one go together.
        archive: Where events are that have left the table (`archive`): a folder, a URL, or an `Archive`. Whatever reads
            goes on to it where the table does not begin.
    """

    def __init__(
        self,
        dsn: Dsn = "",
        *,
        schema: str = "es",
        events: Iterable[type[Event] | ModuleType] = (),
        registry: Registry = default_registry,
        snapshots: Mapping[type, SnapshotPolicy] | None = None,
        max_payload_bytes: int = 262_144,
        max_connections: int = 10,
        archive: Archive | str | os.PathLike[str] | None = None,
    ) -> None:
        if max_connections < 1:
            raise ConfigError("a store has at least one connection", hint="max_connections=10")
        super().__init__(archive_of(archive))
        self._dsn = dsn_of(dsn)
        self._statements = Statements(schema)
        self._codec = Codec(registry, events, max_payload_bytes)
        self._connections = Connections(self._dsn, max_connections)
        self._folds: dict[type, Fold[Any]] = {}
        self._shapes: dict[type, Shape[Any]] = {}
        self._policies = dict(snapshots or {})
        for state in self._policies:
            shape_of(self._shapes, state)

    def init(self, *, profile: Profile | None = None, max_payload_bytes: int | None = None) -> Plan:
        """Make what is missing of the tables; nothing when all is there. Two at once are no harm.

        It is one transaction. Only the indexes of another profile are changed behind it: made, and then those of the
        one before are dropped.

        Args:
            profile: "full" has the indexes by (stream_type, occurred_at) and (event_type, occurred_at), "lean" a small
                one by time, which spares a quarter of the server's time for an append. None: as it is, for a new store
                "full". While it is changed on a large table, writers wait; readers do not.
            max_payload_bytes: The most that a payload may take in the database (as jsonb, which is not its size as
                JSON). None: as it is, for a new store 262,144.

        Returns:
            What was done.

        Raises:
            ConfigError: When the role may not do it, or the database is newer than this program.
        """
        with self._doing() as connection:
            return migrating.apply(connection, self._statements, profile, max_payload_bytes)

    def plan_init(self, *, profile: Profile | None = None, max_payload_bytes: int | None = None) -> Plan:
        """Say what `init` would do.

        Args:
            profile: As for `init`.
            max_payload_bytes: As for `init`.

        Returns:
            The plan, for `print`.

        Raises:
            ConfigError: When the database is newer than this program.
        """
        with self._doing() as connection:
            return migrating.plan(connection, self._statements, profile, max_payload_bytes)

    def append(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        stream_type: str | None = None,
        expected: Expected = "any",
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> int:
        """Append events to a stream: all of them or none, in one round trip.

        Args:
            stream: The stream's id.
            events: The events. None at all appends nothing, and only looks whether the stream is as expected.
            stream_type: Its type. Without it that of the stream, for a new one what its id has before the first `-`.
            expected: The version that the stream has to have, `"none"` for one that must not exist, `"exists"`,
                `"any"`.
            metadata: What is said about these events, over what the `context` says.
            event_ids: Ids of the events. An append that was done before with the same ids is not done again, whatever
                is expected now. They are looked for among all of the stream's events, those in the archive too.
            retention_class: `"warm"` or `"cold"` for events that leave the table sooner than their age says; see
                `retention`.
            connection: Your own connection: the events are part of its transaction, and a conflict leaves it usable.
                The stream stays locked until that ends. Without it no other append is undone by it, or undoes it.

        Returns:
            The stream's version after it; for a repeated one the version after the events that are there.

        Raises:
            ConcurrencyConflict: When the stream is not as expected.
            InvalidEvent: When an event's values are not of its fields' types.
            PayloadTooLarge: When a payload is.
            EventStoreError: When the stream is closed or of another type.
            ConnectionLost: When the server is gone; whether it was done is not known then.

        Source:
            PostgreSQL manual, "Explicit Locking" (Row-Level Locks).
        """
        number = expected_number(expected)
        looked_at(stream, stream_type)
        given = list(events)
        if not given:
            return self._look(stream, expected, connection)
        about = self._codec.metadata(current_metadata(metadata))
        if number > 0 and len(given) == 1 and event_ids is None and retention_class is None and connection is None:
            one = (stream, number, stream_type, *self._codec.written(given[0]), about)
            try:
                is_done = grouping.append_one(self._connections, self._statements, one)
            except psycopg.Error as error:
                raise refused(error, self._statements, stream, expected) from error
            if is_done:
                return number + 1
        encoded = encode_events(self._codec, given, event_ids, retention_class)
        with self._doing(stream, expected, connection) as used:
            values = (stream, stream_type, number, encoded, about)
            status, version = calling.ask(used, self._statements.append, values)
            if status == "archived":
                status, version = repeating.append(used, self._statements, self._archive, values, event_ids)
        return answered(status, version, stream, expected)

    def append_many(
        self, appends: Iterable[Append], *, connection: psycopg.Connection[Any] | None = None
    ) -> dict[str, int]:
        """Append to several streams: to all of them or to none. They are locked in an order of their own.

        Args:
            appends: What is appended where; each stream once.
            connection: Your own connection, as for `append`.

        Returns:
            The version of each stream after it.

        Raises:
            ConcurrencyConflict: When a stream is not as expected; its `stream` says which.
            EventStoreError: As for `append`.
        """
        given = list(appends)
        with self._doing(", ".join(str(one.stream) for one in given), "any", connection) as used:
            return repeating.append_many(used, self._statements, self._archive, self._codec, given)

    def insert(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        after: int,
        stream_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> int:
        """Append by a plain INSERT, for which the unique index says who was first (SQLSTATE 23505).

        Any program that can INSERT may append so; a trigger advances the stream and refuses a hole. Unlike `append`, a
        conflict aborts the transaction around it.

        Args:
            stream: The stream's id.
            events: The events. None at all inserts nothing, and only looks whether the stream has this version.
            after: The version that the stream has: the first event gets the next number.
            stream_type: As for `append`.
            metadata: As for `append`.
            event_ids: Ids of the events. Unlike `append`, events that are there already are refused.
            retention_class: As for `append`.
            connection: Your own connection, as for `append`.

        Returns:
            The stream's version after it.

        Raises:
            ConcurrencyConflict: When one of the numbers is taken.
            EventStoreError: When there would be a hole, the stream is closed or of another type, or has these events.
        """
        version_of(after)
        looked_at(stream, stream_type)
        given = list(events)
        if not given:
            return self._look(stream, after, connection)
        values = {
            "stream": stream,
            "type": stream_type,
            "after": after,
            "events": encode_events(self._codec, given, event_ids, retention_class),
            "metadata": self._codec.metadata(current_metadata(metadata)),
        }
        with self._doing(stream, after, connection) as used:
            if event_ids is None:
                calling.cursor(used).execute(self._statements.insert, values)
            else:
                with used.transaction():
                    calling.cursor(used).execute(self._statements.insert, values)
                    repeating.refuse_known(used, self._statements, self._archive, stream, after, event_ids)
        return after + len(given)

    def retry(
        self,
        stream: str,
        state: type[State],
        decide: Callable[[State], Iterable[Event]],
        *,
        stream_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        attempts: int = 10,
    ) -> int:
        """Load, decide, append; after a conflict again, until it is done or the attempts are used up.

        Args:
            stream: The stream's id.
            state: The class of its state.
            decide: From the state to the events that follow; it may be called several times, and raise.
            stream_type: As for `append`.
            metadata: As for `append`.
            attempts: How often at most.

        Returns:
            The stream's version after it; as it was, when there was nothing to append.

        Raises:
            ConcurrencyConflict: When the last attempt came too late, too.
            Exception: What `decide` raises.
        """
        if attempts < 1:
            raise ConfigError("there is at least one attempt", hint="attempts=10")
        for attempt in range(1, attempts + 1):
            current, version = self.load(stream, state)
            decided = list(decide(current))
            if not decided:
                return version
            try:
                return self.append(stream, decided, stream_type=stream_type, expected=version, metadata=metadata)
            except ConcurrencyConflict as error:
                if attempt == attempts:
                    error.add_note(f"after {attempts} attempts")
                    raise
            # Writers that have met do not meet again at once: somewhere in a stretch that doubles.
            time.sleep(random.uniform(0, min(0.25, 0.001 * 2**attempt)))  # noqa: S311
        raise AssertionError("unreachable")

    def read(
        self,
        stream: str,
        *,
        after: int = 0,
        limit: int | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> list[Recorded]:
        """Read events of a stream with their envelopes, in order.

        Args:
            stream: The stream's id.
            after: The sequence behind which to begin.
            limit: How many at most. All are in memory at once.
            connection: Your own connection, to see what its transaction has appended.

        Returns:
            The events; none when there is no such stream.

        Raises:
            InvalidEvent: When a payload is not what its class says.
        """
        looked_at(stream)
        piece_of("limit", limit, 0)
        return self._read(stream, behind("after", after), _LAST, limit, connection)

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
            current, version = self._over(used, fold, stream, current, version, _LAST)
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
            until = _LAST if at is None else self._until(used, stream, at)
            events = self._read(stream, 0, until, None, used)
        return history_of(events, fold)

    def replay(
        self,
        *,
        after_id: int = 0,
        batch: int = 1000,
        connection: psycopg.Connection[Any] | None = None,
    ) -> Iterator[list[Recorded]]:
        """Read all events of all streams as they were at one moment, in the order in which they were written.

        Within a stream that is the order of its sequence. Over streams it is not the order of commits, and an event
        that commits later can have a smaller `id`: to follow what is new, use a projection, never this.

        Args:
            after_id: The `id` behind which to begin.
            batch: How many events are in memory at once.
            connection: Your own connection; it is busy until the end.

        Yields:
            Lists of events with their envelopes.

        Raises:
            InvalidEvent: When a payload is not what its class says.

        Source:
            PostgreSQL manual, "COPY".
        """
        after_id = behind("after_id", after_id)
        piece_of("batch", batch, 1)
        lines = Lines(self._codec, Recorded)
        with self._moment(connection) as used:
            segments = self._segments_after(used, after_id)
            if segments:
                given = used, self._statements, self._archive, self._codec, segments, after_id, batch
                yield from archived.replayed(*given)
                return
            if calling.comes_in_pieces(used):
                for fetched in calling.all_rows(used, self._statements.replay_rows, after_id, batch):
                    yield recorded_of_all(fetched, self._codec)
                return
            for rows in calling.copied(used, self._statements.replay, after_id, batch):
                yield lines.decode(rows)

    def scan(
        self,
        *,
        after_id: int = 0,
        batch: int = 1000,
        connection: psycopg.Connection[Any] | None = None,
    ) -> Iterator[list[Placed]]:
        """Read all events as `replay` does, without their envelopes: it takes less than two thirds of the time.

        Args:
            after_id: As for `replay`.
            batch: As for `replay`.
            connection: As for `replay`.

        Yields:
            Lists of events, each with its stream and sequence.

        Raises:
            InvalidEvent: When a payload is not what its class says.
        """
        after_id = behind("after_id", after_id)
        piece_of("batch", batch, 1)
        lines = Lines(self._codec, Placed)
        with self._moment(connection) as used:
            segments = self._segments_after(used, after_id)
            if segments:
                given = used, self._statements, self._archive, self._codec, segments, after_id, batch
                for events in archived.replayed(*given):
                    yield [Placed(event=one.event, stream_id=one.stream_id, sequence=one.sequence) for one in events]
                return
            if calling.comes_in_pieces(used):
                for fetched in calling.all_rows(used, self._statements.scan_rows, after_id, batch):
                    yield placed_of(fetched, self._codec)
                return
            for rows in calling.copied(used, self._statements.scan, after_id, batch):
                yield lines.decode(rows)

    def lsn(self) -> int:
        """Ask for a place in the WAL behind everything that was committed so far, for `wait`.

        Returns:
            The LSN.
        """
        with self._doing() as connection:
            return waiting.written(connection)

    def wait(self, projection: str, lsn: int, *, timeout: float = 5.0) -> None:
        """Wait until a projection has everything that was committed before a place in the WAL.

        When it has not yet, a logical message is written to the WAL, which brings it past the place on a quiet server,
        too. For one's own append `wait_for` needs none.

        Args:
            projection: Its name.
            lsn: What `lsn()` has returned after the commit, or `pg_current_wal_insert_lsn()`.
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: When it does not come so far in time; is its pipeline running?
            EventStoreError: When it is parked, or there is no such projection.
        """
        with self._doing() as connection:
            waiting.until(connection, self._statements, projection, lsn, timeout)

    def wait_for(self, projection: str, stream: str, version: int, *, timeout: float = 5.0) -> None:
        """Wait until a projection has a stream up to a version: to read what one has written.

        Args:
            projection: Its name.
            stream: The stream.
            version: What `append` has returned.
            timeout: How long to wait, in seconds.

        Raises:
            TimeoutError: When it does not come so far in time; is its pipeline running?
            EventStoreError: When it is parked, or there is no such projection.
        """
        with self._doing() as connection:
            waiting.until_version(connection, self._statements, projection, stream, version, timeout)

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

    def stats(self) -> StoreStatistics:
        """Count and measure: sizes, lengths of streams, what reading an event takes, and whether snapshots pay.

        Returns:
            The numbers, also for `print`.
        """
        with self._doing() as connection:
            return inspecting.statistics(connection, self._statements)

    def check(self, *, deep: bool = False) -> list[Finding]:
        """Go through the checklist of event sourcing on the live database; what is tried is rolled back.

        Args:
            deep: Whether all streams are looked at for holes, which reads an index of all events, and all files of the
                archive are read.

        Returns:
            A finding for each point, also for `print`.
        """
        with self._doing() as connection:
            return inspecting.check(connection, self._statements, self._archive, deep=deep)

    def close(self) -> None:
        """Close the connections that are not in use. The store can be used again."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _doing(
        self,
        stream: str = "",
        expected: Expected | None = None,
        connection: psycopg.Connection[Any] | None = None,
    ) -> Iterator[psycopg.Connection[Any]]:
        """A connection for a block; what the server refuses is told in our words."""
        try:
            with self._connections.use(connection) as used:
                if connection is not None:
                    see_encoding(connection.pgconn)
                yield used
        except (psycopg.Error, UnicodeEncodeError) as error:
            raise refused(error, self._statements, stream, expected) from error
        except SinkUnavailable as error:
            raise EventStoreError(f"the archive cannot be read: {error}", hint="try again when it is there") from error

    @contextmanager
    def _moment(self, connection: psycopg.Connection[Any] | None) -> Iterator[psycopg.Connection[Any]]:
        """A connection for a block whose statements see one moment, or which an archiver waits for."""
        with self._doing(connection=connection) as used:
            idle, busy = psycopg.pq.TransactionStatus.IDLE, psycopg.pq.TransactionStatus.ACTIVE
            is_ours = used.autocommit and used.pgconn.transaction_status == idle
            if is_ours:
                calling.cursor(used).execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            else:
                calling.cursor(used).execute(self._statements.reading_all)
            try:
                yield used
            finally:
                # One of our own that is left in the middle of its COPY is closed by the pool.
                if is_ours and not used.closed and used.pgconn.transaction_status != busy:
                    calling.cursor(used).execute("COMMIT")

    def _segments_after(self, used: psycopg.Connection[Any], after_id: int) -> list[Segment]:
        cursor = calling.cursor(used)
        cursor.execute(self._statements.segments_after, (after_id,))
        return [Segment(*row) for row in cursor.fetchall()]

    def _fold(self, state: type[State]) -> Fold[State]:
        if state not in self._folds:
            self._codec.adopt(state.__module__)
        return fold_of(self._folds, state, self._codec.registry)

    def _look(self, stream: str, expected: Expected, connection: psycopg.Connection[Any] | None) -> int:
        """The version of a stream that is as expected."""
        with self._doing(stream, expected, connection) as used:
            cursor = calling.cursor(used)
            cursor.execute(self._statements.type_of, (stream,))
            row = cursor.fetchone()
        version: int = 0 if row is None else row[1]
        fits = {"any": True, "none": row is None, "exists": row is not None}
        if not (fits[expected] if isinstance(expected, str) else version == expected):
            raise conflict(stream, expected, version)
        return version

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

    def _read(
        self,
        stream: str,
        after: int,
        until: int,
        limit: int | None,
        connection: psycopg.Connection[Any] | None,
    ) -> list[Recorded]:
        with self._doing(stream, connection=connection) as used:
            cursor = calling.cursor(used, binary=True)
            cursor.execute(self._statements.read, (stream, after, until, limit))
            rows = cursor.fetchall()
            before: list[Recorded] = []
            last = rows[0][2] - 1 if rows else until
            if last > after:
                last = last if limit is None else min(last, after + limit)
                for part in archived.beginning(used, self._statements, self._archive, stream, after, last):
                    before += [recorded_of(row, None, self._codec) for row in part]
        if before and limit is not None:
            rows = rows[: limit - len(before)]
        decode = self._codec.decode
        events = before + [
            Recorded(
                event=decode(name, number, payload, stream, sequence),
                stream_id=stream,
                stream_type=stream_type,
                sequence=sequence,
                event_id=event_id,
                occurred_at=occurred_at,
                metadata=_JSON.decode(metadata),
                id=place,
                event_type=name,
                event_version=number,
            )
            for place, stream_type, sequence, name, number, event_id, occurred_at, metadata, payload in rows
        ]
        if events and events[-1].sequence - after != len(events):
            behind = next(n for n, event in enumerate(events, after) if event.sequence != n + 1)
            raise hole(stream, behind)
        return events

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
        return _LAST if row is None or row[0] is None else row[0]

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
