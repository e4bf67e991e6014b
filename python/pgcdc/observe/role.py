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

    It is run by a superuser, or by the admin of a managed server, in the database that is followed. The role can then
    run a pipeline of these tables, look at it with `pgcdc doctor`, and neither write to the tables nor read others.
    What `pgcdc init` has made there already, as the admin, stays; and so do the roles of other pipelines in the
    database, which share pgcdc's own tables with it, whoever makes them.

    Args:
        role: The role's name; it is made without a password.
        database: The database that is followed.
        tables: The tables, schema and name.
        publication: The publication, which only the tables' owner can make.
        more: The publications of consumers with slots of their own, with their tables.

    Returns:
        Statements of SQL.
    """
    name = identifier(role)
    schemas = sorted({schema for schema, _ in tables})
    listed = ", ".join(qualified(*table) for table in tables)
    lines = [
        f"CREATE ROLE {name} LOGIN REPLICATION; -- then \\password {name}",
        "-- Amazon RDS: CREATE ROLE … LOGIN; GRANT rds_replication TO …",
        f"GRANT CONNECT ON DATABASE {identifier(database)} TO {name};",
        f"CREATE SCHEMA IF NOT EXISTS pgcdc AUTHORIZATION {name}; -- positions, dead letters, versions of tables",
        f"GRANT USAGE, CREATE ON SCHEMA pgcdc TO {name};",
        f"GRANT {_USE} ON ALL TABLES IN SCHEMA pgcdc TO {name};",
        "DO $$ DECLARE other text; BEGIN -- all roles with pipelines in this database, whoever makes a table first",
        "  FOR other IN SELECT rolname FROM pg_roles WHERE rolname <> " + literal(role),  # noqa: S608
        "    AND (rolname = current_user OR NOT rolsuper AND has_schema_privilege(oid, 'pgcdc', 'CREATE')) LOOP",
        f"    EXECUTE format('{_LATER}', other, {literal(role)});",
        f"    EXECUTE format('{_LATER}', {literal(role)}, other);",
        "  END LOOP;",
        "END $$;",
        *(f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {name};" for schema in schemas),
        f"GRANT SELECT ON {listed} TO {name}; -- for the first copy",
        _published(publication, listed),
        *(
            _published(one, ", ".join(qualified(*table) for table in theirs))
            for one, theirs in more.items()
            if one != publication
        ),
        f"GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO {name}; -- how many seconds a slot is behind",
    ]
    return "\n".join(lines)


def _published(publication: str, listed: str) -> str:
    """One that is there stays as it is."""
    name = identifier(publication)
    return (
        f"DO $$ BEGIN CREATE PUBLICATION {name} FOR TABLE {listed};\n"
        "EXCEPTION WHEN duplicate_object THEN RAISE NOTICE 'the publication is there already'; END $$;"
    )
