"""What leaves the table: which events the rules let go, and these events in the order of writing.

Of each stream a beginning leaves, and only events whose place in the order of commits is known: otherwise nobody could
say it afterwards.

Source: PostgreSQL manual, "Transaction ID and Snapshot Information Functions".
"""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError
from pgcdc.eventstore.retention import ALL_TYPES, Rule
from pgcdc.eventstore.segments import ArchivedEvent

if TYPE_CHECKING:
    from pgcdc.eventstore.statements import Statements

__all__ = ["ArchiveLine", "ArchivePlan", "Leaving"]

PAGE: Final = 1_000
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of payloads and metadata that are in memory at once, and in one segment."""


class ArchiveLine(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one stream type and class.

    Attributes:
        stream_type: The type.
        retention_class: "hot", "warm" or "cold".
        events: How many are in the table.
        leaving: How many of them leave.
    """

    stream_type: str
    retention_class: str
    events: int
    leaving: int

    def __str__(self) -> str:
        """In words."""
        return f"{self.stream_type}, {self.retention_class}: {self.leaving:,} of {self.events:,} leave"


class ArchivePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `archive` would do.

    Attributes:
        schema: The store's schema.
        place: The archive.
        now: The moment from which ages count.
        rules: The rules, in words.
        lines: What there is and what leaves, by type and class; only types that a rule is for.
        without_rule: Stream types that no rule is for: their events stay.
        not_noted: Of those that the rules let go, how many stay because no pipeline has noted their commit yet.
        events: How many leave.
    """

    schema: str
    place: str
    now: datetime
    rules: list[str]
    lines: list[ArchiveLine]
    without_rule: list[str]
    not_noted: int
    events: int

    def __str__(self) -> str:
        """Some lines."""
        lines = [f"{self.events:,} events of the schema {self.schema} leave for {self.place}"]
        lines += [f"  {one}" for one in self.rules]
        lines += [f"  {one}" for one in self.lines]
        if self.without_rule:
            lines.append(f"  no rule, so all stay: {', '.join(self.without_rule)}")
        if self.not_noted:
            lines.append(f"  {self.not_noted:,} stay until the store's pipeline has noted their commits")
        return "\n".join(lines)


class Leaving:
    """What leaves, found once and kept in a temporary table.

    Args:
        connection: On which, in autocommit mode.
        statements: Of the store.
        rules: Its rules.
    """

    def __init__(self, connection: psycopg.Connection[Any], statements: Statements, rules: Sequence[Rule]) -> None:
        self._connection = connection
        self._statements = statements
        self._rules = rules
        self._snapshot: str | None = None  # of the first epoch: what it shows was committed before any slot
        self._before = "true"  # whether an event was committed before any slot, as SQL

    def plan(self, now: datetime | None, place: str) -> ArchivePlan:
        """Find out what leaves.

        Args:
            now: The moment from which ages count; None: the server's time.
            place: Where it is going.

        Returns:
            The plan.

        Raises:
            ConfigError: When the time has no zone.
        """
        if now is not None and now.tzinfo is None:
            raise ConfigError("the time has no zone", hint="datetime.now(timezone.utc)")
        es, connection = self._statements.quoted, self._connection
        slots = f"pgcdc slots of {self._statements.schema}"
        # Whoever makes a slot notes only afterwards where its stream begins: not in between.
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (slots,))
        try:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor = connection.cursor(row_factory=tuple_row)
                cursor.execute("SELECT coalesce(%s::timestamptz, now())", (now,))
                [(moment,)] = cursor.fetchall()
                cursor.execute(f"SELECT DISTINCT stream_type FROM {es}.streams ORDER BY 1")
                types = [stream_type for (stream_type,) in cursor.fetchall()]
                cursor.execute(f"SELECT EXISTS (SELECT FROM {es}.epochs)")
                [(has_order,)] = cursor.fetchall()
                cursor.execute(
                    f"SELECT snapshot::text FROM {es}.epochs WHERE snapshot IS NOT NULL ORDER BY commit_lsn LIMIT 1"
                )
                self._snapshot = next((snapshot for (snapshot,) in cursor.fetchall()), None)
                rules = self._of_types(types)
                lines, not_noted = self._choose(cursor, rules, moment, has_order)
        finally:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (slots,))
        return ArchivePlan(
            schema=self._statements.schema,
            place=place,
            now=moment,
            rules=[str(one) for one in self._rules],
            lines=lines,
            without_rule=[stream_type for stream_type in types if stream_type not in rules],
            not_noted=not_noted,
            events=sum(line.leaving for line in lines),
        )

    def _of_types(self, types: Sequence[str]) -> dict[str, Rule]:
        """The rule of each stream type that there is."""
        own = {rule.stream_type: rule for rule in self._rules}
        found = {stream_type: own.get(stream_type, own.get(ALL_TYPES)) for stream_type in types}
        return {stream_type: rule for stream_type, rule in found.items() if rule is not None}

    def _choose(
        self, cursor: psycopg.Cursor[Any], rules: dict[str, Rule], now: datetime, has_order: bool
    ) -> tuple[list[ArchiveLine], int]:
        """Put what leaves into the table, and count."""
        es = self._statements.quoted
        if not has_order:
            self._before = noted = "true"
        else:
            seen = "pg_visible_in_snapshot(e.xid, %(snapshot)s::pg_snapshot)"
            self._before = "false" if self._snapshot is None else seen
            noted = f"({self._before} OR EXISTS (SELECT FROM {es}.commits AS c WHERE c.xid = e.xid))"
        cursor.execute("DROP TABLE IF EXISTS pg_temp.pgcdc_leaving")
        cursor.execute(
            "CREATE TEMPORARY TABLE pgcdc_leaving (id bigint PRIMARY KEY, stream_type text, class text, noted boolean)"
        )
        # Of each stream a beginning: all of it when nothing in it is hot, else what is cold. Then what is noted of
        # that, which is a beginning, too: commits are noted in their order. What stays is counted, and not copied.
        classed = f"""
            WITH classed AS (
                SELECT e.id, e.xid, e.stream_id, e.stream_type, e.sequence, CASE
                    WHEN e.retention_class = 'cold' OR e.occurred_at < r.cold_before THEN 'cold'
                    WHEN e.retention_class = 'warm' OR e.occurred_at < r.warm_before THEN 'warm'
                    ELSE 'hot' END AS class
                FROM {es}.events AS e JOIN unnest(%(types)s::text[], %(warm)s::timestamptz[], %(cold)s::timestamptz[])
                    AS r (stream_type, warm_before, cold_before) USING (stream_type)
            )"""
        values = {
            "types": list(rules),
            "warm": [now - rule.hot for rule in rules.values()],
            "cold": [None if rule.warm is None else now - rule.warm for rule in rules.values()],
            "snapshot": self._snapshot,
        }
        cursor.execute(
            f"""
            INSERT INTO pgcdc_leaving
            {classed}, cuts AS (
                SELECT stream_id, CASE WHEN bool_or(class = 'hot') THEN min(sequence) FILTER (WHERE class <> 'cold') - 1
                    ELSE max(sequence) END AS through
                FROM classed GROUP BY stream_id
            )
            SELECT e.id, e.stream_type, e.class, {noted}
            FROM classed AS e JOIN cuts AS u USING (stream_id) WHERE e.sequence <= u.through
            """.encode(),
            values,
        )
        cursor.execute(
            f"""
            {classed}, there AS (
                SELECT stream_type, class, count(*) AS events FROM classed GROUP BY 1, 2
            ), leaving AS (
                SELECT stream_type, class, count(*) FILTER (WHERE noted) AS events,
                    count(*) FILTER (WHERE NOT noted) AS waiting FROM pgcdc_leaving GROUP BY 1, 2
            )
            SELECT stream_type, class, t.events, coalesce(l.events, 0), coalesce(l.waiting, 0)
            FROM there AS t LEFT JOIN leaving AS l USING (stream_type, class)
            ORDER BY 1, array_position('{{hot,warm,cold}}'::text[], class)
            """.encode(),
            values,
        )
        rows = cursor.fetchall()
        lines = [
            ArchiveLine(stream_type=stream_type, retention_class=name, events=events, leaving=leaving)
            for stream_type, name, events, leaving, _ in rows
        ]
        cursor.execute("DELETE FROM pgcdc_leaving WHERE NOT noted")
        return lines, sum(waiting for *_, waiting in rows)

    def read(self, segment_events: int) -> Iterator[list[ArchivedEvent]]:
        """Read what leaves, in the order of writing: so segments hardly overlap, and streams lose their beginnings.

        Args:
            segment_events: How many belong into a segment at most.

        Yields:
            The events of a segment.
        """
        es = self._statements.quoted
        query = (
            "SELECT e.id, e.stream_id, e.stream_type, e.sequence, e.event_type, e.event_version, e.event_id::text,"
            " e.occurred_at, e.payload::text, e.metadata::text, e.retention_class, e.xid::text::bigint, CASE WHEN"
            f" {self._before} THEN 0 ELSE (SELECT (c.commit_lsn - '0/0'::pg_lsn)::bigint FROM {es}.commits AS c"
            " WHERE c.xid = e.xid) END"
            f" FROM (SELECT id FROM pgcdc_leaving WHERE id > %(after)s ORDER BY id LIMIT {PAGE}) AS l"
            f" JOIN {es}.events AS e USING (id) ORDER BY e.id"
        ).encode()
        after, size = 0, 0
        events: list[ArchivedEvent] = []
        while True:
            cursor = self._connection.cursor(row_factory=tuple_row)
            cursor.execute(query, {"snapshot": self._snapshot, "after": after})
            page = [ArchivedEvent(*row) for row in cursor.fetchall()]
            for event in page:
                events.append(event)
                size += len(event.payload) + len(event.metadata)
                if len(events) == segment_events or size >= MAX_BYTES:
                    yield events
                    events, size = [], 0
            if len(page) < PAGE:
                break
            after = page[-1].id
        if events:
            yield events
