"""What becomes of changes that a consumer cannot be given: dead letters, before its position moves past them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost, SinkError, SinkUnavailable
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.deadletter import DeadLetter, DeadLetterStore, Marks, Which
from pgcdc.pipeline.describing import Described, Seen, describe
from pgcdc.pipeline.earlier_letters import of_another_key, of_another_policy
from pgcdc.pipeline.holding import Held, HeldBy, holds_from_text, holds_to_text
from pgcdc.pipeline.options import Options
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.worker import Worker
from pgcdc.replication import Reconnect

__all__ = ["Desk", "Parking"]

logger = logging.getLogger("pgcdc.pipeline")

P = ParamSpec("P")
T = TypeVar("T")

_PAUSES = Reconnect()


class Desk:
    """The dead letters of one run: one store, used in a thread of its own.

    Args:
        pipeline: The pipeline's name.
        store: Where they are kept.
        used: Whether any consumer of the run has an `on_failure` that puts some there.
    """

    def __init__(self, pipeline: str, store: DeadLetterStore, *, used: bool = True) -> None:
        self.pipeline = pipeline
        self.store = store
        self.used = used
        self._left: list[DeadLetter] | None = None
        self._looking = asyncio.Lock()
        self._worker = Worker(f"pgcdc-{pipeline}-dead-letters")

    async def call(self, method: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method of the store.

        Args:
            method: The method.
            *args: Its arguments.
            **kwargs: Its arguments.

        Returns:
            What it returned.
        """
        return await self._worker.call(method, *args, **kwargs)

    async def left(self) -> list[DeadLetter]:
        """Read once what earlier runs have left, for a run that puts nothing there; the store is closed then.

        Returns:
            The letters of all consumers.

        Raises:
            SinkUnavailable: When the store is away.
        """
        async with self._looking:
            if self._left is None:
                try:
                    self._left = await self.call(self.store.find, Which(pipelines=frozenset({self.pipeline})))
                    await self.call(self.store.close)
                except ConnectionLost as error:
                    raise SinkUnavailable(f"where dead letters may be left: {error}") from error
                except ConfigError as error:  # whoever may not even read there has put nothing there
                    logger.debug("pipeline %r: no dead letters can be read: %s", self.pipeline, error)
                    self._left = []
            return self._left

    async def close(self, timeout: float) -> None:
        """Close the store, after a call that may still run.

        Args:
            timeout: How long that is waited for, in seconds.
        """
        if await self._worker.idle(timeout):
            await self._worker.call(self.store.close)
            await self._worker.stop(timeout)
        else:
            logger.warning("pipeline %r: its dead letters' store hangs and is left behind", self.pipeline)


class Parking:
    """One consumer's dead letters.

    Args:
        consumer: The consumer's name.
        options: What was said of it.
        desk: The run's.
        away: Told when the store cannot be used, and with None when it can be again.
        formats: Knows the columns of keys, and what tables were called.

    Attributes:
        marks: What the store had of this consumer's letters when they were looked at last.
        count: How many letters there are.
        holds: Whether later changes of the same rows wait.
        waiting: Whether one of them is to be delivered, now or as soon as its transaction is done.
        place: Gives what tells a change of the batch in hand from all others, by its number there; None: its position
            does.
    """

    def __init__(
        self,
        consumer: str,
        options: Options,
        desk: Desk,
        away: Callable[[ConnectionLost | None], None],
        formats: RowFormats,
    ) -> None:
        self.consumer = consumer
        self.marks = Marks()
        self.count = 0
        self.waiting = False
        self._desk = desk
        self._on_failure = options.on_failure
        self.holds = options.on_failure == "hold"
        self._limit = options.max_dead_letters
        self._away = away
        self._formats = formats
        self._options = options
        self._held = Held()
        self._alike: dict[tuple[Position, str], int] = {}
        self.place: Callable[[int], int | None] = _nowhere
        self._epoch = 0

    @property
    def _by(self) -> HeldBy:
        """What changes are held by: it may have come out meanwhile that a table had another name."""
        return HeldBy(self._options.key, self._formats.outboxes(self._options.outboxes), self._formats.names)

    @property
    def held_keys(self) -> int:
        """How many keys are held."""
        return len(self._held)

    async def open(self, epoch: int) -> None:
        """Become the owner of what is stored, and learn which rows are held.

        Args:
            epoch: The owner's.

        Raises:
            PositionError: When another process has taken over.
            PositionError: When its letters are from another `on_failure`, or from when it kept order by another key.
            ConfigError: When the store cannot be used as it is.
        """
        self._epoch = epoch
        if epoch:
            await self._persist(self._desk.store.claim, self._desk.pipeline, self.consumer, epoch)
        letters = await self.look()
        error = of_another_policy(self.consumer, self._on_failure, letters) or of_another_key(
            self.consumer, self._by, letters
        )
        if error is not None:
            raise error

    async def look(self) -> list[DeadLetter]:
        """Read what is stored.

        Returns:
            The consumer's letters, by position.
        """
        marks = await self._persist(self._desk.store.marks, self._desk.pipeline)
        letters: list[DeadLetter] = []
        self.marks = marks.get(self.consumer, Marks())
        if self.marks.count:
            letters = await self._persist(
                self._desk.store.find, Which(pipelines=frozenset({self._desk.pipeline}), consumer=self.consumer)
            )
        self.count = len(letters)
        self._held = Held()
        self.waiting = False
        blocked = Held()
        for letter in letters:
            holds = holds_from_text(letter.holds)
            if self.holds:
                self._held.add(holds)
            if _wanted(letter) and not blocked.meets(holds):
                self.waiting = True
            else:
                blocked.add(holds)
        return letters

    async def _describe(self, part: Described) -> Sequence[Seen]:
        """Look at changes, in the desk's thread: the other consumers share the event loop."""
        if part.seen is None:
            part.seen = await self._desk.call(describe, part.batch, self._formats.key_columns, self._by)
        return part.seen

    async def hold_back(self, part: Described, settled: Collection[int] = (), start: int = 0) -> set[int]:
        """Store the changes of rows that are held.

        Args:
            part: Changes that are to be delivered.
            settled: Those that are letters already.
            start: The number of the first one to look at.

        Returns:
            The numbers of those that are not to be delivered now.
        """
        if not self._held:
            return set()
        letters: dict[int, DeadLetter] = {}
        for number, seen in enumerate(await self._describe(part)):
            if number >= start and number not in settled and self._held.meets(seen.holds):
                self._held.add(seen.holds)  # a change of key holds the other one, too
                letters[number] = self._letter(part, number, seen, None, 0)
        await self._add(list(letters.values()))
        return set(letters)

    async def park(self, part: Described, causes: Mapping[int, Exception], attempts: int) -> None:
        """Store changes that have failed.

        Args:
            part: What they are in.
            causes: What was raised, by their numbers.
            attempts: How often each was tried.
        """
        seen = await self._describe(part.take(causes))
        letters = [
            self._letter(part, number, one, causes[number], attempts)
            for number, one in zip(sorted(causes), seen, strict=True)
        ]
        await self._add(letters)
        if self.holds:
            for one in seen:
                self._held.add(one.holds)
        for letter, one in zip(letters, seen, strict=True):
            logger.warning(
                "consumer %r: %s of %s at %s is a dead letter now: %s",
                self.consumer,
                one.action,
                one.table or "no table",
                letter.position,
                letter.error_type,
            )

    def _letter(self, part: Described, number: int, seen: Seen, cause: Exception | None, attempts: int) -> DeadLetter:
        batch = part.batch
        one = batch.take({number})
        position = one.first_position
        digest = seen.digest
        if position is not None and position[1] == SNAPSHOT_INDEX:
            # Rows of a copy share their position, and may be alike. From the slot a copy is taken again whole, so the
            # third of a kind is the third again; where it goes on in the middle, something else tells them apart.
            place = self.place(part.numbers[number])
            digest = digest if place is None else f"{digest}@{place}"
            alike = self._alike[Position(*position), digest] = self._alike.get((Position(*position), digest), 0) + 1
            digest = digest if alike == 1 else f"{digest}.{alike}"
        if position is None:  # it cannot be read, and does not know where it stands: behind what can be
            position = batch.take(set(range(number))).last_position or Position(0, SNAPSHOT_INDEX)
        now = datetime.now(UTC)
        return DeadLetter(
            pipeline=self._desk.pipeline,
            consumer=self.consumer,
            position=Position(*position),
            digest=digest,
            state="held" if cause is None else "failed",
            table=seen.table,
            action=seen.action,
            key=seen.key,
            values=seen.values,
            message=one.to_bytes(),
            holds=holds_to_text(seen.holds) if self.holds else "",
            error_type="" if cause is None else _type_of(cause),
            error_text="" if cause is None else str(cause),
            attempts=attempts,
            first_at=now,
            last_at=now,
        )

    async def _add(self, letters: list[DeadLetter]) -> None:
        if not letters:
            return
        if self.count + len(letters) > self._limit:
            # Some may be stored already: they come again after a crash.
            known = {letter.identity for letter in await self.look()}
            new = len({letter.identity for letter in letters} - known)
            if self.count + new > self._limit:
                raise SinkError(
                    f"consumer {self.consumer!r} has {self.count} dead letters and would have {self.count + new}:"
                    f" more than its max_dead_letters={self._limit}",
                    hint="pgcdc deadletter list shows why; put the cause right, retry or drop them, and start again,"
                    " once with a larger max_dead_letters where changes wait behind one: nothing was confirmed past"
                    " what is not among them",
                    table=letters[0].table,
                    lsn=letters[0].position.commit_lsn,
                ) from None
        await self._persist(self._desk.store.add, letters, self._epoch)
        self.count += len(letters)

    async def due(self, through_lsn: int) -> AsyncIterator[tuple[DeadLetter, Callable[[], None]]]:
        """What is to be delivered again now, in order: what was asked for, and what does not wait any more.

        Args:
            through_lsn: A letter of a transaction that is not done up to here may come again by itself, so it is left.

        Yields:
            The letter, whole, and what to call when it has failed again, so that nothing behind it is delivered.
        """
        blocked = Held()
        for letter in await self.look():
            holds = holds_from_text(letter.holds)
            place = letter.position
            done = place.commit_lsn < through_lsn or (place.index < 0 and place.commit_lsn == through_lsn)
            if not _wanted(letter) or not done or blocked.meets(holds):
                blocked.add(holds)
                continue
            whole = await self._persist(self._desk.store.read, letter.id)
            if whole is not None:
                yield whole, lambda holds=holds: blocked.add(holds)  # type: ignore[misc]

    async def delivered(self, letter: DeadLetter) -> None:
        """A letter was taken: remove it.

        Args:
            letter: The letter.
        """
        await self._persist(self._desk.store.remove, [letter.id])
        logger.info("consumer %r: the dead letter at %s was delivered", self.consumer, letter.position)

    async def failed_again(self, letter: DeadLetter, cause: Exception, attempts: int) -> None:
        """A letter was not taken: it stays.

        Args:
            letter: The letter.
            cause: What was raised.
            attempts: How often it was tried.
        """
        again = msgspec.structs.replace(
            letter,
            state="failed",
            error_type=_type_of(cause),
            error_text=str(cause),
            attempts=attempts,
            last_at=datetime.now(UTC),
        )
        await self._persist(self._desk.store.add, [again], self._epoch)
        logger.warning(
            "consumer %r: the dead letter at %s failed again: %s", self.consumer, letter.position, again.error_type
        )

    async def _persist(self, method: Callable[..., T], *arguments: Any) -> T:
        """Call the store until it can be used; only this consumer waits meanwhile, and its position stays."""
        attempt = 0
        while True:
            try:
                result = await self._desk.call(method, *arguments)
            except ConnectionLost as error:
                self._away(error)
                await asyncio.sleep(_PAUSES.pause(attempt))
                attempt += 1
            else:
                if attempt:
                    self._away(None)
                return result


def _nowhere(_: int) -> None:
    """The place of a change that its position tells."""


def _wanted(letter: DeadLetter) -> bool:
    """Whether it is to be delivered again as soon as no earlier one holds its rows."""
    return letter.requested or letter.state == "held"


def _type_of(cause: Exception) -> str:
    kind = type(cause)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
