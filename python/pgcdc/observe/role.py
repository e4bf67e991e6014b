"""The role that a pipeline needs, as a script: it can read the WAL and its tables, and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pgcdc.replication.quoting import identifier, literal, qualified

__all__ = ["role_sql"]

_USE: Final = "SELECT, INSERT, UPDATE, DELETE"
_LATER: Final = f"ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA pgcdc GRANT {_USE} ON TABLES TO %I"


def role_sql(
    role: str,
    database: str,
    tables: Sequence[tuple[str, str]],
    publication: str,
    more: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
) -> str:
    """Write the script.

    It is run by a superuser, or by who owns the database and its tables and may create roles, as the administrator of a
    managed server; in the database that is followed. The role can then run a pipeline of these tables, look at it with
    `pgcdc doctor`, and neither write to the tables nor read others. What is there already stays, and so do the roles of
    other pipelines in the database, which share pgcdc's own tables with it, whoever makes them. Where the server would
    refuse the application's updates, nothing is published.

    Args:
        role: The role's name; it is made without a password.
        database: The database that is followed.
        tables: The tables, schema and name.
        publication: The publication, which only the tables' owner can make.
        more: The publications of consumers with slots of their own, with their tables.

    Returns:
        Statements of SQL.
    """
    name, this = identifier(role), literal(role)
    schemas = sorted({schema for schema, _ in tables})
    listed = ", ".join(qualified(*table) for table in tables)
    own = {one: theirs for one, theirs in more.items() if one != publication}
    lines = [
        _do(
            f"  CREATE ROLE {name} LOGIN; -- its password: \\password {name}",
            "EXCEPTION WHEN duplicate_object THEN RAISE NOTICE 'the role is there already';",
        ),
        _do(
            f"  ALTER ROLE {name} LOGIN REPLICATION;",
            "EXCEPTION WHEN insufficient_privilege THEN -- who has not the attribute may not give it",
            f"  BEGIN GRANT rds_replication TO {name}; -- of Amazon",
            "  EXCEPTION WHEN undefined_object THEN",
            "    RAISE WARNING 'it may not read the WAL: give it REPLICATION in the way of this provider';",
            "  END;",
        ),
        f"GRANT CONNECT ON DATABASE {identifier(database)} TO {name};",
        _do(
            f"  IF NOT pg_has_role(current_user, {this}, 'USAGE') THEN -- what it is to own only its members can make",
            f"    GRANT {name} TO CURRENT_USER;",
            "  END IF;",
        ),
        f"CREATE SCHEMA IF NOT EXISTS pgcdc AUTHORIZATION {name}; -- positions, dead letters, versions of tables",
        f"GRANT USAGE, CREATE ON SCHEMA pgcdc TO {name};",
        f"GRANT {_USE} ON ALL TABLES IN SCHEMA pgcdc TO {name};",
        _do(
            "  -- All roles with pipelines in this database, whoever makes a table first.",
            f"  FOR other IN SELECT rolname FROM pg_roles WHERE rolname <> {this}",  # noqa: S608 (quoted)
            "    AND (rolname = current_user OR NOT rolsuper AND has_schema_privilege(oid, 'pgcdc', 'CREATE')) LOOP",
            "    BEGIN",
            f"      EXECUTE format('{_LATER}', other, {this});",
            f"      EXECUTE format('{_LATER}', {this}, other);",
            "    EXCEPTION WHEN insufficient_privilege THEN",
            f"      RAISE WARNING 'run this as a member of %: it may make tables that % cannot use', other, {this};",
            "    END;",
            "  END LOOP;",
            declare="other text;",
        ),
        *(f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {name};" for schema in schemas),
        f"GRANT SELECT ON {listed} TO {name}; -- for the first copy",
        _published(publication, tables),
        *(_published(one, theirs) for one, theirs in own.items()),
        _do(
            f"  GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO {name}; -- how many seconds a slot is behind",
            "EXCEPTION WHEN insufficient_privilege THEN",
            f"  RAISE NOTICE 'seconds of slots stay unknown, unless somebody may GRANT pg_monitor TO %', {this};",
        ),
    ]
    return "\n".join(lines)


def _do(*body: str, declare: str = "") -> str:
    """A block; the tag that quotes it is in none of the names in it."""
    lines = "\n".join(body)
    tag = "pgcdc"
    while f"${tag}$" in lines:
        tag += "_"
    return f"DO ${tag}$ {f'DECLARE {declare} ' if declare else ''}BEGIN\n{lines}\nEND ${tag}$;"


def _published(publication: str, tables: Sequence[tuple[str, str]]) -> str:
    """One that is there stays as it is, and none is made that would stop the application's writes."""
    names = [qualified(*table) for table in tables]
    return _do(
        f"  IF EXISTS (SELECT FROM pg_publication WHERE pubname = {literal(publication)}) THEN",
        "    RAISE NOTICE 'the publication is there already';",
        "    RETURN;",
        "  END IF;",
        f"  WITH RECURSIVE t AS (SELECT unnest(ARRAY[{', '.join(map(literal, names))}]::regclass[])::oid AS oid",
        "    UNION SELECT inhrelid FROM pg_inherits JOIN t ON inhparent = t.oid)",
        "  SELECT string_agg(c.oid::regclass::text, ', ') INTO lacking FROM t JOIN pg_class c USING (oid)",
        "    WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index i",
        "    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND CASE c.relreplident",
        "    WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END);",
        "  IF lacking IS NOT NULL THEN",
        "    RAISE EXCEPTION 'nothing is published: without a replica identity UPDATE and DELETE on % would fail',",
        "      lacking USING HINT = 'a primary key, or ALTER TABLE … REPLICA IDENTITY FULL; then run this again';",
        "  END IF;",
        f"  CREATE PUBLICATION {identifier(publication)} FOR TABLE {', '.join(names)};",
        declare="lacking text;",
    )
