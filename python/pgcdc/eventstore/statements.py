"""The SQL of a store, for its schema."""
# ruff: noqa: S608  (what is put in is a name that was looked at)

from __future__ import annotations

import re
from typing import Final, LiteralString

from pgcdc.errors import ConfigError

__all__ = ["EXPECTED", "WAITING", "Statements", "expected_number"]

EXPECTED: Final = {"none": 0, "any": -1, "exists": -2}
"""What an append can expect, besides a version, as the function has it."""
WAITING: Final = "pgcdc.waiting"
"""The prefix of the logical messages of those who wait: one brings a projection past what was committed before."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,46}")  # the publication is named SCHEMA_events


class Statements:
    """The statements, ready for psycopg.

    Attributes:
        schema: The schema's name.
        quoted: The same as an identifier.
    """

    def __init__(self, schema: str) -> None:
        if not _NAME.fullmatch(schema):
            raise ConfigError(
                "the name of the event store's schema cannot be",
                hint="letters, digits and underscores, at most 47, not beginning with a digit",
            )
        self.schema = schema
        self.quoted = f'"{schema}"'
        # What is put in is a name that was just looked at.
        es: LiteralString = self.quoted
        self.append: LiteralString = f"SELECT status, version FROM {es}.append(%s, %s, %s, %s::jsonb, %s::jsonb)"
        # What is appended most: one event behind a known version, in a transaction of its own. It does what the
        # function does then, without its language between; no row: it is not so, and the function says how it is. The
        # trigger that advances the stream looks at the setting for each row, when that is ready.
        self.append_one: LiteralString = (
            f"WITH a AS (UPDATE {es}.streams AS s SET version = s.version + 1"
            " WHERE s.stream_id = %s AND s.version = %s AND s.state = 'open'"
            " AND s.stream_type = coalesce(%s, s.stream_type)"
            " RETURNING s.stream_id, s.stream_type, s.version, set_config('pgcdc.appending', 'on', true) AS appending)"
            f" INSERT INTO {es}.events"
            " (stream_id, stream_type, event_type, event_version, payload, metadata, sequence)"
            " SELECT a.stream_id, a.stream_type, %s::text, %s::integer, %s::jsonb, %s::jsonb, a.version FROM a"
            " WHERE a.appending = 'on'"
        )
        # The same for several that go together. It says which were done, and does not wait for long where somebody
        # else has locked a stream (the setting is there before the first row is). Behind a limit that the planner does
        # not know it takes the arrays for one row, and the index as for one event, also where a table is new.
        self.append_each: LiteralString = (
            f"WITH a AS (UPDATE {es}.streams AS s SET version = s.version + 1"
            " FROM (SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::text[], %s::integer[], %s::jsonb[],"
            " %s::jsonb[]) WITH ORDINALITY AS u (stream, version, stream_type, event_type, event_version, payload,"
            " metadata, number) LIMIT (SELECT 1000::bigint)) AS g"
            " WHERE (SELECT set_config('lock_timeout', '50ms', true)) IS NOT NULL"
            " AND s.stream_id = g.stream AND s.version = g.version AND s.state = 'open'"
            " AND s.stream_type = coalesce(g.stream_type, s.stream_type)"
            " RETURNING g.number, s.stream_id, s.stream_type, s.version, g.event_type, g.event_version, g.payload,"
            " g.metadata, set_config('pgcdc.appending', 'on', true) AS appending),"
            f" written AS (INSERT INTO {es}.events"
            " (stream_id, stream_type, event_type, event_version, payload, metadata, sequence)"
            " SELECT a.stream_id, a.stream_type, a.event_type, a.event_version, a.payload, a.metadata, a.version FROM a"
            " WHERE a.appending = 'on' RETURNING stream_id, sequence)"
            " SELECT a.number FROM a JOIN written ON written.stream_id = a.stream_id AND written.sequence = a.version"
        )
        self.append_many: LiteralString = f"SELECT stream, status, version FROM {es}.append_many(%s::jsonb)"
        self.insert: LiteralString = (
            f"INSERT INTO {es}.events"
            " (stream_id, stream_type, event_type, event_version, payload, metadata, sequence, event_id,"
            " retention_class)"
            f" SELECT %(stream)s, coalesce(%(type)s, (SELECT s.stream_type FROM {es}.streams AS s WHERE"
            " s.stream_id = %(stream)s), split_part(%(stream)s, '-', 1)), e ->> 't', (e ->> 'v')::integer, e -> 'p',"
            " %(metadata)s::jsonb, %(after)s::bigint + o, coalesce((e ->> 'id')::uuid, gen_random_uuid()),"
            " coalesce(e ->> 'r', 'hot') FROM jsonb_array_elements(%(events)s::jsonb) WITH ORDINALITY AS u (e, o)"
            " ORDER BY o"
        )
        # A limit that the planner does not know is one for whom the first rows are needed soon: it takes the index, and
        # the server sends while it reads. With the number it could sort all of a long stream before it sends one.
        rows: LiteralString = (
            f"FROM {es}.events WHERE stream_id = %s AND sequence > %s AND sequence <= %s ORDER BY sequence"
            " LIMIT (SELECT %s::bigint)"
        )
        self.load: LiteralString = f"SELECT sequence, event_type, event_version, payload::text, NULL {rows}"
        self.load_timed: LiteralString = (
            f"SELECT sequence, event_type, event_version, payload::text, occurred_at {rows}"
        )
        columns: LiteralString = (
            "id, stream_type, sequence, event_type, event_version, event_id, occurred_at, metadata::text, payload::text"
        )
        self.read: LiteralString = (
            f"SELECT {columns} FROM {es}.events WHERE stream_id = %s AND sequence > %s AND sequence <= %s"
            " ORDER BY sequence LIMIT %s"
        )
        self.ids: LiteralString = (
            f"SELECT sequence, event_id FROM {es}.events WHERE stream_id = %s AND sequence > %s AND sequence <= %s"
        )
        # A prefix, because occurred_at does not rise along a stream: up to before the first event that is later.
        self.until: LiteralString = (
            f"SELECT min(sequence) - 1 FROM {es}.events WHERE stream_id = %s AND occurred_at > %s"
        )
        # Where those are that have left the table; asked for when it did not begin where it was read from.
        self.archived: LiteralString = (
            "SELECT s.segment, s.path, s.sha256, s.events, s.min_id, s.max_id, (s.min_lsn - '0/0'::pg_lsn)::bigint,"
            " (s.max_lsn - '0/0'::pg_lsn)::bigint, s.is_ordered, a.first_sequence, a.last_sequence, a.max_occurred"
            f" FROM {es}.archived_streams AS a JOIN {es}.archive_segments AS s USING (segment)"
            " WHERE a.stream_id = %s AND a.last_sequence > %s AND a.first_sequence <= %s ORDER BY a.last_sequence"
        )
        self.segments_after: LiteralString = (
            "SELECT s.segment, s.path, s.sha256, s.events, s.min_id, s.max_id, (s.min_lsn - '0/0'::pg_lsn)::bigint,"
            " (s.max_lsn - '0/0'::pg_lsn)::bigint, s.is_ordered"
            f" FROM {es}.archive_segments AS s WHERE s.max_id > %s"
        )
        # Whether something stored is in this server's future: then it is another's, and was restored from a dump.
        future: LiteralString = (
            f"EXISTS (SELECT FROM {es}.epochs AS x, now WHERE x.commit_lsn > now.lsn)"
            f" OR EXISTS (SELECT FROM {es}.commits AS c, now WHERE c.commit_lsn > now.lsn)"
            f" OR EXISTS (SELECT FROM {es}.epochs AS x, now WHERE pg_snapshot_xmax(x.snapshot) > now.xmax)"
            f" OR EXISTS (SELECT FROM {es}.commits AS c, now WHERE c.xid >= now.xmax)"
        )
        moment: LiteralString = (
            "WITH now AS MATERIALIZED (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
            " ELSE pg_current_wal_insert_lsn() END AS lsn, pg_snapshot_xmax(pg_current_snapshot()) AS xmax)"
        )
        self.is_foreign: LiteralString = (
            f"{moment} SELECT {future} OR EXISTS (SELECT FROM"
            f" (SELECT xid FROM {es}.events ORDER BY id DESC LIMIT 1000) AS e, now WHERE e.xid >= now.xmax)"
        )
        self.is_foreign_deep: LiteralString = (
            f"{moment} SELECT {future} OR EXISTS (SELECT FROM {es}.events AS e, now WHERE e.xid >= now.xmax)"
        )
        # The slots that follow it. Names of slots are a server's: in a copy of a database they are the original's.
        self.followers: LiteralString = (
            "SELECT e.slot, s.database::text, s.database = current_database(), coalesce(s.wal_status = 'lost', false)"
            f" FROM {es}.epochs AS e LEFT JOIN pg_replication_slots AS s ON s.slot_name = e.slot"
            " WHERE e.slot IS NOT NULL ORDER BY 1"
        )
        # For each projection that is live: what it has been given, and what there is up to its place. All events but
        # those whose commit comes later, or is not noted yet; those that are archived count by their segments.
        self.given: LiteralString = (
            "WITH later AS (SELECT p.name, p.generation, coalesce((SELECT sum(c.events)"
            f" FROM {es}.commits AS c WHERE c.commit_lsn > p.commit_lsn), 0) AS events FROM {es}.projections AS p),"
            f" whole AS (SELECT (SELECT coalesce(sum(events), 0) FROM {es}.archive_segments)"
            f" + (SELECT count(*) FROM {es}.events) - (SELECT count(*) FROM {es}.events AS e WHERE NOT EXISTS"
            f" (SELECT FROM {es}.commits AS c WHERE c.xid = e.xid) AND NOT EXISTS (SELECT FROM (SELECT snapshot FROM"
            f" {es}.epochs WHERE snapshot IS NOT NULL ORDER BY commit_lsn LIMIT 1) AS x"
            " WHERE pg_visible_in_snapshot(e.xid, x.snapshot))) AS events)"
            " SELECT p.name, p.events, (w.events - l.events)::bigint"
            f" FROM {es}.projections AS p JOIN later AS l USING (name, generation) CROSS JOIN whole AS w"
            f" WHERE p.status = 'live' AND p.version > 0 AND p.base_id = 0 AND p.commit_lsn >="
            f" (SELECT min(commit_lsn) - 1 FROM {es}.epochs WHERE snapshot IS NOT NULL)"
            " AND p.events <> w.events - l.events ORDER BY 1"
        )
        # What each that is live still has to take, and whether it is where the WAL has never been.
        self.behind: LiteralString = (
            f"{moment} SELECT p.name, coalesce((SELECT sum(c.events) FROM {es}.commits AS c"
            " WHERE c.commit_lsn > p.commit_lsn), 0)::bigint, p.commit_lsn > now.lsn"
            f" FROM {es}.projections AS p, now WHERE p.status = 'live' AND p.version > 0 ORDER BY 1"
        )
        # What an archiver waits for: those who read the segments and then the table in two statements.
        self.reading_all: LiteralString = (
            f"SELECT pg_advisory_xact_lock_shared(hashtextextended('pgcdc moves of {schema}', 0))"
        )
        self.moving: LiteralString = f"SELECT pg_advisory_xact_lock(hashtextextended('pgcdc moves of {schema}', 0))"
        self.snapshot: LiteralString = (
            f"SELECT sequence, state FROM {es}.snapshots WHERE stream_id = %s AND projector = %s AND schema_hash = %s"
        )
        # A writer that was slower does not put an older state over a newer one.
        self.save: LiteralString = (
            f"INSERT INTO {es}.snapshots AS s (stream_id, projector, schema_hash, sequence, state)"
            " VALUES (%s, %s, %s, %s, %s)"
            " ON CONFLICT (stream_id, projector) DO UPDATE SET schema_hash = EXCLUDED.schema_hash,"
            " sequence = EXCLUDED.sequence, state = EXCLUDED.state, taken_at = now()"
            " WHERE s.sequence < EXCLUDED.sequence"
            " OR (s.sequence = EXCLUDED.sequence AND s.schema_hash <> EXCLUDED.schema_hash)"
        )
        self.type_of: LiteralString = f"SELECT stream_type, version FROM {es}.streams WHERE stream_id = %s"
        self.drop_snapshots: LiteralString = (
            f"DELETE FROM {es}.snapshots AS s WHERE %s::text IS NULL OR EXISTS"
            f" (SELECT FROM {es}.streams AS t WHERE t.stream_id = s.stream_id AND t.stream_type = %s::text)"
        )
        # Lines of a JSON array each, but for what the client puts in: brackets, and commas for the delimiter. Text is
        # quoted by the server, so neither the delimiter nor the quote of CSV can be in a value. JSON is UTF-8, whatever
        # encoding a caller's connection has.
        place: LiteralString = (
            "to_json(CASE WHEN event_version = 1 THEN event_type ELSE event_type || '@' || event_version END), payload,"
            " to_json(stream_id), sequence"
        )
        source: LiteralString = (
            f"FROM {es}.events WHERE id > %s ORDER BY id)"
            " TO STDOUT (FORMAT csv, DELIMITER E'\\x02', QUOTE E'\\x01', ENCODING 'UTF8')"
        )
        self.scan: LiteralString = f"COPY (SELECT {place} {source}"
        self.scan_rows: LiteralString = (
            f"SELECT event_type, event_version, payload::text, stream_id, sequence FROM {es}.events WHERE id > %s"
            " ORDER BY id"
        )
        self.replay_rows: LiteralString = (
            "SELECT event_type, event_version, payload::text, stream_id, sequence, stream_type, event_id, occurred_at,"
            f" metadata::text, id FROM {es}.events WHERE id > %s ORDER BY id"
        )
        self.replay: LiteralString = (
            f"COPY (SELECT {place}, to_json(stream_type), to_json(event_id), to_json(occurred_at), metadata, id"
            f" {source}"
        )


def expected_number(expected: int | str) -> int:
    """What an append expects, as the function has it.

    Args:
        expected: A version, `"any"`, `"none"` or `"exists"`.

    Returns:
        The number.

    Raises:
        ConfigError: When it is something else.
    """
    if isinstance(expected, int) and not isinstance(expected, bool) and 0 <= expected < 2**63:
        return expected
    if isinstance(expected, str) and expected in EXPECTED:
        return EXPECTED[expected]
    raise ConfigError(
        "expected is a version or one of any, none, exists",
        hint='expected="any", "none", "exists", or the version that load has returned',
    )
