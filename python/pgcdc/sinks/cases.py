"""Names that are two in PostgreSQL and one in SQLite and DuckDB, where the case of a to z is nothing; and their own."""

from __future__ import annotations

import string
from collections.abc import Iterable

from pgcdc.errors import ConfigError
from pgcdc.events import Relation

__all__ = ["refuse_columns", "refuse_table", "same"]

POSITIONS = "pgcdc_positions"
"""The table of positions in such a file."""
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def same(one: str, other: str) -> bool:
    """Whether two names are one in such a file."""
    return one.translate(_LOWER) == other.translate(_LOWER)


def refuse_table(relation: Relation, name: str, there: str) -> None:
    """Refuse a table whose name another one has in the file.

    Args:
        relation: The table.
        name: What it is to be called in the file.
        there: What the table is called that is there.

    Raises:
        ConfigError: When they differ in case only, or it is the table of positions.
    """
    table = f"{relation.schema}.{relation.name}"
    if there in (POSITIONS, f"main.{POSITIONS}"):
        raise ConfigError(
            f"the table {table} would be {POSITIONS} in the file, where the sink keeps its position",
            hint="leave it out of the pipeline's tables, or rename it at the source",
            table=table,
        )
    if name != there:
        raise ConfigError(
            f"the table {table} would be one with {there} in the file, where the case of names makes no difference",
            hint="rename one of them at the source, give each a file of its own, or rename the one in the file",
            table=table,
        )


def refuse_columns(relation: Relation, names: Iterable[str], there: Iterable[str]) -> None:
    """Refuse columns that would be one in the file.

    Args:
        relation: The table.
        names: Its columns, and what stands beside them.
        there: Those that it has in the file.

    Raises:
        ConfigError: When two of them differ in case only.
    """
    found = {name.translate(_LOWER): name for name in there}
    for name in names:
        other = found.setdefault(name.translate(_LOWER), name)
        if other != name:
            table = f"{relation.schema}.{relation.name}"
            raise ConfigError(
                f"the columns {other} and {name} of {table} would be one in the file, where the case of names makes no"
                " difference",
                hint="rename one of them at the source, or leave it out of the publication's columns",
                table=table,
            )
