"""What a store asks most: one row of a function, the rows of a stream, and those of a COPY.

On a store's own connection it goes around psycopg's cursors, which take twice the time of everything else together; on
a caller's it goes through them, because they begin a transaction where that is wanted. Written by hand beside
calling_async.py.

Source: PostgreSQL manual, "libpq: Asynchronous Command Processing", "Retrieving Query Results in Chunks" and "Functions
Associated with the COPY Command".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, TypeVar

import psycopg
from psycopg import capabilities, generators, pq, waiting
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import tuple_row

from pgcdc.eventstore.connections import OwnConnection

__all__ = ["ask", "ask_whether", "copied", "elsewhere", "rows"]

Result = TypeVar("Result")
_SOON: Final = 50.0
"""Milliseconds in which an answer comes as a rule; who waits for longer waits as psycopg does."""
_CHUNK: Final = 500
"""Rows that are taken at once, while the server makes the next ones."""


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
    _send(connection, query, values, pq.Format.TEXT)
    result = _answer(connection)
    if result.status != pq.ExecStatus.TUPLES_OK:
        _refuse_or_forget(connection, result)
        return ask_whether(connection, query, values)
    if not result.ntuples:
        return None
    word, number = result.get_value(0, 0), result.get_value(0, 1)
    assert word is not None and number is not None, "the function returns both"
    return word.decode(), int(number)


def rows(
    connection: psycopg.Connection[Any], query: str, values: tuple[str | int | None, ...]
) -> Generator[list[tuple[Any, ...]], None, None]:
    """Read rows, in binary.

    On a store's own connection they come in pieces, so that the server makes the next ones while these are used.
    Whoever leaves off in the middle closes the generator, which takes the rest: the connection can be used again.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Yields:
        Some rows.
    """
    if not isinstance(connection, OwnConnection) or not capabilities.has_stream_chunked():
        yield connection.cursor(binary=True, row_factory=tuple_row).execute(query, values).fetchall()
        return
    pgconn = connection.pgconn
    _send(connection, query, values, pq.Format.BINARY)
    pgconn.set_chunked_rows_mode(_CHUNK)
    if pgconn.flush():
        connection.wait(generators.send(pgconn))
    pieces = Transformer(connection)
    is_first = True
    try:
        while (result := connection.wait(generators.fetch(pgconn))) is not None:
            if result.status not in (pq.ExecStatus.TUPLES_CHUNK, pq.ExecStatus.TUPLES_OK):
                connection.wait(generators.fetch_many(pgconn))
                _refuse_or_forget(connection, result)
                yield from rows(connection, query, values)
                return
            pieces.set_pgresult(result, set_loaders=is_first)
            is_first = False
            yield pieces.load_rows(0, result.ntuples, tuple)
    finally:
        if pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.wait(generators.fetch_many(pgconn))


def _send(
    connection: OwnConnection, query: str, values: tuple[str | int | None, ...], result_format: pq.Format
) -> None:
    """Send a statement that is prepared at its first use."""
    name = connection.prepared.get(query) or _prepare(connection, query)
    texts = [None if value is None else str(value).encode() for value in values]
    connection.pgconn.send_query_prepared(name, texts, result_format=result_format)


def _refuse_or_forget(connection: OwnConnection, result: pq.abc.PGresult) -> None:
    """Raise what the server says, unless it is that what was prepared is not there: then it can be sent again."""
    error = error_from_result(result)
    if not isinstance(error, psycopg.errors.InvalidSqlStatementName) or not connection.prepared:
        raise error
    # psycopg drops all that is prepared when a transaction was rolled back. Nothing was done: it is autocommit.
    connection.prepared.clear()


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
