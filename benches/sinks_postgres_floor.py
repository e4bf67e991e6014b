"""The least that a client has to do that brings changes to another PostgreSQL by SQL: pgbench's, and nothing else.

One thread and one loop: it waits for the walsender, takes messages apart by hand, sends each transaction as a pipeline
of a prepared statement for each row, which is a transaction without BEGIN and COMMIT, and waits for the answer when
nothing more has come. What makes a pipeline of it is left out: nothing is kept that says how far it is (what was under
way at a crash is applied twice, or never), what is refused ends it, tables and types are those of pgbench and stay as
they are, an update of a row that is not there is not noticed, the server is told as durable what is not known to be,
and there is nobody to give it to beside.

With `guarded` it sends what the sink Postgres sends: how far it is, moved by the first statement, and MERGE in place of
UPDATE. What is left of the sink's time is not SQL.
"""

from __future__ import annotations

import json
import select
import signal
import sys
import time
from struct import Struct
from types import FrameType
from typing import Any, Final

import psycopg
from psycopg import pq

__all__ = ["Floor"]

TYPES: Final = {
    "pgbench_accounts": {"aid": "int", "bid": "int", "abalance": "int", "filler": "bpchar"},
    "pgbench_branches": {"bid": "int", "bbalance": "int", "filler": "bpchar"},
    "pgbench_tellers": {"tid": "int", "bid": "int", "tbalance": "int", "filler": "bpchar"},
    "pgbench_history": dict.fromkeys(("tid", "bid", "aid", "delta"), "int")
    | {"mtime": "timestamp", "filler": "bpchar"},
}
"""The first column is the key, but for the history's."""
POSITIONS: Final = """
    CREATE TABLE floor (name text PRIMARY KEY, epoch bigint, written bigint, commit_lsn pg_lsn, updated_at timestamptz)
        WITH (fillfactor = 50);
    INSERT INTO floor VALUES ('floor', 1, 0);
    PREPARE move (text, bigint, bigint, pg_lsn) AS MERGE INTO floor t USING (SELECT $1 AS name) s ON t.name = s.name
        WHEN MATCHED AND t.epoch = $2 AND t.written = $3 THEN UPDATE SET written = t.written + 1, commit_lsn = $4,
            updated_at = now()
        WHEN MATCHED THEN UPDATE SET written = 1 / (t.written - t.written)
        WHEN NOT MATCHED THEN INSERT (name, epoch, written) VALUES (s.name, 1, 1 / length(left(s.name, 0)));
    """
SESSION: Final = (
    "SET plan_cache_mode = force_generic_plan; SET synchronous_commit = on; SET session_replication_role = replica"
)
EPOCH: Final = 946_684_800
STATUS_SECONDS: Final = 1.0
MOST: Final = 50
"""So many transactions are under way at most."""
_FORMATS: Final = [[pq.Format.BINARY] * count for count in range(8)]
_LONG: Final = Struct(">q")
_INT: Final = Struct(">i")
_STATUS: Final = Struct(">cqqqqb")

Row = tuple[bytes, list[bytes | None]]


class Floor:
    """What reads from the one server and writes to the other.

    Args:
        source: The DSN to read from.
        target: The DSN to write to.
        guarded: Whether it sends what the sink sends.
    """

    def __init__(self, source: str, target: str, *, guarded: bool) -> None:
        self.coming: list[float] = []
        self.answering: list[float] = []
        self._source, self._target, self._guarded = source, target, guarded
        self._ended = False
        self._told_at = 0.0
        self._durable = 0
        self._tables: dict[bytes, tuple[bytes, int]] = {}
        self._sent: list[float] = []
        self._written = 0

    def end(self, number: int, frame: FrameType | None) -> None:
        """Told by a signal to end."""
        self._ended = True

    def copy(self) -> str:
        """Make a slot and bring what is there; nobody writes meanwhile.

        Returns:
            The slot.
        """
        with psycopg.connect(self._source, autocommit=True) as source, psycopg.connect(self._target) as target:
            source.execute("CREATE PUBLICATION floor FOR ALL TABLES")
            slot = f"floor_{source.info.dbname}"
            source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
            for table, types in TYPES.items():
                what = f"COPY {table} ({', '.join(types)})"
                with (
                    source.cursor().copy(f"{what} TO STDOUT (FORMAT binary)".encode()) as out,
                    target.cursor().copy(f"{what} FROM STDIN (FORMAT binary)".encode()) as into,
                ):
                    for data in out:
                        into.write(data)
        return slot

    def stream(self, slot: str) -> None:
        """Apply what comes, until it is told to end.

        Args:
            slot: Where it comes from.
        """
        replication: dict[str, Any] = {"replication": "database"}
        source = psycopg.connect(self._source, autocommit=True, **replication)
        target = psycopg.connect(self._target, autocommit=True)
        reader, writer = source.pgconn, target.pgconn
        target.execute(SESSION)
        if self._guarded:
            target.execute(POSITIONS)
        for table in TYPES:
            result = writer.prepare(table.encode(), self._statement(table).encode())
            assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message
        options = "proto_version '1', publication_names 'floor', binary 'true'"
        reader.send_query(f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 ({options})'.encode())
        while reader.is_busy():
            reader.consume_input()
        assert reader.get_result()
        writer.enter_pipeline_mode()
        waiting = select.poll()
        waiting.register(reader.socket, select.POLLIN)
        rows: list[Row] = []
        arrived: float | None = None
        while not self._ended:
            length, message = reader.get_copy_data(1)
            if length == 0:
                self._answered(writer)
                self._tell(reader)
                waiting.poll(STATUS_SECONDS * 1000)
                reader.consume_input()
                arrived = time.time()
                continue
            assert length > 0, "the server has ended the stream"
            data = bytes(message)
            kind = data[25:26]
            if data[:1] == b"k":
                self._told_at = 0.0 if data[17] else self._told_at
            elif kind == b"B":
                rows = []
                # Of what came together with another one it is not known when it came.
                if arrived is not None:
                    self.coming.append(arrived - EPOCH - _LONG.unpack_from(data, 34)[0] / 1e6)
                arrived = None
            elif kind in b"IU":
                rows.append(self._row(data))
            elif kind == b"C":
                self._apply(writer, rows, data[35:43])
            elif kind == b"R":
                name = data[30:].split(b"\0", 2)[1]
                self._tables[data[26:30]] = name, len(TYPES[name.decode()])

    def _statement(self, table: str) -> str:
        columns = list(TYPES[table])
        numbers = [f"${number}" for number in range(1, len(columns) + 1)]
        names, values = ", ".join(columns), ", ".join(numbers)
        if table == "pgbench_history":
            return f"INSERT INTO {table} ({names}) VALUES ({values})"
        pairs = [f"{column} = {number}" for column, number in zip(columns, numbers, strict=True)]
        if not self._guarded:
            return f"UPDATE {table} SET {', '.join(pairs[1:])} WHERE {pairs[0]}"
        row = ", ".join(f"{n}::{kind} AS {c}" for n, (c, kind) in zip(numbers, TYPES[table].items(), strict=True))
        settings = ", ".join(f"{column} = s.{column}" for column in columns)
        values = ", ".join(f"s.{column}" for column in columns)
        return (
            f"MERGE INTO {table} t USING (SELECT {row}) s ON t.{columns[0]} = s.{columns[0]}"
            f" WHEN MATCHED THEN UPDATE SET {settings} WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
        )

    def _row(self, data: bytes) -> Row:
        """The new row of an insert or update that has no old one."""
        name, count = self._tables[data[26:30]]
        values: list[bytes | None] = []
        at = 33
        while len(values) < count:
            if data[at] == ord("n"):
                values.append(None)
                at += 1
                continue
            length = _INT.unpack_from(data, at + 1)[0]
            values.append(data[at + 5 : at + 5 + length])
            at += 5 + length
        return name, values

    def _apply(self, writer: Any, rows: list[Row], end: bytes) -> None:
        self._sent.append(time.perf_counter())
        if self._guarded:
            known = (b"floor", _LONG.pack(1), _LONG.pack(self._written), end)
            writer.send_query_prepared(b"move", known, _FORMATS[4])
        for name, values in rows:
            writer.send_query_prepared(name, values, _FORMATS[len(values)])
        writer.pipeline_sync()
        writer.flush()
        self._written += 1
        self._durable = _LONG.unpack(end)[0]
        if len(self._sent) >= MOST:
            self._answered(writer)

    def _answered(self, writer: Any) -> None:
        """Wait until the target has answered all that was sent."""
        waiting = select.poll()
        waiting.register(writer.socket, select.POLLIN)
        while self._sent:
            while writer.flush() or writer.is_busy():
                waiting.poll()
                writer.consume_input()
            result = writer.get_result()
            if result is None:
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                self.answering.append(time.perf_counter() - self._sent.pop(0))
            else:
                ok = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)
                assert result.status in ok, result.error_message

    def _tell(self, reader: Any) -> None:
        if time.monotonic() - self._told_at >= STATUS_SECONDS:
            now = int((time.time() - EPOCH) * 1e6)
            reader.put_copy_data(_STATUS.pack(b"r", self._durable, self._durable, self._durable, now, 0))
            reader.flush()
            self._told_at = time.monotonic()


def main() -> None:
    """Until SIGTERM; then it says the medians of its stations, in seconds."""
    source, target, what = sys.argv[1:]
    floor = Floor(source, target, guarded=what == "guarded")
    signal.signal(signal.SIGTERM, floor.end)
    floor.stream(floor.copy())
    middle = [sorted(times)[len(times) // 2] for times in (floor.coming, floor.answering)]
    print(json.dumps(middle))


if __name__ == "__main__":
    main()
