"""Events that a projection went past: written down in the transaction of its place, and listed as dead letters.

An event that a handler raises on, or that makes rows the database refuses, is skipped alone: the others of its
transaction are applied. What is skipped is a row beside the projection's place: no crash can be in between. The dead
letter is made of that row afterwards, wherever dead letters are kept. `pgcdc deadletter retry` takes the row out in the
transaction in which the event is applied: once, however often it is asked for.

`is_listed` of a row, of whichever generation, says that the event has a dead letter, or that somebody has dropped it:
who removes letters himself takes it back first. So what was dropped stays so when generations change places.
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import EventStoreError
from pgcdc.events import Begin, Column, Commit, Event, Insert, Relation
from pgcdc.eventstore.generations import Generation
from pgcdc.eventstore.recorded import EventRow
from pgcdc.eventstore.statements import Statements
from pgcdc.lsn import Position, format_lsn
from pgcdc.pipeline.deadletter import DeadLetter, DeadLetterStore, Which
from pgcdc.protocol import Batch, encode_message

__all__ = ["MOST", "Skipped"]

MOST: Final = 1000
"""So many events one generation may have skipped, without those whose dead letters were dropped: a handler that takes
nothing at all is parked then."""
_ANY_OWNER: Final = 2**62
"""Epochs guard letters against a process that is not the owner any more. These are made of rows that are guarded."""
_COLUMNS: Final = (
    *(("id", 20), ("stream_id", 25), ("stream_type", 25), ("event_type", 25), ("event_version", 23), ("payload", 3802)),
    *(("metadata", 3802), ("occurred_at", 1184), ("sequence", 20), ("event_id", 2950)),
)
_KEY: Final = ("stream_id", "sequence")


class Skipped:
    """What is skipped in one store.

    Args:
        statements: Of the store.
    """

    def __init__(self, statements: Statements) -> None:
        es: LiteralString = statements.quoted
        self._schema = statements.schema
        self._relation: Relation | None = None
        self._oid: LiteralString = f"SELECT '{es}.events'::regclass::oid::bigint"
        self._add: LiteralString = (
            f"INSERT INTO {es}.skipped (name, generation, stream_id, sequence, event_id, commit_lsn, change_index,"
            " message, error_type, error_text) VALUES (%s, %s, %s, %s, %s, %s::pg_lsn, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING"
        )
        self._count: LiteralString = f"SELECT count(*) FROM {es}.skipped WHERE name = %s AND generation = %s"
        self._take: LiteralString = (
            f"DELETE FROM {es}.skipped WHERE name = %s AND generation = %s AND stream_id = %s AND sequence = %s"
            " RETURNING (commit_lsn - '0/0'::pg_lsn)::bigint, change_index"
        )
        self._new: LiteralString = (
            "SELECT stream_id, sequence, event_id, (commit_lsn - '0/0'::pg_lsn)::bigint, change_index, message,"
            f" error_type, error_text, skipped_at FROM {es}.skipped WHERE name = %s AND generation = %s"
            " AND NOT is_listed"
        )
        self._of_event: LiteralString = (
            f"UPDATE {es}.skipped SET is_listed = false WHERE name = %s AND stream_id = %s AND sequence = %s"
        )
        self._known: LiteralString = (
            f"SELECT event_id::text, skipped_at FROM {es}.skipped WHERE name = %s AND generation = %s"
            " AND event_id::text = ANY (%s)"
        )
        self._standing: LiteralString = (
            f"SELECT count(*) FROM {es}.skipped WHERE name = %s AND generation = %s"
            " AND (NOT is_listed OR event_id::text = ANY (%s))"
        )
        self._listed: LiteralString = (
            f"UPDATE {es}.skipped SET is_listed = true WHERE name = %s AND generation = %s AND event_id = ANY (%s)"
        )
        self._unlist: LiteralString = (
            f"UPDATE {es}.skipped SET is_listed = false WHERE name = %s AND event_id::text = ANY (%s)"
        )
        self._new_ones: LiteralString = (
            f"SELECT count(*) FROM {es}.skipped AS s WHERE s.name = %s AND s.generation = %s AND NOT EXISTS"
            f" (SELECT FROM {es}.skipped AS o JOIN {es}.projections AS p USING (name, generation)"
            " WHERE p.status = 'live' AND o.name = s.name AND o.stream_id = s.stream_id AND o.sequence = s.sequence)"
        )
        self._inherit: LiteralString = (
            f"UPDATE {es}.skipped AS s SET is_listed = true FROM {es}.skipped AS o WHERE s.name = %s"
            " AND s.generation = %s AND NOT s.is_listed AND o.is_listed AND o.name = s.name AND o.generation = %s"
            " AND o.stream_id = s.stream_id AND o.sequence = s.sequence"
        )
        self._left: dict[tuple[str, int], int] = {}

    def add(
        self,
        connection: psycopg.Connection[Any],
        at: Generation,
        position: Position,
        row: EventRow,
        why: str,
        text: str,
        letters: Callable[[], Sequence[DeadLetter]] | None = None,
    ) -> None:
        """Write down an event that was skipped, in the caller's transaction.

        Args:
            connection: On which.
            at: The generation.
            position: The event's.
            row: The event.
            why: The class of what was raised.
            text: Its text.
            letters: Reads the projection's dead letters; None where there are none yet, because it is being built.

        Raises:
            EventStoreError: When the generation has skipped as many as it may. Those do not count whose letters were
                dropped; of one that is being built, those that the live one has skipped, too.
        """
        # Counted when as many have come as there was room for: letters are not read again for each.
        left = self._left.get((at.name, at.generation), 0) or MOST - self._skipped_by(connection, at, letters)
        if left <= 0:
            if letters is None:
                raise EventStoreError(
                    f"the projection {at.name} cannot be built: it has skipped {MOST:,} events that the live one has"
                    f" taken, and now event {row.sequence} of the stream {row.stream_id} ({why})",
                    hint="what is live stays as it is; mend the class, and rebuild it: it goes on there, with --restart"
                    " (restart=True) from the beginning",
                )
            error = EventStoreError(f"the projection {at.name} has skipped {MOST:,} events")
            error.add_note(f"it has skipped {MOST:,} events: pgcdc deadletter list says why")
            raise error
        self._left[at.name, at.generation] = left - 1
        place = (at.name, at.generation, row.stream_id, row.sequence, row.event_id, format_lsn(position.commit_lsn))
        values = (*place, position.index, self._message(connection, position, row), why, text.replace("\0", "\\u0000"))
        connection.execute(self._add, values)

    def _skipped_by(
        self, connection: psycopg.Connection[Any], at: Generation, letters: Callable[[], Sequence[DeadLetter]] | None
    ) -> int:
        place: tuple[Any, ...] = (at.name, at.generation)
        for query in (self._count, self._new_ones if letters is None else self._standing):
            if query is self._standing and letters is not None:
                place = (*place, [letter.digest for letter in letters()])
            found = connection.execute(query, place).fetchone()
            if found is None or found[0] < MOST:
                break
        return 0 if found is None else int(found[0])

    def take(self, connection: psycopg.Connection[Any], at: Generation, stream: str, sequence: int) -> Position | None:
        """Take an event out, in the transaction in which it is applied: its letter will go.

        Args:
            connection: On which.
            at: The generation.
            stream: Its stream.
            sequence: Its number.

        Returns:
            Its position; None when this generation has not skipped it, or has it by now.
        """
        row = (
            connection.cursor(row_factory=tuple_row)
            .execute(self._take, (at.name, at.generation, stream, sequence))
            .fetchone()
        )
        connection.execute(self._of_event, (at.name, stream, sequence))  # of other generations, that may be live again
        return None if row is None else Position(*row)

    def unlist(self, connection: psycopg.Connection[Any], name: str, letters: DeadLetterStore) -> None:
        """Note that the dead letters of a projection are about to go, and are to be made again.

        Not of those that were dropped.

        Args:
            connection: On which.
            name: The projection's name.
            letters: Where they are kept.

        Raises:
            ConnectionLost: When that cannot be used now.
        """
        if there := self.letters_of(name, letters):
            connection.execute(self._unlist, (name, [letter.digest for letter in there]))

    def inherit(self, connection: psycopg.Connection[Any], at: Generation, live: Generation) -> None:
        """Note of which events there are letters, or were until they were dropped, in the transaction it goes live.

        Args:
            connection: On which.
            at: The generation that goes live.
            live: The one that was.
        """
        connection.execute(self._inherit, (at.name, at.generation, live.generation))

    def see_to_letters(
        self, connection: psycopg.Connection[Any], at: Generation, pipeline: str, letters: DeadLetterStore
    ) -> None:
        """Make the dead letters that are missing, and remove those that are of another generation.

        Args:
            connection: On which, in autocommit mode.
            at: The generation that is live.
            pipeline: The pipeline's name.
            letters: Where they are kept.

        Raises:
            ConnectionLost: When that cannot be used now.
        """
        cursor = connection.cursor(row_factory=tuple_row)
        there = [letter for letter in self.letters_of(at.name, letters) if letter.pipeline == pipeline]
        if there:
            cursor.execute(self._known, (at.name, at.generation, [letter.digest for letter in there]))
            known: dict[str, datetime] = dict(cursor.fetchall())
            if gone := [letter for letter in there if letter.digest not in known]:
                # Another generation may have skipped it, and be live again.
                connection.execute(self._unlist, (at.name, [letter.digest for letter in gone]))
                letters.remove([letter.id for letter in gone])
            # Skipped again, by a generation that was built since: its letter says so.
            again = [one.digest for one in there if one.digest in known and one.last_at < known[one.digest]]
            connection.execute(self._unlist, (at.name, again))
        cursor.execute(self._new, (at.name, at.generation))
        if rows := cursor.fetchall():
            letters.add([self._letter(pipeline, at.name, row) for row in rows], _ANY_OWNER)
            # Those alone: another that was skipped meanwhile has no letter yet.
            connection.execute(self._listed, (at.name, at.generation, [row[2] for row in rows]))

    @staticmethod
    def letters_of(name: str, letters: DeadLetterStore) -> Sequence[DeadLetter]:
        """Read the dead letters of a projection.

        Args:
            name: Its name.
            letters: Where they are kept.

        Returns:
            The letters, of whichever generation, and pipeline.

        Raises:
            ConnectionLost: When that cannot be used now.
        """
        return letters.find(Which(consumer=name))

    def _letter(self, pipeline: str, name: str, row: tuple[Any, ...]) -> DeadLetter:
        stream, sequence, event_id, lsn, index, message, why, text, skipped_at = row
        return DeadLetter(
            pipeline=pipeline,
            consumer=name,
            position=Position(lsn, index),
            digest=str(event_id),
            state="failed",
            table=f"{self._schema}.events",
            action="insert",
            key=msgspec.json.encode({"stream_id": stream, "sequence": sequence}).decode(),
            values=Batch.from_bytes(message).to_json().decode().rstrip("\n"),
            message=bytes(message),
            error_type=why,
            error_text=text,
            attempts=1,
            first_at=skipped_at,
            last_at=max(datetime.now(UTC), skipped_at),
        )

    def _message(self, connection: psycopg.Connection[Any], position: Position, row: EventRow) -> bytes:
        if self._relation is None:
            found = connection.execute(self._oid).fetchone()
            columns = [Column(name, oid, -1, name in _KEY) for name, oid in _COLUMNS]
            self._relation = Relation(0 if found is None else found[0], self._schema, "events", "i", columns)
        values = tuple(_text(getattr(row, name)) for name, _ in _COLUMNS)
        time = row.occurred_at
        messages: tuple[Event[Any], ...] = (
            Begin(position.commit_lsn, time, row.xid % 2**32),
            self._relation,
            Insert(self._relation, values),
            Commit(0, position.commit_lsn, position.commit_lsn + 1, time),
        )
        return Batch.of([encode_message(one) for one in messages]).take({0}).to_bytes()


def _text(value: object) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)
