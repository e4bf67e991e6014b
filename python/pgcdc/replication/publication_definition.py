"""A publication as a value: what is there and what is wanted are described in the same words, and written as SQL.

Source: PostgreSQL manual, "CREATE PUBLICATION", "pg_publication", "pg_publication_rel", "pg_publication_namespace".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.replication.publication import parse_table
from pgcdc.replication.quoting import identifier, literal, qualified

__all__ = [
    "ACTIONS",
    "Publication",
    "PublicationAction",
    "PublicationTable",
    "check_publication",
    "in_parentheses",
    "listed",
    "options_sql",
    "table_name",
]

PublicationAction: TypeAlias = Literal["insert", "update", "delete", "truncate"]
ACTIONS: Final[tuple[PublicationAction, ...]] = get_args(PublicationAction)


class PublicationTable(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table in a publication.

    Attributes:
        table: Its name as `parse_table` reads it, `"orders"` or `"sales.orders"`; it is kept with its schema.
        columns: The published columns, None for all that there are and will be. Needs PostgreSQL 15.
        where: The row filter, an SQL expression; None for every row. It goes into a statement as it stands. Needs
            PostgreSQL 15.

    Raises:
        ConfigError: When it is not a table's name, or the list of columns is empty.
    """

    table: str
    columns: Sequence[str] | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        schema, name = parse_table(self.table)
        msgspec.structs.force_setattr(self, "table", table_name(schema, name))
        if self.columns is not None:
            if isinstance(self.columns, str) or not self.columns:
                raise ConfigError(
                    f"the list of published columns of {self.table} is not a list of names",
                    hint="leave columns out to publish all of them",
                    table=self.table,
                )
            msgspec.structs.force_setattr(self, "columns", tuple(dict.fromkeys(self.columns)))

    @property
    def name(self) -> tuple[str, str]:
        """Schema and name, as in the catalog."""
        return parse_table(self.table)


class Publication(msgspec.Struct, frozen=True, omit_defaults=True):
    """A publication: as the server has it, or as it is wanted.

    `msgspec.structs.replace(connection.publication("shop"), publish=["insert"])` is a publication that is wanted.

    Attributes:
        name: Its name.
        tables: The tables that it names. Of a table that others inherit from only its own rows are meant; a partitioned
            table has all its partitions with it.
        schemas: Schemas all of whose tables are published, those that come later too. Needs PostgreSQL 15.
        all_tables: Whether every table of the database is published.
        publish: Which changes: `"insert"`, `"update"`, `"delete"`, `"truncate"`.
        publish_via_partition_root: Whether rows of partitions come as rows of the partitioned table that is published.
        publish_generated_columns: `"stored"`: generated columns too. Needs PostgreSQL 18.
        owner: The role it belongs to; of one that was read. A plan leaves it as it is.
        catalog_rows: `(oid, xmin)` of the rows of `pg_publication`, `pg_publication_rel` and
            `pg_publication_namespace` that make it up; of one that was read. They are the same only as long as nobody
            changed it, not even there and back.

    Raises:
        ConfigError: When a table is named twice, or an action is not one.
    """

    name: str
    tables: Sequence[PublicationTable] = ()
    schemas: Sequence[str] = ()
    all_tables: bool = False
    publish: Sequence[PublicationAction] = ACTIONS
    publish_via_partition_root: bool = False
    publish_generated_columns: Literal["none", "stored"] = "none"
    owner: str | None = None
    catalog_rows: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        about = f'publication "{self.name}"'
        for field in ("tables", "schemas", "publish"):
            if isinstance(getattr(self, field), str):
                raise ConfigError(f"{about}: {field} is a text, not a list", publication=self.name)
        if unknown := [action for action in self.publish if action not in ACTIONS]:
            raise ConfigError(
                f"{about} cannot publish {unknown[0]!r}",
                hint=f"what can be published: {', '.join(ACTIONS)}",
                publication=self.name,
            )
        tables = [table.table for table in self.tables]
        if twice := [table for table in tables if tables.count(table) > 1]:
            raise ConfigError(f"{about} names table {twice[0]} twice", publication=self.name, table=twice[0])
        values = {
            "tables": tuple(sorted(self.tables, key=lambda table: table.name)),
            "schemas": tuple(sorted(set(self.schemas))),
            "publish": tuple(action for action in ACTIONS if action in self.publish),
            "catalog_rows": tuple(sorted((oid, xmin) for oid, xmin in self.catalog_rows)),
        }
        for field, value in values.items():
            msgspec.structs.force_setattr(self, field, value)

    def table(self, name: str) -> PublicationTable | None:
        """Look for a table that it names.

        Args:
            name: As `PublicationTable.table`.

        Returns:
            The table, None when it is not named (it may be published all the same, by its schema).
        """
        wanted = parse_table(name)
        return next((table for table in self.tables if table.name == wanted), None)


def table_name(schema: str, name: str) -> str:
    """Write a table's name as `parse_table` reads it.

    Args:
        schema: The schema.
        name: The name in it.

    Returns:
        `sales.orders`; in double quotes what has a full stop or a quote in it.
    """
    return ".".join(identifier(part) if "." in part or '"' in part else part for part in (schema, name))


def check_publication(wanted: Publication, server_version: int) -> None:
    """Refuse what no server of a version can be asked for.

    Args:
        wanted: The publication that is wanted.
        server_version: The server's version as a number.

    Raises:
        ConfigError: When it would publish nothing, contradicts itself, or needs a later version.
    """
    about = f'publication "{wanted.name}"'
    facts: dict[str, Any] = {"publication": wanted.name}
    if not (wanted.tables or wanted.schemas or wanted.all_tables) or not wanted.publish:
        what = "no table" if wanted.publish else "no kind of change"
        raise ConfigError(
            f"{about} would publish {what}", hint="name at least one, or plan to drop it", publication=wanted.name
        )
    if wanted.all_tables and (wanted.tables or wanted.schemas):
        raise ConfigError(
            f"{about} would publish all tables, and names some", hint="leave the names out", publication=wanted.name
        )
    listing = [table for table in wanted.tables if table.columns is not None]
    filtering = [table for table in wanted.tables if table.where is not None]
    if wanted.schemas and listing:
        raise ConfigError(
            f"{about} cannot have a list of columns ({listing[0].table}) and whole schemas",
            hint="make two publications; a stream can be given both",
            table=listing[0].table,
            **facts,
        )
    for needed, version, what in (
        (bool(listing), 15, "lists of columns"),
        (bool(filtering), 15, "row filters"),
        (bool(wanted.schemas), 15, "publications of whole schemas"),
        (wanted.publish_generated_columns != "none", 18, "publish_generated_columns"),
    ):
        if needed and server_version < version * 10000:
            raise ConfigError(
                f"{about}: {what} need PostgreSQL {version}", hint="leave them out", publication=wanted.name
            )


def listed(tables: Sequence[PublicationTable], schemas: Sequence[str] = (), *, bare: bool = False) -> str:
    """Write tables and schemas as they stand in CREATE and ALTER PUBLICATION.

    Args:
        tables: The tables.
        schemas: The schemas.
        bare: Whether the tables stand without columns and row filters, as after DROP.

    Returns:
        `TABLE ONLY "public"."orders" ("id") WHERE (id > 0), TABLES IN SCHEMA "sales"`.
    """
    parts = []
    if tables:
        parts.append("TABLE " + ", ".join(_table(table, bare) for table in tables))
    if schemas:
        parts.append("TABLES IN SCHEMA " + ", ".join(identifier(schema) for schema in schemas))
    return ", ".join(parts)


def _table(table: PublicationTable, bare: bool) -> str:
    # ONLY: nothing is published because it inherits from something; partitions are with their root all the same.
    text = f"ONLY {qualified(*table.name)}"
    if table.columns is not None and not bare:
        text += f" ({', '.join(identifier(column) for column in table.columns)})"
    if table.where is not None and not bare:
        text += f" WHERE {in_parentheses(table.where)}"
    return text


def in_parentheses(expression: str) -> str:
    """Put parentheses around an expression, unless they are there.

    Args:
        expression: SQL.

    Returns:
        `(id > 0)`.
    """
    depth, quote, outside = 0, "", False
    for place, letter in enumerate(expression):
        if letter in ("'", '"'):
            quote = letter if not quote else "" if quote == letter else quote
        elif not quote:
            depth += (letter == "(") - (letter == ")")
        outside = outside or (depth == 0 and place < len(expression) - 1)
    if outside or depth or quote or any(other in expression for other in ("--", "/*", "\\", "$")):
        return f"({expression}\n)" if "--" in expression else f"({expression})"
    return expression


def options_sql(wanted: Publication, found: Publication) -> str:
    """Write the options in which two publications differ.

    Args:
        wanted: What is wanted.
        found: What is there; for a new one, a publication with nothing but its name.

    Returns:
        `publish = 'insert, update', publish_via_partition_root = true`, empty when there is no difference.
    """
    options = []
    if wanted.publish != found.publish:
        options.append(f"publish = {literal(', '.join(wanted.publish))}")
    if wanted.publish_via_partition_root != found.publish_via_partition_root:
        options.append(f"publish_via_partition_root = {str(wanted.publish_via_partition_root).lower()}")
    if wanted.publish_generated_columns != found.publish_generated_columns:
        options.append(f"publish_generated_columns = {wanted.publish_generated_columns}")
    return ", ".join(options)
