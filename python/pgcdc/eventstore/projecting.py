"""Projections as sinks of a pipeline: rows and place in one transaction, what is behind is read from the table.

A sink gets whole transactions in the order of commits. It notes them (commits.py), applies those that its generation
does not have yet, and moves the generation's place, all in one transaction: exactly once, whoever writes. A generation
that was left behind (it is new, or was parked, or rolled back to) is brought up to date from the table first.

Over 400 lines because noting, catching up and applying share one place, which moves in one transaction.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
import psycopg

from pgcdc.errors import ConnectionLost, DecodeError, EventStoreError, SinkError, SinkRejected, SinkUnavailable
from pgcdc.events import Insert
from pgcdc.eventstore.commits import Commits, EventRow, Place, Stretch
from pgcdc.eventstore.connecting import PREPARE, options_of
from pgcdc.eventstore.generations import Generation, Generations
from pgcdc.eventstore.projection import Projection
from pgcdc.eventstore.refusals import is_away, primary
from pgcdc.eventstore.skipping import Skipped
from pgcdc.eventstore.table import Writer
from pgcdc.lsn import Position
from pgcdc.pipeline.deadletter import DeadLetter, DeadLetterStore
from pgcdc.protocol import Batch, RowFormat
from pgcdc.sink import Parked

__all__ = ["Noting", "Projecting", "Step", "connect", "reason_of", "rows_of", "steps_of"]

logger = logging.getLogger("pgcdc.eventstore")

WHOLE: Final = 2**31 - 1
"""The index behind the last change of a transaction: places are of whole ones."""
_Placed = tuple[tuple[int, int], EventRow]
"""An event and its position, as two numbers: a `Position` takes longer than all that is done with most of them."""


class Step(NamedTuple):
    """What is applied whole or not at all.

    Attributes:
        place: How far one is with it.
        rows: Its events.
    """

    place: Place
    rows: Sequence[tuple[Position, EventRow]]


class _Run(NamedTuple):
    """Events that follow each other, in one list: what is made for each of them is most of what following costs.

    Attributes:
        rows: The events.
        place: How far one is with them.
    """

    rows: Sequence[_Placed]
    place: Place

    @property
    def has_transactions(self) -> bool:
        """Whether they are transactions; what no slot has brought is one whole, and its index is below 0."""
        return not self.place.base_id and bool(self.rows) and self.rows[0][0][1] >= 0


def connect(dsn: str) -> psycopg.Connection[Any]:
    """Connect as the store does, in autocommit mode.

    Args:
        dsn: Where to.

    Returns:
        The connection.
    """
    connection = psycopg.connect(autocommit=True, **options_of(dsn))
    try:
        connection.execute(PREPARE)
    except BaseException:
        connection.close()
        raise
    return connection


def steps_of(stretch: Stretch) -> list[Step]:
    """The transactions of a stretch.

    Args:
        stretch: What was read.

    Returns:
        A step for each; one for what has no order of commits.
    """
    if stretch.place.base_id or not stretch.rows or stretch.rows[0][0].index < 0:
        return [Step(stretch.place, stretch.rows)]
    groups = groupby(stretch.rows, key=lambda one: one[0].commit_lsn)
    steps = [Step(Place(lsn), list(rows)) for lsn, rows in groups]
    return [*steps[:-1], Step(stretch.place, steps[-1].rows)]


def reason_of(error: BaseException) -> str:
    """Why something could not be applied, without values.

    Args:
        error: What was raised.

    Returns:
        Its class, and where.
    """
    said = primary(error) if isinstance(error, psycopg.Error) else ""
    notes = getattr(error, "__notes__", ())
    return " ".join([type(error).__name__, *([f"({said})"] if said else ()), *notes])


def rows_of(schema: str) -> RowFormat[EventRow]:
    """How rows of a store's table are made.

    Args:
        schema: The store's.

    Returns:
        The format.
    """
    return RowFormat("struct", types={f"{schema}.events": EventRow}, json="text")


def _commits_of(lsns: Sequence[int], rows: Sequence[EventRow | _Noted]) -> Sequence[Sequence[int]]:
    """What is to be noted of events: columns, as `Commits.note` takes them.

    Args:
        lsns: The LSN of each one's commit, in their order.
        rows: The events.
    """
    ids = [row.id for row in rows]
    xids = [row.xid for row in rows]
    if len(set(lsns)) == len(lsns):  # most transactions have one, and this runs for each
        return [xids, lsns, [1] * len(ids), ids, ids]
    found = []
    for lsn, group in groupby(zip(lsns, xids, ids, strict=True), key=itemgetter(0)):
        several = list(group)
        numbers = [one[2] for one in several]
        found.append((several[0][1], lsn, len(numbers), min(numbers), max(numbers)))
    return list(zip(*found, strict=True))


def _halves(run: _Run) -> tuple[_Run, _Run] | None:
    """A run cut where a transaction begins; None when it is applied whole or not at all."""
    rows = run.rows
    if not run.has_transactions:
        return None
    middle = len(rows) // 2
    lsn = rows[middle][0][0]
    at = next((number for number in range(middle, 0, -1) if rows[number - 1][0][0] != lsn), 0)
    at = at or next((number for number in range(middle, len(rows)) if rows[number][0][0] != lsn), 0)
    return (_Run(rows[:at], Place(rows[at - 1][0][0])), _Run(rows[at:], run.place)) if at else None


def _behind(place: Place, run: _Run) -> Sequence[_Placed]:
    """The events of a run that are not done at a place."""
    rows = run.rows
    if not run.has_transactions:
        return rows if run.place > place else []
    return rows if rows[0][0][0] > place.lsn else [one for one in rows if one[0][0] > place.lsn]


class _Noted(msgspec.Struct, gc=False):
    """As much of a row as it takes to note its transaction."""

    id: int
    xid: int


class _Following:
    """What both sinks have in common: a connection, the transactions of a batch, errors in the pipeline's words."""

    def __init__(self, dsn: str, commits: Commits, format: RowFormat[Any]) -> None:
        self._dsn = dsn
        self._commits = commits
        self._format = format
        self._refusal: type[SinkError] = SinkRejected
        self._open: psycopg.Connection[Any] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def _connection(self) -> psycopg.Connection[Any]:
        if self._open is None or self._open.closed:
            self._open = connect(self._dsn)
        return self._open

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            if is_away(error):
                if self._open is not None:
                    self._open.close()
                raise SinkUnavailable(f"the event store's server is away: {primary(error)}") from error
            raise self._refusal(f"the event store's server refused: {primary(error)}") from error

    def _inserts(self, batch: Batch) -> tuple[list[Any], int]:
        """The events of a batch, and the LSN of its last commit: what else comes is somebody who waits."""
        changes: list[Any] = batch.changes(self._format)
        if {*map(type, changes)} == {Insert}:
            return changes, changes[-1].commit_lsn
        for change in changes:
            if isinstance(change, DecodeError):
                if self._refusal is SinkRejected:
                    raise change
                raise self._refusal(f"an event cannot be decoded: {change}") from change
        return [one for one in changes if isinstance(one, Insert)], changes[-1].commit_lsn if changes else 0

    def _run(self, batch: Batch) -> _Run:
        inserts, through = self._inserts(batch)
        positions = zip([one.commit_lsn for one in inserts], [one.index for one in inserts], strict=True)
        return _Run([*zip(positions, [one.new for one in inserts], strict=True)], Place(through))

    def _note(
        self, connection: psycopg.Connection[Any], lsns: Sequence[int], rows: Sequence[EventRow | _Noted]
    ) -> None:
        """Note the transactions of events that nobody has noted yet: in a pipeline another consumer may have."""
        if lsns and lsns[-1] > (noted := self._commits.noted_lsn):
            new = bisect_right(lsns, noted)
            self._commits.note(connection, _commits_of(lsns[new:], rows[new:]))

    def _has_noted(self, lsn: int) -> None:
        self._commits.noted_lsn = max(self._commits.noted_lsn, lsn)

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()


class Noting(_Following):
    """Notes the commits of transactions, and nothing else: there is one, also where there is no projection yet."""

    def __init__(self, dsn: str, schema: str, commits: Commits) -> None:
        super().__init__(dsn, commits, RowFormat("struct", types={f"{schema}.events": _Noted}))
        self._through = 0

    def open(self) -> None:
        """Ask how far they are noted."""
        self._through = self._commits.start_lsn

    def position(self) -> Position | None:
        """How far they are noted."""
        return Position(self._through, WHOLE) if self._through else None

    def write(self, batch: Batch) -> None:
        """Note the transactions of a batch."""
        inserts, through = self._inserts(batch)
        if not through:
            return
        with self._speaking(), self._connection.transaction():
            self._note(self._connection, [one.commit_lsn for one in inserts], [one.new for one in inserts])
            self._commits.noted(self._connection, through)
        self._has_noted(through)


class Projecting(_Following):
    """A projection, live.

    Args:
        projection: What was declared.
        dsn: Where the store is.
        commits: The order of commits.
        generations: What is stored of projections.
        format: How the rows of events are made; of `rows_of`, and shared by all projections, so that they share them.
        skipped: The events that were skipped.
        pipeline: The name of the pipeline.
        letters: Where dead letters are kept.
    """

    def __init__(
        self,
        projection: Projection,
        dsn: str,
        commits: Commits,
        generations: Generations,
        format: RowFormat[EventRow],
        skipped: Skipped,
        pipeline: str,
        letters: Callable[[], DeadLetterStore],
    ) -> None:
        super().__init__(dsn, commits, format)
        if projection.on_failure == "dead_letter":
            # What the pipeline takes apart, and makes a dead letter, it does not apply: here that is done whole.
            self._refusal = SinkError
        self._skipped = skipped
        self._pipeline = pipeline
        self._letters = letters
        self._listed: int | None = None
        self._projection = projection
        self._generations = generations
        self._passed = 0
        self._writer: Writer | None = None
        self._writes_to: tuple[psycopg.Connection[Any], int, str] | None = None
        self.parked: Parked | None = None
        """Why nothing is applied, as of the last event that came; None when all is."""

    @property
    def name(self) -> str:
        """The projection's name."""
        return self._projection.name

    def open(self) -> None:
        """Make the tables if this is the first time, and bring them up to date from the table of events."""
        with self._speaking():
            connection = self._connection
            through = self._commits.start_lsn
            with connection.transaction():
                self._generations.lock(connection, self._projection.name)
                live = self._generations.live(connection, self._projection.name)
                if live is None:
                    self._generations.begin(connection, self._projection, beside=False, passed_lsn=through)
            self._passed = through
            self._catch_up(again=True)
            self._list()

    def position(self) -> Position | None:
        """How far the stream was followed: what is behind that is in the table."""
        return Position(self._passed, WHOLE) if self._passed else None

    def write(self, batch: Batch) -> None:
        """Apply a batch, note its transactions and move the place, in one transaction."""
        run = self._run(batch)
        through = run.place.lsn
        if not through:
            return
        with self._speaking():
            live = self._live()
            if live is not None and live.place.lsn < self._passed:
                self._catch_up()
                live = self._live()
            if live is None or live.place.lsn < self._passed or not self._apply(run, is_live=True):
                with self._connection.transaction():
                    self._note_run(self._connection, run)
                    self._generations.passed(self._connection, self._projection.name, through)
                self._passed = max(self._passed, through)
                # Generations may have changed places since it was looked: a commit comes by the stream before others
                # see it, so this may be what tells of it. By now it was waited for.
                if (live := self._live()) is not None and live.place.lsn < self._passed:
                    self._catch_up()
            self._list()
        self._passed = max(self._passed, through)
        self._has_noted(self._passed)

    def rewrite(self, batch: Batch) -> None:
        """Apply an event that was a dead letter, in its own transaction, which takes it out of what was skipped."""
        for _, row in self._run(batch).rows:
            try:
                with self._speaking():
                    self._apply_again(row)
            except (SinkUnavailable, SinkRejected):
                raise
            except Exception as error:
                raise SinkRejected(reason_of(error)) from error

    def _apply_again(self, row: EventRow) -> None:
        with self._connection.transaction():
            live = self._generations.live(self._connection, self._projection.name, lock=True)
            if live is None:
                raise SinkRejected(f"the projection {self._projection.name} has been removed")
            if live.version != self._projection.version:
                raise SinkRejected(f"the projection {live.name} is live in version {live.version}, not in the class's")
            position = self._skipped.take(self._connection, live, row.stream_id, row.sequence)
            if position is not None:
                self._apply_to(live, [(position, row)])

    def _list(self) -> None:
        """See to the dead letters of what is live: at the start, when something was skipped, and of another one."""
        if self._projection.on_failure != "dead_letter":
            return
        live = self._generations.live(self._connection, self._projection.name)
        if live is None or live.generation == self._listed:
            return
        with self._keeping():
            self._skipped.see_to_letters(self._connection, live, self._pipeline, self._letters())
        self._listed = live.generation

    def _letters_there(self) -> Sequence[DeadLetter]:
        with self._keeping():
            return self._skipped.letters_of(self._projection.name, self._letters())

    @staticmethod
    @contextmanager
    def _keeping() -> Iterator[None]:
        try:
            yield
        except ConnectionLost as error:
            raise SinkUnavailable(f"where dead letters are kept: {error}") from error

    def _live(self, *, lock: bool = False) -> Generation | None:
        """The generation that is to be written to; None when it is parked, or of another version."""
        projection = self._projection
        live = self._generations.live(self._connection, projection.name, lock=lock)
        if live is None:
            raise EventStoreError(f"the projection {projection.name} has been removed", hint="start again")
        if live.version != projection.version:
            self._tell(
                f"the projection {projection.name} is live in version {live.version}, the class is of version"
                f" {projection.version}: it stays as it is until pgcdc events rebuild {projection.name}"
            )
            return None
        if live.error is not None:
            self._tell(f"the projection {projection.name} is parked: {live.error}")
            return None
        self.parked = None
        return live

    def _tell(self, what: str) -> None:
        if self.parked is None or self.parked.why != what:
            logger.warning("%s", what)
        self._stand(what)

    def _stand(self, what: str) -> None:
        if self.parked is None or self.parked.why != what:
            self.parked = Parked(what, time.time() if self.parked is None else self.parked.since)

    def _catch_up(self, *, again: bool = False) -> None:
        """Apply from the table what was followed and not applied.

        Args:
            again: Whether a parked one is tried again.
        """
        live = self._generations.live(self._connection, self._projection.name)
        if live is None or live.version != self._projection.version or (live.error is not None and not again):
            self._live()  # says why
            return
        if live.error is not None:
            logger.info("the projection %s was parked (%s): it is tried again", live.name, live.error)
        for stretch in self._commits.after(self._connection, live.place, self._passed):
            if not self._apply(_Run(*stretch), is_live=False, again=again):
                return
        if live.error is not None:
            self._generations.park(self._connection, live, None)
        self.parked = None

    def _apply_to(self, live: Generation, rows: Sequence[_Placed]) -> None:
        """Give events to a new instance, and write what it says of them."""
        writer = self._writer_to(live)
        writer.forget()
        instance = self._projection.owner()
        writer.bind(instance)
        self._projection.apply(instance, rows)
        writer.write()

    def _apply_each(self, live: Generation, rows: Sequence[_Placed]) -> None:
        """Apply events one after the other, and skip what cannot be applied."""
        for numbers, row in rows:
            position = Position(*numbers)
            try:
                with self._connection.transaction():
                    self._apply_to(live, [(position, row)])
            except Exception as error:
                if is_away(error):
                    raise
                why = type(error).__name__
                self._skipped.add(self._connection, live, position, row, why, str(error), self._letters_there)
                logger.warning(
                    "the projection %s skips event %d of the stream %s, which is a dead letter: %s",
                    *(live.name, row.sequence, row.stream_id, reason_of(error)),
                )
                self._listed = None

    def _note_run(self, connection: psycopg.Connection[Any], run: _Run) -> None:
        if run.place.lsn > self._commits.noted_lsn:
            self._note(connection, [position[0] for position, _ in run.rows], [row for _, row in run.rows])

    def _apply(self, run: _Run, *, is_live: bool, again: bool = False, one_by_one: bool = False) -> bool:
        """Apply events in one transaction, or in several when one of them fails; whether all are applied.

        Args:
            run: What is applied.
            is_live: Whether it comes from the stream, and its transactions are to be noted; else from what was noted.
            again: Whether a parked one is tried again.
            one_by_one: Whether what cannot be applied is skipped.
        """
        try:
            with self._connection.transaction():
                live = self._generations.live(self._connection, self._projection.name, lock=True)
                if live is None or live.version != self._projection.version or (live.error and not again):
                    return False
                if is_live and live.place.lsn < self._passed:
                    return False  # it was put in the place of the one that was looked at, and does not have all before
                fresh = _behind(live.place, run)
                if one_by_one:
                    self._apply_each(live, fresh)
                else:
                    self._apply_to(live, fresh)
                if is_live:
                    self._note_run(self._connection, run)  # last, so that others who note them wait for a moment only
                place = max(run.place, live.place)
                self._generations.advance(self._connection, live, place, place.lsn if is_live else 0, len(fresh))
            self.parked = None
            return True
        except SinkUnavailable:
            raise
        except Exception as error:
            if is_away(error):
                raise
            if halves := _halves(run):
                first, second = halves
                return self._apply(first, is_live=is_live, again=again) and self._apply(
                    second, is_live=is_live, again=again
                )
            if self._projection.on_failure == "dead_letter" and not one_by_one:
                return self._apply(run, is_live=is_live, again=again, one_by_one=True)
            self._park(error)
            return False

    def _park(self, error: Exception) -> None:
        if self._projection.on_failure == "stop":
            raise SinkRejected(
                f"the projection {self._projection.name} cannot apply an event: {reason_of(error)}"
            ) from error
        what = f"the projection {self._projection.name} is parked: {reason_of(error)}"
        logger.error("%s", what)
        self._stand(what)
        with suppress(EventStoreError), self._connection.transaction():
            live = self._generations.live(self._connection, self._projection.name, lock=True)
            if live is not None:
                self._generations.park(self._connection, live, reason_of(error))

    def _writer_to(self, live: Generation) -> Writer:
        place = self._connection, live.generation, live.schema
        if self._writer is None or self._writes_to != place:
            self._writer = Writer(self._connection, live.schema, self._projection.tables)
            self._writes_to = place
        return self._writer
