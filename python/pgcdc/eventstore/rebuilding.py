"""A projection built anew beside the one that is live, and put in its place when it has come as far.

A new generation has tables in a schema of its own. It is filled from archive and table in the order of commits, with
its place in the same transactions, so that whoever is killed goes on where he was. When it is nearly as far as the live
one, or comes no nearer, that one is locked for as long as the rest takes; the rest is applied, and the tables change
places, in one transaction. The old tables stay, in a schema of their own, so that it can be undone.

Source: PostgreSQL manual, "ALTER TABLE" (SET SCHEMA: indexes, constraints and owned sequences move, too).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgcdc.errors import ConfigError, EventStoreError, SinkUnavailable
from pgcdc.eventstore.building import Building, RebuildProgress, projection_of
from pgcdc.eventstore.generations import Generation
from pgcdc.eventstore.projecting import connect
from pgcdc.eventstore.refusals import primary, refused
from pgcdc.eventstore.statements import WAITING

if TYPE_CHECKING:
    from pgcdc.eventstore.store import EventStore
    from pgcdc.eventstore.store_async import AsyncEventStore

__all__ = ["RebuildPlan", "RebuildProgress", "plan_rebuild", "rebuild", "rollback"]

logger = logging.getLogger("pgcdc.eventstore")

NEAR: Final = 2_000
"""Events that may be left when the live one is locked."""
LOCK_WITHIN: Final = 2.0
"""Seconds that readers and writers of the tables may have to wait; then the rebuild goes on, and tries again."""
_IN_USE: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""A reader that has one of the tables and waits for another one is told of before it has waited for too long."""
_ENDED_WITHIN: Final = 3.0
"""Seconds that a rebuild which has just ended may still have its lock: the server notices a little later."""
_PRIVILEGES: Final = """
    SELECT a.privilege_type, NULL, CASE WHEN a.grantee <> 0 THEN a.grantee::regrole::text END, a.is_grantable
        FROM pg_class AS c, aclexplode(c.relacl) AS a
        WHERE c.oid = format('%%I.%%I', %(here)s::text, %(table)s::text)::regclass AND a.grantee <> c.relowner
    UNION ALL
    SELECT a.privilege_type, n.attname::text, CASE WHEN a.grantee <> 0 THEN a.grantee::regrole::text END, a.is_grantable
        FROM pg_attribute AS o JOIN pg_attribute AS n USING (attname), aclexplode(o.attacl) AS a
        WHERE o.attrelid = format('%%I.%%I', %(here)s::text, %(table)s::text)::regclass AND NOT o.attisdropped
        AND n.attrelid = format('%%I.%%I', %(there)s::text, %(table)s::text)::regclass AND NOT n.attisdropped
"""
_POLICIES: Final = """
    SELECT polname::text, CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
        CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
            ELSE 'ALL' END,
        (SELECT string_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE r::regrole::text END, ', ') FROM unnest(polroles) AS r),
        pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
        FROM pg_policy WHERE polrelid = format('%%I.%%I', %s::text, %s::text)::regclass ORDER BY 1
"""
_SECURITY: Final = """
    SELECT CASE WHEN relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END,
        CASE WHEN relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END
        FROM pg_class WHERE oid = format('%%I.%%I', %s::text, %s::text)::regclass
"""
_GRANTEES: Final = """
    SELECT DISTINCT CASE WHEN a.grantee <> 0 THEN a.grantee::regrole::text ELSE 'PUBLIC' END
        FROM pg_class AS c, LATERAL (SELECT * FROM aclexplode(c.relacl) UNION ALL
            SELECT x.* FROM pg_attribute AS t, aclexplode(t.attacl) AS x WHERE t.attrelid = c.oid) AS a
        WHERE c.oid = format('%%I.%%I', %s::text, %s::text)::regclass AND a.grantee <> c.relowner
"""
_ATTEMPTS: Final = 30
_ROUNDS: Final = 5
"""So often what has come meanwhile is applied, as long as it is not less than in the round before."""


class RebuildPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild would do.

    Attributes:
        name: The projection's name.
        live_version: The version that is live; None when none is.
        version: The version of the class.
        resumes: Whether one that was begun goes on.
        done: How many events that has already.
        events: How many there are in all.
        schema: Where it is built.
        tables: Its tables.
    """

    name: str
    live_version: int | None
    version: int
    resumes: bool
    done: int
    events: int
    schema: str
    tables: list[str]

    def __str__(self) -> str:
        """Some lines."""
        live = "nothing is live" if self.live_version is None else f"version {self.live_version} is live"
        begins = f"goes on after {self.done:,} events" if self.resumes else "begins at the beginning"
        return (
            f"{self.name}: {live}, version {self.version} is built in the schema {self.schema}\n"
            f"  it {begins}, of {self.events:,}\n"
            f"  then these tables change places: {', '.join(self.tables)}"
        )


def plan_rebuild(store: EventStore | AsyncEventStore, name: str, *, restart: bool = False) -> RebuildPlan:
    """Say what `rebuild` would do.

    Args:
        store: The store.
        name: The projection's name.
        restart: As for `rebuild`.

    Returns:
        The plan, for `print`.

    Raises:
        ConfigError: When there is no such projection, or the name of one of its tables is taken.
    """
    with _connected(store, name) as connection:
        building = Building(store, name, connection)
        live, begun = building.known()
        _look_for_room(building)
        resumes = not restart and begun is not None and _fits(building, begun)
        number = max((one.generation for one in building.generations.of(connection, name)), default=0) + 1
        schema = building.generations.free_schema(connection, name, number)
        return RebuildPlan(
            name=name,
            live_version=None if live is None else live.version,
            version=building.projection.version,
            resumes=resumes,
            done=begun.events if begun is not None and resumes else 0,
            events=building.count(),
            schema=begun.schema if begun is not None and resumes else schema,
            tables=[table.name for table in building.projection.tables],
        )


def rebuild(
    store: EventStore | AsyncEventStore,
    name: str,
    *,
    restart: bool = False,
    told: Callable[[RebuildProgress], None] = lambda _progress: None,
) -> RebuildProgress:
    """Build a projection anew beside the one that is live, and put it in its place. Blocks; in asyncio in a thread.

    Events go on to be appended, and the live one to follow them, all the time but for a moment at the end: a longer one
    when events come as fast as they are applied here, because then the live one is held while the last of them are.
    When they come faster, each of six rounds is longer than the one before by as much. One that was interrupted goes on
    where it was. Reactors are not called. It has two connections: one reads while the other writes.

    Args:
        store: The store that it is declared in.
        name: Its name.
        restart: Whether one that was begun is thrown away. Else the class goes on where it was, whatever it makes of
            the events before; one with other tables, or another version, begins anew.
        told: Told how far it is, after each stretch.

    Returns:
        How far it came, and in what time.

    Raises:
        ConfigError: When there is no such projection, its pipeline was never run, or another rebuild of it goes on.
        EventStoreError: When an event cannot be applied, or the tables are in use for so long that they cannot change
            places; the next call goes on there.
    """
    with _connected(store, name) as connection:
        building = Building(store, name, connection)
        _lock(connection, store, name)
        through_lsn = building.commits.through(connection)
        if not through_lsn:
            raise ConfigError(
                "the order of commits is not known yet, because no pipeline of this store was ever run",
                hint="store.pipeline().run(), for a moment at least",
            )
        at = _begin(building, restart)
        building.begun_at(at)
        total = building.count()
        before = at.events
        for _ in range(_ATTEMPTS):
            for round in itertools.count(1):
                before, previous = at.events, at.events - before
                with building.ahead(at, through_lsn) as stretches, closing(building.fill(at, stretches)) as filling:
                    for at in filling:
                        told(building.progress(at, total))
                through_lsn = building.commits.through(connection)
                if at.events - before < NEAR:
                    break
                if round > _ROUNDS and at.events - before >= previous:
                    # Events come as fast as they are applied here. The live one is held from here on: what is left
                    # does not become more, and is applied in the transaction in which they change places.
                    logger.warning("the projection %s is held, so that its rebuild can come as far", name)
                    break
                total = building.count()
            try:
                at = _replace(building, at)
            except _IN_USE:
                logger.warning("the tables of the projection %s are in use: they cannot change places yet", name)
                continue
            told(building.progress(at, at.events))
            return building.progress(at, at.events)
        raise EventStoreError(
            f"the projection {name} is built, but its tables are in use and cannot change places",
            hint="end the transactions that read them for so long, and rebuild it: it goes on there",
        )


def rollback(store: EventStore | AsyncEventStore, name: str) -> None:
    """Put the generation that was live before back in its place. What it misses it takes from the table.

    Args:
        store: The store that it is declared in.
        name: The projection's name.

    Raises:
        ConfigError: When there is none that was live before.
        EventStoreError: When the tables are in use.
    """
    with _connected(store, name) as connection:
        building = Building(store, name, connection)
        _lock(connection, store, name)
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{int(LOCK_WITHIN * 1000)}ms'".encode())
                live = building.generations.live(connection, name, lock=True)
                retired = [one for one in building.generations.of(connection, name) if one.status == "retired"]
                if live is None or not retired:
                    raise ConfigError(
                        f"of the projection {name} there is no generation that was live before",
                        hint="pgcdc events rebuild builds one",
                    )
                _change_places(building, live, retired[-1], live.schema)
        except _IN_USE:
            raise EventStoreError(
                f"the tables of the projection {name} are in use: they cannot change places", hint="try again"
            ) from None


@contextmanager
def _connected(store: EventStore | AsyncEventStore, name: str) -> Iterator[psycopg.Connection[Any]]:
    projection_of(store, name)  # whether there is one is known without a server
    try:
        with connect(store._dsn) as connection:
            yield connection
    except psycopg.Error as error:
        raise refused(error, store._statements) from error
    except SinkUnavailable as error:
        raise EventStoreError(f"the archive cannot be read: {error}", hint="try again when it is there") from error


def _lock(connection: psycopg.Connection[Any], store: EventStore | AsyncEventStore, name: str) -> None:
    """Be the only one that rebuilds it, as long as the connection lasts."""
    key = f"pgcdc rebuild {store._statements.schema} {name}"
    deadline = time.monotonic() + _ENDED_WITHIN
    while connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (key,)).fetchone() != (True,):
        if time.monotonic() < deadline:
            time.sleep(0.1)
            continue
        raise ConfigError(f"another rebuild of the projection {name} goes on", hint="let that one end, or stop it")


def _begin(building: Building, restart: bool) -> Generation:
    connection = building.connection
    with connection.transaction():
        building.generations.lock(connection, building.projection.name)
        _, begun = building.known()
        if begun is not None:
            if _fits(building, begun) and not restart:
                _look_for_room(building)
                logger.info("the rebuild of the projection %s goes on after %d events", begun.name, begun.events)
                return begun
            _drop(building, begun)
        _look_for_room(building)
        return building.generations.begin(connection, building.projection, beside=True)


def _fits(building: Building, begun: Generation) -> bool:
    """Whether the class may go on with it: not when there are other tables, whose rows would begin in the midst."""
    projection = building.projection
    return begun.version == projection.version and begun.tables == [table.name for table in projection.tables]


def _look_for_room(building: Building) -> None:
    tables = [table.name for table in building.projection.tables]
    building.generations.look_for_room(
        building.connection, building.projection.name, tables, building.projection.schema
    )


def _drop(building: Building, at: Generation) -> None:
    building.generations.drop_tables(building.connection, at)
    building.generations.forget(building.connection, at)


def _replace(building: Building, at: Generation) -> Generation:
    """Apply the rest, and put it in the place of what is live; in one transaction."""
    connection, generations = building.connection, building.generations
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{int(LOCK_WITHIN * 1000)}ms'".encode())
        generations.lock(connection, at.name)  # a pipeline may make the first one at this moment
        live = generations.live(connection, at.name, lock=True)  # whoever writes to it waits from here on
        through_lsn = building.commits.through(connection)
        for stretch in building.commits.after(connection, at.place, through_lsn):
            at = building.apply(at, stretch)
        if live is None:
            _settle(building, at, building.projection.schema)
        else:
            retired = [one for one in generations.of(connection, at.name) if one.status == "retired"]
            for one in retired:
                _drop(building, one)  # the one before the last
            _change_places(building, live, at, building.projection.schema)
    return at


def _change_places(building: Building, live: Generation, other: Generation, home: str) -> None:
    connection, generations = building.connection, building.generations
    away = generations.free_schema(connection, live.name, live.generation)
    generations.make_schema(connection, live.name, away)
    _grant(connection, live, other)
    _move(building, live.tables, live.schema, away)
    generations.become(connection, live, "retired", away)
    building.skipped.inherit(connection, other, live)
    _settle(building, other, home)


def _settle(building: Building, at: Generation, home: str) -> None:
    connection, generations = building.connection, building.generations
    generations.look_for_room(connection, at.name, at.tables, home)
    generations.make_schema(connection, at.name, home, if_not_exists=True)
    _move(building, at.tables, at.schema, home)
    generations.become(connection, at, "live", home)
    generations.drop_schema(connection, at.schema)
    # What the pipeline has followed meanwhile the new one does not have. On a quiet server nothing would tell it so.
    connection.execute("SELECT pg_logical_emit_message(true, %s, '')", (WAITING,))


def _move(building: Building, tables: Sequence[str], here: str, there: str) -> None:
    for table in tables:
        building.connection.execute(
            sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(sql.Identifier(here, table), sql.Identifier(there))
        )


def _grant(connection: psycopg.Connection[Any], live: Generation, other: Generation) -> None:
    """Who may use the live tables may use those of the same names that take their place, and see the same rows.

    Nobody else: those were live once, maybe, and had privileges and policies that are not there any more.
    """
    for table in set(live.tables) & set(other.tables):
        here, there = (live.schema, table), sql.Identifier(other.schema, table)
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(_GRANTEES, (other.schema, table))
        for (grantee,) in cursor.fetchall():
            connection.execute(sql.SQL("REVOKE ALL ON {} FROM {} CASCADE").format(there, sql.SQL(grantee)))
        cursor.execute(_POLICIES, (other.schema, table))
        for policy, *_ in cursor.fetchall():
            connection.execute(sql.SQL("DROP POLICY {} ON {}").format(sql.Identifier(policy), there))
        cursor.execute(_PRIVILEGES, {"here": here[0], "there": other.schema, "table": table})
        for privilege, column, grantee, may_grant in cursor.fetchall():
            of = sql.SQL("") if column is None else sql.SQL(" ({})").format(sql.Identifier(column))
            # All come from the catalog, the role quoted where it needs it.
            to = sql.SQL(("PUBLIC" if grantee is None else grantee) + (" WITH GRANT OPTION" if may_grant else ""))
            connection.execute(sql.SQL("GRANT {}{} ON {} TO {}").format(sql.SQL(privilege), of, there, to))
        cursor.execute(_POLICIES, here)
        for policy, kind, command, roles, using, check in cursor.fetchall():
            statement = sql.SQL("CREATE POLICY {} ON {} AS {} FOR {} TO {}").format(
                sql.Identifier(policy), there, sql.SQL(kind), sql.SQL(command), sql.SQL(roles)
            )
            for word, condition in (("USING", using), ("WITH CHECK", check)):
                if condition is not None:
                    statement += sql.SQL(f" {word} (") + sql.SQL(condition) + sql.SQL(")")
            try:
                connection.execute(statement)
            except psycopg.ProgrammingError as error:
                raise ConfigError(
                    f"the policy {policy} of the table {table} cannot be that of the new one: {primary(error)}",
                    hint="ALTER POLICY, so that it is right for both, or DROP it; and rebuild again: it goes on there",
                    sqlstate=error.sqlstate,
                ) from error
        cursor.execute(_SECURITY, here)
        for whats in cursor.fetchall():
            for what in whats:
                connection.execute(sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY").format(there, sql.SQL(what)))
