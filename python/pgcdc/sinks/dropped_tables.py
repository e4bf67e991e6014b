"""What a sink says of a table that is not in the target any more: somebody has dropped it while the sink had it."""

from __future__ import annotations

from pgcdc.errors import ConfigError

__all__ = ["dropped"]


def dropped(table: str, where: str, *, sqlstate: str | None = None) -> ConfigError:
    """Give the error.

    It is not made again at once: a copy that has lost its rows would look like one that has them all.

    Args:
        table: The table, as the target calls it.
        where: The target.
        sqlstate: What a server said.
    """
    return ConfigError(
        f"the table {table} is not in {where} any more: somebody has dropped it, or given it another name",
        hint="started again, the sink makes it anew with its next row, without the rows of before; to have those, let"
        " the consumer copy again first: pgcdc consumer forget",
        table=table,
        sqlstate=sqlstate,
    )
