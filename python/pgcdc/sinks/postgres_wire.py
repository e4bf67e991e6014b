"""Many statements to a PostgreSQL at once, with their COPY data or parameters: as few round trips as there can be.

A simple query may hold several statements, COPY … FROM STDIN among them: the server stops at each until it has the
data. A pipeline holds statements that take parameters, and no COPY; all of it is one round trip. Source: PostgreSQL
manual, "Simple Query", "COPY Operations", "Pipelining", and libpq's "Pipeline Mode".
"""

from __future__ import annotations

import selectors
from collections.abc import Generator, Iterator, Sequence
from itertools import groupby
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import pq, waiting

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Refusal", "Sent", "Step", "run"]

PIECE: Final = 1 << 20
"""How many bytes of COPY data are handed to libpq at once."""
_LOOK_SECONDS: Final = 1.0
"""How often a wait looks whether it was interrupted."""
_BINARY: Final = [[pq.Format.BINARY] * count for count in range(50)]
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


def run(connection: psycopg.Connection[Any], steps: Sequence[Step]) -> list[int]:
    """Run steps, in one query where none has parameters, in one pipeline where none has data.

    Args:
        connection: In autocommit mode; nobody else uses it meanwhile.
        steps: What to run; no statement may give rows but a single one.

    Returns:
        How many rows each step was about.

    Raises:
        Refusal: When the server refused one; those behind it were not run. A transaction is left open.
        psycopg.OperationalError: When the connection is lost.
    """
    counts: list[int] = []
    for pipelined, those in _runs(steps):
        counts += (_pipeline if pipelined else _query)(connection, those, len(counts))
    return counts


class Sent:
    """A pipeline of which all is sent, or on its way; its answers are taken as they come.

    Args:
        connection: As for `run`.
        steps: What it is made of; none may have data.

    Attributes:
        steps: The same.

    Raises:
        psycopg.OperationalError: When the connection is lost.
    """

    def __init__(self, connection: psycopg.Connection[Any], steps: Sequence[Step]) -> None:
        self.steps = steps
        self._conn = conn = connection.pgconn
        conn.enter_pipeline_mode()
        _send(conn, steps)
        conn.pipeline_sync()
        conn.flush()  # what does not go out at once goes out while it is waited for
        self._answers = _answers(conn, len(steps))
        self._needs: waiting.Wait | None = None  # what they wait for; None before the first
        self._said: tuple[list[int], Refusal | None, bool] | None = None

    def answered(self, seconds: float) -> bool:
        """Wait for the answers.

        Args:
            seconds: How long.

        Returns:
            Whether all are there.

        Raises:
            psycopg.OperationalError: When the connection is lost.
        """
        if self._said is None:
            # By psycopg's own loop, which is not written in Python: one is waited for several thousand times a second.
            waiting.wait(self._until(monotonic() + seconds), self._conn.socket, min(seconds, _LOOK_SECONDS))
        return self._said is not None

    def _until(self, deadline: float) -> Generator[waiting.Wait, waiting.Ready | int, None]:
        while True:
            ready: waiting.Ready | int | None = None
            if self._needs is not None:
                ready = yield self._needs
                if not ready and monotonic() >= deadline:
                    return
            try:
                self._needs = self._answers.send(ready)  # type: ignore[arg-type]  # None begins it
            except StopIteration as stopped:
                self._said = stopped.value
                return

    @property
    def is_well(self) -> bool:
        """Whether all are there, and the server has refused nothing."""
        return self._said is not None and self._said[1] is None and self._said[2]

    def counts(self) -> list[int]:
        """Wait for all answers, however long that takes.

        Returns:
            As `run`.

        Raises:
            Refusal: As `run`.
            psycopg.OperationalError: When the connection is lost.
        """
        while not self.answered(_LOOK_SECONDS):
            pass
        assert self._said is not None
        counts, refusal, synchronised = self._said
        if not synchronised:
            # What was said last can be of a connection that ends when all was committed: nothing is refused then.
            raise psycopg.OperationalError(
                f"the connection was lost{'' if refusal is None else f': {refusal.primary}'}"
            )
        self._conn.exit_pipeline_mode()
        return _checked(self._conn, refusal, counts)


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


def _query(connection: psycopg.Connection[Any], steps: Sequence[Step], before: int) -> list[int]:
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
                refusal = _refusal(result, before + len(counts))
    return _checked(conn, refusal, counts)


def _pipeline(connection: psycopg.Connection[Any], steps: Sequence[Step], before: int) -> list[int]:
    try:
        return Sent(connection, steps).counts()
    except Refusal as refusal:
        refusal.step += before
        raise


def _send(conn: PGconn, steps: Sequence[Step]) -> None:
    for step in steps:
        if step.parameters is None:
            conn.send_query_params(step.sql, None)
        else:
            count = len(step.parameters)
            formats = _BINARY[count] if count < len(_BINARY) else [pq.Format.BINARY] * count
            conn.send_query_prepared(step.sql, step.parameters, formats)


_Answering: TypeAlias = Generator[waiting.Wait, waiting.Ready | int, tuple[list[int], Refusal | None, bool]]


def _answers(conn: PGconn, steps: int) -> _Answering:
    """Send what is left, and take the answers to so many steps and to the end of the pipeline behind them."""
    counts: list[int] = []
    refusal: Refusal | None = None
    while conn.flush():
        if (yield _READ_WRITE) & _READABLE:
            conn.consume_input()
    for _ in range(steps + 2):  # what is refused at the end of the pipeline, where it is committed, is told apart
        while True:
            while conn.is_busy():
                if (yield _READ):
                    conn.consume_input()
            result = conn.get_result()
            if result is None:
                break
            match result.status:
                case pq.ExecStatus.PIPELINE_SYNC:
                    return counts, refusal, True
                case pq.ExecStatus.COMMAND_OK | pq.ExecStatus.TUPLES_OK:
                    counts.append(result.command_tuples or 0)
                case pq.ExecStatus.PIPELINE_ABORTED:
                    pass
                case _ if refusal is None:
                    refusal = _refusal(result, len(counts))
    return counts, refusal, False


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
