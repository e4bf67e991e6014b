"""What a store asks most: one row of a function, and the rows of a COPY.

On a store's own connection it goes around psycopg's cursors, which take twice the time of everything else together; on
a caller's it goes through them, because they begin a transaction where that is wanted. Written by hand beside
calling_async.py.

Source: PostgreSQL manual, "libpq: Asynchronous Command Processing" and "Functions Associated with the COPY Command".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, TypeVar

import psycopg
from psycopg import generators, pq, waiting
from psycopg.errors import error_from_result
from psycopg.rows import tuple_row

from pgcdc.eventstore.connections import OwnConnection

__all__ = ["ask", "ask_whether", "copied", "elsewhere"]

Result = TypeVar("Result")
_SOON: Final = 50.0
"""Milliseconds in which an answer comes as a rule; who waits for longer waits as psycopg does."""


def ask(connection: psycopg.Connection[Any], query: str, values: tuple[str | int | None, ...]) -> tuple[str, int]:
    """Call a function that returns a word and a number.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Returns:
        The row.
    """
    row = ask_whether(connection, query, values)
    assert row is not None, "the function returns a row"
    return row


def ask_whether(
    connection: psycopg.Connection[Any], query: str, values: tuple[str | int | None, ...]
) -> tuple[str, int] | None:
    """Run a statement that returns a word and a number, or no row.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Returns:
        The row, or None.
    """
    if not isinstance(connection, OwnConnection):
        row = connection.cursor(row_factory=tuple_row).execute(query, values).fetchone()
        return None if row is None else (row[0], row[1])
    pgconn = connection.pgconn
    name = connection.prepared.get(query) or _prepare(connection, query)
    pgconn.send_query_prepared(name, [None if value is None else str(value).encode() for value in values])
    result = _answer(connection)
    if result.status != pq.ExecStatus.TUPLES_OK:
        error = error_from_result(result)
        if isinstance(error, psycopg.errors.InvalidSqlStatementName) and connection.prepared:
            # psycopg drops all that is prepared when a transaction was rolled back. Nothing was done: it is autocommit.
            connection.prepared.clear()
            return ask_whether(connection, query, values)
        raise error
    if not result.ntuples:
        return None
    word, number = result.get_value(0, 0), result.get_value(0, 1)
    assert word is not None and number is not None, "the function returns both"
    return word.decode(), int(number)


def _answer(connection: OwnConnection) -> pq.abc.PGresult:
    """Wait for the result of what was sent: without psycopg's generators, where it comes soon."""
    pgconn = connection.pgconn
    results: list[pq.abc.PGresult] = []
    if not pgconn.flush() and connection.readable.poll(_SOON):
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                return results[-1]
            results.append(result)
    results += connection.wait(generators.execute(pgconn))
    return results[-1]


def _prepare(connection: OwnConnection, query: str) -> bytes:
    parts = query.split("%s")
    text = "".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]
    name = b"pgcdc_%d" % len(connection.prepared)
    connection.pgconn.send_prepare(name, text.encode())
    result = connection.wait(generators.execute(connection.pgconn))[-1]
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(result)
    connection.prepared[query] = name
    return name


def copied(connection: psycopg.Connection[Any], query: str, after_id: int, batch: int) -> Iterator[bytes]:
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
    if not isinstance(connection, OwnConnection):
        with connection.cursor() as cursor, cursor.copy(query, (after_id,)) as copy:
            for row in copy:
                rows.append(row)
                if len(rows) == batch:
                    yield b"".join(rows)
                    rows.clear()
        if rows:
            yield b"".join(rows)
        return
    # Whoever stops in the middle leaves the connection in the middle of the COPY, and the pool closes it.
    pgconn = connection.pgconn
    pgconn.send_query((query % int(after_id)).encode())
    result = connection.wait(generators.execute(pgconn))[-1]
    if result.status != pq.ExecStatus.COPY_OUT:
        raise error_from_result(result)
    take = pgconn.get_copy_data
    while True:
        length, row = take(1)
        if length > 0:
            rows.append(row)
            if len(rows) == batch:
                yield b"".join(rows)
                rows.clear()
        elif length == 0:
            connection.wait(_more(pgconn))
        else:
            break
    if rows:
        yield b"".join(rows)
    for result in connection.wait(generators.execute(pgconn)):
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise error_from_result(result)


def elsewhere(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call what reads files; where there is an event loop, in a thread.

    Args:
        function: What is called.
        arguments: With what.

    Returns:
        What it returns.
    """
    return function(*arguments)


def _more(pgconn: pq.abc.PGconn) -> Generator[waiting.Wait, waiting.Ready | int, None]:
    """Wait until something has come; psycopg wakes up now and then, so that Ctrl-C is not swallowed."""
    while (yield waiting.Wait.R) == waiting.Ready.NONE:
        pass
    pgconn.consume_input()
