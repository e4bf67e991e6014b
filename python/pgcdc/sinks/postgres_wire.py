"""Many statements to a PostgreSQL at once, with their COPY data or parameters: as few round trips as there can be.

A simple query may hold several statements, COPY … FROM STDIN among them: the server stops at each until it has the
data. A pipeline holds statements that take parameters, and no COPY; all of it is one round trip. Source: PostgreSQL
manual, "Simple Query", "COPY Operations", "Pipelining", and libpq's "Pipeline Mode".
"""

from __future__ import annotations

import selectors
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import pq, waiting

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Refusal", "Step", "run", "start"]

PIECE: Final = 1 << 20
"""How many bytes of COPY data are handed to libpq at once."""
_LOOK_SECONDS: Final = 1.0
"""How often a wait looks whether it was interrupted."""
_READ: Final = waiting.Wait.R
_READ_WRITE: Final = waiting.Wait.RW
_READABLE: Final = waiting.Ready.R
_Selector: Final = getattr(selectors, "PollSelector", selectors.SelectSelector)  # Windows has no poll


class Step(NamedTuple):
    """One statement.

    Attributes:
        sql: The statement; with parameters the name of a prepared one.
        data: For COPY … FROM STDIN, what is copied.
        parameters: What it takes, in binary; None when it takes none.
    """

    sql: bytes
    data: bytes | None = None
    parameters: Sequence[bytes | None] | None = None


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


def start(connection: psycopg.Connection[Any], steps: Sequence[Step]) -> None:
    """Send the first steps of a pipeline, and wait for nothing: `run` goes on with it, and nobody else may.

    Args:
        connection: As for `run`.
        steps: What to send; without data.

    Raises:
        psycopg.OperationalError: When the connection is lost.
    """
    conn = connection.pgconn
    conn.enter_pipeline_mode()
    _send(conn, steps)
    conn.flush()  # what does not go out at once goes out with the rest


def run(connection: psycopg.Connection[Any], steps: Sequence[Step], *, started: int = 0) -> list[int]:
    """Run steps, in one query where none has parameters, in one pipeline where none has data.

    Args:
        connection: In autocommit mode; nobody else uses it meanwhile.
        steps: What to run; no statement may give rows but a single one.
        started: How many of them were sent by `start`; none may have data then.

    Returns:
        How many rows each step was about.

    Raises:
        Refusal: When the server refused one; those behind it were not run. A transaction is left open.
        psycopg.OperationalError: When the connection is lost.
    """
    if started:
        _send(connection.pgconn, steps[started:])
        return _ended(connection.pgconn, steps, 0)
    counts: list[int] = []
    for pipelined, those in _runs(steps):
        counts += (_pipeline if pipelined else _query)(connection.pgconn, those, len(counts))
    return counts


def _runs(steps: Sequence[Step]) -> Iterator[tuple[bool, list[Step]]]:
    """Steps that go together; those with neither data nor parameters go either way."""
    kinds: list[bool | None] = [
        True if step.parameters is not None else False if step.data is not None else None for step in steps
    ]
    kind = next((one for one in kinds if one is not None), False)
    decided: list[bool] = []
    for one in kinds:
        kind = kind if one is None else one
        decided.append(kind)
    for kind, those in groupby(zip(decided, steps, strict=True), lambda pair: pair[0]):
        yield kind, [step for _, step in those]


def _query(conn: PGconn, steps: Sequence[Step], before: int) -> list[int]:
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
                refusal = _refusal(result, before + len(counts))
    return _checked(conn, refusal, counts)


def _pipeline(conn: PGconn, steps: Sequence[Step], before: int) -> list[int]:
    conn.enter_pipeline_mode()
    _send(conn, steps)
    return _ended(conn, steps, before)


def _send(conn: PGconn, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.parameters is None:
            conn.send_query_params(step.sql, None)
        else:
            conn.send_query_prepared(step.sql, step.parameters, [pq.Format.BINARY] * len(step.parameters))


def _ended(conn: PGconn, steps: Sequence[Step], before: int) -> list[int]:
    """End a pipeline of these steps."""
    conn.pipeline_sync()
    # By psycopg's own loop, which is not written in Python: one is waited for here several thousand times a second.
    counts, refusal, synchronised = waiting.wait(_answers(conn, len(steps), before), conn.socket, _LOOK_SECONDS)
    if synchronised:
        conn.exit_pipeline_mode()
    elif refusal is None:
        raise psycopg.OperationalError("the connection was lost")
    return _checked(conn, refusal, counts)


_Answering: TypeAlias = Generator[waiting.Wait, waiting.Ready | int, tuple[list[int], Refusal | None, bool]]


def _answers(conn: PGconn, steps: int, before: int) -> _Answering:
    """Send what is left, and take the answers to so many steps and to the end of the pipeline behind them."""
    counts: list[int] = []
    refusal: Refusal | None = None
    while conn.flush():
        if (yield _READ_WRITE) & _READABLE:
            conn.consume_input()
    for number in range(steps + 1):
        while True:
            while conn.is_busy():
                if (yield _READ):
                    conn.consume_input()
            result = conn.get_result()
            if number == steps:
                return counts, refusal, result is not None and result.status == pq.ExecStatus.PIPELINE_SYNC
            if result is None:
                break
            match result.status:
                case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
                    counts.append(result.command_tuples or 0)
                case pq.ExecStatus.PIPELINE_ABORTED:
                    pass
                case _ if refusal is None:
                    refusal = _refusal(result, before + len(counts))
    raise AssertionError


def _checked(conn: PGconn, refusal: Refusal | None, counts: list[int]) -> list[int]:
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
