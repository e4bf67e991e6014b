"""The shop's own application, as a process of its own: it writes orders and knows nothing of pgcdc.

It is a process and not a thread, so that its work is not measured as the pipeline's. Its settings come on stdin as one
line of JSON (a DSN may hold a password, so it stands neither in the arguments nor in the environment), then commands,
one word a line; its progress goes to stdout as lines of JSON. When stdin ends, as when the parent was killed, it stops.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Final

import msgspec
import psycopg

from pgcdc.demo import shop
from pgcdc.errors import ConnectionLost

__all__ = ["Progress", "Settings", "Writer", "write"]

_STOP_SECONDS: Final = 60.0
_REPORT_SECONDS: Final = 0.2
_LOOK: Final = "SELECT * FROM pg_stat_activity WHERE application_name = 'pgcdc-demo-writer'"


class Settings(msgspec.Struct, frozen=True):
    """What the writer needs to know.

    Attributes:
        dsn: How to connect.
        schema: The shop's schema.
        next_order: The first order id that is free.
        rate: Row changes a second that are not exceeded; 0 for as fast as the server takes them.
    """

    dsn: str
    schema: str
    next_order: int
    rate: int


class Progress(msgspec.Struct, frozen=True):
    """How far the writer is; only what was committed counts.

    Attributes:
        rows: Rows inserted, updated and deleted by transactions that committed.
        transactions: Transactions that committed.
        rolled_back: Transactions that were rolled back.
        altered: Whether `orders.discount` was added.
        finished: Whether this is the last report.
        error: Why it had to stop, without cell values; empty when it did not have to.
    """

    rows: int = 0
    transactions: int = 0
    rolled_back: int = 0
    altered: bool = False
    finished: bool = False
    error: str = ""


class Writer:
    """The writer process, seen from the demo; a context manager that leaves no process behind.

    Args:
        settings: What the writer needs to know.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._progress = Progress()
        self._reported = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def progress(self) -> Progress:
        """The latest report.

        Raises:
            ConnectionLost: When the writer had to stop.
        """
        if self._progress.error:
            raise ConnectionLost(f"the demo's writer stopped: {self._progress.error}")
        return self._progress

    def __enter__(self) -> Writer:
        # A session of its own: Ctrl-C on the terminal is for the demo, which then tells the writer to stop.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pgcdc.demo.writer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=os.name == "posix",
        )
        self._reader = threading.Thread(target=self._read_reports, name="pgcdc-demo-writer", daemon=True)
        self._reader.start()
        self._send(msgspec.json.encode(self._settings))
        return self

    def wait_until_writing(self) -> None:
        """Wait for the first report: something is committed.

        Raises:
            ConnectionLost: When the writer had to stop, or has committed nothing for a minute.
        """
        if not self._reported.wait(_STOP_SECONDS):
            raise ConnectionLost("the demo's writer did not commit anything", hint=_LOOK)
        _ = self.progress

    def add_discount(self) -> None:
        """Tell the writer to run the ALTER TABLE before its next transaction, and to write discounts from then on."""
        self._send(b"alter")

    def stop(self) -> Progress:
        """Tell the writer to finish its transaction and wait for that.

        Returns:
            The last report.

        Raises:
            ConnectionLost: When the writer had to stop before, or does not stop.
        """
        assert self._process is not None and self._reader is not None
        self._send(b"stop")
        self._reader.join(_STOP_SECONDS)
        if not self.progress.finished:
            raise ConnectionLost("the demo's writer did not finish its last transaction", hint=_LOOK)
        return self._progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        if process.stdout is not None:
            process.stdout.close()

    def _send(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        # When it has gone, its last report says why, or the end of the reports does.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()

    def _read_reports(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            self._progress = msgspec.json.decode(line, type=Progress)
            self._reported.set()
        if not self._progress.finished and not self._progress.error:
            self._progress = msgspec.structs.replace(self._progress, error="its process ended without a word")
        self._reported.set()


class _Commands:
    """What the parent said so far, read by a thread of its own."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.alter = threading.Event()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin.buffer:
            if line.strip() == b"alter":
                self.alter.set()
            else:
                break
        self.stop.set()


def write(settings: Settings, stop: threading.Event, alter: threading.Event) -> Progress:
    """Write until told to stop, reporting on stdout.

    Args:
        settings: Where and how fast.
        stop: Set when the transaction at hand is to be the last.
        alter: Set when the discount column is to be added.

    Returns:
        The last report.

    Raises:
        psycopg.Error: When the server refuses a statement or goes away.
    """
    choose = random.Random(3)  # noqa: S311 (the same shop every time)
    schema = settings.schema
    rows = transactions = rolled_back = 0
    next_order = settings.next_order
    altered = False
    started = reported = time.monotonic()
    with psycopg.connect(settings.dsn, autocommit=True, application_name="pgcdc-demo-writer") as connection:
        while not stop.is_set():
            if alter.is_set() and not altered:
                connection.execute(shop.statement(shop.ADD_DISCOUNT, schema))
                altered = True
            # Now and then somebody imports a lot at once.
            new = 1000 if transactions % 100 == 99 else choose.randint(1, 60)
            window = choose.randint(1, next_order)
            written = 0
            kept = choose.random() >= 0.1
            with connection.transaction(force_rollback=not kept):
                written += shop.insert_orders(connection, schema, next_order, next_order + new - 1)
                written += shop.move_orders(connection, schema, window, window + 30)
                if choose.random() < 0.3:
                    gone = choose.randint(1, next_order)
                    written += shop.delete_orders(connection, schema, gone, gone + 4)
                if altered:
                    written += shop.discount_orders(connection, schema, window + 15, window + 45)
            if kept:
                rows, transactions, next_order = rows + written, transactions + 1, next_order + new
            else:
                rolled_back += 1
            now = time.monotonic()
            if now - reported >= _REPORT_SECONDS:
                reported = now
                _report(Progress(rows, transactions, rolled_back, altered))
            if settings.rate:
                stop.wait(max(0.0, started + rows / settings.rate - now))
    return Progress(rows, transactions, rolled_back, altered, finished=True)


def _report(progress: Progress) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(progress) + b"\n")
    sys.stdout.buffer.flush()


def _main() -> int:
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    commands = _Commands()
    try:
        last = write(settings, commands.stop, commands.alter)
    except BrokenPipeError:
        # The parent was killed: there is nobody to report to.
        os._exit(1)
    except psycopg.Error as error:
        # The first line of the server's message: the others (DETAIL, CONTEXT) may hold values of rows.
        text = str(error).partition("\n")[0]
        _report(Progress(error=f"{text} (SQLSTATE {error.sqlstate})" if error.sqlstate else text))
        return 1
    _report(last)
    return 0


if __name__ == "__main__":
    sys.exit(_main())
