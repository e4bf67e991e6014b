"""Old events leave the table: into a file, read back and compared, recorded and deleted in one transaction.

What is killed in between leaves a file that no segment names, which is in no reading. The file's name has the hash of
the events in it, so the next run, which finds the same events, finds the file too, and takes it.

Source: PostgreSQL manual, "Explicit Locking" (advisory locks).
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError, EventStoreError, SinkUnavailable
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.leaving import ArchiveLine, ArchivePlan, Leaving
from pgcdc.eventstore.projecting import connect
from pgcdc.eventstore.refusals import refused
from pgcdc.eventstore.segments import ArchivedEvent, content_of, decode, encode, require_pyarrow
from pgcdc.lsn import format_lsn

if TYPE_CHECKING:
    from pgcdc.eventstore.statements import Statements
    from pgcdc.eventstore.store import EventStore
    from pgcdc.eventstore.store_async import AsyncEventStore

__all__ = ["ArchiveLine", "ArchivePlan", "ArchiveProgress", "archive", "plan_archive"]

logger = logging.getLogger("pgcdc.eventstore")

LOCK_WITHIN: Final = 2.0
"""Seconds that an append to one of the streams may have to wait for us, or we for it; then it is tried again."""
_ENDED_WITHIN: Final = 3.0
_ATTEMPTS: Final = 10


class ArchiveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an archiver is.

    Attributes:
        done: How many events have left.
        total: How many leave in all.
        segments: How many files were recorded.
        bytes: What they take.
        taken: How many of these files were there from a run that was interrupted.
        seconds: How long it has been going on.
        rate: Events a second.
    """

    done: int
    total: int
    segments: int
    bytes: int
    taken: int
    seconds: float
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """How long it will take; None when that is not known yet."""
        return max(self.total - self.done, 0) / self.rate if self.rate else None


def plan_archive(store: EventStore | AsyncEventStore, *, now: datetime | None = None) -> ArchivePlan:
    """Say what `archive` would do: it reads the table of events once.

    Args:
        store: The store, with rules (`store.retention`) and an archive.
        now: The moment from which ages count, with a zone; the server's time without it.

    Returns:
        The plan, for `print`.

    Raises:
        ConfigError: When there is no rule or no archive.
    """
    with _connected(store) as connection:
        return _Archiver(store, connection).plan(now)


def archive(
    store: EventStore | AsyncEventStore,
    *,
    now: datetime | None = None,
    segment_events: int = 20_000,
    told: Callable[[ArchiveProgress], None] = lambda _progress: None,
) -> ArchiveProgress:
    """Move what the rules let go to the archive. Blocks; in asyncio in a thread.

    Writers, readers and projections go on. Of a stream that is being moved appends wait for the moment in which its
    segment is recorded. What was interrupted is begun again by the next call, and loses and doubles nothing.

    Args:
        store: The store, with rules (`store.retention`) and an archive.
        now: The moment from which ages count, with a zone; the server's time without it.
        segment_events: How many events are in a file at most.
        told: Told how far it is, after each segment.

    Returns:
        How far it came, and in what time.

    Raises:
        ConfigError: When there is no rule or no archive, or another archiver is at work.
        EventStoreError: When a file is not what was written, or streams are locked for so long that nothing can leave;
            the next call goes on there.
    """
    if segment_events < 1:
        raise ConfigError("a segment has at least one event", hint="segment_events=20_000")
    with _connected(store) as connection:
        archiver = _Archiver(store, connection)
        archiver.lock()
        plan = archiver.plan(now)
        began = time.monotonic()
        progress = ArchiveProgress(done=0, total=plan.events, segments=0, bytes=0, taken=0, seconds=0.0, rate=0.0)
        for events in archiver.read(segment_events):
            size, is_taken = archiver.move(events)
            seconds = time.monotonic() - began
            done = progress.done + len(events)
            progress = ArchiveProgress(
                done=done,
                total=plan.events,
                segments=progress.segments + 1,
                bytes=progress.bytes + size,
                taken=progress.taken + is_taken,
                seconds=seconds,
                rate=done / seconds if seconds > 0 else 0.0,
            )
            told(progress)
        return progress


class _Archiver:
    """One run, on one connection in autocommit mode."""

    def __init__(self, store: EventStore | AsyncEventStore, connection: psycopg.Connection[Any]) -> None:
        if store._archive is None:
            raise ConfigError("the store has no archive", hint='EventStore(…, archive="s3://bucket/events")')
        if not store.rules:
            raise ConfigError(
                "no rule says which events leave", hint='store.retention("order", hot="90 days", warm="2 years")'
            )
        require_pyarrow()
        self._archive: Archive = store._archive
        self._statements: Statements = store._statements
        self._connection = connection
        self._leaving = Leaving(connection, self._statements, store.rules)
        self.read = self._leaving.read

    def lock(self) -> None:
        """Be the only one, as long as the connection lasts."""
        key = f"pgcdc archive {self._statements.schema}"
        deadline = time.monotonic() + _ENDED_WITHIN
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        while self._connection.execute(query, (key,)).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise ConfigError("another archiver of this store is at work", hint="let that one end, or stop it")
            time.sleep(0.1)
        self._archive.objects.open()
        self._archive.objects.sweep(datetime.now(UTC) - timedelta(days=1))

    def plan(self, now: datetime | None) -> ArchivePlan:
        """Find out what leaves."""
        return self._leaving.plan(now, self._archive.url)

    def move(self, events: Sequence[ArchivedEvent]) -> tuple[int, bool]:
        """Write a segment, read it back, record it and delete its rows.

        Returns:
            What it takes, and whether the file was there already.
        """
        content = content_of(events)
        first, last = events[0].id, events[-1].id
        path = f"{self._statements.schema}/{first:020d}-{last:020d}-{content.hex()[:32]}.parquet"
        is_taken = not self._archive.objects.put(path, encode(events), create=True)
        written = self._archive.objects.get(path)
        if written is not None:
            kept = decode(written)
            if len(kept) == len(events) and content_of(kept) == content:
                self._record(path, written, content, events)
                return len(written), is_taken
        raise EventStoreError(
            f"the file {path} at {self._archive.url} is not what was written: nothing has left the table",
            hint="remove the file if no other database uses it, look after the disk, and archive again",
        )

    def _record(self, path: str, file: bytes, content: bytes, events: Sequence[ArchivedEvent]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._connection.transaction():
                    self._delete(path, file, content, events)
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                if attempt == _ATTEMPTS:
                    raise EventStoreError(
                        "streams whose events leave, or the archive, are locked for so long that nothing can leave",
                        hint="end the transactions that append to them or replay, and archive again",
                    ) from None
                logger.warning("streams whose events leave are locked: it is tried again")
            else:
                return

    def _delete(self, path: str, file: bytes, content: bytes, events: Sequence[ArchivedEvent]) -> None:
        """Record a segment and delete its rows, in the transaction that is open."""
        es, connection = self._statements.quoted, self._connection
        connection.execute(f"SET LOCAL lock_timeout = '{int(LOCK_WITHIN * 1000)}ms'".encode())
        connection.execute("SET LOCAL pgcdc.maintenance = on")  # the trigger that refuses DELETE gives way
        connection.execute(self._statements.moving)
        streams: dict[str, list[ArchivedEvent]] = {}
        for event in events:
            streams.setdefault(event.stream_id, []).append(event)
        names = list(streams)
        firsts, lasts = ([of[place].sequence for of in streams.values()] for place in (0, -1))
        # As appends to several lock them, so that neither waits for the other in a circle.
        connection.execute(
            f"SELECT FROM {es}.streams WHERE stream_id = ANY (%s)"
            ' ORDER BY stream_id COLLATE "C" FOR NO KEY UPDATE'.encode(),
            (names,),
        )
        lsns = [event.commit_lsn for event in events]
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(
            f"INSERT INTO {es}.archive_segments (path, place, events, bytes, sha256, content, min_id, max_id, min_lsn,"
            " max_lsn, min_occurred, max_occurred)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::pg_lsn, %s::pg_lsn, %s, %s) RETURNING segment".encode(),
            (
                *(path, self._archive.url, len(events), len(file), hashlib.sha256(file).digest(), content),
                *(events[0].id, events[-1].id, format_lsn(min(lsns)), format_lsn(max(lsns))),
                *(min(event.occurred_at for event in events), max(event.occurred_at for event in events)),
            ),
        )
        [(segment,)] = cursor.fetchall()
        moved = connection.execute(
            f"WITH moved AS (SELECT * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::pg_lsn[],"
            " %s::timestamptz[]) AS m (stream_id, first, last, lsn, occurred)), noted AS ("
            f" INSERT INTO {es}.archived_streams"
            " (stream_id, first_sequence, last_sequence, segment, last_lsn, max_occurred)"
            " SELECT stream_id, first, last, %s, lsn, occurred FROM moved)"
            f" UPDATE {es}.streams AS s SET archived_through = m.last FROM moved AS m"
            " WHERE s.stream_id = m.stream_id AND s.archived_through = m.first - 1".encode(),
            (
                names,
                firsts,
                lasts,
                [format_lsn(of[-1].commit_lsn) for of in streams.values()],
                [max(event.occurred_at for event in of) for of in streams.values()],
                segment,
            ),
        )
        gone = connection.execute(
            f"DELETE FROM {es}.events WHERE id = ANY (%s)".encode(), ([event.id for event in events],)
        )
        counted = sum(last - first + 1 for first, last in zip(firsts, lasts, strict=True))
        if moved.rowcount != len(streams) or gone.rowcount != len(events) or counted != len(events):
            raise EventStoreError(
                "the table of events was changed by somebody else while they were written: nothing has left it",
                hint="pgcdc events check --deep; was it changed under pgcdc.maintenance?",
            )


@contextmanager
def _connected(store: EventStore | AsyncEventStore) -> Iterator[psycopg.Connection[Any]]:
    try:
        with connect(store._dsn) as connection:
            yield connection
    except psycopg.Error as error:
        raise refused(error, store._statements) from error
    except SinkUnavailable as error:
        raise EventStoreError(f"the archive cannot be used: {error}", hint="try again when it is there") from error
