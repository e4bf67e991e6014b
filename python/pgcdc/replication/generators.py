"""The protocol, said once: generators that talk to libpq and yield whenever they would have to wait.

As in psycopg's own `generators.py`, a generator yields a `Wait` (what the socket must be ready for) and is sent a
`Ready`. There is one difference: psycopg's generators go on waiting when they are sent `Ready.NONE`, these *return*. So
the driver, synchronous (`psycopg.waiting.wait`) or asynchronous (`wait_async`), gets control back at every time-out and
can send a status update, look at a deadline or give up; libpq holds all the state, so calling the same generator again
goes on where the last one stopped.

Every burst of libpq calls is made under `lock`, never a wait: another thread may send a status update while one waits
for data.

Source: PostgreSQL manual, "libpq: Asynchronous Command Processing" and "Functions Associated with the COPY Command".
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from pgcdc.replication.libpq import pq, psycopg, take, waiting

if TYPE_CHECKING:
    from psycopg.pq.abc import PGcancelConn, PGconn, PGresult

    from pgcdc.protocol import Frames

__all__ = [
    "COPY_STATES",
    "Connecting",
    "Drained",
    "Lock",
    "Waiting",
    "at_once",
    "cancel",
    "collect",
    "connect",
    "flush",
    "receive",
]

T = TypeVar("T")
Lock: TypeAlias = AbstractContextManager[object]
Waiting: TypeAlias = "Generator[waiting.Wait, waiting.Ready | int, T]"
Connecting: TypeAlias = "Generator[tuple[int, waiting.Wait], waiting.Ready | int, T]"

READ = waiting.Wait.R
WRITE = waiting.Wait.W
READ_WRITE = waiting.Wait.RW
READY_READ = waiting.Ready.R

COPY_STATES = (pq.ExecStatus.COPY_BOTH, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN)


class Drained(Enum):
    """Why `receive` stopped."""

    DRY = "nothing more has come so far"
    FULL = "a limit was reached; libpq may hold more"
    ENDED = "the server ended the COPY; `collect` tells why"


def connect(pgconn: PGconn, deadline: float) -> Connecting[bool]:
    """Bring a connection that was begun with `PQconnectStart` to its end, whichever it is.

    PQconnectPoll must not be called before the socket is ready, so this one does not return at `Ready.NONE`: it has the
    deadline itself.

    Args:
        pgconn: The connection.
        deadline: When to give up, in seconds of `time.monotonic`.

    Returns:
        False when the deadline passed; True when the connection is made or has failed, which `pgconn.status` tells.

    Source:
        libpq: PQconnectStart, PQconnectPoll.
    """
    return (yield from _polled(pgconn, pgconn.connect_poll, deadline))


def cancel(request: PGcancelConn, deadline: float) -> Connecting[bool]:
    """Ask the server over a connection of its own to stop what another one is running.

    Args:
        request: Made for the other connection; it is begun here.
        deadline: When to give up, in seconds of `time.monotonic`.

    Returns:
        False when the deadline passed; True when it was asked or could not be, which `request.status` tells.

    Source:
        libpq 17: PQcancelStart, PQcancelPoll.
    """
    request.start()
    return (yield from _polled(request, request.poll, deadline))


def _polled(connection: PGconn | PGcancelConn, poll: Callable[[], int], deadline: float) -> Connecting[bool]:
    state = int(pq.PollingStatus.WRITING)  # as the manual says: begin as if the first poll had said so
    while connection.status != pq.ConnStatus.BAD and state not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        # libpq tries one host after the other and may change the socket, so it is asked again each time.
        wait = READ if state == pq.PollingStatus.READING else WRITE
        while not (yield connection.socket, wait):
            if monotonic() >= deadline:
                return False
        state = poll()
    return True


def flush(pgconn: PGconn, lock: Lock = nullcontext()) -> Waiting[bool]:  # noqa: B008 (has no state)
    """Send what libpq has been given.

    Args:
        pgconn: A connection in non-blocking mode.
        lock: Held around libpq calls.

    Returns:
        False when the wait timed out before everything was sent.

    Source:
        libpq: PQflush.
    """
    while True:
        with lock:
            if not pgconn.flush():
                return True
        ready = yield READ_WRITE
        if not ready:
            return False
        if ready & READY_READ:
            # The server may be unable to read because we do not: take in what it sends, or both wait for ever.
            with lock:
                pgconn.consume_input()


def collect(pgconn: PGconn, results: list[PGresult], lock: Lock = nullcontext()) -> Waiting[bool]:  # noqa: B008
    """Gather the results of a command until the last one, or until a COPY begins.

    Args:
        pgconn: A connection to which a command was sent.
        results: Where results are put as they come.
        lock: Held around libpq calls.

    Returns:
        False when the wait timed out before the last result.

    Source:
        libpq: PQconsumeInput, PQisBusy, PQgetResult.
    """
    while True:
        while pgconn.is_busy():
            ready = yield READ
            if not ready:
                return False
            with lock:
                pgconn.consume_input()
        with lock:
            result = pgconn.get_result()
        if result is None:
            return True
        results.append(result)
        if result.status in COPY_STATES:
            return True  # libpq repeats this result for as long as the COPY goes on


def receive(
    pgconn: PGconn,
    frames: Frames,
    max_bytes: int,
    max_frames: int,
    lock: Lock = nullcontext(),  # noqa: B008
) -> Waiting[Drained]:
    """Take the CopyData payloads that have come; wait only for the first.

    libpq hands over about 16 KB at a read, so the socket is read again until it gives nothing.

    Args:
        pgconn: A connection in COPY OUT or COPY BOTH.
        frames: Where payloads are put, behind those that are there.
        max_bytes: Stop when so many bytes are there.
        max_frames: Stop when so many payloads are there.
        lock: Held around libpq calls.

    Returns:
        Why it stopped. With `Drained.DRY` and nothing new the wait timed out.

    Raises:
        psycopg.Error: When the connection broke and nothing that came before is left to hand over.

    Source:
        libpq: PQconsumeInput, PQgetCopyData.
    """
    begun = len(frames)
    with lock:
        said = take(pgconn, frames, max_bytes, max_frames)
    while said == 0:
        before = len(frames)
        if before == begun:
            ready = yield READ
            if not ready:
                return Drained.DRY
        with lock:
            try:
                pgconn.consume_input()
                said = take(pgconn, frames, max_bytes, max_frames)
            except psycopg.Error:
                if len(frames) > begun:
                    return Drained.DRY  # whole frames first; the next call meets the error again
                raise
        if said == 0 and len(frames) == before > begun:
            return Drained.DRY
    return Drained.FULL if said > 0 else Drained.ENDED


def at_once(receiving: Waiting[Drained]) -> Drained:
    """Drive `receive` without a wait: where it would, it is told that there may be something, once.

    Args:
        receiving: What `receive` gave.

    Returns:
        What it returned; `Drained.DRY` when there was nothing.

    Raises:
        psycopg.Error: As `receive`.
    """
    try:
        next(receiving)
        receiving.send(READY_READ)
    except StopIteration as stopped:
        drained: Drained = stopped.value
        return drained
    receiving.close()
    return Drained.DRY
