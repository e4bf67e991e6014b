"""The archive of a store, for those who read: files that were recorded, and the events in them in any of three orders.

A file counts from the transaction on in which its events leave the table. Whoever has read the table and misses
something asks for the segments afterwards: what was missing had left before, so its segment is there. What is in both,
because it left in between, is the same event twice, and is dropped by its id.

Source: PostgreSQL manual, "Transaction Isolation" (Read Committed).
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, LiteralString

import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import EventStoreError
from pgcdc.eventstore.recorded import EventRow
from pgcdc.eventstore.segments import ArchivedEvent, Segment, decode, of_stream, rows_of
from pgcdc.lsn import format_lsn
from pgcdc.sinks.objects import Objects, open_objects

__all__ = ["LAST", "Archive", "Key", "Segments", "Window", "archive_of", "not_given"]

KEPT_BYTES: Final = 64 * 1024 * 1024
"""So much of files that were read last is kept."""
LAST: Final = 2**63 - 1
Key = tuple[int, int]
"""LSN and id; in the order of writing the LSN is 0."""


class Archive:
    """Where events are that have left the table.

    Args:
        url: A folder, or `s3://bucket/prefix`, `gs://…`, `az://…`; the extra `objects` has what is needed. What is
            made in a folder is for its owner alone (0700, 0600).
        config: Of an object store, with obstore's names: `{"region": …, "access_key_id": …}`. What is not given comes
            from the environment, as usual there.
        client_options: Of the connection to it, likewise: `{"timeout": "30s"}`.

    Raises:
        ConfigError: When an argument is none of these.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._objects = open_objects(url, config=config, client_options=client_options, private=True)
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Archive({self.url!r})"

    @property
    def url(self) -> str:
        """The folder or the URL."""
        return self._objects.url

    @property
    def objects(self) -> Objects:
        """The files."""
        return self._objects

    def is_whole(self, segment: Segment) -> bool:
        """Read a segment again and see that it has all its events.

        Args:
            segment: The segment.

        Returns:
            True.

        Raises:
            EventStoreError: As for `file`, or when it has another number of events.
        """
        with self._lock:
            self._files.pop(segment.path, None)
        found = len(decode(self.file(segment)))
        if found != segment.events:
            raise EventStoreError(
                f"segment {segment.segment} of the archive has {found:,} events instead of {segment.events:,}",
                hint="restore the file from a backup of the archive",
            )
        return True

    def file(self, segment: Segment) -> bytes:
        """Read the file of a segment.

        Args:
            segment: The segment.

        Returns:
            The file.

        Raises:
            EventStoreError: When it is not there, or is not what was written.
            SinkUnavailable: When it cannot be read now.
        """
        with self._lock:
            if segment.path in self._files:
                self._files.move_to_end(segment.path)
                return self._files[segment.path]
        found = self._objects.get(segment.path)
        if found is None or hashlib.sha256(found).digest() != segment.sha256:
            raise EventStoreError(
                f"segment {segment.segment} of the archive at {self.url} is"
                f" {'not there' if found is None else 'not what was written'}: {segment.path}",
                hint="restore the file from a backup of the archive; was the archive moved? archive= says where it is",
            )
        with self._lock:
            self._files[segment.path] = found
            while sum(map(len, self._files.values())) > KEPT_BYTES and len(self._files) > 1:
                self._files.popitem(last=False)
        return found

    def of_stream(self, segment: Segment, stream: str, after: int, until: int) -> list[EventRow]:
        """Read a part of a stream from one segment.

        Args:
            segment: The segment.
            stream: The stream.
            after: The sequence behind which to begin.
            until: The last sequence.

        Returns:
            Its events, in order: all of those numbers.

        Raises:
            EventStoreError: As for `file`.
        """
        rows = of_stream(self.file(segment), stream, after, until)
        if [row.sequence for row in rows] != list(range(after + 1, until + 1)):
            raise EventStoreError(
                f"segment {segment.segment} of the archive does not have the events {after + 1} to {until} of the"
                f" stream {stream}",
                hint="restore the database and the archive to the same moment",
            )
        return rows


def archive_of(given: Archive | str | os.PathLike[str] | None) -> Archive | None:
    """The archive that a store was given.

    Args:
        given: An archive, or where one is.

    Returns:
        The archive.

    Raises:
        ConfigError: When it cannot be.
    """
    return given if given is None or isinstance(given, Archive) else Archive(given)


class Window:
    """Reads what is in several segments in one order, and keeps those open in which that goes on.

    Segments are cut in the order of writing, so that few of them overlap, in any of the orders.

    Args:
        archive: Where they are; None when the store was given none.
        order: "commits", or "ids": the order of writing.
    """

    def __init__(self, archive: Archive | None, order: Literal["commits", "ids"]) -> None:
        self._archive = archive
        self._by_id = order == "ids"
        self._open: dict[int, tuple[list[Key], list[ArchivedEvent]]] = {}

    def bounds(self, segment: Segment) -> tuple[Key, Key]:
        """Between which keys all of a segment's are.

        Args:
            segment: The segment.

        Returns:
            No key is less than the first, none is greater than the second.
        """
        if self._by_id or not segment.is_ordered:
            return (0, segment.min_id), (0, segment.max_id)
        return (segment.min_lsn, segment.min_id), (segment.max_lsn, segment.max_id)

    def read(
        self, segments: Sequence[Segment], after: Key, through: Key, limit: int | None = None
    ) -> list[tuple[Key, EventRow]]:
        """Read the first events of a stretch.

        Args:
            segments: Those that there are; others than those of the stretch are no harm.
            after: The key behind which to begin.
            through: The last key.
            limit: How many at most.

        Returns:
            Their keys and rows, in order.

        Raises:
            EventStoreError: When a file is not there, or the store was given no archive.
        """
        known = {segment.segment: self.bounds(segment) for segment in segments}
        for number in [number for number in self._open if number not in known or known[number][1] <= after]:
            del self._open[number]  # a reader goes forward
        pending = sorted(
            (segment for segment in segments if known[segment.segment][1] > after),
            key=lambda segment: known[segment.segment][0],
        )
        found: list[tuple[Key, ArchivedEvent]] = []
        for segment in pending:
            least = known[segment.segment][0]
            if least > through or (limit is not None and len(found) >= limit and least > found[limit - 1][0]):
                break
            keys, events = self._opened(segment)
            begin, end = bisect_right(keys, after), bisect_right(keys, through)
            if limit is not None:
                end = min(end, begin + limit)
            if begin < end:
                found += zip(keys[begin:end], events[begin:end], strict=True)
                found.sort()
        found = found[:limit]
        rows = rows_of([event for _, event in found])
        return [(key, row) for (key, _), (_, row) in zip(found, rows, strict=True)]

    def _opened(self, segment: Segment) -> tuple[list[Key], list[ArchivedEvent]]:
        if segment.segment not in self._open:
            if self._archive is None:
                raise not_given(segment.path)
            events = decode(self._archive.file(segment))
            has_lsn = segment.is_ordered and not self._by_id
            keyed = sorted(((event.commit_lsn if has_lsn else 0, event.id), event) for event in events)
            self._open[segment.segment] = [key for key, _ in keyed], [event for _, event in keyed]
        return self._open[segment.segment]


def not_given(path: str) -> EventStoreError:
    """The exception for a store that does not know where its archive is.

    Args:
        path: Of a segment.

    Returns:
        The exception, to be raised.
    """
    return EventStoreError(
        f"events are in the archive ({path}), and the store was not told where that is",
        hint='EventStore(…, archive="s3://bucket/events"); on the command line --archive; the places that were used are'
        " in the table archive_segments",
    )


class Segments:
    """The segments that are recorded, as readers of the order of commits ask for them.

    Args:
        quoted: The store's schema, quoted.
    """

    def __init__(self, quoted: LiteralString) -> None:
        self._between: LiteralString = (
            "SELECT s.segment, s.path, s.sha256, s.events, s.min_id, s.max_id, (s.min_lsn - '0/0'::pg_lsn)::bigint,"
            " (s.max_lsn - '0/0'::pg_lsn)::bigint, s.is_ordered"
            f" FROM {quoted}.archive_segments AS s WHERE CASE WHEN s.is_ordered"
            " THEN (s.max_lsn, s.max_id) > (%(after)s::pg_lsn, %(after_id)s)"
            " AND (s.min_lsn, s.min_id) <= (%(through)s::pg_lsn, %(through_id)s)"
            " ELSE ('0/0'::pg_lsn, s.max_id) > (%(after)s::pg_lsn, %(after_id)s) END"
        )

    def between(self, connection: psycopg.Connection[Any], after: Key, through: Key) -> list[Segment]:
        """Find those that can have events of a stretch.

        Args:
            connection: On which.
            after: The key behind which it begins.
            through: Its last key.

        Returns:
            The segments.
        """
        values = {
            "after": format_lsn(after[0]),
            "after_id": after[1],
            "through": format_lsn(through[0]),
            "through_id": through[1],
        }
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(self._between, values, prepare=True)
        return [Segment(*row) for row in cursor.fetchall()]
