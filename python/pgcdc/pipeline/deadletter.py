"""Dead letters: changes that a consumer could not be given, and the contract of the stores that keep them.

A letter's identity is pipeline, consumer, position and a digest of the change: adding it twice is adding it once. Rows
of the initial copy share a position, so that alone says too little.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, Protocol, TypeAlias

import msgspec

from pgcdc.errors import PositionError
from pgcdc.lsn import Position
from pgcdc.pipeline.settings import BESIDE

__all__ = ["DeadLetter", "DeadLetterStore", "LetterState", "Marks", "MemoryDeadLetters", "Which", "outdated"]

LetterState: TypeAlias = Literal["failed", "held"]
"""`failed`: it was refused, or a handler raised on it, or it cannot be decoded; `held`: it is one of a key of which an
earlier change has failed, and waits behind that."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a consumer could not be given.

    Attributes:
        id: Its number in the store, which also says which of two came first; 0 before it is stored.
        pipeline: The pipeline's name; `"shop/search"` for a consumer with a slot of its own.
        consumer: The consumer's name.
        position: The change's position.
        digest: Of the change: what tells rows of the initial copy apart.
        state: Whether it failed, or waits behind one that did.
        requested: Whether it was asked for to be delivered again, and was not yet.
        table: `schema.name`; several with commas for a truncate; None for a logical message, or when it is not known.
        action: `"insert"`, `"update"`, `"delete"`, `"truncate"`, `"message"`; `"unknown"` where that cannot be read.
        key: The values of the replica identity's columns by name, as JSON; None where there are none.
        values: The change as `Batch.to_json` writes it; None when it cannot be decoded.
        message: The change as `Batch.to_bytes` keeps it, with its relation: `Batch.from_bytes` reads it. Empty in
            lists.
        holds: What later changes wait behind it, as a JSON list of triples: a table's OID (0 for all tables), `"key"`
            for a chosen key or the prefix of an event's message; the key's values (null for all rows); which columns
            those are of. Empty where it was parked.
        error_type: The class of what was raised; empty for one that waits.
        error_text: Its text, which can have values of rows.
        attempts: How often it was tried in all.
        first_at: When it was stored.
        last_at: When it failed last.
    """

    id: int = 0
    pipeline: str
    consumer: str
    position: Position
    digest: str
    state: LetterState
    requested: bool = False
    table: str | None
    action: str
    key: str | None
    values: str | None
    message: bytes
    holds: str = ""
    error_type: str = ""
    error_text: str = ""
    attempts: int = 0
    first_at: datetime
    last_at: datetime

    @property
    def pipeline_name(self) -> str:
        """The pipeline's name as it was given, whichever slot the consumer has."""
        return self.pipeline.partition(BESIDE)[0]

    @property
    def identity(self) -> tuple[str, str, Position, str]:
        """What no two letters share."""
        return self.pipeline, self.consumer, self.position, self.digest


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant; None for no condition.

    Attributes:
        pipelines: Of these pipelines.
        beside: Also of their consumers that have, or had, slots of their own.
        consumer: The consumer.
        table: `schema.name`.
        position: The position of the change.
        since: Failed last at this time or later.
        ids: Of these numbers.
        state: In this state.
    """

    pipelines: frozenset[str] | None = None
    beside: bool = False
    consumer: str | None = None
    table: str | None = None
    position: Position | None = None
    since: datetime | None = None
    ids: frozenset[int] | None = None
    state: LetterState | None = None

    def means(self, letter: DeadLetter) -> bool:
        """Whether a letter is one of them.

        Args:
            letter: The letter.
        """
        return (
            (
                self.pipelines is None
                or letter.pipeline in self.pipelines
                or (self.beside and letter.pipeline_name in self.pipelines)
            )
            and self.consumer in (None, letter.consumer)
            and (self.table is None or self.table in (letter.table or "").split(","))
            and self.position in (None, letter.position)
            and (self.since is None or letter.last_at >= self.since)
            and (self.ids is None or letter.id in self.ids)
            and self.state in (None, letter.state)
        )


class Marks(msgspec.Struct, frozen=True):
    """What is seen of one consumer's letters without reading them; another one of them changes it.

    Attributes:
        count: How many there are.
        ids: The sum of their numbers.
        requested: The sum of the numbers of those that are asked for.
    """

    count: int = 0
    ids: int = 0
    requested: int = 0


class DeadLetterStore(Protocol):
    """A durable place for dead letters.

    Its methods block, and may be called from any thread. What they have written when they return survives a crash of
    the machine that keeps it. All of them connect first when that is needed; `claim` and `add` create what is missing,
    and the others may, but a PostgreSQL database is not written to by those that read.

    All of them raise ConnectionLost when the store cannot be used just now (it is away, locked or full): the call is
    made again then. ConfigError is for what somebody must change.
    """

    def claim(self, pipeline: str, consumer: str, epoch: int) -> None:
        """Become the owner of a consumer's letters: owners of a lower epoch are refused from now on.

        Args:
            pipeline: The pipeline's name.
            consumer: The consumer's name.
            epoch: The owner's, as in its stored position.

        Raises:
            PositionError: When there is an owner of a higher epoch.
        """

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        """Store letters of one consumer, all or none; of one that is stored already, what has changed.

        One that has failed adds its attempts, and has the error and the time of now; it is not requested any more. One
        that is held changes nothing.

        Args:
            letters: The letters.
            epoch: The owner's.

        Raises:
            PositionError: When there is an owner of a higher epoch.
        """

    def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
        """Read letters, without their messages, in the order of consumers and positions.

        Args:
            which: Which ones.
            limit: So many at most.
        """

    def read(self, id: int) -> DeadLetter | None:
        """Read one letter whole.

        Args:
            id: Its number.

        Returns:
            The letter; None when there is none of that number.
        """

    def marks(self, pipeline: str) -> Mapping[str, Marks]:
        """Look at the letters of a pipeline, by consumer.

        Args:
            pipeline: The pipeline's name.
        """

    def request(self, ids: Collection[int]) -> int:
        """Ask for failed letters to be delivered again.

        Args:
            ids: Their numbers.

        Returns:
            How many there are of them.
        """

    def remove(self, ids: Collection[int]) -> int:
        """Remove letters.

        Args:
            ids: Their numbers.

        Returns:
            How many there were.
        """

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Give a consumer's letters to another name.

        Args:
            pipeline: The pipeline's name.
            consumer: The consumer's name.
            new: The name from now on.
        """

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove all letters and owners.

        Args:
            pipeline: The pipeline's name.
            consumers: Of these consumers; None for all.
        """

    def close(self) -> None:
        """Let go of everything; harmless when called twice."""


def outdated(pipeline: str, consumer: str, epoch: int) -> PositionError:
    """Build the error for a process that is not the owner any more.

    Args:
        pipeline: The pipeline's name.
        consumer: The consumer's name.
        epoch: That of the owner.

    Returns:
        The error, to be raised by the store.
    """
    return PositionError(
        f"another process has taken over consumer {consumer!r} of pipeline {pipeline!r} (epoch {epoch}):"
        " no dead letter was written",
        hint="let one process alone run this pipeline, and start again",
    )


class MemoryDeadLetters:
    """Dead letters that end with the process: for tests, beside MemoryPositions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._letters: dict[int, DeadLetter] = {}
        self._owners: dict[tuple[str, str], int] = {}
        self._last = 0

    def claim(self, pipeline: str, consumer: str, epoch: int) -> None:
        """Become the owner.

        Raises:
            PositionError: When there is an owner of a higher epoch.
        """
        with self._lock:
            self._check(pipeline, consumer, epoch)
            self._owners[pipeline, consumer] = epoch

    def _check(self, pipeline: str, consumer: str, epoch: int) -> None:
        owner = self._owners.get((pipeline, consumer), 0)
        if owner > epoch:
            raise outdated(pipeline, consumer, owner)

    def add(self, letters: Sequence[DeadLetter], epoch: int) -> None:
        """Store letters, all or none.

        Raises:
            PositionError: When there is an owner of a higher epoch.
        """
        with self._lock:
            if letters:
                self._check(letters[0].pipeline, letters[0].consumer, epoch)
            known = {letter.identity: letter for letter in self._letters.values()}
            for letter in letters:
                stored = known.get(letter.identity)
                if stored is None:
                    self._last += 1
                    stored = msgspec.structs.replace(letter, id=self._last, requested=False)
                elif letter.state == "failed":
                    stored = msgspec.structs.replace(
                        stored,
                        state="failed",
                        requested=False,
                        holds=letter.holds,
                        error_type=letter.error_type,
                        error_text=letter.error_text,
                        attempts=stored.attempts + letter.attempts,
                        last_at=letter.last_at,
                    )
                self._letters[stored.id] = known[letter.identity] = stored

    def find(self, which: Which, limit: int | None = None) -> list[DeadLetter]:
        """Read letters without their messages."""
        with self._lock:
            found = [letter for letter in self._letters.values() if which.means(letter)]
        found.sort(key=lambda letter: (letter.pipeline, letter.consumer, letter.position, letter.id))
        return [msgspec.structs.replace(letter, message=b"") for letter in found[:limit]]

    def read(self, id: int) -> DeadLetter | None:
        """Read one letter whole."""
        return self._letters.get(id)

    def marks(self, pipeline: str) -> Mapping[str, Marks]:
        """Look at the letters of a pipeline."""
        with self._lock:
            mine = [letter for letter in self._letters.values() if letter.pipeline == pipeline]
        return {
            consumer: Marks(
                count=sum(letter.consumer == consumer for letter in mine),
                ids=sum(letter.id for letter in mine if letter.consumer == consumer),
                requested=sum(letter.id for letter in mine if letter.consumer == consumer and letter.requested),
            )
            for consumer in {letter.consumer for letter in mine}
        }

    def request(self, ids: Collection[int]) -> int:
        """Ask for failed letters to be delivered again."""
        with self._lock:
            asked = [self._letters[id] for id in ids if id in self._letters and self._letters[id].state == "failed"]
            for letter in asked:
                self._letters[letter.id] = msgspec.structs.replace(letter, requested=True)
            return len(asked)

    def remove(self, ids: Collection[int]) -> int:
        """Remove letters."""
        with self._lock:
            return sum(self._letters.pop(id, None) is not None for id in ids)

    def rename(self, pipeline: str, consumer: str, new: str) -> None:
        """Give a consumer's letters to another name."""
        with self._lock:
            for letter in self._of(pipeline, [consumer]):
                self._letters[letter.id] = msgspec.structs.replace(letter, consumer=new)
            self._owners.pop((pipeline, consumer), None)

    def forget(self, pipeline: str, consumers: Collection[str] | None = None) -> None:
        """Remove all letters and owners."""
        with self._lock:
            for letter in self._of(pipeline, consumers):
                del self._letters[letter.id]
            self._owners = {
                (of, name): epoch
                for (of, name), epoch in self._owners.items()
                if of != pipeline or (consumers is not None and name not in consumers)
            }

    def _of(self, pipeline: str, consumers: Collection[str] | None) -> Iterable[DeadLetter]:
        return [
            letter
            for letter in self._letters.values()
            if letter.pipeline == pipeline and (consumers is None or letter.consumer in consumers)
        ]

    def close(self) -> None:
        """Nothing to do: what was stored stays."""
