# Made from migrating_async.py by ./dev lint --fix: change that file, not this one.
"""Making the store's tables: what is missing, as a plan, and the same done.

In one transaction, but for the indexes of another profile in a store that is there: each of them would keep the locks
of what comes before it, for as long as an index takes to be made, or be thrown away with what comes behind it.

Source: PostgreSQL manual, "CREATE TABLE", "Explicit Locking" (advisory locks).
"""

from __future__ import annotations

import random
import time
import time as clock
from collections.abc import Callable
from typing import Any, Final, Literal

import psycopg
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError
from pgcdc.eventstore.migrations import migrations
from pgcdc.eventstore.plan import INDEXES, Plan, Profile, Step
from pgcdc.eventstore.statements import Statements

__all__ = ["apply", "plan"]

_LOCK_WITHIN: Final = "100ms"
"""How long writers wait for a migration that waits for one of them: less than `deadlock_timeout`."""
_ATTEMPTS_FOR = 60.0
"""Seconds after which it is given up: somebody reads or writes in a transaction that does not end."""
_OF_BOTH: Final = tuple(f"migration {number}: " for number in range(1, 10))
"""Steps that change both tables of events and streams; the others need less, and an index is made beside readers."""
_LOCK = 0x65767374  # two that make the same schema at once come one after the other


def plan(
    connection: psycopg.Connection[Any],
    statements: Statements,
    profile: Profile | None,
    max_payload_bytes: int | None,
) -> Plan:
    """Find out what is missing.

    Args:
        connection: To the database.
        statements: Of the store.
        profile: The indexes that are wanted; None: those that are there, for a new store all.
        max_payload_bytes: The limit that is wanted; None: the one that is there, for a new store 262,144.

    Returns:
        The plan.

    Raises:
        ConfigError: When the database is newer than this program, or a migration is not the one that was run.
    """
    cursor = connection.cursor(row_factory=tuple_row)
    schema = statements.quoted
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{schema}.migrations",))
    is_there = (cursor.fetchone() or (False,))[0]
    done: dict[int, tuple[str, str]] = {}
    if is_there:
        cursor.execute(f"SELECT number, name, checksum FROM {schema}.migrations")  # noqa: S608
        done = {number: (name, checksum) for number, name, checksum in cursor.fetchall()}
    steps: list[Step] = []
    if not is_there:
        steps.append(
            Step(
                f"schema {statements.schema} and its table of migrations",
                f"CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE TABLE {schema}.migrations (number integer PRIMARY KEY,"
                " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());",
            )
        )
    known = migrations()
    if newer := sorted(set(done) - {migration.number for migration in known}):
        raise ConfigError(
            f"the event store in the schema {statements.schema} has migration {newer[-1]}, this program has not",
            hint="bring pgcdc up to date",
        )
    for migration in known:
        if migration.number in done:
            if done[migration.number][1] != migration.checksum:
                raise ConfigError(
                    f"migration {migration.number} ({migration.name}) is not the one that was run in the schema"
                    f" {statements.schema}",
                    hint="was a file of pgcdc changed? install the released package again",
                )
            continue
        record = (
            f"INSERT INTO {schema}.migrations (number, name, checksum)"  # noqa: S608
            f" VALUES ({migration.number}, '{migration.name}', '{migration.checksum}');"
        )
        text = migration.text.replace("{schema}", schema)
        steps.append(Step(f"migration {migration.number}: {migration.name}", f"{text}\n{record}"))
    cursor.execute(
        "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(%s)",
        (f"{schema}.events",),
    )
    present = {name for (name,) in cursor.fetchall()}
    limit = _limit(cursor, schema) if 1 in done else 262_144
    if max_payload_bytes is not None and max_payload_bytes != limit:
        if max_payload_bytes < 1:
            raise ConfigError(
                "the limit of a payload is at least one byte", hint="store.init(max_payload_bytes=65_536)"
            )
        steps.append(
            Step(
                f"payloads of at most {max_payload_bytes:,} bytes",
                f"ALTER TABLE {schema}.events DROP CONSTRAINT IF EXISTS events_payload_size, ADD CONSTRAINT"
                f" events_payload_size CHECK (pg_column_size(payload) <= {max_payload_bytes}) NOT VALID;",
            )
        )
    publication = f"{statements.schema}_events"
    cursor.execute("SELECT FROM pg_publication WHERE pubname = %s", (publication,))
    if cursor.fetchone() is None:
        steps.append(
            Step(
                f"publication {publication}",
                f"CREATE PUBLICATION \"{publication}\" FOR TABLE {schema}.events WITH (publish = 'insert');",
            )
        )
    if profile is not None or 1 not in done:
        steps += _index_steps(schema, present, profile or "full")
    return Plan(statements.schema, steps)


def apply(
    connection: psycopg.Connection[Any],
    statements: Statements,
    profile: Literal["full", "lean"] | None,
    max_payload_bytes: int | None,
) -> Plan:
    """Make what is missing: all of it or nothing, and then what changes the indexes of a store that was there.

    Args:
        connection: To the database.
        statements: Of the store.
        profile: As for `plan`.
        max_payload_bytes: As for `plan`.

    Returns:
        What was done.

    Raises:
        ConfigError: As for `plan`.
        psycopg.errors.LockNotAvailable: When others do not let go of the tables.
    """
    done: list[Step] = []
    for turn in _TURNS:
        made, is_all = _within(connection, statements, profile, max_payload_bytes, turn)
        done += made
        if is_all:
            break
    return Plan(statements.schema, done)


def _within(
    connection: psycopg.Connection[Any],
    statements: Statements,
    profile: Literal["full", "lean"] | None,
    max_payload_bytes: int | None,
    turn: _Turn,
) -> tuple[list[Step], bool]:
    """One transaction, again and again while others do not let go of the tables."""
    deadline = clock.monotonic() + _ATTEMPTS_FOR
    while True:
        try:
            return _apply(connection, statements, profile, max_payload_bytes, turn)
        except psycopg.errors.LockNotAvailable:
            if clock.monotonic() > deadline:
                raise
        # Those who waited meanwhile have all begun anew: not in step with them.
        time.sleep(random.uniform(0.02, 0.3))  # noqa: S311


def _apply(
    connection: psycopg.Connection[Any],
    statements: Statements,
    profile: Literal["full", "lean"] | None,
    max_payload_bytes: int | None,
    turn: _Turn,
) -> tuple[list[Step], bool]:
    """What is done in one turn, and whether it is all."""
    with connection.transaction():
        connection.execute("SET LOCAL client_min_messages = error")  # wal_level is looked at by `check`
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, statements.schema))
        wanted = plan(connection, statements, profile, max_payload_bytes).steps
        made = turn(wanted)
        if made:
            connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_WITHIN}'")
        if any(step.what.startswith(_OF_BOTH) for step in made):
            _lock(connection, statements)
        for step in made:
            connection.execute(step.sql)
    return made, len(made) == len(wanted)


def _tables(steps: list[Step]) -> list[Step]:
    """What comes first: of a new store all, else all but indexes."""
    if any(step.what.startswith("migration 1: ") for step in steps):
        return steps
    return [step for step in steps if not step.what.startswith("index ")]


def _indexes(steps: list[Step]) -> list[Step]:
    """Those of the profile. Readers go on while one is made, but not beside what takes the table for itself."""
    return [step for step in steps if step.what.startswith("index ") and not step.what.endswith(" dropped")]


def _dropped(steps: list[Step]) -> list[Step]:
    """Those of the other profile.

    Dropping one takes the table for itself: where that waits for a reader, no index that was just made is thrown away.
    Who finds here that the profile's own are gone again is not alone, and leaves what there is.
    """
    return [] if _indexes(steps) else [step for step in steps if step.what.endswith(" dropped")]


_Turn = Callable[[list[Step]], list[Step]]
_TURNS: Final[tuple[_Turn, ...]] = (_tables, _indexes, _dropped)
"""A transaction each, once: two that want different things at once do not undo each other for ever."""


def _lock(connection: psycopg.Connection[Any], statements: Statements) -> None:
    """Take what the steps need before the first of them, both tables at once; or give way to who appends.

    A writer that has one of the two and wants the other, while this has the other and wants that one, would be waited
    for in vain.
    """
    tables = [f"{statements.quoted}.{table}" for table in ("events", "streams")]
    cursor = connection.cursor(row_factory=tuple_row)
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL AND to_regclass(%s) IS NOT NULL", tables)
    if (cursor.fetchone() or (False,))[0]:
        connection.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")


def _index_steps(schema: str, present: set[str], profile: Profile) -> list[Step]:
    if profile not in INDEXES:
        raise ConfigError("the profile is full or lean", hint='store.init(profile="lean")')
    wanted = INDEXES[profile]
    others = {name for indexes in INDEXES.values() for name in indexes} - set(wanted)
    steps = [
        Step(f"index {name}", f"CREATE INDEX {name} ON {schema}.events {columns};")
        for name, columns in wanted.items()
        if name not in present
    ]
    return steps + [
        Step(f"index {name} dropped", f"DROP INDEX {schema}.{name};") for name in sorted(others) if name in present
    ]


def _limit(cursor: psycopg.Cursor[tuple[Any, ...]], schema: str) -> int | None:
    cursor.execute(
        "SELECT substring(pg_get_constraintdef(oid) FROM '<= (\\d+)')::bigint FROM pg_constraint"
        " WHERE conrelid = to_regclass(%s) AND conname = 'events_payload_size'",
        (f"{schema}.events",),
    )
    found = cursor.fetchone()
    return None if found is None else found[0]
