"""The event store in PostgreSQL: what makes and looks at its tables, what appends, and what waits.

What reads is in what it inherits from: `reading_async.py` has events, `states_async.py` what is folded from them. Over
400 lines for the docstrings of its methods, which are the reference.

Source: PostgreSQL manual, "Transaction Isolation" (Read Committed).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import UUID

import psycopg

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConcurrencyConflict, ConfigError
from pgcdc.eventstore import calling_async as calling
from pgcdc.eventstore import grouping_async as grouping
from pgcdc.eventstore import inspecting_async as inspecting
from pgcdc.eventstore import migrating_async as migrating
from pgcdc.eventstore import repeating_async as repeating
from pgcdc.eventstore import waiting_async as waiting
from pgcdc.eventstore.archives import Archive, archive_of
from pgcdc.eventstore.arguments import looked_at, version_of
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.connections_async import AsyncConnections
from pgcdc.eventstore.context import current_metadata
from pgcdc.eventstore.event import Event, Registry, default_registry
from pgcdc.eventstore.findings import Finding, StoreStatistics
from pgcdc.eventstore.folding import Fold
from pgcdc.eventstore.plan import Plan, Profile
from pgcdc.eventstore.refusals import answered, conflict, refused
from pgcdc.eventstore.request import Append, Expected, RetentionClass, encode_events
from pgcdc.eventstore.snapshots import Shape, SnapshotPolicy, shape_of
from pgcdc.eventstore.statements import Statements, expected_number
from pgcdc.eventstore.states_async import AsyncStates

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["AsyncEventStore"]

State = TypeVar("State")


class AsyncEventStore(AsyncStates):
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
        self._connections = AsyncConnections(self._dsn, max_connections)
        self._folds: dict[type, Fold[Any]] = {}
        self._shapes: dict[type, Shape[Any]] = {}
        self._policies = dict(snapshots or {})
        for state in self._policies:
            shape_of(self._shapes, state)

    async def init(self, *, profile: Profile | None = None, max_payload_bytes: int | None = None) -> Plan:
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
        async with self._doing() as connection:
            return await migrating.apply(connection, self._statements, profile, max_payload_bytes)

    async def plan_init(self, *, profile: Profile | None = None, max_payload_bytes: int | None = None) -> Plan:
        """Say what `init` would do.

        Args:
            profile: As for `init`.
            max_payload_bytes: As for `init`.

        Returns:
            The plan, for `print`.

        Raises:
            ConfigError: When the database is newer than this program.
        """
        async with self._doing() as connection:
            return await migrating.plan(connection, self._statements, profile, max_payload_bytes)

    async def append(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        stream_type: str | None = None,
        expected: Expected = "any",
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
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
            return await self._look(stream, expected, connection)
        about = self._codec.metadata(current_metadata(metadata))
        if number > 0 and len(given) == 1 and event_ids is None and retention_class is None and connection is None:
            one = (stream, number, stream_type, *self._codec.written(given[0]), about)
            try:
                is_done = await grouping.append_one(self._connections, self._statements, one)
            except psycopg.Error as error:
                raise refused(error, self._statements, stream, expected) from error
            if is_done:
                return number + 1
        encoded = encode_events(self._codec, given, event_ids, retention_class)
        async with self._doing(stream, expected, connection) as used:
            values = (stream, stream_type, number, encoded, about)
            status, version = await calling.ask(used, self._statements.append, values)
            if status == "archived":
                status, version = await repeating.append(used, self._statements, self._archive, values, event_ids)
        return answered(status, version, stream, expected)

    async def append_many(
        self, appends: Iterable[Append], *, connection: psycopg.AsyncConnection[Any] | None = None
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
        async with self._doing(", ".join(str(one.stream) for one in given), "any", connection) as used:
            return await repeating.append_many(used, self._statements, self._archive, self._codec, given)

    async def insert(
        self,
        stream: str,
        events: Iterable[Event],
        *,
        after: int,
        stream_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_ids: Sequence[UUID | str] | None = None,
        retention_class: RetentionClass | None = None,
        connection: psycopg.AsyncConnection[Any] | None = None,
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
            return await self._look(stream, after, connection)
        values = {
            "stream": stream,
            "type": stream_type,
            "after": after,
            "events": encode_events(self._codec, given, event_ids, retention_class),
            "metadata": self._codec.metadata(current_metadata(metadata)),
        }
        async with self._doing(stream, after, connection) as used:
            if event_ids is None:
                await calling.cursor(used).execute(self._statements.insert, values)
            else:
                async with used.transaction():
                    await calling.cursor(used).execute(self._statements.insert, values)
                    await repeating.refuse_known(used, self._statements, self._archive, stream, after, event_ids)
        return after + len(given)

    async def retry(
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
            current, version = await self.load(stream, state)
            decided = list(decide(current))
            if not decided:
                return version
            try:
                return await self.append(stream, decided, stream_type=stream_type, expected=version, metadata=metadata)
            except ConcurrencyConflict as error:
                if attempt == attempts:
                    error.add_note(f"after {attempts} attempts")
                    raise
            # Writers that have met do not meet again at once: somewhere in a stretch that doubles.
            await asyncio.sleep(random.uniform(0, min(0.25, 0.001 * 2**attempt)))  # noqa: S311
        raise AssertionError("unreachable")

    async def lsn(self) -> int:
        """Ask for a place in the WAL behind everything that was committed so far, for `wait`.

        Returns:
            The LSN.
        """
        async with self._doing() as connection:
            return await waiting.written(connection)

    async def wait(self, projection: str, lsn: int, *, timeout: float = 5.0) -> None:
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
        async with self._doing() as connection:
            await waiting.until(connection, self._statements, projection, lsn, timeout)

    async def wait_for(self, projection: str, stream: str, version: int, *, timeout: float = 5.0) -> None:
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
        async with self._doing() as connection:
            await waiting.until_version(connection, self._statements, projection, stream, version, timeout)

    async def stats(self) -> StoreStatistics:
        """Count and measure: sizes, lengths of streams, what reading an event takes, and whether snapshots pay.

        Returns:
            The numbers, also for `print`.
        """
        async with self._doing() as connection:
            return await inspecting.statistics(connection, self._statements)

    async def check(self, *, deep: bool = False) -> list[Finding]:
        """Go through the checklist of event sourcing on the live database; what is tried is rolled back.

        Args:
            deep: Whether all streams are looked at for holes, which reads an index of all events, and all files of the
                archive are read.

        Returns:
            A finding for each point, also for `print`.
        """
        async with self._doing() as connection:
            return await inspecting.check(connection, self._statements, self._archive, deep=deep)

    async def close(self) -> None:
        """Close the connections that are not in use. The store can be used again."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _look(self, stream: str, expected: Expected, connection: psycopg.AsyncConnection[Any] | None) -> int:
        """The version of a stream that is as expected."""
        async with self._doing(stream, expected, connection) as used:
            cursor = calling.cursor(used)
            await cursor.execute(self._statements.type_of, (stream,))
            row = await cursor.fetchone()
        version: int = 0 if row is None else row[1]
        fits = {"any": True, "none": row is None, "exists": row is not None}
        if not (fits[expected] if isinstance(expected, str) else version == expected):
            raise conflict(stream, expected, version)
        return version
