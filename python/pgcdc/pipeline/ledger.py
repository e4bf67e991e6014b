"""What is durable of each consumer of a run, and what of it is written down when.

Positions go to the store at most about once a second, for all consumers in one transaction, and only then may the slot
be confirmed up to the lowest `through_lsn` among them. Where that was asked for, what is in a consumer's spool counts
there, too: it is made durable first, and the spool's id is stored beside the position.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from pgcdc.errors import ConnectionLost, SpoolError
from pgcdc.pipeline.positions import Move, PositionStore, StoredPosition, own_slots_in, refused
from pgcdc.pipeline.queue import Lane

__all__ = ["Ledger"]

QUIET_STEP = 64 * 1024
"""Bytes of WAL. When no consumer got anything, only `through_lsn` moves. Where the store is the source database,
writing that down makes WAL too, which would move `through_lsn` again: an idle database would write for ever. So it is
written only after it moved further than one such write can move it (a row and full pages around it), or at the end."""
QUIET_SECONDS = 240.0
"""Seconds after which it is written however little it moved: a slot that stands still looks as old as the WAL that it
lacks, and who watches it cannot tell a quiet database from a consumer that hangs."""


class Ledger:
    """The stored positions of one pipeline; its methods block and may be called from any thread.

    Args:
        pipeline: The pipeline's name.
        store: Where positions are kept.
        lanes: The run's lanes by consumer.

    Attributes:
        fingerprint: That of this run.
        complete: For each consumer that copies, all its tables: when it has them, its copy is done.
        given_up: Set when what was copied is of no use any more; it is not stored then.
        slot_is_gone: Whether the slot that marks of an unfinished copy are of does not exist any more.
    """

    def __init__(self, pipeline: str, store: PositionStore, lanes: Mapping[str, Lane]) -> None:
        self._pipeline = pipeline
        self._store = store
        self._lanes = lanes
        self._stored: dict[str, StoredPosition] = {}
        self._lock = threading.Lock()
        self._opened = False
        self._away = False
        self._asked: Sequence[Move] = ()  # it is not known whether they were done
        self.fingerprint = ""
        self.complete: Mapping[str, Collection[int]] = {}
        self.given_up = False
        self.slot_is_gone = False
        self._judged_by: str | None = None
        self._seen: str | None = None
        self.own_slots: list[str] = []
        """The consumers of which something is stored as of one with a slot of its own."""
        self._news = False
        self._moved_at = time.monotonic()

    def open(self) -> dict[str, StoredPosition]:
        """Open the store and read what is in it."""
        with self._lock:
            self._store.open()
            self._opened = True
            self._stored = self._store.load(self._pipeline)
            self.own_slots = own_slots_in(self._store, self._pipeline)
            return dict(self._stored)

    def check(self) -> dict[str, StoredPosition]:
        """Read again what is stored, over a new connection: it must be what this process has stored.

        Returns:
            What is stored, by consumer.

        Raises:
            PositionError: When it is not: another process owns the pipeline now.
            ConnectionLost: When the store is away.
        """
        with self._lock:
            if not self._opened:
                raise ConnectionLost("the position store was closed: the run has ended")
            self._away = True
            with self._reached():
                return dict(self._stored)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Use the store; when it was away it is opened again first, and nobody else may have written meanwhile."""
        try:
            if self._away:
                self._store.close()
                self._store.open()
                self._compare()
                self._away = False
            yield
        except ConnectionLost:
            self._away = True
            raise

    def _compare(self) -> None:
        found = self._store.load(self._pipeline)
        asked = {move.next.consumer: move.next for move in self._asked}
        for name in sorted(self._stored.keys() | asked.keys()):
            known, now = [row for row in (self._stored.get(name), asked.get(name)) if row is not None], found.get(name)
            if now is None and name not in self._stored:
                continue  # what was asked for was to make it, and was not done
            if now is None or not any(now.same_place(row) for row in known):
                raise refused(self._pipeline, Move(known[0], known[0]), now)
        self._stored = {name: row for name, row in found.items() if name in self._stored or name in asked}
        self._asked = ()

    @property
    def stored(self) -> dict[str, StoredPosition]:
        """What this process knows to be stored, by consumer."""
        return dict(self._stored)

    def judge_by(self, seen: str) -> None:
        """Note what was seen of the catalog before the rows of the next `put` were made.

        It is stored with them or not at all: whoever reads it takes what they say for true.

        Args:
            seen: `str` of a `Seen`.
        """
        self._judged_by = seen

    def see(self, seen: str, *, news: bool) -> None:
        """Note what was seen of the catalog since, to be stored with positions.

        Args:
            seen: `str` of a `Seen`.
            news: Whether there was something that is not to be looked at again: then the next `save` writes.
        """
        self._seen = seen
        self._news |= news

    def through_lsn(self, consumer: str) -> int:
        """How far a consumer is, as it is stored.

        Args:
            consumer: Its name.

        Returns:
            The LSN; 0 when nothing is stored.
        """
        row = self._stored.get(consumer)
        return 0 if row is None else row.through_lsn

    def put(self, rows: Sequence[StoredPosition]) -> None:
        """Store new states as the pipeline's owner.

        Args:
            rows: One for each consumer. They get the next epoch, so that an earlier owner is refused from now on.
        """
        with self._lock, self._reached():
            epoch = 1 + max((row.epoch for row in self._stored.values()), default=0)
            seen = self._judged_by or self._seen
            new = [msgspec.structs.replace(row, epoch=epoch, seen=seen or row.seen) for row in rows]
            self._move([Move(self._stored.get(row.consumer), row) for row in new])
            self._seen, self._judged_by = seen, None

    def lack(self, tables: Collection[int]) -> None:
        """Take down that rows of some tables are missing: the next start takes them anew.

        Args:
            tables: By OID.
        """
        with self._lock, self._reached():
            for lane in self._lanes.values():
                lane.lack(tables)
            moves = []
            for row in self._stored.values():
                if row.tables is not None and not row.tables.keys().isdisjoint(tables):
                    left = {oid: lsn for oid, lsn in row.tables.items() if oid not in tables}
                    moves.append(Move(row, msgspec.structs.replace(row, tables=left)))
            self._move(moves)

    def forget(self) -> None:
        """Remove everything that is stored for the pipeline."""
        with self._lock, self._reached():
            self._store.forget(self._pipeline)
            self._stored = {}

    def save(self, *, final: bool = False) -> int:
        """Write down how far the consumers are, when that is worth a write.

        Args:
            final: Write down every progress, however small.

        Returns:
            The LSN up to which everything is durable and stored: what may be confirmed. 0 while nothing may be.

        Raises:
            PositionError: When another process owns the pipeline now.
            ConnectionLost: When the store is away; it is opened again at the next call.
            SpoolError: When a spool cannot be made durable, or what it does not need any more cannot be removed; the
                positions are stored nevertheless.
        """
        with self._lock, self._reached():
            # What is spooled from here on comes behind what is durable in the consumer by the time it is asked below.
            failed = self._sync()
            finished = [(lane, lane.finished) for lane in self._lanes.values()]
            news, self._news = self._news, False
            moves = self._progress()
            rested = time.monotonic() - self._moved_at >= QUIET_SECONDS
            written = final or news or rested or any(_matters(move) for move in moves)
            if written:
                self._move(moves)
            if failed is not None:
                raise failed
            if written or not moves:
                for lane, sequence in finished:
                    lane.free(sequence)
            return self._confirmable()

    def _sync(self) -> SpoolError | None:
        failed = None
        for lane in self._lanes.values():
            try:
                lane.spool.sync()
            except SpoolError as error:
                failed = failed or error
        return failed

    def _progress(self) -> list[Move]:
        moves = []
        for name, lane in self._lanes.items():
            stored = self._stored.get(name)
            if stored is None or (stored.snapshot == "begun" and (self.given_up or not stored.through_lsn)):
                continue  # Of a copy that is given up, or whose slot is not made yet, there is nothing to go on from.
            # The tables first: when one is finished there, all its rows are in what is read afterwards.
            tables = None if stored.tables is None else {**stored.tables, **lane.tables}
            position, through_lsn = lane.position, lane.through_lsn
            new = msgspec.structs.replace(
                stored,
                position=position or stored.position,
                through_lsn=max(stored.through_lsn, through_lsn),
                tables=tables,
                seen=self._seen or stored.seen,
            )
            # A start that failed before it knew all tables of a consumer leaves its mark as it is.
            complete = self.complete.get(name)
            if (
                new.snapshot == "begun"
                and tables is not None
                and complete is not None
                and tables.keys() >= set(complete)
            ):
                new = msgspec.structs.replace(new, snapshot="done")
            if new.position != stored.position:
                # Only now: an index that was counted under other options stays marked as such until there is a new one.
                new = msgspec.structs.replace(new, fingerprint=self.fingerprint)
            if new != stored:
                moves.append(Move(stored, new))
        return moves

    def _move(self, moves: Sequence[Move]) -> None:
        if moves:
            self._moved_at = time.monotonic()
            self._asked = moves
            self._store.move(self._pipeline, moves)
            self._asked = ()
            self._stored |= {move.next.consumer: move.next for move in moves}

    def _confirmable(self) -> int:
        return min((self._covered(name, lane) for name, lane in self._lanes.items()), default=0)

    def _covered(self, name: str, lane: Lane) -> int:
        """The WAL up to here is not needed from the server any more for a consumer."""
        row = self._stored.get(name)
        if row is None:
            return 0
        # The id is stored since before anything was appended to the spool.
        return row.through_lsn if row.spool is None else max(row.through_lsn, lane.spool.synced_lsn)

    @property
    def covered_lsn(self) -> int:
        """The WAL from here on is still needed from the server."""
        with self._lock:
            return self._confirmable()

    def close(self) -> None:
        """Close the store."""
        with self._lock:
            if self._opened:
                self._opened = False
                self._store.close()


def _matters(move: Move) -> bool:
    previous, new = move.previous, move.next
    return (
        previous is None
        or (previous.position, previous.tables, previous.snapshot) != (new.position, new.tables, new.snapshot)
        or new.through_lsn - previous.through_lsn >= QUIET_STEP
    )
