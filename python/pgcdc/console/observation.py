"""What is seen of a server and its pipelines at one moment, and who looks.

The database knows slots, stored positions and dead letters; the process that runs a pipeline knows what is under way in
it. Both are asked, nobody is told anything, and nothing is made that is not there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec
import psycopg

from pgcdc.console.subject import Subject
from pgcdc.errors import Error
from pgcdc.lsn import Position, parse_lsn
from pgcdc.observe.slots import reaching, slots_of
from pgcdc.pipeline import ConsumerStatistics, PipelineStatistics
from pgcdc.replication import SlotState

__all__ = ["NEAR", "ConsumerSeen", "LettersSeen", "Observation", "Observer", "ProjectionSeen"]

NEAR: Final = 128 * 1024
"""Bytes of WAL: a quiet pipeline stores its positions when 64 KiB have gone by; nearer than that nothing is known."""
_PATIENCE: Final = "SET statement_timeout = '5s'"
_SERVER: Final = (
    "SELECT current_setting('server_version'), current_database(), pg_is_in_recovery(),"
    " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
)
_POSITIONS: Final = (
    "SELECT pipeline, consumer, snapshot, commit_lsn::text, change_index, through_lsn::text, slot, updated_at"
    " FROM pgcdc.positions ORDER BY 1, 2"
)
_LETTERS: Final = (
    "SELECT pipeline, consumer, count(*) FILTER (WHERE state = 'failed'), count(*) FILTER (WHERE state <> 'failed')"
    " FROM pgcdc.dead_letters GROUP BY 1, 2"
)


class LettersSeen(msgspec.Struct, frozen=True):
    """Dead letters of one consumer.

    Attributes:
        failed: How many have failed.
        held: How many wait behind one of those.
    """

    failed: int = 0
    held: int = 0


class ConsumerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer.

    Attributes:
        pipeline: The pipeline's name.
        name: Its name.
        slot: The slot that its positions belong to.
        position: The last change that is durable in it.
        through_lsn: How far the WAL is done for it.
        snapshot: How far the copy of existing rows is: `"none"`, `"running"`, `"done"` as it is stored; None where
            nothing is stored.
        stored_at: When its position was stored; None where that is not known.
        behind: Bytes of WAL behind the server's end.
        seconds: How late it is, as its process says (`ConsumerStatistics.lag_seconds`); of one that runs elsewhere how
            old the oldest WAL is, at least, that is not done for it, 0.0 when it is near the end. None while that is
            not known.
        letters: Its dead letters.
        statistics: What the process says that runs it; None where it is not this one.
    """

    pipeline: str
    name: str
    slot: str
    position: Position | None
    through_lsn: int
    snapshot: str | None
    stored_at: datetime | None
    behind: int | None
    seconds: float | None
    letters: LettersSeen
    statistics: ConsumerStatistics | None

    @property
    def key(self) -> str:
        """What it is called among all consumers of all pipelines."""
        return f"{self.pipeline}/{self.name}"


class ProjectionSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a projection of the event store.

    Attributes:
        name: The projection's name.
        generation: Its number.
        version: The version of the class that has built it.
        status: `"building"`, `"live"` or `"retired"`.
        events: How many events were given to it.
        error: Why it is parked; None when it is not.
    """

    name: str
    generation: int
    version: int
    status: str
    events: int
    error: str | None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, at one moment.

    Attributes:
        at: Seconds since 1970.
        error: Why the server could not be asked; None when it could. Then what follows is what the process knows alone.
        server: Its version.
        database: The database's name.
        is_standby: Whether it is one.
        is_source: Whether a pipeline is meant whose changes come from it; else they may come from another server.
        wal_lsn: The end of its WAL; 0 where that is not known.
        slots: Its slots, by name.
        consumers: By pipeline and name.
        statistics: Of the pipeline that this process runs.
        projections: Of the event store, by name and generation.
        unknown: What the role may not see, as sentences.
    """

    at: float
    error: str | None = None
    server: str = ""
    database: str = ""
    is_standby: bool = False
    is_source: bool = False
    wal_lsn: int = 0
    slots: list[SlotState] = []
    consumers: list[ConsumerSeen] = []
    statistics: PipelineStatistics | None = None
    projections: list[ProjectionSeen] = []
    unknown: list[str] = []

    def slot(self, name: str) -> SlotState | None:
        """The slot of a name.

        Args:
            name: Its name.
        """
        return next((one for one in self.slots if one.name == name), None)

    def consumer(self, pipeline: str, name: str) -> ConsumerSeen | None:
        """The consumer of a name.

        Args:
            pipeline: Its pipeline's.
            name: Its own.
        """
        return next((one for one in self.consumers if (one.pipeline, one.name) == (pipeline, name)), None)

    @property
    def letters(self) -> int:
        """How many dead letters there are."""
        return sum(one.letters.failed + one.letters.held for one in self.consumers)


class _Stored(msgspec.Struct, frozen=True):
    """A row of the table of positions."""

    snapshot: str
    position: Position | None
    through_lsn: int
    slot: str
    at: datetime


class Observer:
    """Looks, on a connection of its own that it keeps; one thread at a time.

    Args:
        subject: What is looked at.
        clock: Gives seconds since 1970.
    """

    def __init__(self, subject: Subject, clock: Callable[[], float] = time.time) -> None:
        self._subject = subject
        self._clock = clock
        self._lock = threading.Lock()
        self._open = contextlib.ExitStack()
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._trail: list[tuple[float, int]] = []

    def observe(self) -> Observation:
        """Look once.

        Returns:
            What was seen; also when the server cannot be asked.
        """
        with self._lock:
            statistics = None if self._subject.statistics is None else self._subject.statistics()
            at = self._clock()
            try:
                seen = self._ask(at, statistics)
            except Error as error:
                self._close()
                return self._alone(at, str(error), statistics)
            except psycopg.Error as error:
                self._close()
                text = error.diag.message_primary or type(error).__name__
                return self._alone(at, f"the server cannot be asked: {text}", statistics)
            return seen

    def close(self) -> None:
        """Close the connection; the next look opens another one."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._connection = None
        with contextlib.suppress(Error, psycopg.Error):
            self._open.close()

    def alone(self, error: str) -> Observation:
        """What is known without asking the server; also while `observe` waits for it.

        Args:
            error: Why it is not asked.

        Returns:
            What the process knows.
        """
        return self._alone(
            self._clock(), error, None if self._subject.statistics is None else self._subject.statistics()
        )

    def _alone(self, at: float, error: str, statistics: PipelineStatistics | None) -> Observation:
        """What is known without the server."""
        consumers = self._consumers(at, 0, {}, {}, statistics)
        return Observation(at=at, error=error, consumers=consumers, statistics=statistics)

    def _ask(self, at: float, statistics: PipelineStatistics | None) -> Observation:
        if self._connection is None:
            self._connection = self._open.enter_context(reaching(self._subject.dsn))
            self._connection.execute(_PATIENCE)
        connection = self._connection
        [(server, database, is_standby, end)] = connection.execute(_SERVER).fetchall()
        wal_lsn = parse_lsn(end) if end else 0
        self._follow(at, wal_lsn)
        unknown: list[str] = []
        stored = self._read(connection, _POSITIONS, "stored positions", unknown)
        letters = self._read(connection, _LETTERS, "dead letters", unknown)
        slots, positions = self._subject.slots, {}
        for pipeline, consumer, snapshot, lsn, index, through, slot, when in stored:
            key = self._subject.named(pipeline), consumer
            if key[0] is not None and (key not in positions or slot == slots.get(consumer)):
                position = None if lsn is None else Position(parse_lsn(lsn), index)
                positions[key[0], consumer] = _Stored(snapshot, position, parse_lsn(through), slot, when)
        counts: dict[tuple[str, str], LettersSeen] = {}
        for pipeline, consumer, failed, held in letters:
            name = self._subject.named(pipeline)
            if name is not None:
                # On Kafka each partition is a consumer of its own there.
                whole = consumer.partition("[")[0]
                key = name, whole if whole in slots else consumer
                more = counts.get(key, LettersSeen())
                counts[key] = LettersSeen(more.failed + failed, more.held + held)
        return Observation(
            at=at,
            server=server,
            database=database,
            is_standby=is_standby,
            is_source=self._subject.outline is not None and not self._subject.outline.from_kafka,
            wal_lsn=wal_lsn,
            slots=slots_of(connection),
            consumers=self._consumers(at, wal_lsn, positions, counts, statistics),
            statistics=statistics,
            projections=self._projections(connection),
            unknown=unknown,
        )

    @staticmethod
    def _read(
        connection: psycopg.Connection[tuple[Any, ...]], query: str, what: str, unknown: list[str]
    ) -> list[tuple[Any, ...]]:
        """The rows of a table of pgcdc's; none where it is not there."""
        try:
            return connection.execute(query.encode()).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return []
        except psycopg.errors.InsufficientPrivilege:
            unknown.append(f"The role may not read the {what}: GRANT USAGE ON SCHEMA pgcdc, and SELECT on its tables.")
            return []

    def _projections(self, connection: psycopg.Connection[tuple[Any, ...]]) -> list[ProjectionSeen]:
        schema = psycopg.sql.Identifier(self._subject.schema)
        query = psycopg.sql.SQL(
            "SELECT name, generation, version, status, events, error FROM {}.projections ORDER BY 1, 2"
        ).format(schema)
        try:
            rows = connection.execute(query).fetchall()
        except (
            psycopg.errors.UndefinedTable,
            psycopg.errors.InvalidSchemaName,
            psycopg.errors.UndefinedColumn,
            psycopg.errors.InsufficientPrivilege,
        ):
            return []
        return [
            ProjectionSeen(name=name, generation=generation, version=version, status=status, events=events, error=error)
            for name, generation, version, status, events, error in rows
        ]

    def _consumers(
        self,
        at: float,
        wal_lsn: int,
        stored: dict[tuple[str, str], _Stored],
        letters: dict[tuple[str, str], LettersSeen],
        statistics: PipelineStatistics | None,
    ) -> list[ConsumerSeen]:
        running: dict[tuple[str, str], ConsumerStatistics] = {}
        if statistics is not None:
            running = {(statistics.name, name): one for name, one in statistics.consumers.items()}
        declared = [(self._subject.pipeline or "", name) for name in self._subject.consumers]
        found = []
        for pipeline, name in dict.fromkeys([*declared, *running, *stored, *letters]):
            row, now = stored.get((pipeline, name)), running.get((pipeline, name))
            through = now.through_lsn if now is not None and now.through_lsn else 0 if row is None else row.through_lsn
            behind = max(wal_lsn - through, 0) if wal_lsn and through else None
            position = None if row is None else row.position
            if now is not None and now.position is not None:
                position = now.position
            seconds = self._age(at, through, behind) if now is None else now.lag_seconds
            counted = letters.get((pipeline, name), LettersSeen())
            if now is not None and now.dead_letters > counted.failed + counted.held:  # they are kept elsewhere
                counted = LettersSeen(now.dead_letters)
            found.append(
                ConsumerSeen(
                    pipeline=pipeline,
                    name=name,
                    slot=self._subject.slots.get(name) or ("" if row is None else row.slot),
                    position=position,
                    through_lsn=through,
                    snapshot=None if row is None else row.snapshot,
                    stored_at=None if row is None else row.at,
                    behind=behind,
                    seconds=seconds,
                    letters=counted,
                    statistics=now,
                )
            )
        return found

    def _follow(self, at: float, wal_lsn: int) -> None:
        """Note when the WAL was how long, to tell later how old a place in it is."""
        if self._trail and self._trail[-1][1] >= wal_lsn:
            if self._trail[-1][1] > wal_lsn:  # another server, or one that was restored
                self._trail.clear()
            else:
                return
        self._trail.append((at, wal_lsn))
        if len(self._trail) > 4000:  # every second one of the older half: the age of what is old need not be exact
            self._trail[:2000] = self._trail[:2000:2]

    def _age(self, at: float, through: int, behind: int | None) -> float | None:
        """Of a consumer of which only the stored position is known."""
        if behind is None:
            return None
        if behind <= NEAR:
            return 0.0
        return next((max(at - then, 0.0) for then, end in self._trail if end > through), None)
