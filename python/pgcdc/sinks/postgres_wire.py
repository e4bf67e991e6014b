"""Many statements and their COPY data to a PostgreSQL as one query: as few round trips as the protocol allows.

A simple query may hold several statements, COPY … FROM STDIN among them: the server stops at each until it has the
data. Source: PostgreSQL manual, "Simple Query", "COPY Operations".
"""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import psycopg
from psycopg import pq

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Refusal", "Step", "run"]

PIECE: Final = 1 << 20
"""How many bytes of COPY data are handed to libpq at once."""


_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)  # Windows has no poll


class Step(NamedTuple):
    """One statement.

    Attributes:
        sql: The statement.
        data: For COPY … FROM STDIN, what is copied.
    """

    sql: bytes
    data: bytes | None = None


class Refusal(Exception):
    """The server refused a statement.

    Args:
        sqlstate: Why.
        primary: Its primary message, which can hold a value where the code is of class 22.
        step: The number of the step.
    """

    def __init__(self, sqlstate: str, primary: str, step: int) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate
        self.primary = primary
        self.step = step


def run(connection: psycopg.Connection[Any], steps: Sequence[Step]) -> list[int]:
    """Run steps in one query.

    Args:
        connection: In autocommit mode; nobody else uses it meanwhile.
        steps: What to run; no statement may give rows but a single one.

    Returns:
        How many rows each step was about.

    Raises:
        Refusal: When the server refused one; those behind it were not run. A transaction is left open.
        psycopg.OperationalError: When the connection is lost.
    """
    conn = connection.pgconn
    conn.send_query(b"; ".join(step.sql for step in steps))
    copies = iter([step.data for step in steps if step.data is not None])
    counts: list[int] = []
    refusal: Refusal | None = None
    while (result := _next(conn)) is not None:
        match result.status:
            case pq.ExecStatus.COPY_IN:
                _copy(conn, next(copies))
            case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
                counts.append(result.command_tuples or 0)
            case _ if refusal is None:
                refusal = _refusal(result, len(counts))
    if refusal is not None:
        raise refusal
    if conn.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the connection was lost")
    return counts


def _refusal(result: PGresult, step: int) -> Refusal:
    def field(which: pq.DiagnosticField) -> str:
        return (result.error_field(which) or b"").decode(errors="replace")

    sqlstate = field(pq.DiagnosticField.SQLSTATE)
    if not sqlstate:
        raise psycopg.OperationalError("the connection was lost")
    return Refusal(sqlstate, field(pq.DiagnosticField.MESSAGE_PRIMARY), step)


def _wait(conn: PGconn, *, writable: bool) -> None:
    """Wait until there is something to read, or room to write; psycopg keeps the connection from blocking."""
    with _Selector() as selector:
        selector.register(conn.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0))
        selector.select()


def _flush(conn: PGconn) -> None:
    while conn.flush():
        _wait(conn, writable=True)
        conn.consume_input()


def _next(conn: PGconn) -> PGresult | None:
    _flush(conn)
    while conn.is_busy():
        _wait(conn, writable=False)
        conn.consume_input()
    return conn.get_result()


def _copy(conn: PGconn, data: bytes) -> None:
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        piece = bytes(view[start : start + PIECE]) if len(data) > PIECE else data
        while conn.put_copy_data(piece) == 0:
            _wait(conn, writable=True)
            conn.consume_input()
        _flush(conn)
    while conn.put_copy_end() == 0:
        _wait(conn, writable=True)
        conn.consume_input()
