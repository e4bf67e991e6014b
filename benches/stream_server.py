"""What the clients of the stream bench read: a server, what is in its WAL, and a slot that is copied for each of them.

Every client gets a copy of one slot (`pg_copy_logical_replication_slot`), and so the same WAL from the same place. What
the server takes for it is its walsender's time on a processor, looked at until that process is gone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, Self, cast
from urllib.parse import quote

import psycopg
from psycopg import sql

from benches.capture import TEN_COLUMNS, TEN_VALUES
from benches.stream_clients import memory
from tests.servers.postgres import PostgresServer

PUBLICATION = "bench"
SOURCE = "source"
_SETTINGS = {
    "autovacuum": "off",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "shared_buffers": "256MB",
    "wal_sender_timeout": "5min",
}
_LOOK_SECONDS = 0.01

LARGE = 10_000
"""Rows of a large transaction."""


class Source:
    """A server with changes in its WAL.

    Args:
        version: The server's version.
        plugin: What decodes; `pgoutput`, or a plugin's path.
    """

    def __init__(self, version: int, plugin: str = "pgoutput") -> None:
        self._server = PostgresServer(version, _SETTINGS)
        self._plugin = plugin
        self._copies = 0

    def __enter__(self) -> Self:
        self._server.__enter__()
        self.connection = psycopg.connect(self.dsn, autocommit=True)
        self.connection.execute("SET synchronous_commit = off")
        return self

    def __exit__(self, *exception: object) -> None:
        self.connection.close()
        self._server.__exit__(*exception)

    @property
    def dsn(self) -> str:
        """How to connect: by TCP on the loopback interface, as clients on other machines do."""
        return self._server.dsn(tcp=True)

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"postgresql://postgres@127.0.0.1:{self._server.port}/{quote('postgres')}"

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The same in parts."""
        return "127.0.0.1", self._server.port

    def begin(self, *tables: LiteralString) -> None:
        """Make the tables anew, a publication of them, and the slot that is copied."""
        self.connection.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
        self.connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (SOURCE,)
        )
        self.connection.execute("DROP SCHEMA public CASCADE")
        self.connection.execute("CREATE SCHEMA public")
        for table in tables:
            self.connection.execute(table)
        self.connection.execute(f"CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES")
        self.connection.execute("SELECT pg_create_logical_replication_slot(%s, %s)", (SOURCE, self._plugin))

    def end(self) -> str:
        """Bring everything that was written to where walsenders find it.

        Returns:
            The LSN behind it.
        """
        found = self.connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        self.connection.execute("SELECT pg_logical_emit_message(true, 'bench', 'the end'), pg_switch_wal()")
        return cast("tuple[str]", found)[0]

    @contextlib.contextmanager
    def slot(self) -> Iterator[str]:
        """A copy of the slot, dropped at the end."""
        self._copies += 1
        name = f"copy_{self._copies}"
        self.connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", (SOURCE, name))
        try:
            yield name
        finally:
            self._drop(name)

    def walsender(self, slot: str) -> int | None:
        """The number of the process that serves a slot, when there is one."""
        found = self.connection.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (slot,)
        ).fetchone()
        return cast("tuple[int | None]", found)[0]

    def _drop(self, name: str) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
            except psycopg.errors.ObjectInUse:  # the walsender has not noticed yet that its client is gone
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return


def write_rows(source: Source, rows: int, per_transaction: int | None) -> int:
    """Write changes of the ten-column table of `./dev bench decode`: 78 % inserts, 16 % updates, 6 % deletes.

    Args:
        source: Where.
        rows: About how many.
        per_transaction: Changes a transaction; None for one to five, in turns.

    Returns:
        How many.
    """
    source.begin(TEN_COLUMNS)
    values = TEN_VALUES % {"n": "n"}
    if per_transaction is None:
        source.connection.execute(_small_transactions(values))
        source.connection.execute("CALL write_small(%s)", (rows,))
        return rows
    inserts, updates = per_transaction * 78 // 100, per_transaction * 16 // 100
    for first in range(0, rows, per_transaction):
        with source.connection.transaction():
            parts: dict[str, Any] = {"first": first, "last": first + inserts - 1, "behind": first + updates}
            parts["deletes"] = first + inserts - (per_transaction - inserts - updates)
            for statement in (
                "INSERT INTO orders " + values + " FROM generate_series({first}::int8, {last}::int8) n",
                "UPDATE orders SET status = 'paid', paid = true, total = total + 1"
                " WHERE id >= {first} AND id < {behind}",
                "DELETE FROM orders WHERE id >= {deletes} AND id <= {last}",
            ):
                source.connection.execute(sql.SQL(statement).format(**{k: sql.Literal(v) for k, v in parts.items()}))
    return rows


def _small_transactions(values: LiteralString) -> LiteralString:
    return (
        """
CREATE PROCEDURE write_small(rows int) LANGUAGE plpgsql AS $$
DECLARE n int8 := 0; kind int; size int := 1; done int := 0;
BEGIN
    WHILE done < rows LOOP
        FOR one IN 1 .. least(size, rows - done) LOOP
            kind := done * 37 % 100;
            IF kind < 78 OR n < 10 THEN
                n := n + 1;
                INSERT INTO orders """
        + values
        + """;
            ELSIF kind < 94 THEN
                UPDATE orders SET status = 'paid', paid = true, total = total + 1 WHERE id = n - kind % 5;
            ELSE
                DELETE FROM orders WHERE id = n;
                n := n - 1;
            END IF;
            done := done + 1;
        END LOOP;
        size := size % 5 + 1;
        COMMIT;
    END LOOP;
END $$
"""
    )


TICKS: LiteralString = "CREATE TABLE ticks (id int8 PRIMARY KEY, at timestamptz NOT NULL)"
_TICK: LiteralString = """
CREATE PROCEDURE tick(count int, per_second int) LANGUAGE plpgsql AS $$
DECLARE begun timestamptz := clock_timestamp(); due timestamptz;
BEGIN
    FOR n IN 1 .. count LOOP
        due := begun + n * interval '1 second' / per_second;
        IF clock_timestamp() < due THEN
            PERFORM pg_sleep(extract(epoch FROM due - clock_timestamp()));
        END IF;
        INSERT INTO ticks VALUES (n, clock_timestamp());
        COMMIT;
    END LOOP;
END $$
"""


@contextlib.contextmanager
def ticking(source: Source, slot: str, count: int, per_second: int) -> Iterator[None]:
    """Write rows that say when they were written, each in a transaction, as soon as somebody reads the slot.

    Args:
        source: Where; it has the table TICKS.
        slot: Whose reader is waited for.
        count: How many.
        per_second: How many a second. They are written by one session of the server, some at once where the server's
            clock is too coarse.
    """

    def write() -> None:
        with psycopg.connect(source.dsn, autocommit=True) as connection:
            connection.execute("CREATE OR REPLACE " + _TICK.removeprefix("\nCREATE "))
            deadline = time.monotonic() + 60
            waiting = "SELECT 1 FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
            waiting += " WHERE s.slot_name = %s AND r.state = 'streaming'"
            while not connection.execute(waiting, (slot,)).fetchone():
                assert time.monotonic() < deadline, "nobody reads"
                time.sleep(0.05)
            connection.execute("CALL tick(%s, %s)", (count, per_second))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@dataclass
class Watched:
    """What a program and its walsender took, in seconds and bytes.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: User and system time of the program, all of it.
        rss_peak: The most memory that it had resident.
        walsender_seconds: How long the walsender ran on a processor.
        output: What the program said.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rss_peak: int = 0
    walsender_seconds: float = 0.0
    output: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)


def watch(source: Source, slot: str | None, command: list[str], environment: dict[str, str] | None = None) -> Watched:
    """Run a program that reads a slot, to its end.

    Args:
        source: The server.
        slot: What it reads; None for a program that does not, whose server's time is not looked at.
        command: The program.
        environment: More for its environment.

    Raises:
        RuntimeError: When the program fails.
    """
    watched = Watched()
    begun = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **(environment or {})}
    )
    stopped = threading.Event()
    looking = threading.Thread(target=_look, args=(source, slot, process.pid, watched, stopped))
    looking.start()
    assert process.stdout is not None
    assert process.stderr is not None
    watched.output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    watched.seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    watched.cpu_seconds = used.ru_utime + used.ru_stime
    stopped.set()
    looking.join()
    errors = process.stderr.read().decode(errors="replace")
    process.stdout.close()
    process.stderr.close()
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} failed ({process.returncode}): {errors[-2000:]}")
    return watched


def _look(source: Source, slot: str | None, client: int, watched: Watched, stopped: threading.Event) -> None:
    """Look at the client's memory and the walsender's time until both are gone."""
    walsender: int | None = None
    while True:
        ended = stopped.wait(_LOOK_SECONDS)
        watched.rss_peak = max(watched.rss_peak, memory("VmHWM", client))
        if walsender is None and slot is not None:
            walsender = source.walsender(slot)
        if walsender is not None:
            # Nanoseconds; /proc/PID/stat counts hundredths of a second.
            try:
                watched.walsender_seconds = int(Path(f"/proc/{walsender}/schedstat").read_text().split()[0]) / 1e9
            except OSError:
                walsender = -1
        if ended and (walsender is None or not Path(f"/proc/{walsender}").exists()):
            return
