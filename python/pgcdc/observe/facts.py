"""What the checks judge: asked of a server at once, over one connection that needs no privilege.

Source: PostgreSQL manual, "System Catalogs", "System Views", "The Cumulative Statistics System" (of other roles'
sessions an unprivileged role sees that they exist, and no more).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import psycopg

from pgcdc.errors import Error
from pgcdc.observe.slots import reaching, slots_of
from pgcdc.pipeline.settings import BESIDE
from pgcdc.replication import SlotState, connect
from pgcdc.tables import Table

__all__ = ["Asked", "Facts", "Narrow", "PublicationFacts", "RoleFacts", "TableFacts", "gather"]

_SETTINGS: Final = (
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "hot_standby_feedback",
    "max_slot_wal_keep_size",
    "wal_sender_timeout",
    "idle_replication_slot_timeout",
)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks are about.

    Attributes:
        slot: The name of the slot; None: whichever there are.
        publication: The name of the publication; None: none in particular.
        tables: Tables, as `schema.name`.
        pipeline: The name of the pipeline of which pgcdc's own tables are asked.
        positions: The class of the store of positions that the pipeline has; None: that of this database.
        stored: How many positions are in it, where somebody has looked; None: those in this database are counted.
        snapshot: When the pipeline copies existing rows.
        from_kafka: Whether the pipeline's changes come from Kafka.
        slots: The names of all slots that the pipeline has, or is to have.
        lag_seconds: How far a slot may be behind, in seconds.
    """

    slot: str | None = None
    publication: str | None = None
    tables: Sequence[str] = ()
    pipeline: str | None = None
    positions: str | None = None
    stored: int | None = None
    snapshot: str | None = None
    from_kafka: bool = False
    slots: Sequence[str] = ()
    lag_seconds: float = 600.0


class RoleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The role that looked.

    Attributes:
        name: Its name.
        superuser: Whether it is one.
        replication: Whether it may start a walsender.
        create: Whether it may create schemas and publications in the database.
        own_schema: Whether there is a schema `pgcdc`, and the role may make tables there; None: there is none.
        foreign: The tables of that schema which it may not read and write.
        refused: What a connection for replication ended with; None: it came about.
    """

    name: str
    superuser: bool
    replication: bool
    create: bool
    own_schema: bool | None
    refused: str | None
    foreign: Sequence[str] = ()


class Narrow(msgspec.Struct, frozen=True, kw_only=True):
    """A table in a publication with a list of columns, or a filter of rows.

    Attributes:
        relation: Schema and name.
        columns: The columns that are listed; None: all are published.
        is_full: Whether the replica identity is the whole row, which no list of columns may narrow.
        unlisted: The columns of the replica identity that are not among them, where it has some only.
        unknown: The columns that the filter looks at and that are not of the replica identity.
        filter: The filter; None when there is none.
    """

    relation: Table
    columns: Sequence[str] | None
    is_full: bool
    unlisted: Sequence[str]
    unknown: Sequence[str]
    filter: str | None

    @property
    def is_incomplete(self) -> bool:
        """Whether the list leaves something of the replica identity out."""
        return bool(self.unlisted) or (self.is_full and self.columns is not None)


class PublicationFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A publication.

    Attributes:
        actions: What it publishes of insert, update, delete, truncate.
        tables: Its tables, partitions as it publishes them.
        narrow: The tables of whose rows it publishes some, or some columns only.
    """

    actions: frozenset[str]
    tables: frozenset[str]
    narrow: Sequence[Narrow] = ()


class TableFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A table that is published, or is to be.

    Attributes:
        relation: Schema and name.
        identity: `relreplident`: d, n, f or i.
        keyed: Whether it has a primary key that says which row: a deferrable one does not.
        indexed: Whether an index says which row, as `relreplident` i asks.
        logged: Whether its changes are in the WAL.
        readable: Whether the role may read it.
        secured: Whether policies of row-level security keep rows from the role.
        owned: Whether the role owns it, or belongs to the role that does.
        leaves: The partitions that have its rows, when it is the root of some.
    """

    relation: Table
    identity: str
    keyed: bool
    logged: bool
    readable: bool
    owned: bool
    indexed: bool = False
    secured: bool = False
    leaves: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """`schema.name`."""
        return ".".join(self.relation)

    @property
    def is_identified(self) -> bool:
        """Whether updates and deletes say which row it was."""
        return self.identity == "f" or (self.keyed if self.identity == "d" else self.identity == "i" and self.indexed)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What there is.

    Attributes:
        asked: What was asked for.
        version: The server's version as a number: 180004.
        database: The name of the database.
        standby: Whether the server is in recovery.
        settings: Values as the server keeps them: milliseconds, megabytes.
        walsenders: How many run.
        slots: All of the server's.
        prepared: Prepared transactions of the database that are older than an hour.
        role: The role.
        publication: The publication that was asked for; None: there is none.
        tables: The tables that were asked for and are there, and those that are published.
        missing: Those that are not there.
        store: What pgcdc's own tables in the database have of the pipeline, by table; one that cannot be read is not
            there.
    """

    asked: Asked
    version: int
    database: str
    standby: bool
    settings: Mapping[str, str]
    walsenders: int
    slots: Sequence[SlotState]
    prepared: int
    role: RoleFacts
    publication: PublicationFacts | None
    tables: Sequence[TableFacts]
    missing: Sequence[str]
    store: Mapping[str, int]

    @property
    def stored(self) -> int | None:
        """How many consumers go on from a stored position; None: they are kept elsewhere, and nobody looked there."""
        if self.asked.stored is not None:
            return self.asked.stored
        if self.asked.positions in (None, "PostgresPositions"):
            return self.store.get("positions", 0)
        return 0 if self.asked.positions == "MemoryPositions" else None

    def slot(self, name: str | None) -> SlotState | None:
        """A slot by its name."""
        return next((one for one in self.slots if one.name == name), None)


def gather(dsn: str, asked: Asked) -> Facts:
    """Ask a server.

    Args:
        dsn: Where it is, as libpq understands it.
        asked: What to ask for.

    Returns:
        What it said.

    Raises:
        ConnectionLost: When it cannot be reached.
    """
    with reaching(dsn) as connection:
        return _facts(connection, dsn, asked)


_Connection = psycopg.Connection[tuple[Any, ...]]


def _facts(connection: _Connection, dsn: str, asked: Asked) -> Facts:
    def one(query: str, *values: object) -> Any:
        row = connection.execute(query, values).fetchone()
        return None if row is None else row[0]

    settings: dict[str, str] = dict(
        connection.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),)).fetchall()
    )
    found = _publication(connection, asked.publication)
    names = sorted({*asked.tables, *(found.tables if found else ())})
    tables = _tables(connection, names)
    return Facts(
        asked=asked,
        version=connection.info.server_version,
        database=connection.info.dbname,
        standby=one("SELECT pg_is_in_recovery()"),
        settings=settings,
        walsenders=one("SELECT count(*) FROM pg_stat_replication"),
        slots=slots_of(connection),
        prepared=one(
            "SELECT count(*) FROM pg_prepared_xacts"
            " WHERE database = current_database() AND prepared < now() - interval '1 hour'"
        ),
        role=_role(connection, dsn),
        publication=found,
        tables=tables,
        missing=sorted(set(names) - {table.name for table in tables}),
        store={} if asked.pipeline is None else _store(connection, asked.pipeline),
    )


def _role(connection: _Connection, dsn: str) -> RoleFacts:
    row = connection.execute(
        "SELECT rolname, rolsuper, rolreplication, has_database_privilege(current_database(), 'CREATE'),"
        # Of several privileges in one text any is enough.
        " (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')"
        "  FROM pg_namespace WHERE nspname = 'pgcdc'),"
        " ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        "  WHERE n.nspname = 'pgcdc' AND c.relkind = 'r' AND NOT (has_table_privilege(c.oid, 'SELECT')"
        "  AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')"
        "  AND has_table_privilege(c.oid, 'DELETE')) ORDER BY 1)"
        " FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    name, superuser, replication, create, own_schema, foreign = row
    refused = None
    try:
        with connect(dsn):
            pass
    except Error as error:
        refused = str(error)
    return RoleFacts(
        name=name,
        superuser=superuser,
        replication=replication or superuser,
        create=create,
        own_schema=own_schema,
        refused=refused,
        foreign=foreign,
    )


def _publication(connection: _Connection, name: str | None) -> PublicationFacts | None:
    row = connection.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE pubname = %s", (name,)
    ).fetchone()
    if row is None:
        return None
    published = connection.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s", (name,)
    ).fetchall()
    actions = zip(("insert", "update", "delete", "truncate"), row, strict=True)
    return PublicationFacts(
        actions=frozenset(action for action, published in actions if published),
        tables=frozenset(table for (table,) in published),
        narrow=_narrow(connection, name) if connection.info.server_version >= 150000 else (),
    )


_NARROW: Final = """SELECT n.nspname, c.relname,
    CASE WHEN r.prattrs IS NOT NULL THEN ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum = ANY(r.prattrs) ORDER BY a.attnum) END, c.relreplident = 'f',
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(k.identity)
        AND r.prattrs IS NOT NULL AND NOT a.attnum = ANY(r.prattrs) ORDER BY a.attnum),
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND c.relreplident <> 'f'
        AND a.attnum IN (SELECT m[1]::int FROM regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g') m)
        AND NOT a.attnum = ANY(k.identity) ORDER BY a.attnum),
    pg_get_expr(r.prqual, r.prrelid)
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL (SELECT ARRAY(
        SELECT unnest(i.indkey) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    ) AS identity) k
    WHERE p.pubname = %s AND (r.prattrs IS NOT NULL OR r.prqual IS NOT NULL) ORDER BY 1, 2"""
"""Columns that a filter looks at stand in its tree of nodes by their numbers."""


def _narrow(connection: _Connection, publication: str | None) -> list[Narrow]:
    rows = connection.execute(_NARROW, (publication,)).fetchall()
    return [
        Narrow(
            relation=(schema, table),
            columns=columns,
            is_full=is_full,
            unlisted=unlisted,
            unknown=unknown,
            filter=condition,
        )
        for schema, table, columns, is_full, unlisted, unknown, condition in rows
    ]


def _tables(connection: _Connection, names: Sequence[str]) -> list[TableFacts]:
    rows = connection.execute(
        "SELECT n.nspname, c.relname, c.relreplident::text, EXISTS (SELECT FROM pg_index i"
        " WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid), c.relpersistence = 'p',"
        " EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid),"
        " has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'), row_security_active(c.oid),"
        " pg_has_role(c.relowner, 'USAGE'), ARRAY(SELECT m.nspname || '.' || l.relname FROM pg_partition_tree(c.oid) t"
        " JOIN pg_class l ON l.oid = t.relid JOIN pg_namespace m ON m.oid = l.relnamespace"
        " WHERE t.isleaf AND c.relkind = 'p')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname || '.' || c.relname = ANY(%s) ORDER BY 1, 2",
        (list(names),),
    ).fetchall()
    return [
        TableFacts(
            relation=(schema, name),
            identity=identity,
            keyed=keyed,
            indexed=indexed,
            logged=logged,
            readable=readable,
            secured=secured,
            owned=owned,
            leaves=frozenset(leaves),
        )
        for schema, name, identity, keyed, logged, indexed, readable, secured, owned, leaves in rows
    ]


def _store(connection: _Connection, pipeline: str) -> dict[str, int]:
    queries = {
        "positions": "SELECT count(DISTINCT consumer) FROM pgcdc.positions WHERE {}"
        " AND (commit_lsn IS NOT NULL OR snapshot <> 'begun')",
        "dead_letters": "SELECT count(*) FROM pgcdc.dead_letters WHERE {}",
        "schema_versions": "SELECT count(DISTINCT (relation_oid, version)) FROM pgcdc.schema_versions"
        " WHERE {} AND version > 1",
    }
    # By the catalog: a role that may not use the schema may not even ask to_regclass for what is in it.
    readable = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgcdc'"
        " AND c.relkind = 'r' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')"
    ).fetchall()
    counts = {}
    for table in queries.keys() & {name for (name,) in readable}:
        # What a consumer with a slot of its own has is stored under the pipeline's name and its own.
        query = queries[table].format(f"split_part(pipeline, '{BESIDE}', 1) = %s")
        row = connection.execute(query.encode(), (pipeline,)).fetchone()
        counts[table] = 0 if row is None else int(row[0])
    return counts
