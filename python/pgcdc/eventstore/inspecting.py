# Made from inspecting_async.py by ./dev lint --fix: change that file, not this one.
"""Looking at a store: numbers, and the checklist of event sourcing on the live database.

What is tried is tried in a transaction that is rolled back. Over 400 lines because each point of the checklist is a
function, and one list calls them.
"""

from __future__ import annotations

import time as clock
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import EventStoreError, SinkUnavailable
from pgcdc.eventstore import calling
from pgcdc.eventstore.archives import Archive
from pgcdc.eventstore.findings import (
    OWN,
    PAYS_MILLISECONDS,
    RULES,
    TRIGGERS,
    Finding,
    StoreStatistics,
    StreamTypeStatistics,
    bytes_of,
    not_taken,
)
from pgcdc.eventstore.segments import Segment
from pgcdc.eventstore.statements import Statements

__all__ = ["check", "statistics"]

_LARGE: Final = 65_536
_OLD: Final = timedelta(days=365)
_MEASURED: Final = 10_000
_ENOUGH: Final = 100  # of fewer events nobody knows what is theirs, and what the question's
_FEW: Final = 500  # are measured more often
_READABLE: Final = "WHERE occurred_at >= '0001-01-02 UTC' AND occurred_at < '9999-12-31 UTC'"


def statistics(connection: psycopg.Connection[Any], statements: Statements) -> StoreStatistics:
    """Count and measure.

    Args:
        connection: To the database.
        statements: Of the store.

    Returns:
        The numbers.
    """
    es = statements.quoted
    per_event = _microseconds_per_event(connection, statements)
    rows = _all(
        connection,
        f"SELECT s.stream_type, count(*), sum(s.version)::bigint, max(s.version), count(n.stream_id)"  # noqa: S608
        f" FROM {es}.streams s LEFT JOIN (SELECT DISTINCT stream_id FROM {es}.snapshots) n USING (stream_id)"
        " GROUP BY 1 ORDER BY 3 DESC, 1",
    )
    types = [
        StreamTypeStatistics(
            stream_type=name,
            streams=streams,
            events=events,
            longest=longest,
            load_milliseconds=longest * per_event / 1000,
            snapshots=snapshots,
            snapshots_pay=longest * per_event / 1000 > PAYS_MILLISECONDS,
        )
        for name, streams, events, longest, snapshots in rows
    ]
    ((table_bytes, index_bytes),) = _all(
        connection, "SELECT pg_table_size(%s::regclass), pg_indexes_size(%s::regclass)", f"{es}.events", f"{es}.events"
    )
    mean, largest = _payloads(connection, es)
    ((segments, archived, archive_bytes),) = _all(
        connection,
        f"SELECT count(*), coalesce(sum(events), 0)::bigint, coalesce(sum(bytes), 0)::bigint"  # noqa: S608
        f" FROM {es}.archive_segments",
    )
    oldest = _all(connection, f"SELECT occurred_at FROM {es}.events {_READABLE} ORDER BY id LIMIT 1")  # noqa: S608
    return StoreStatistics(
        schema=statements.schema,
        streams=sum(one.streams for one in types),
        events=sum(one.events for one in types),
        table_bytes=table_bytes,
        index_bytes=index_bytes,
        payload_bytes=mean,
        largest_payload_bytes=largest,
        oldest=oldest[0][0] if oldest else None,
        microseconds_per_event=per_event,
        segments=segments,
        archived_events=archived,
        archive_bytes=archive_bytes,
        types=types,
    )


def check(
    connection: psycopg.Connection[Any], statements: Statements, archive: Archive | None, *, deep: bool
) -> list[Finding]:
    """Go through the checklist.

    Args:
        connection: To the database, in no transaction.
        statements: Of the store.
        archive: Where events are that have left the table.
        deep: Whether all streams are looked at for holes, not only those of the last events, all events are counted
            that projections were given, and all files are read.

    Returns:
        A finding for each point.
    """
    return [
        _unique(connection, statements, deep),
        _conflicts(connection, statements),
        _idempotent(connection, statements, deep),
        _snapshots(connection, statements),
        _small(connection, statements),
        _retention(connection, statements, archive, deep),
        _rebuilds(connection, statements, deep),
        _append_only(connection, statements, deep),
    ]


def _unique(connection: psycopg.Connection[Any], statements: Statements, deep: bool) -> Finding:
    what = "unique index on (stream_id, sequence), and no holes"
    es = statements.quoted
    found = _all(
        connection,
        "SELECT FROM pg_index WHERE indrelid = %s::regclass AND indisunique AND indisvalid AND indpred IS NULL"
        " AND pg_get_indexdef(indexrelid) LIKE '%% USING btree (stream_id, sequence)'",
        f"{es}.events",
    )
    if not found:
        hint = f"CREATE UNIQUE INDEX events_stream_sequence ON {es}.events (stream_id, sequence);"
        return Finding(number=1, what=what, status="failed", found="there is no such index", hint=hint)
    some = "" if deep else f" WHERE stream_id IN (SELECT stream_id FROM {es}.events ORDER BY id DESC LIMIT 1000)"  # noqa: S608
    # Deep: also streams that have no event, where nobody has deleted them with their state.
    rows = _all(
        connection,
        "SELECT stream_id FROM (SELECT stream_id, count(*) AS events, min(sequence) AS first, max(sequence) AS last,"  # noqa: S608
        f" min(stream_type) AS type, max(stream_type) AS other FROM {es}.events{some} GROUP BY 1) AS e"
        f" {'FULL' if deep else 'LEFT'} JOIN {es}.streams AS s USING (stream_id)"
        " WHERE s.version IS NULL OR e.last <> s.version OR e.first <> s.archived_through + 1"
        " OR e.events <> s.version - s.archived_through OR e.type <> s.stream_type OR e.other <> s.stream_type"
        " OR (e.events IS NULL AND s.version <> s.archived_through AND s.state <> 'deleted') LIMIT 1",
    )
    if rows:
        hint = "was the table changed under pgcdc.maintenance, or restored in part? restore it from a backup"
        return Finding(
            number=1,
            what=what,
            status="failed",
            found=f"the stream {rows[0][0]} has a hole, or another version or type",
            hint=hint,
        )
    return Finding(
        number=1,
        what=what,
        status="ok",
        found="all streams are whole" if deep else "so it is for the last 1,000 events",
    )


def _conflicts(connection: psycopg.Connection[Any], statements: Statements) -> Finding:
    what = "of two writers one gets a conflict"
    es = statements.quoted
    set_right = f"SELECT setval('{es}.events_id_seq', (SELECT max(id) FROM {es}.events));"  # noqa: S608
    stream = f"pgcdc.check-{uuid.uuid4()}"
    events = '[{"t": "pgcdc.check", "v": 1, "p": {}}]'
    values = {"stream": stream, "type": None, "after": 0, "events": events, "metadata": "{}"}
    late, said = None, []
    try:
        with connection.transaction(force_rollback=True):
            for _ in range(2):
                rows = _all(connection, statements.append, stream, None, 0, events, "{}")
                said.append(rows[0][0])
            try:
                with connection.transaction():
                    connection.execute(statements.insert, values)
            except psycopg.errors.UniqueViolation as error:
                late = error.diag.constraint_name
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction) as error:
        found = f"this role may not append, so it was not tried: {error.diag.message_primary}"
        return Finding(number=2, what=what, status="nothing", found=found)
    except psycopg.Error as error:
        triggers = _triggers(connection, es)
        needed = None if triggers else _never_written(connection, es, error)
        if needed is None and (why := not_taken(error, triggers)) is not None:
            hint = "let this type pass to have it tried: it is rolled back"
            return Finding(number=2, what=what, status="nothing", found=why, hint=hint)
        if error.diag.constraint_name not in OWN and not needed:
            raise
        hint = "the function or the triggers are not those of pgcdc: compare with its migrations"
        if isinstance(error, psycopg.errors.UniqueViolation):
            hint = f"the sequence of ids is behind the table, as after a copy: {set_right}"
        elif needed:
            hint = f"a column of your own needs a DEFAULT, or no NOT NULL: the store does not write {needed}"
        found = f"nothing can be appended: {error.diag.message_primary}"
        return Finding(number=2, what=what, status="failed", found=found, hint=hint)
    if said == ["ok", "conflict"] and late == "events_stream_sequence":
        return Finding(number=2, what=what, status="ok", found="tried by append and by INSERT (23505), rolled back")
    return Finding(
        number=2,
        what=what,
        status="failed",
        found=f"append said {' and '.join(said)}, INSERT was {'not ' if late is None else ''}refused",
        hint="the function or the triggers are not those of pgcdc: compare with its migrations",
    )


def _idempotent(connection: psycopg.Connection[Any], statements: Statements, deep: bool) -> Finding:
    what = "projections are idempotent"
    rows = _all(connection, statements.behind)
    if not rows:
        return _projections(connection, statements, 3, what)
    if ahead := [name for name, _, is_ahead in rows if is_ahead]:
        found = f"where {', '.join(ahead)} is, the WAL of this server has never been"
        hint = "were the tables restored from another server? pgcdc events rebuild builds it anew"
        return Finding(number=3, what=what, status="failed", found=found, hint=hint)
    # A writer that commits meanwhile is in one part of a statement and in the other: it is one snapshot. But the WAL
    # knows of a commit a moment before others see it.
    if deep and _all(connection, statements.given) and (wrong := _all(connection, statements.given)):
        found = ", ".join(f"{name} was given {given:,} events of {there:,}" for name, given, there in wrong)
        hint = "was its row, or the table of events, changed by hand? pgcdc events rebuild builds it anew"
        return Finding(number=3, what=what, status="failed", found=found, hint=hint)
    finding = _projections(connection, statements, 3, what)
    if finding.status != "ok":
        return finding
    behind = ", ".join(f"{name} has {count:,} events before it" for name, count, _ in rows if count)
    compared = "each was given as many events as there are up to its place" if deep else "--deep counts, too"
    return msgspec.structs.replace(finding, found=f"{finding.found}; {behind or 'none is behind'}; {compared}")


def _projections(connection: psycopg.Connection[Any], statements: Statements, number: int, what: str) -> Finding:
    ((count, parked, which),) = _all(
        connection,
        "SELECT count(*), count(error), string_agg(name || ' (' || error || ')', ', ' ORDER BY name)"  # noqa: S608
        f" FROM {statements.quoted}.projections WHERE status = 'live'",
    )
    if not count:
        return Finding(number=number, what=what, status="nothing", found="there are no projections")
    if parked:
        hint = "put the cause right, and start the pipeline again: it goes on from there"
        return Finding(
            number=number, what=what, status="warning", found=f"{parked} of {count} are parked: {which}", hint=hint
        )
    skipped = _all(
        connection,
        "SELECT s.name, count(*) FROM {es}.skipped AS s JOIN {es}.projections AS p USING (name, generation)"
        " WHERE p.status = 'live' GROUP BY 1 ORDER BY 1".replace("{es}", statements.quoted),
    )
    if skipped:
        found = ", ".join(f"{name} has skipped {events:,} events" for name, events in skipped)
        hint = "pgcdc deadletter list says why; mend the class, then pgcdc deadletter retry; pgcdc events rebuild when"
        hint += " their dead letters were dropped: an event stays skipped then"
        return Finding(number=number, what=what, status="warning", found=f"of {count}, {found}", hint=hint)
    return Finding(number=number, what=what, status="ok", found=f"{count}, each with its position beside its rows")


def _rebuilds(connection: psycopg.Connection[Any], statements: Statements, deep: bool) -> Finding:
    what = "any projection is rebuilt by one command"
    ((is_foreign,),) = _all(connection, statements.is_foreign_deep if deep else statements.is_foreign)
    if is_foreign:
        hint = "pgcdc events adopt --store MODULE:STORE, then run the pipeline, then pgcdc events rebuild --all"
        found = "the order of commits is that of another server: the store was restored from a dump"
        return Finding(number=7, what=what, status="failed", found=found, hint=hint)
    ((wal_level,),) = _all(connection, "SELECT current_setting('wal_level')")
    if wal_level != "logical":
        found = f"wal_level is {wal_level}, so nobody can follow the order of commits"
        hint = "ALTER SYSTEM SET wal_level = logical; and restart the server"
        return Finding(number=7, what=what, status="failed", found=found, hint=hint)
    if (finding := _published(connection, statements, what)) is not None:
        return finding
    followers = _all(connection, statements.followers)
    for slot, database, is_here, is_lost in followers:
        if database is not None and not is_here:
            found = f"the slot {slot} is that of the database {database}, which this one is a copy of"
            hint = f"pgcdc events adopt --store MODULE:STORE, then store.pipeline(slot={slot + '_2'!r})"
            return Finding(number=7, what=what, status="failed", found=found, hint=hint)
        if database is None or is_lost:
            found = f"the slot {slot} {'has lost WAL' if is_lost else 'does not exist any more'}: nothing is followed"
            hint = "no event is lost: call pipeline.destroy() once, then run it again"
            return Finding(number=7, what=what, status="failed", found=found, hint=hint)
    finding = _projections(connection, statements, 7, what)
    if finding.status == "ok" and not followers:
        found, hint = f"{finding.found}; no slot follows the store", "run its pipeline"
        return msgspec.structs.replace(finding, status="warning", found=found, hint=hint)
    return finding


def _published(connection: psycopg.Connection[Any], statements: Statements, what: str) -> Finding | None:
    """Whether those who follow are sent what is appended; None when they are."""
    name = f"{statements.schema}_events"
    rows = _all(
        connection,
        "SELECT pubinsert, EXISTS (SELECT FROM pg_publication_tables AS t WHERE t.pubname = p.pubname"
        " AND t.schemaname = %s AND t.tablename = 'events') FROM pg_publication AS p WHERE pubname = %s",
        statements.schema,
        name,
    )
    if rows and all(rows[0]):
        return None
    if not rows:
        found, hint = f"there is no publication {name}", "store.init() makes it"
    elif not rows[0][1]:
        found = f"the publication {name} does not have the table"
        hint = f'ALTER PUBLICATION "{name}" ADD TABLE {statements.quoted}.events;'
    else:
        found, hint = (
            f"the publication {name} has no inserts",
            f"ALTER PUBLICATION \"{name}\" SET (publish = 'insert');",
        )
    return Finding(number=7, what=what, status="failed", found=f"{found}: nobody is sent an event", hint=hint)


def _snapshots(connection: psycopg.Connection[Any], statements: Statements) -> Finding:
    what = "snapshots are justified by a measured latency"
    es = statements.quoted
    ((count, longest),) = _all(
        connection,
        f"SELECT count(*), coalesce(max(s.version), 0) FROM {es}.snapshots JOIN {es}.streams s USING (stream_id)",  # noqa: S608
    )
    if not count:
        return Finding(number=4, what=what, status="ok", found="there are none")
    per_event = _microseconds_per_event(connection, statements)
    if not per_event:
        found = f"{count:,} of them; what they spare was not measured: too few events of a stream are in the table"
        return Finding(number=4, what=what, status="nothing", found=found)
    spared = longest * per_event / 1000
    found = f"{count:,} of them; without, the longest stream is read in {spared:.1f} ms"
    if spared > PAYS_MILLISECONDS:
        return Finding(number=4, what=what, status="ok", found=found)
    return Finding(number=4, what=what, status="warning", found=found, hint="store.drop_snapshots(), and no policy")


def _small(connection: psycopg.Connection[Any], statements: Statements) -> Finding:
    what = "payloads are small"
    es = statements.quoted
    _, largest = _payloads(connection, es)
    limits = _all(
        connection,
        "SELECT FROM pg_constraint WHERE conrelid = %s::regclass AND conname = 'events_payload_size'",
        f"{es}.events",
    )
    found = f"the largest of the last thousand takes {largest:,} bytes"
    if not limits:
        hint = "store.init(max_payload_bytes=262_144)"
        return Finding(number=5, what=what, status="failed", found=f"{found}, and the database has no limit", hint=hint)
    if largest > _LARGE:
        hint = "store documents elsewhere, and a reference and a hash of them in the event"
        return Finding(number=5, what=what, status="warning", found=found, hint=hint)
    return Finding(number=5, what=what, status="ok", found=found)


def _retention(
    connection: psycopg.Connection[Any], statements: Statements, archive: Archive | None, deep: bool
) -> Finding:
    what = "retention is planned"
    es = statements.quoted
    ((segments, archived, taken),) = _all(
        connection,
        f"SELECT count(*), coalesce(sum(events), 0)::bigint, coalesce(sum(bytes), 0)::bigint"  # noqa: S608
        f" FROM {es}.archive_segments",
    )
    holes = deep and _all(
        connection,
        f"SELECT FROM {es}.streams AS s LEFT JOIN (SELECT stream_id, max(last_sequence) AS last,"  # noqa: S608
        f" sum(last_sequence - first_sequence + 1) AS events FROM {es}.archived_streams GROUP BY 1) AS a"
        " USING (stream_id) WHERE s.archived_through <> coalesce(a.last, 0)"
        " OR s.archived_through <> coalesce(a.events, 0) LIMIT 1",
    )
    if holes:
        hint = "restore the schema's tables from one backup"
        found = "the archive does not have what the streams say has left the table"
        return Finding(number=6, what=what, status="failed", found=found, hint=hint)
    files = ""
    if segments:
        files = f"{archived:,} events are in {segments:,} segments of the archive, {bytes_of(taken)}"
        if deep and archive is None:
            hint = "pgcdc events check --deep --archive URL, or a store that was given archive="
            return Finding(number=6, what=what, status="warning", found=f"{files}, which were not looked at", hint=hint)
        if deep and archive is not None:
            for row in _all(connection, statements.segments_after, -1):
                try:
                    calling.elsewhere(archive.is_whole, Segment(*row))
                except (EventStoreError, SinkUnavailable) as error:
                    return Finding(number=6, what=what, status="failed", found=str(error), hint=error.hint)
            files += ", all read"
    oldest = _all(connection, f"SELECT occurred_at FROM {es}.events {_READABLE} ORDER BY id LIMIT 1")  # noqa: S608
    if not oldest:
        return Finding(
            number=6, what=what, status="ok" if segments else "nothing", found=files or "there are no events"
        )
    ((other,),) = _all(
        connection,
        f"SELECT EXISTS (SELECT FROM (SELECT retention_class FROM {es}.events ORDER BY id LIMIT 10000) e"  # noqa: S608
        " WHERE retention_class <> 'hot')",
    )
    age = datetime.now(UTC) - oldest[0][0]
    found = f"the oldest event of the table is {age.days} days old" + (f"; {files}" if files else "")
    if age > _OLD and not segments and not other:
        hint = 'store.retention("order", hot="90 days"), and pgcdc events archive'
        return Finding(number=6, what=what, status="warning", found=f"{found}, and all are hot", hint=hint)
    return Finding(number=6, what=what, status="ok", found=found)


def _append_only(connection: psycopg.Connection[Any], statements: Statements, deep: bool) -> Finding:
    what = "the database refuses UPDATE, DELETE and TRUNCATE"
    es = statements.quoted
    rows = _all(
        connection,
        "SELECT c.relname, t.tgname, t.tgenabled::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE t.tgrelid IN (%s::regclass, %s::regclass)",
        f"{es}.events",
        f"{es}.streams",
    )
    ((has_rules,),) = _all(connection, f"SELECT EXISTS (SELECT FROM {es}.migrations WHERE number = 9)")  # noqa: S608
    found = {(table, name): mode for table, name, mode in rows}
    wrong = {
        (table, name): how
        for (table, name), (how, modes) in (TRIGGERS | (RULES if has_rules else {})).items()
        if found.get((table, name), "-") not in modes
    }
    if not wrong:
        return _kept(connection, statements, what, deep, has_rules=has_rules)
    hint = "\n".join(f"ALTER TABLE {es}.{table} {how} TRIGGER {name};" for (table, name), how in wrong.items())
    said = f"missing or disabled: {', '.join(f'{name} on {table}' for table, name in wrong)}"
    return Finding(number=8, what=what, status="failed", found=said, hint=hint)


def _kept(
    connection: psycopg.Connection[Any], statements: Statements, what: str, deep: bool, *, has_rules: bool
) -> Finding:
    """Whether the triggers do what they are there for, and whether anything came past them."""
    es = statements.quoted
    if has_rules:
        some = "" if deep else " ORDER BY id DESC LIMIT 1000"
        rule = "broken_rule(event_version, payload, metadata, occurred_at, sequence, retention_class)"
        rows = _all(
            connection,
            f"SELECT id, rule FROM (SELECT id, {es}.{rule} AS rule FROM {es}.events{some}) AS e"  # noqa: S608
            " WHERE rule IS NOT NULL LIMIT 1",
        )
        if rows:
            found = f"the event with id {rows[0][0]} breaks the rule {rows[0][1]}"
            hint = "it was written while the triggers were off: set it right under pgcdc.maintenance"
            return Finding(number=8, what=what, status="failed", found=found, hint=hint)
    if deep and _all(
        connection,
        f"SELECT FROM {es}.streams WHERE version < 0 OR archived_through > version"
        " OR state NOT IN ('open', 'closed', 'deleted') LIMIT 1",
    ):
        found, hint = "a stream has a state or version that there is not", "set it right under pgcdc.maintenance"
        return Finding(number=8, what=what, status="failed", found=found, hint=hint)
    taken = _taken(connection, statements, has_rules=has_rules)
    if taken is None:
        return Finding(number=8, what=what, status="ok", found="the triggers are in force")
    if taken:
        hint = "the functions of the triggers are not those of pgcdc: compare with its migrations"
        return Finding(number=8, what=what, status="failed", found=f"{taken} was not refused", hint=hint)
    return Finding(number=8, what=what, status="ok", found="the triggers are in force; tried, rolled back")


def _taken(connection: psycopg.Connection[Any], statements: Statements, *, has_rules: bool) -> str | None:
    """Try what is to be refused, on an event that nobody sees; what was not, None when it cannot be tried."""
    stream = f"pgcdc.check-{uuid.uuid4()}"
    events = '[{"t": "pgcdc.check", "v": 1, "p": {}}]'
    tries: dict[str, tuple[Any, Any]] = {
        "UPDATE": (f"UPDATE {statements.quoted}.events SET payload = payload WHERE stream_id = %s", (stream,)),  # noqa: S608
        "DELETE": (f"DELETE FROM {statements.quoted}.events WHERE stream_id = %s", (stream,)),  # noqa: S608
    }
    if has_rules:
        tries["an INSERT of no JSON object"] = (
            f"INSERT INTO {statements.quoted}.events (stream_id, stream_type, event_type, payload, sequence)"  # noqa: S608
            " VALUES (%s, 'pgcdc.check', 'pgcdc.check', '[]', 2)",
            (stream,),
        )
        update = f"UPDATE {statements.quoted}.events SET payload = '[]' WHERE stream_id = '{stream}'"  # noqa: S608
        tries["an UPDATE to no JSON object"] = f"SET LOCAL pgcdc.maintenance = on; {update}", None
    try:
        with connection.transaction(force_rollback=True):
            appended = _all(connection, statements.append, stream, None, 0, events, "{}")
            if appended[0][0] != "ok":
                return None  # the second point says so
            for name, (query, values) in tries.items():
                try:
                    with connection.transaction():
                        connection.execute(query, values)
                    return name
                except (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation):
                    pass
                except psycopg.Error as error:
                    if not_taken(error, ()) is None:
                        raise
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction):
        return None
    except psycopg.Error as error:
        if error.diag.constraint_name not in OWN and not_taken(error, ()) is None:
            raise
        return None  # the second point says so
    return ""


def _triggers(connection: psycopg.Connection[Any], es: str) -> list[str]:
    """Those of the user's own on the store's tables, which may refuse what the store takes."""
    rows = _all(
        connection,
        "SELECT c.relname, t.tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid"
        " WHERE t.tgrelid IN (%s::regclass, %s::regclass) AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1, 2",
        f"{es}.events",
        f"{es}.streams",
    )
    return [name for table, name in rows if (table, name) not in TRIGGERS | RULES]


def _never_written(connection: psycopg.Connection[Any], es: str, error: psycopg.Error) -> str | None:
    """The column of the user's own for which nothing can be appended: no statement of the store's gives it a value."""
    column = error.diag.column_name
    found = isinstance(error, psycopg.errors.NotNullViolation) and _all(
        connection,
        "SELECT FROM pg_attribute WHERE attrelid = %s::regclass AND attrelid = to_regclass(format('%%I.%%I', %s::text,"
        " %s::text)) AND attname = %s AND attnotnull AND NOT atthasdef AND attidentity = ''",
        f"{es}.events",
        error.diag.schema_name,
        error.diag.table_name,
        column,
    )
    return column if found else None


def _payloads(connection: psycopg.Connection[Any], es: str) -> tuple[float, int]:
    """Mean and largest size of the last thousand."""
    ((mean, largest),) = _all(
        connection,
        "SELECT coalesce(avg(size), 0)::float8, coalesce(max(size), 0)"  # noqa: S608
        f" FROM (SELECT pg_column_size(payload) AS size FROM {es}.events ORDER BY id DESC LIMIT 1000) AS last",
    )
    return mean, largest


def _microseconds_per_event(connection: psycopg.Connection[Any], statements: Statements) -> float:
    """Read and decode the longest stream, or the last ten thousand of it, less what it takes to read none of it."""
    longest = _all(
        connection,
        f"SELECT stream_id, version FROM {statements.quoted}.streams"  # noqa: S608
        " ORDER BY version - archived_through DESC LIMIT 1",
    )
    if not longest:
        return 0.0
    stream, version = longest[0]
    took: list[float] = []
    asked: list[float] = []
    rows: list[tuple[Any, ...]] = []
    for turn in range(9):
        if turn == 3 and len(rows) > _FEW:
            break
        for times, after in ((asked, version), (took, max(0, version - _MEASURED))):
            began = clock.perf_counter()
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            cursor.execute(statements.load, (stream, after, version, _MEASURED))
            rows = cursor.fetchall()
            for row in rows:
                msgspec.json.decode(row[3])
            times.append(clock.perf_counter() - began)
    if len(rows) < _ENOUGH:
        return 0.0
    whole = min(took)
    less = whole - min(asked)
    return (less if less > 0 else whole) * 1e6 / len(rows)  # on a busy machine the one may have waited like the other


def _all(connection: psycopg.Connection[Any], query: Any, *values: Any) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute(query, values or None)
    return cursor.fetchall()
