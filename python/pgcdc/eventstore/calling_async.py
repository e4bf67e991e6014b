"""What an asynchronous store asks most: one row of a function, rows of a stream and of a COPY, by psycopg's cursors.

Written by hand beside calling.py, which goes around them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

__all__ = ["all_rows", "ask", "comes_in_pieces", "copied", "cursor", "elsewhere", "rows"]

Result = TypeVar("Result")


def cursor(connection: psycopg.AsyncConnection[Any], *, binary: bool = False) -> psycopg.AsyncCursor[tuple[Any, ...]]:
    """A cursor that understands the store's statements, whatever a caller's connection makes by itself.

    One of another class (`ClientCursor`, `RawCursor`) would put values in as text, or take `%s` for SQL.

    Args:
        connection: On which.
        binary: Whether rows come in binary, which no setting (`DateStyle`) writes in another way.

    Returns:
        The cursor.
    """
    made = psycopg.AsyncCursor(connection, row_factory=tuple_row)
    made.format = psycopg.pq.Format.BINARY if binary else psycopg.pq.Format.TEXT
    return made


async def ask(
    connection: psycopg.AsyncConnection[Any], query: str, values: tuple[str | int | None, ...]
) -> tuple[str, int]:
    """Call a function that returns a word and a number.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Returns:
        The row.
    """
    asking = cursor(connection)
    await asking.execute(query, values)
    row = await asking.fetchone()
    assert row is not None, "the function returns a row"
    return row[0], row[1]


async def rows(
    connection: psycopg.AsyncConnection[Any], query: str, values: tuple[str | int | None, ...]
) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    """Read rows, in binary.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Yields:
        All of them.
    """
    asking = cursor(connection, binary=True)
    await asking.execute(query, values)
    yield await asking.fetchall()


def comes_in_pieces(_connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether `all_rows` can read on a connection: psycopg's cursors take rows in pieces one by one, which is slow.

    Args:
        _connection: The connection.

    Returns:
        Whether: no.
    """
    return False


async def all_rows(
    connection: psycopg.AsyncConnection[Any], query: str, after_id: int, batch: int
) -> AsyncIterator[list[tuple[Any, ...]]]:
    """Read any number of rows, in binary; where `comes_in_pieces`.

    Args:
        connection: On which.
        query: With %s for a number.
        after_id: The number.
        batch: How many rows at a time.

    Yields:
        So many rows.
    """
    async for row in cursor(connection, binary=True).stream(query, (after_id,), size=batch):
        yield [row]


async def copied(
    connection: psycopg.AsyncConnection[Any], query: str, after_id: int, batch: int
) -> AsyncIterator[bytes]:
    """Read what a COPY gives.

    Args:
        connection: On which.
        query: The COPY, with %s for a number.
        after_id: The number.
        batch: How many rows at a time.

    Yields:
        So many rows.
    """
    rows: list[Any] = []
    async with cursor(connection) as asking, asking.copy(query, (after_id,)) as copy:
        async for row in copy:
            rows.append(row)
            if len(rows) == batch:
                yield b"".join(rows)
                rows.clear()
    if rows:
        yield b"".join(rows)


async def elsewhere(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call what reads files, in a thread.

    Args:
        function: What is called.
        arguments: With what.

    Returns:
        What it returns.
    """
    return await asyncio.to_thread(function, *arguments)
