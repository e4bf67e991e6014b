"""Where a pipeline keeps how far each of its consumers is: the contract of a position store, and the one in memory.

A store knows one write: `move`, a list of compare-and-set steps that happen all or none. A process that was stopped and
wakes up after another one took its pipeline over finds another epoch than its own and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from pgcdc.errors import ConfigError, PositionError
from pgcdc.lsn import Position, format_lsn, parse_lsn
from pgcdc.pipeline.deadletter import MemoryDeadLetters
from pgcdc.pipeline.schemas import MemorySchemas

__all__ = [
    "COLUMNS",
    "MemoryPositions",
    "Move",
    "PositionStore",
    "SnapshotState",
    "StoredPosition",
    "UnknownConsumer",
    "from_row",
    "refused",
    "stored_in",
    "to_row",
]

COLUMNS = (
    "consumer, epoch, snapshot, commit_lsn, change_index, through_lsn, slot, system_identifier, timeline, fingerprint,"
    " tables, seen, spool"
)
"""The columns of a table of positions, beside the pipeline's name, in the order of `to_row` and `from_row`."""

SnapshotState: TypeAlias = Literal["begun", "done", "none"]
"""`begun`: some table's rows have never reached this consumer whole; `done`: at one time all have; `none`: this
consumer takes part in no copy of existing rows."""


class StoredPosition(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored for one consumer of one pipeline.

    Attributes:
        consumer: The consumer's name.
        epoch: How many times an owner took the pipeline; a higher one wins.
        snapshot: How far the copy of existing rows is.
        position: The last change that is durable in the consumer; None before the first.
        through_lsn: How far the WAL is done for this consumer: every transaction that committed below it is durable in
            the consumer or was none of its business. 0 until the slot exists.
        slot: The slot that the LSNs belong to.
        system_identifier: The cluster that the LSNs belong to.
        timeline: The timeline that the LSNs belong to.
        fingerprint: Of everything that decides which changes the server sends. The index in `position` counts only
            under the same fingerprint.
        tables: The tables, by OID, whose rows are durable in the consumer as of a snapshot, and that snapshot's LSN:
            what committed at or above it came, or comes, by the stream. None: nothing of that kind is known or wanted,
            every table comes by the stream alone.
        seen: What had been seen of the catalog when this was stored (`seen.Seen`); None: an earlier version has stored
            it.
        spool: The id of the consumer's spool, when the slot may be confirmed further than `through_lsn`, as far as that
            spool goes; else None.
    """

    consumer: str
    epoch: int
    snapshot: SnapshotState
    position: Position | None
    through_lsn: int
    slot: str
    system_identifier: str
    timeline: int
    fingerprint: str
    tables: Mapping[int, int] | None = None
    seen: str | None = None
    spool: str | None = None

    @property
    def is_begun_with(self) -> bool:
        """Whether the consumer goes on from it: not while its first copy is only begun."""
        return self.position is not None or self.snapshot != "begun"

    def same_place(self, other: StoredPosition) -> bool:
        """Whether both have the same epoch, position and `through_lsn`: what a compare-and-set compares."""
        return (self.epoch, self.position, self.through_lsn) == (other.epoch, other.position, other.through_lsn)


class Move(msgspec.Struct, frozen=True):
    """One compare-and-set step of one consumer.

    Attributes:
        previous: What must be stored now (epoch, position and `through_lsn` are compared); None: nothing must be.
        next: What is stored afterwards.
    """

    previous: StoredPosition | None
    next: StoredPosition


class UnknownConsumer(PositionError, ConfigError):
    """A consumer is named of which nothing is stored."""


class PositionStore(Protocol):
    """A durable place for positions.

    Its methods block, and are called from different threads but never from two at a time. What a method has written
    when it returns survives a crash of the machine that keeps it.
    """

    def open(self) -> None:
        """Connect, and create what is missing; called before anything else, again after `close`."""

    def load(self, pipeline: str) -> dict[str, StoredPosition]:
        """Read all that is stored for a pipeline.

        Args:
            pipeline: The pipeline's name.

        Returns:
            One entry for each consumer's name; empty when the pipeline is not known.
        """

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        """Do all steps or none, durably.

        Args:
            pipeline: The pipeline's name.
            moves: The steps, at most one for each consumer.

        Raises:
            PositionError: When what is stored is not what a step expects: another process owns the pipeline now.
        """

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored, durably.

        Args:
            pipeline: The pipeline's name.
            consumers: Only these consumers; None for all of the pipeline.
        """

    def close(self) -> None:
        """Let go of everything; harmless when called twice."""


def own_slots_in(store: PositionStore, pipeline: str) -> list[str]:
    """Find consumers of which something is stored as of one with a slot of its own.

    Args:
        store: An open store; one that has no method `own_slots` has none of them.
        pipeline: The pipeline's name.

    Returns:
        Their names.
    """
    found = getattr(store, "own_slots", None)
    return [] if found is None else list(found(pipeline))


def stored_in(store: PositionStore, pipelines: Collection[str]) -> dict[str, dict[str, StoredPosition]] | None:
    """Read what is stored of pipelines, for who only looks: nothing is made, and the store need not be open.

    Args:
        store: The store; what is read comes from another one in the same place.
        pipelines: Their names.

    Returns:
        By pipeline and consumer. None when this kind of store cannot be asked without being made.

    Raises:
        Error: When it cannot be read.
    """
    again, is_there = getattr(store, "again", None), getattr(store, "is_there", None)
    if again is None or is_there is None:
        return None
    if not is_there():
        return {}
    other: PositionStore = again()
    try:
        other.open()
        return {name: other.load(name) for name in pipelines}
    finally:
        other.close()


def to_row(stored: StoredPosition) -> tuple[object, ...]:
    """The values of COLUMNS; LSNs as PostgreSQL prints them.

    Args:
        stored: What is to be stored.

    Returns:
        One value for each column.
    """
    position = stored.position
    return (
        stored.consumer,
        stored.epoch,
        stored.snapshot,
        None if position is None else format_lsn(position.commit_lsn),
        None if position is None else position.index,
        format_lsn(stored.through_lsn),
        stored.slot,
        stored.system_identifier,
        stored.timeline,
        stored.fingerprint,
        None if stored.tables is None else json.dumps({oid: format_lsn(lsn) for oid, lsn in stored.tables.items()}),
        stored.seen,
        stored.spool,
    )


def from_row(row: Sequence[Any]) -> StoredPosition:
    """Undo `to_row`.

    Args:
        row: The values of COLUMNS.

    Returns:
        What is stored.
    """
    consumer, epoch, snapshot, commit_lsn, index, through_lsn, slot, system_identifier, timeline, *rest = row
    fingerprint, text, seen, spool = rest
    tables = None if text is None else {int(oid): parse_lsn(lsn) for oid, lsn in json.loads(text).items()}
    return StoredPosition(
        consumer=consumer,
        epoch=epoch,
        snapshot=snapshot,
        position=None if commit_lsn is None else Position(parse_lsn(commit_lsn), index),
        through_lsn=parse_lsn(through_lsn),
        slot=slot,
        system_identifier=system_identifier,
        timeline=timeline,
        fingerprint=fingerprint,
        tables=tables,
        seen=seen,
        spool=spool,
    )


def refused(pipeline: str, move: Move, stored: StoredPosition | None) -> PositionError:
    """Build the error of a step that did not find what it expected.

    Args:
        pipeline: The pipeline's name.
        move: The refused step.
        stored: What is stored in truth.

    Returns:
        The error, to be raised by the store.
    """
    who = f"consumer {move.next.consumer!r} of pipeline {pipeline!r}"
    if stored is None:
        message = f"the stored position of {who} is gone: it was removed while this process ran"
    elif move.previous is None or stored.epoch > move.previous.epoch:
        message = f"another process has taken over {who} (epoch {stored.epoch})"
    else:
        message = f"the stored position of {who} was changed by something else than its owner (epoch {stored.epoch})"
    return PositionError(
        message,
        hint="nothing was written or confirmed; let one process alone run this pipeline, and start again",
        slot=move.next.slot,
        lsn=move.next.through_lsn,
    )


class MemoryPositions:
    """Positions that end with the process: for tests, and for targets that are filled anew at every start."""

    def __init__(self) -> None:
        self._stored: dict[str, dict[str, StoredPosition]] = {}
        self._schemas = MemorySchemas()
        self._letters = MemoryDeadLetters()

    def open(self) -> None:
        """Nothing to do."""

    def load(self, pipeline: str) -> dict[str, StoredPosition]:
        """Read all that is stored for a pipeline."""
        return dict(self._stored.get(pipeline, {}))

    def move(self, pipeline: str, moves: Sequence[Move]) -> None:
        """Do all steps or none.

        Raises:
            PositionError: When what is stored is not what a step expects.
        """
        stored = self._stored.get(pipeline, {})
        for move in moves:
            found = stored.get(move.next.consumer)
            if move.previous is None:
                fits = found is None
            else:
                fits = found is not None and found.same_place(move.previous)
            if not fits:
                raise refused(pipeline, move, found)
        self._stored[pipeline] = stored | {move.next.consumer: move.next for move in moves}

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove what is stored."""
        if consumers is None:
            self._stored.pop(pipeline, None)
        else:
            stored = self._stored.get(pipeline, {})
            self._stored[pipeline] = {name: row for name, row in stored.items() if name not in consumers}

    def again(self) -> MemoryPositions:
        """This one: what is stored in it is there, whoever opens it."""
        return self

    def own_slots(self, pipeline: str) -> list[str]:
        """The consumers of a pipeline of which something is stored as of one with a slot of its own."""
        return sorted(
            name.partition("/")[2] for name, rows in self._stored.items() if rows and name.startswith(f"{pipeline}/")
        )

    def dead_letters(self) -> MemoryDeadLetters:
        """The store of dead letters that belongs to this one."""
        return self._letters

    def schemas(self) -> MemorySchemas:
        """The store of versions of tables' shapes that belongs to this one."""
        return self._schemas

    def close(self) -> None:
        """Nothing to do: what was stored stays, so that a second run in the same process resumes."""
