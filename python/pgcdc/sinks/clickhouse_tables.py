"""Tables of ClickHouse for tables of PostgreSQL: their columns, how they are made; names and texts as SQL has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pgcdc.errors import ConfigError
from pgcdc.event_text import TYPE_NAMES
from pgcdc.events import Column, Relation

__all__ = [
    "ACTION",
    "DELETED",
    "FLOORS",
    "OLD_KEY",
    "POSITION",
    "UNSENT",
    "column_type",
    "columns_of",
    "create",
    "create_floors",
    "has_own_text",
    "name",
    "text",
]

POSITION: Final = "pgcdc_position"
"""The position of the change, as a number: the commit's LSN times 2**32, and the index and one."""
DELETED: Final = "pgcdc_deleted"
"""1 where the row is gone."""
ACTION: Final = "pgcdc_action"
"""Of a change log: what happened."""
OLD_KEY: Final = "pgcdc_old_key"
"""Of a change log: the key before it was changed."""
UNSENT: Final = "pgcdc_unsent"
"""Of a change log: the columns that were not sent."""
FLOORS: Final = "pgcdc_floors"
"""The table that has the position of the last TRUNCATE of each other one."""

_RESERVED: Final = frozenset((POSITION, DELETED, ACTION, OLD_KEY, UNSENT))
_MOST_DIGITS: Final = 76
"""Source: ClickHouse documentation, "Decimal"."""
_TIME: Final = "DateTime64(6, 'UTC')"
# Whole numbers and floats have one size, as a column may become wider and a key never another type.
_TYPES: Final = {
    "bool": "Bool",
    "int2": "Int64",
    "int4": "Int64",
    "int8": "Int64",
    "oid": "Int64",
    "xid8": "UInt64",
    "float4": "Float64",
    "float8": "Float64",
    "money": "Decimal(19, 2)",
    "date": "Date32",
    "timestamp": _TIME,
    "timestamptz": _TIME,
    "uuid": "UUID",
}
_DURABLE: Final = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
"""What was inserted is to be there after a crash of the machine, too."""
# What is in a key and printed by PostgreSQL as JSON has it.
_PLAIN_KEYS: Final = frozenset(
    ("int2", "int4", "int8", "oid", "xid8", "uuid", "text", "varchar", "bpchar", "name", "char")
)


def column_type(column: Column) -> str:
    """What a column is in ClickHouse, when it is no part of the key.

    Args:
        column: The column.

    Returns:
        The type, without Nullable.
    """
    kind = TYPE_NAMES.get(column.type_oid, "")
    if kind == "numeric":
        return _decimal(column.type_modifier)
    return _TYPES.get(kind, "String")


def has_own_text(column: Column) -> bool:
    """Whether a column of a key is known by what PostgreSQL prints for it, which is not as it is in JSON.

    Args:
        column: The column.
    """
    return TYPE_NAMES.get(column.type_oid) not in _PLAIN_KEYS


def _decimal(modifier: int) -> str:
    # Source: server file utils/adt/numeric.c, numeric_typmod_precision, numeric_typmod_scale.
    if modifier < 4:
        return "String"
    precision = (modifier - 4) >> 16 & 0xFFFF
    scale = ((modifier - 4 & 0x7FF) ^ 0x400) - 0x400
    return f"Decimal({precision}, {scale})" if 0 <= scale <= precision <= _MOST_DIGITS else "String"


def columns_of(relation: Relation, key: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """The columns of a table, and their types as SQL has them.

    Args:
        relation: The table.
        key: The columns of its key.
        chosen: Types by column, instead of those that follow from PostgreSQL's.

    Raises:
        ConfigError: When a column has a name that the sink uses itself.
    """
    columns = {}
    for column in relation.columns:
        if column.name in _RESERVED:
            raise ConfigError(
                f"the column {column.name} of {relation.schema}.{relation.name} has a name that the sink uses itself",
                hint="give it another name with a transform, or leave it out with columns=",
                table=f"{relation.schema}.{relation.name}",
            )
        if column.name in chosen:
            columns[column.name] = chosen[column.name]
        elif column.name in key:
            columns[column.name] = "String" if has_own_text(column) else column_type(column)
        else:
            columns[column.name] = f"Nullable({column_type(column)})"
    return columns


def create(table: str, columns: Mapping[str, str], key: Sequence[str], *, log: bool) -> str:
    """The statement that makes a table.

    Args:
        table: Its name, as SQL has it.
        columns: Its columns.
        key: The columns of its key.
        log: Whether it is a change log.
    """
    own = {POSITION: "UInt128", DELETED: "UInt8"}
    engine, order = f"ReplacingMergeTree({POSITION}, {DELETED})", list(key)
    if log:
        own = {POSITION: "UInt128", ACTION: "LowCardinality(String)", OLD_KEY: "Array(String)", UNSENT: "Array(String)"}
        engine, order = "ReplacingMergeTree", [POSITION, *key]
    defined = ", ".join(f"{name(column)} {kind}" for column, kind in {**columns, **own}.items())
    # What is older than a TRUNCATE is looked for without reading what is newer.
    index = "" if log else f", INDEX {POSITION} {POSITION} TYPE minmax"
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({defined}{index})"
        f" ENGINE = {engine} ORDER BY ({', '.join(map(name, order))}) {_DURABLE}"
    )


def create_floors(table: str) -> str:
    """The statement that makes the table of positions of TRUNCATEs.

    Args:
        table: Its name, as SQL has it.
    """
    return (
        f"CREATE TABLE IF NOT EXISTS {table} (name String, uuid UUID, {POSITION} UInt128)"
        f" ENGINE = ReplacingMergeTree({POSITION}) ORDER BY (name, uuid) {_DURABLE}"
    )


def name(of: str) -> str:
    """A name as SQL has it.

    Args:
        of: The name.
    """
    escaped = of.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def text(value: str) -> str:
    """A string as SQL has it.

    Args:
        value: The string.
    """
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
