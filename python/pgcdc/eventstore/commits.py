"""The order of commits, kept beside the events: for each transaction its LSN, so that the table can be read in it.

The table knows in which order events were written; in which order they became true only the WAL says. So whoever
follows the stream notes each transaction's commit before, or together with, its own position. Everything up to the
furthest of these positions is noted, and can be read in the order of commits as often as anybody likes, without a slot:
a new projection, one that is rebuilt, and one that was parked begin with the table and go on with the stream.

What was committed before the slot was made has no order of commits. An *epoch* has the snapshot that the slot has
exported: exactly what is visible in it is not in the slot's stream. When a slot was lost, what was committed until the
next one was made is noted at once, all with one LSN. In either case the order is that in which events were written.

Events that are in the archive are read from there: the commits of their transactions stay noted.

Over 400 lines because who notes and who reads share the statements and what they mean.

Source: PostgreSQL manual, "Transaction ID and Snapshot Information Functions", "Logical Decoding Concepts" (Exported
Snapshots).
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import EventStoreError
from pgcdc.eventstore.archives import LAST, Archive, Key, Segments, Window
from pgcdc.eventstore.codec import Codec
from pgcdc.eventstore.recorded import EventRow, Recorded
from pgcdc.eventstore.statements import Statements
from pgcdc.lsn import SNAPSHOT_INDEX, Position, format_lsn

__all__ = ["BEGINNING", "Commits", "EventRow", "Place", "Stretch", "recorded_of"]

STRETCH: Final = 2_000
"""Events that are read at once at most, as far as transactions are not larger."""
STRETCH_BYTES: Final = 8 * 1024 * 1024
"""So large a stretch may be, when its events are as large as those of the one before."""
_FIRST: Final = 250
"""Events of the first stretch, of which nothing is known yet."""
_VISIBLE_WITHIN: Final = 60.0
_JSON: Final = msgspec.json.Decoder(dict[str, Any])


class Place(NamedTuple):
    """How far somebody is in the order of commits.

    Attributes:
        lsn: All transactions that have committed up to here are done.
        base_id: Within the events of an epoch, which have no order of commits, those up to this id, too.
    """

    lsn: int
    base_id: int = 0


BEGINNING: Final = Place(0)


class Stretch(NamedTuple):
    """Some events in the order of commits; whole transactions.

    Attributes:
        rows: Their rows, each with its position.
        place: How far one is with them.
    """

    rows: list[tuple[Position, EventRow]]
    place: Place


def recorded_of(row: Any, position: Position | None, codec: Codec) -> Recorded:
    """An event with its envelope.

    Args:
        row: An `EventRow`, or what has its attributes.
        position: Its place in the order of commits, where it is known.
        codec: What makes events of payloads.

    Returns:
        The event.

    Raises:
        InvalidEvent: When its payload is not one of its class.
    """
    return Recorded(
        event=codec.decode(row.event_type, row.event_version, row.payload, row.stream_id, row.sequence),
        stream_id=row.stream_id,
        sequence=row.sequence,
        stream_type=row.stream_type,
        event_id=row.event_id,
        occurred_at=row.occurred_at,
        metadata=_JSON.decode(row.metadata),
        id=row.id,
        event_type=row.event_type,
        event_version=row.event_version,
        position=position,
    )


class _Length:
    """How many events a stretch has: as many as the one before makes believe that memory has room for.

    Attributes:
        events: So many. Few numbers, each with a plan of its own that knows it.
    """

    def __init__(self) -> None:
        self.events = STRETCH
        while self.events > _FIRST:
            self.events //= 2

    def read(self, rows: Sequence[tuple[Position, EventRow]]) -> None:
        """Learn from a stretch.

        Args:
            rows: Its rows.
        """
        size = sum([len(row.payload) + len(row.metadata) for _, row in rows])
        most, events = 2 * self.events, STRETCH
        while events > 1 and (events > most or events * size > STRETCH_BYTES * max(len(rows), 1)):
            events //= 2
        self.events = events


class Commits:
    """The order of commits of one store.

    Args:
        statements: Of the store.
        archive: Where events are that have left the table.

    Attributes:
        noted_lsn: Up to here this process knows that all transactions are noted.
        start_lsn: Up to here all were noted when the run began: its sinks begin there, however late they are opened.
    """

    def __init__(self, statements: Statements, archive: Archive | None = None) -> None:
        es: LiteralString = statements.quoted
        self._archive = archive
        self._segments = Segments(es)
        self.noted_lsn = 0
        self.start_lsn = 0
        self._note: LiteralString = (
            f"INSERT INTO {es}.commits (xid, commit_lsn, events, first_id, last_id)"
            " SELECT x.xid::xid8, x.lsn::pg_lsn, x.events, x.first_id, x.last_id"
            " FROM unnest(%s::text[], %s::text[], %s::integer[], %s::bigint[], %s::bigint[])"
            " AS x (xid, lsn, events, first_id, last_id) ON CONFLICT DO NOTHING"
        )
        self._through: LiteralString = (
            "SELECT greatest(coalesce((SELECT max(passed_lsn) FROM {es}.projections), '0/0'),"
            " coalesce((SELECT max(noted_lsn) FROM {es}.epochs), '0/0')) - '0/0'::pg_lsn"
        ).replace("{es}", es)
        self._noted_statement: LiteralString = (
            f"UPDATE {es}.epochs SET noted_lsn = greatest(noted_lsn, %s::pg_lsn)"
            f" WHERE commit_lsn = (SELECT max(commit_lsn) FROM {es}.epochs)"
        )
        self._unmake: LiteralString = f"UPDATE {es}.epochs SET slot = NULL WHERE slot = %s"
        self._made: LiteralString = f"SELECT FROM {es}.epochs WHERE slot = %s"
        self._make: LiteralString = (
            f"INSERT INTO {es}.epochs (commit_lsn, snapshot, slot, noted_lsn)"
            " VALUES (%s::pg_lsn, %s::pg_snapshot, %s, %s::pg_lsn)"
        )
        # What no slot has brought; each transaction once, whoever notes it first.
        self._miss: LiteralString = (
            f"INSERT INTO {es}.commits (xid, commit_lsn, events, first_id, last_id)"
            f" SELECT e.xid, %s::pg_lsn, count(*), min(e.id), max(e.id) FROM {es}.events AS e"
            " WHERE pg_visible_in_snapshot(e.xid, %s::pg_snapshot)"
            f" AND NOT EXISTS (SELECT FROM {es}.epochs AS x WHERE pg_visible_in_snapshot(e.xid, x.snapshot))"
            f" AND NOT EXISTS (SELECT FROM {es}.commits AS c WHERE c.xid = e.xid) GROUP BY e.xid"
            " ON CONFLICT (xid) DO NOTHING"
        )
        self._pending: LiteralString = (
            "SELECT EXISTS (SELECT FROM pg_snapshot_xip(pg_current_snapshot()) AS x"
            " WHERE pg_visible_in_snapshot(x, %s::pg_snapshot))"
        )
        self._others: LiteralString = (
            f"SELECT s.slot_name::text FROM {es}.epochs AS e JOIN pg_replication_slots AS s ON s.slot_name = e.slot"
            " WHERE e.slot <> %s AND s.database = current_database() ORDER BY 1"
        )
        # Names of slots are a server's: in a copy of a database they are those of the original.
        self._elsewhere: LiteralString = (
            f"SELECT s.slot_name::text, s.database::text FROM {es}.epochs AS e JOIN pg_replication_slots AS s"
            " ON s.slot_name = e.slot WHERE s.database <> current_database() ORDER BY 1 LIMIT 1"
        )
        self._epochs: LiteralString = (
            f"SELECT (commit_lsn - '0/0'::pg_lsn)::bigint, snapshot::text FROM {es}.epochs"
            " WHERE snapshot IS NOT NULL ORDER BY commit_lsn"
        )
        columns: LiteralString = (
            "e.id, e.stream_id, e.stream_type, e.event_type, e.event_version, e.payload::text, e.metadata::text,"
            " e.occurred_at, e.sequence, e.event_id"
        )
        self._before: LiteralString = (
            f"SELECT {columns} FROM {es}.events AS e WHERE pg_visible_in_snapshot(e.xid, %s::pg_snapshot) AND e.id > %s"
            " ORDER BY e.id LIMIT {events}"
        )
        self._missed: LiteralString = (
            f"SELECT {columns} FROM {es}.events AS e JOIN {es}.commits AS c ON c.xid = e.xid"
            " WHERE c.commit_lsn = %s::pg_lsn AND e.id > %s ORDER BY e.id LIMIT {events}"
        )
        self._next: LiteralString = (
            "SELECT commit_lsn, seen, events FROM (SELECT (commit_lsn - '0/0'::pg_lsn)::bigint AS commit_lsn,"
            " pg_visible_in_snapshot(xid, pg_current_snapshot()) AS seen, events,"
            " sum(events) OVER (ORDER BY c.commit_lsn) - events AS before"
            f" FROM (SELECT * FROM {es}.commits WHERE commit_lsn > %s::pg_lsn AND commit_lsn <= %s::pg_lsn"
            " ORDER BY commit_lsn LIMIT {events}) AS c) AS n WHERE before < {events} ORDER BY commit_lsn"
        )
        self._events: LiteralString = (
            f"SELECT {columns}, (c.commit_lsn - '0/0'::pg_lsn)::bigint FROM (SELECT * FROM {es}.commits"
            " WHERE commit_lsn > %s::pg_lsn AND commit_lsn <= %s::pg_lsn ORDER BY commit_lsn) AS c CROSS JOIN LATERAL"
            f" (SELECT * FROM {es}.events AS e WHERE e.id BETWEEN c.first_id AND c.last_id AND e.xid = c.xid OFFSET 0)"
            " AS e ORDER BY c.commit_lsn, e.id"
        )

    def note(self, connection: psycopg.Connection[Any], transactions: Sequence[Sequence[int]]) -> None:
        """Note transactions, in the caller's transaction; those that are noted already stay.

        Args:
            connection: On which.
            transactions: Whole ones, by columns: their ids with the epoch, the LSNs of their commits, how many events
                each has, the least id of these, and the greatest.
        """
        xids, lsns, events, first, last = transactions
        values = (xids, map(format_lsn, lsns), events, first, last)
        # As text: psycopg's own way takes longer than all the rest.
        connection.execute(self._note, ["{" + ",".join(map(str, column)) + "}" for column in values], prepare=True)

    def noted(self, connection: psycopg.Connection[Any], lsn: int) -> None:
        """Note up to where they are noted, where no projection does.

        Args:
            connection: On which.
            lsn: Up to where.
        """
        connection.execute(self._noted_statement, (format_lsn(lsn),), prepare=True)

    def unmake_epoch(self, connection: psycopg.Connection[Any], slot: str) -> None:
        """Note that a slot is not there, or about to be made.

        Args:
            connection: On which, in autocommit mode.
            slot: Its name.
        """
        connection.execute(self._unmake, (slot,))

    def has_epoch(self, connection: psycopg.Connection[Any], slot: str) -> bool:
        """Whether it is known where the stream of a slot begins.

        Args:
            connection: On which.
            slot: Its name.

        Returns:
            Whether.
        """
        return connection.execute(self._made, (slot,)).fetchone() is not None

    def make_epoch(self, connection: psycopg.Connection[Any], slot: str, lsn: int, snapshot: str | None) -> None:
        """Note where the stream of a new slot begins, and what was committed since the last one ended.

        Args:
            connection: On which, in autocommit mode.
            slot: Its name.
            lsn: Its consistent point.
            snapshot: What was committed before, as `pg_current_snapshot` prints it; None: all of that is noted already.

        Raises:
            EventStoreError: When something that was committed does not become visible.
        """
        if snapshot is not None:
            self._await_visible(connection, snapshot)
        with connection.transaction():
            if snapshot is not None and connection.execute(self._epochs).fetchone() is not None:
                connection.execute(self._miss, (format_lsn(lsn - 1), snapshot))
            connection.execute(self._make, (format_lsn(lsn), snapshot, slot, format_lsn(lsn - 1)))

    def other_slots(self, connection: psycopg.Connection[Any], slot: str) -> list[str]:
        """Find slots that follow the same events.

        Args:
            connection: On which.
            slot: One's own.

        Returns:
            Their names.
        """
        return [name for (name,) in connection.cursor(row_factory=tuple_row).execute(self._others, (slot,))]

    def slot_elsewhere(self, connection: psycopg.Connection[Any]) -> tuple[str, str] | None:
        """Find a slot that this store has known, and that is another database's: then this one is a copy of that.

        Args:
            connection: On which.

        Returns:
            The slot's name and the database's; None when there is none.
        """
        return connection.cursor(row_factory=tuple_row).execute(self._elsewhere).fetchone()

    def _await_visible(self, connection: psycopg.Connection[Any], snapshot: str) -> None:
        """The WAL knows of a commit before others see it: with a synchronous standby for a while."""
        deadline = time.monotonic() + _VISIBLE_WITHIN
        while connection.cursor(row_factory=tuple_row).execute(self._pending, (snapshot,)).fetchone() == (True,):
            if time.monotonic() > deadline:
                raise EventStoreError(
                    "a transaction that has committed before the slot was made is not visible",
                    hint="is a synchronous standby away? its commit waits for that",
                )
            time.sleep(0.01)

    def through(self, connection: psycopg.Connection[Any]) -> int:
        """Ask up to where all transactions are noted.

        Args:
            connection: On which.

        Returns:
            The LSN; 0 when nobody has ever followed the stream.
        """
        row = connection.cursor(row_factory=tuple_row).execute(self._through).fetchone()
        return 0 if row is None else int(row[0])

    def after(
        self,
        connection: psycopg.Connection[Any],
        place: Place,
        through_lsn: int,
        ended: Callable[[], bool] = bool,
    ) -> Iterator[Stretch]:
        """Read events in the order of commits.

        Args:
            connection: On which; in autocommit mode or not, each stretch is a query.
            place: How far one is.
            through_lsn: How far to read: what `through` has said, or less.
            ended: Whether to end early, asked while it waits; by default not.

        Yields:
            Stretches that follow each other.

        Raises:
            EventStoreError: When events are not there that were committed.
        """
        window = Window(self._archive, "commits")
        length = _Length()
        is_first = True
        for lsn, snapshot in connection.cursor(row_factory=tuple_row).execute(self._epochs).fetchall():
            begin_lsn = lsn - 1  # all that committed before the slot's first transaction
            if place.lsn < begin_lsn <= through_lsn:
                for stretch in self._noted(connection, window, length, place.lsn, begin_lsn - 1, ended):
                    yield stretch
                    place = stretch.place
                query = self._before if is_first else self._missed
                which = snapshot if is_first else format_lsn(begin_lsn)
                archived_lsn = 0 if is_first else begin_lsn
                yield from self._of_epoch(connection, window, length, place, begin_lsn, archived_lsn, query, which)
                place = Place(begin_lsn)
            is_first = False
        for stretch in self._noted(connection, window, length, place.lsn, through_lsn, ended):
            yield stretch
            place = stretch.place
        if place.lsn < through_lsn:
            yield Stretch([], Place(through_lsn))

    def _of_epoch(
        self,
        connection: psycopg.Connection[Any],
        window: Window,
        length: _Length,
        place: Place,
        begin_lsn: int,
        archived_lsn: int,
        query: LiteralString,
        which: str,
    ) -> Iterator[Stretch]:
        """Read what was committed before a slot was made, in the order of writing."""
        position = Position(begin_lsn + 1, SNAPSHOT_INDEX)
        after = place.base_id
        while True:
            most = length.events
            rows = self._rows(connection, _at_most(query, most), (which, after))
            # Asked for afterwards: what the table does not have any more is recorded by then.
            found = self._archived(connection, window, (archived_lsn, after), (archived_lsn, LAST), most)
            if found:
                merged = {row.id: row for row in rows} | {row.id: row for _, row in found}
                rows = [merged[number] for number in sorted(merged)][:most]
            if len(rows) < most:
                break
            after = rows[-1].id
            stretch = Stretch([(position, row) for row in rows], Place(place.lsn, after))
            length.read(stretch.rows)
            yield stretch
        yield Stretch([(position, row) for row in rows], Place(begin_lsn))

    def _noted(
        self,
        connection: psycopg.Connection[Any],
        window: Window,
        length: _Length,
        lsn: int,
        through_lsn: int,
        ended: Callable[[], bool],
    ) -> Iterator[Stretch]:
        cursor = connection.cursor(row_factory=tuple_row)
        deadline = time.monotonic() + _VISIBLE_WITHIN
        while True:
            query = _at_most(self._next, length.events)
            cursor.execute(query, (format_lsn(lsn), format_lsn(through_lsn)), prepare=True)
            found = cursor.fetchall()
            if not found:
                return
            # A transaction is in the stream a moment before others see it; with a synchronous standby longer.
            seen = next((number for number, (_, is_seen, _) in enumerate(found) if not is_seen), len(found))
            if not seen:
                if ended() or time.monotonic() > deadline:
                    raise EventStoreError(
                        f"the transaction that commits at {format_lsn(found[0][0])} is in the stream, but not visible",
                        hint="is a synchronous standby away? its commit waits for that",
                        lsn=found[0][0],
                    )
                time.sleep(0.01)
                continue
            last_lsn = found[seen - 1][0]
            count = sum(events for _, _, events in found[:seen])
            rows = self._of_commits(connection, window, lsn, last_lsn, count)
            length.read(rows)
            yield Stretch(rows, Place(last_lsn))
            lsn = last_lsn
            deadline = time.monotonic() + _VISIBLE_WITHIN

    def _of_commits(
        self,
        connection: psycopg.Connection[Any],
        window: Window,
        lsn: int,
        last_lsn: int,
        count: int,
    ) -> list[tuple[Position, EventRow]]:
        cursor = connection.cursor(binary=True, row_factory=tuple_row)
        cursor.execute(self._events, (format_lsn(lsn), format_lsn(last_lsn)), prepare=True)
        fetched = cursor.fetchall()
        found: list[tuple[Position, EventRow]] = []
        index, before = 0, 0
        if len(fetched) == count:
            # By their names, which takes half the time of a list of them: this runs for each event.
            for id, stream, kind, name, version, payload, metadata, time, sequence, event_id, commit_lsn in fetched:
                index = index + 1 if commit_lsn == before else 0
                before = commit_lsn
                row = EventRow(id, stream, kind, name, version, payload, metadata, time, sequence, event_id)
                found.append((Position(commit_lsn, index), row))
            return found
        archived = self._archived(connection, window, (lsn, LAST), (last_lsn, LAST))
        merged = {values[0]: (values[-1], EventRow(*values[:-1])) for values in fetched}
        merged |= {row.id: (key[0], row) for key, row in archived}
        if len(merged) != count:
            raise EventStoreError(
                f"{count - len(merged)} events of transactions up to {format_lsn(last_lsn)} are neither in the table"
                " nor in the archive",
                hint="was the table changed under pgcdc.maintenance?",
                lsn=last_lsn,
            )
        for commit_lsn, row in sorted(merged.values(), key=lambda one: (one[0], one[1].id)):
            index = index + 1 if commit_lsn == before else 0
            before = commit_lsn
            found.append((Position(commit_lsn, index), row))
        return found

    def _archived(
        self, connection: psycopg.Connection[Any], window: Window, after: Key, through: Key, limit: int | None = None
    ) -> list[tuple[Key, EventRow]]:
        segments = self._segments.between(connection, after, through)
        return window.read(segments, after, through, limit) if segments else []

    @staticmethod
    def _rows(connection: psycopg.Connection[Any], query: bytes, values: tuple[object, ...]) -> list[EventRow]:
        cursor = connection.cursor(binary=True, row_factory=tuple_row)
        cursor.execute(query, values, prepare=True)
        return [EventRow(*row) for row in cursor.fetchall()]


def _at_most(query: str, events: int) -> bytes:
    return query.replace("{events}", str(events)).encode()
