"""Checks of what a role may do, and of the tables that are to be followed.

Source: PostgreSQL manual, "Logical Replication Security"; "Publication" (Replica Identity).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pgcdc.observe.facts import Facts, Narrow
from pgcdc.observe.finding import Finding
from pgcdc.replication.quoting import identifier, qualified

__all__ = ["ACCESS_CHECKS"]


def replication_role(facts: Facts) -> Finding:
    """The role may connect for replication, and pg_hba.conf lets it."""
    role = facts.role
    managed = "-- Amazon RDS: GRANT rds_replication TO …; Azure and Cloud SQL: ALTER ROLE … REPLICATION as their admin"
    return Finding(
        check="replication_role",
        title="the role may read the WAL",
        status="ok" if role.refused is None else "failed",
        found=f"{role.name} can connect for replication" if role.refused is None else role.refused,
        why="changes are read over a connection for replication: it takes the attribute REPLICATION, and a line of"
        " pg_hba.conf for this database",
        mend=None
        if role.refused is None
        else f"ALTER ROLE {identifier(role.name)} REPLICATION;\n{managed}"
        if not role.replication
        else "see to pg_hba.conf, max_wal_senders and TLS, by what the server says",
    )


def own_tables(facts: Facts) -> Finding:
    """Positions are in the schema pgcdc, unless the pipeline has another store."""
    role = facts.role
    enough = not role.foreign if role.own_schema else role.create and role.own_schema is None
    name, database = identifier(role.name), identifier(facts.database)
    title = "positions can be kept in this database"
    why = "by default positions, dead letters and versions of tables are kept in the schema pgcdc of the database"
    if facts.asked.positions not in (None, "PostgresPositions"):
        found = f"the pipeline keeps them elsewhere: {facts.asked.positions}"
        return Finding(check="own_tables", title=title, status="skipped", found=found, why=why)
    if facts.standby:
        return Finding(
            check="own_tables",
            title=title,
            status="failed",
            found="this is a standby, which takes no writes",
            why=why,
            mend="positions=SqlitePositions(…), or PostgresPositions(…) with the primary's DSN",
        )
    return Finding(
        check="own_tables",
        title=title,
        status="ok" if enough else "failed",
        found=("the schema pgcdc is there" if enough else f"the role may not read and write {', '.join(role.foreign)}")
        if role.own_schema
        else "the role may make the schema pgcdc"
        if enough
        else "the role may not use the schema pgcdc"
        if role.own_schema is not None
        else "there is no schema pgcdc, and the role may not make it",
        why=why,
        mend=None
        if enough
        else f"GRANT CREATE, USAGE ON SCHEMA pgcdc TO {name};"
        f"\nGRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgcdc TO {name};"
        if role.own_schema is not None
        else f"CREATE SCHEMA pgcdc AUTHORIZATION {name}; -- or GRANT CREATE ON DATABASE {database} TO {name};",
    )


def tables_exist(facts: Facts) -> Finding:
    """The tables are there, in the WAL, and may be read for the first copy."""
    unlogged = [table.name for table in facts.tables if not table.logged]
    unread = [table for table in facts.tables if not table.readable]
    secured = [table.name for table in facts.tables if table.secured]
    role = identifier(facts.role.name)
    mend = [
        *(f"ALTER TABLE {qualified(*table.relation)} SET LOGGED;" for table in facts.tables if not table.logged),
        *(
            f"GRANT USAGE ON SCHEMA {identifier(table.relation[0])} TO {role};"
            f" GRANT SELECT ON {qualified(*table.relation)} TO {role};"
            for table in unread
        ),
        *([f"ALTER ROLE {role} BYPASSRLS; -- as a superuser"] if secured else []),
    ]
    said = [
        *([f"not there: {', '.join(facts.missing)}"] if facts.missing else []),
        *([f"not logged: {', '.join(unlogged)}"] if unlogged else []),
        *([f"not readable: {', '.join(table.name for table in unread)}"] if unread else []),
        *([f"not all rows, by row-level security: {', '.join(secured)}"] if secured else []),
    ]
    return Finding(
        check="tables",
        title="the tables are there and can be copied",
        status="failed" if said else "ok" if facts.tables else "skipped",
        found="; ".join(said) or (_tables(len(facts.tables)) if facts.tables else "no table was named"),
        why="changes of a table that is not logged are not in the WAL; rows that were there before are read by SELECT",
        mend="\n".join(mend) or "correct the names" if said else None,
    )


def publication(facts: Facts) -> Finding:
    """There is a publication with the tables, or the role may make it."""
    title, found = "the tables are published", facts.publication
    why = "the server sends what a publication names, and nothing else"
    if found is not None:
        # A root without publish_via_partition_root is published as its leaves.
        lacking = [
            table
            for table in facts.tables
            if table.name not in found.tables and not (table.leaves and table.leaves <= found.tables)
        ]
        actions = sorted({"insert", "update", "delete", "truncate"} - found.actions)
        name = identifier(facts.asked.publication or "")
        mend = [
            *(f"ALTER PUBLICATION {name} ADD TABLE {qualified(*table.relation)};" for table in lacking),
            *([f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');"] if actions else []),
        ]
        without = ", ".join(table.name for table in lacking)
        said = [*([f"without {without}"] if lacking else []), *(f"no {action}" for action in actions)]
        return Finding(
            check="publication",
            title=title,
            status="failed" if lacking else "warning" if actions else "ok",
            found="; ".join(said) or _tables(len(found.tables)),
            why=why,
            mend="\n".join(mend) if mend else None,
        )
    if facts.asked.publication is None:
        return Finding(check="publication", title=title, status="skipped", found="no publication was named", why=why)
    owned = all(table.owned for table in facts.tables)
    may = not facts.standby and (facts.role.superuser or (facts.role.create and owned))
    if may and facts.asked.pipeline is not None:
        return Finding(
            check="publication", title=title, status="ok", found="it is made when the pipeline starts first", why=why
        )
    tables = ", ".join(qualified(*table.relation) for table in facts.tables)
    return Finding(
        check="publication",
        title=title,
        status="failed",
        found=f'there is no publication "{facts.asked.publication}"'
        + (", and a standby cannot make it" if facts.standby else "" if may else ", and the role may not make it"),
        why="a role makes a publication of tables that it owns, in a database in which it may create",
        mend=f"CREATE PUBLICATION {identifier(facts.asked.publication)} FOR TABLE {tables or '…'}; -- as their owner"
        + (", on the primary" if facts.standby else ""),
    )


def replica_identity(facts: Facts) -> Finding:
    """Of an update or delete the server has to say which row it was; without that the application's UPDATE fails."""
    title = "updates and deletes say which row"
    lacking = [table for table in facts.tables if not table.is_identified]
    full = [table.name for table in facts.tables if table.identity == "f"]
    published = facts.publication
    narrow = [] if published is None else [one for one in published.narrow if one.is_incomplete or one.unknown]
    actions = published.actions if published else {"update", "delete"}
    said = [
        *([f"no replica identity: {', '.join(table.name for table in lacking)}"] if lacking else []),
        *(
            f"{'.'.join(one.relation)} is published without {', '.join(one.unlisted)} of its replica identity"
            if one.unlisted
            else f"{'.'.join(one.relation)} is published with a list of columns, and its replica identity is FULL"
            for one in narrow
            if one.is_incomplete
        ),
        *(
            f"the filter of {'.'.join(one.relation)} looks at {', '.join(one.unknown)}, not of its replica identity"
            for one in narrow
            if one.unknown
        ),
    ]
    if not facts.tables:
        found, status = "no table was named", "skipped"
    elif said:
        found, status = "; ".join(said), "failed" if actions & {"update", "delete"} else "warning"
    else:
        found, status = (f"whole rows of {', '.join(full)}" if full else "by primary key or index"), "ok"
    mend = [
        f"ALTER TABLE {qualified(*table.relation)}"
        f"{' REPLICA IDENTITY DEFAULT' if table.keyed else ' REPLICA IDENTITY FULL; -- or ADD PRIMARY KEY (…)'}"
        f"{';' if table.keyed else ''}"
        for table in lacking
    ]
    mend += [_widened(facts.asked.publication or "", one) for one in narrow]
    return Finding(
        check="replica_identity",
        title=title,
        status=status,  # type: ignore[arg-type]
        found=found,
        why="an UPDATE or DELETE of a table is refused, in the application, when what is published of it has no replica"
        " identity, or not all of it",
        mend="\n".join(mend) or None,
    )


def _widened(publication: str, narrow: Narrow) -> str:
    """A table published with all columns of its replica identity; a filter takes an identity that has its columns."""
    name, table = identifier(publication), qualified(*narrow.relation)
    if not narrow.is_incomplete:
        return f"ALTER TABLE {table} REPLICA IDENTITY FULL; -- or USING INDEX of one with {', '.join(narrow.unknown)}"
    listed = ", ".join(identifier(column) for column in (*(narrow.columns or ()), *narrow.unlisted))
    columns = "" if narrow.is_full else f" ({listed})"
    condition = "" if narrow.filter is None else f" WHERE {narrow.filter}"
    return (
        f"BEGIN; ALTER PUBLICATION {name} DROP TABLE {table};"
        f" ALTER PUBLICATION {name} ADD TABLE {table}{columns}{condition}; COMMIT;"
    )


def _tables(count: int) -> str:
    return "1 table" if count == 1 else f"{count} tables"


ACCESS_CHECKS: Final[Sequence[Callable[[Facts], Finding]]] = (
    replication_role,
    own_tables,
    tables_exist,
    publication,
    replica_identity,
)
