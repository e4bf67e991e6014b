# Made from reading_async.py by ./dev lint --fix: change that file, not this one.
"""A store's events as they were stored: those of a stream, and those of all; and its connections, as they are used.

Source: PostgreSQL manual, "COPY", "Transaction Isolation" (Repeatable Read).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import psycopg

from pgcdc.errors import EventStoreError, SinkUnavailable
from pgcdc.eventstore import archived, calling
from pgcdc.eventstore.arguments import LAST, behind, looked_at, piece_of
from pgcdc.eventstore.commits import recorded_of
from pgcdc.eventstore.connections import Connections
from pgcdc.eventstore.declaring import Declarations
from pgcdc.eventstore.envelopes import placed_of, recorded_of_all
from pgcdc.eventstore.lines import Lines
from pgcdc.eventstore.recorded import Placed, Recorded
from pgcdc.eventstore.refusals import hole, refused, see_encoding
from pgcdc.eventstore.request import Expected
from pgcdc.eventstore.segments import Segment

__all__ = ["Reading"]

_JSON: Final = msgspec.json.Decoder(dict[str, Any])


class Reading(Declarations):
    """What a store does that reads events."""

    _connections: Connections

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
        return self._read(stream, behind("after", after), LAST, limit, connection)

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
