"""What a store asks most: one row of a function, the rows of a stream, and those of a COPY.

On a store's own connection it goes around psycopg's cursors, which take twice the time of everything else together; on
a caller's it goes through them, because they begin a transaction where that is wanted. Written by hand beside
calling_async.py.

Source: PostgreSQL manual, "libpq: Asynchronous Command Processing", "Retrieving Query Results in Chunks" and "Functions
Associated with the COPY Command".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import capabilities, generators, pq, waiting
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.rows import tuple_row

from pgcdc.eventstore.connections import OwnConnection
from pgcdc.eventstore.waiters import Value

__all__ = [
    "all_rows",
    "ask",
    "asked",
    "comes_in_pieces",
    "copied",
    "cursor",
    "elsewhere",
    "prepared",
    "rows",
    "texts_of",
]

Result = TypeVar("Result")
_TEXT: Final = pq.Format.TEXT
_DONE: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_SOON: Final = 50.0
"""Milliseconds in which an answer comes as a rule; who waits for longer waits as psycopg does."""
_CHUNK: Final = 500
"""Rows that are taken at once, while the server makes the next ones."""


def cursor(connection: psycopg.Connection[Any], *, binary: bool = False) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor that understands the store's statements, whatever a caller's connection makes by itself.

    One of another class (`ClientCursor`, `RawCursor`) would put values in as text, or take `%s` for SQL.

    Args:
        connection: On which.
        binary: Whether rows come in binary, which no setting (`DateStyle`) writes in another way.

    Returns:
        The cursor.
    """
    made = psycopg.Cursor(connection, row_factory=tuple_row)
    made.format = psycopg.pq.Format.BINARY if binary else psycopg.pq.Format.TEXT
    return made


def ask(connection: psycopg.Connection[Any], query: str, values: tuple[str | int | None, ...]) -> tuple[str, int]:
    """Call a function that returns a word and a number.

    Args:
        connection: On which.
        query: With %s for each value.
        values: The values.

    Returns:
        The row.
    """
    if not isinstance(connection, OwnConnection):
        row = cursor(connection).execute(query, values).fetchone()
        assert row is not None, "the function returns a row"
        return row[0], row[1]
    result = asked(connection, query, texts_of(values))
    word, number = result.get_value(0, 0), result.get_value(0, 1)
    assert word is not None and number is not None, "the function returns both"
    return word.decode(), int(number)


def asked(connection: OwnConnection, query: str, texts: list[bytes | None]) -> pq.abc.PGresult:
    """Run a statement that is prepared at its first use.

    Args:
        connection: On which.
        query: With %s for each value.
        texts: The values, as they are sent.

    Returns:
        Its result.
    """
    for attempt in range(3):
        _send(connection, query, texts, _TEXT, is_prepared=attempt < 2)
        result = _answer(connection)
        if result.status in _DONE:
            return result
        error = error_from_result(result)
        if not isinstance(error, psycopg.errors.InvalidSqlStatementName):
            break
        # psycopg drops all that is prepared when a transaction was rolled back. Nothing was done: it is autocommit. The
        # second time it is a pooler, which has given this to another server's process than what was prepared.
        connection.prepared.clear()
    raise error


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
        yield cursor(connection, binary=True).execute(query, values).fetchall()
        return
    texts = texts_of(values)
    try:
        for attempt in range(3):
            _send(connection, query, texts, pq.Format.BINARY, is_prepared=attempt < 2)
            try:
                yield from _pieces(connection, _CHUNK)
                return
            except psycopg.errors.InvalidSqlStatementName:  # as in asked; nothing has come yet
                if attempt == 2:
                    raise
                connection.prepared.clear()
    finally:
        if connection.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            connection.wait(generators.fetch_many(connection.pgconn))


def comes_in_pieces(connection: psycopg.Connection[Any]) -> bool:
    """Whether `all_rows` can read on a connection: it is a store's own, and its libpq is of version 17 or newer.

    Args:
        connection: The connection.

    Returns:
        Whether.
    """
    return isinstance(connection, OwnConnection) and capabilities.has_stream_chunked()


def all_rows(
    connection: psycopg.Connection[Any], query: str, after_id: int, batch: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Read any number of rows, in binary; for both sides it takes two thirds of what `copied` does.

    Whoever leaves off in the middle leaves the connection there, too, and the pool closes it.

    Args:
        connection: One that `comes_in_pieces`.
        query: With %s for a number.
        after_id: The number.
        batch: How many rows at a time.

    Yields:
        So many rows.
    """
    assert isinstance(connection, OwnConnection), "it was looked at"
    values = [b"%d" % after_id]
    connection.pgconn.send_query_params(query.replace("%s", "$1").encode(), values, result_format=pq.Format.BINARY)
    yield from _pieces(connection, batch)


def _pieces(connection: OwnConnection, size: int) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of what was sent, while the server makes the next ones."""
    pgconn = connection.pgconn
    pgconn.set_chunked_rows_mode(size)
    if pgconn.flush():
        connection.wait(generators.send(pgconn))
    loading = Transformer(connection)
    is_first = True
    while (result := connection.wait(generators.fetch(pgconn))) is not None:
        if result.status not in (pq.ExecStatus.TUPLES_CHUNK, pq.ExecStatus.TUPLES_OK):
            connection.wait(generators.fetch_many(pgconn))
            raise error_from_result(result)
        loading.set_pgresult(result, set_loaders=is_first)
        is_first = False
        if result.ntuples:
            yield loading.load_rows(0, result.ntuples, tuple)


def _send(
    connection: OwnConnection,
    query: str,
    texts: list[bytes | None],
    result_format: pq.Format,
    *,
    is_prepared: bool = True,
) -> None:
    """Send a statement that is prepared at its first use, or one that is not."""
    if is_prepared:
        connection.pgconn.send_query_prepared(prepared(connection, query), texts, result_format=result_format)
    else:
        connection.pgconn.send_query_params(_numbered(query), texts, result_format=result_format)


def texts_of(values: Sequence[Value]) -> list[bytes | None]:
    """Values as they are sent.

    Args:
        values: The values.

    Returns:
        Their texts.

    Raises:
        psycopg.DataError: For one that PostgreSQL cannot hold.
    """
    texts: list[bytes | None] = []
    for value in values:
        if value is not None:
            text = value.encode() if isinstance(value, str) else b"%d" % value if isinstance(value, int) else value
            if 0 in text:  # libpq would take it for the end; a seventh of the time that b"\0" takes
                raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            texts.append(text)
        else:
            texts.append(None)
    return texts


def _answer(connection: OwnConnection) -> pq.abc.PGresult:
    """Wait for the result of what was sent: without psycopg's generators, where it comes soon."""
    pgconn = connection.pgconn
    result: pq.abc.PGresult | None = None
    if not pgconn.flush() and connection.readable.poll(_SOON):
        pgconn.consume_input()
        while not pgconn.is_busy():
            last, result = result, pgconn.get_result()
            if result is None:
                assert last is not None, "a statement has a result"
                return last
    later = connection.wait(generators.execute(pgconn))  # none where only the end had not come yet
    if later:
        result = later[-1]
    assert result is not None, "a statement has a result"
    return result


def _numbered(query: str) -> bytes:
    parts = query.split("%s")
    return ("".join(f"{part}${number}" for number, part in enumerate(parts[:-1], 1)) + parts[-1]).encode()


def prepared(connection: OwnConnection, query: str) -> bytes:
    """Prepare a statement, if it is not.

    Args:
        connection: On which.
        query: With %s for each value.

    Returns:
        Its name.
    """
    if (known := connection.prepared.get(query)) is not None:
        return known
    name = next(connection.names).encode()  # never again: the server may have prepared one that was interrupted
    connection.pgconn.send_prepare(name, _numbered(query))
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
        with cursor(connection) as asking, asking.copy(query, (after_id,)) as copy:
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
            if connection.readable.poll(_SOON):
                pgconn.consume_input()
            else:
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
