"""How tables are named: `"orders"`, `"sales.orders"`, or schema and name as a pair."""

from __future__ import annotations

from typing import TypeAlias

from pgcdc.errors import ConfigError

__all__ = ["Table", "parse_table"]

Table: TypeAlias = tuple[str, str]
"""Schema and name."""


def parse_table(table: str | Table) -> Table:
    """Read a table's name.

    Args:
        table: `"orders"` (in the schema public), `"sales.orders"`, or schema and name as a pair: for names that have a
            full stop in them. Names are as the catalog has them: no quotes, capital letters count.

    Returns:
        Schema and name.

    Raises:
        ConfigError: When it is none of these.
    """
    if isinstance(table, str):
        parts = tuple(table.split("."))
        if len(parts) == 1:
            parts = ("public", *parts)
    else:
        parts = tuple(table)
    if len(parts) != 2 or not all(parts):
        raise ConfigError(
            f"{table!r} is not a table's name",
            hint='write "orders", "sales.orders", or ("sales", "a.name.with.full.stops")',
        )
    return parts[0], parts[1]
