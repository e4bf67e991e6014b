"""Makes the golden captures again: `python -m tests.golden.make [14 15 …]`."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.golden import streams
from tests.golden.workload import SELECTED, statements

HERE = Path(__file__).parent
MAGIC = b"pgcdc-capture-1\n"
VERSIONS = (14, 15, 16, 17, 18)
PINNED = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=1 -c bytea_output=hex"

Captured = list[tuple[int, bytes]]


def write_capture(path: Path, messages: Iterable[tuple[int, bytes]]) -> None:
    """Write (wal_start, message) pairs; the format is in README.md."""
    with path.open("wb") as file:
        file.write(MAGIC)
        for lsn, message in messages:
            file.write(struct.pack(">QI", lsn, len(message)) + message)


def read_capture(path: Path) -> Captured:
    """Read what `write_capture` wrote."""
    return list(_messages(path.read_bytes()))


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    if not data.startswith(MAGIC):
        raise ValueError("not a capture")
    at = len(MAGIC)
    while at < len(data):
        lsn, length = struct.unpack_from(">QI", data, at)
        yield lsn, data[at + 12 : at + 12 + length]
        at += 12 + length


def connect(dsn: str) -> psycopg.Connection[Any]:
    """A connection in autocommit with the settings that decide how values are printed."""
    return psycopg.connect(dsn, autocommit=True, options=PINNED, client_encoding="utf8")


def peek(
    connection: psycopg.Connection[Any], slot: str, publication: str, *, binary: bool, consume: bool = False
) -> Captured:
    """What pgoutput sends from a slot.

    Args:
        connection: Any connection to the slot's database.
        slot: The slot's name.
        publication: The publication's name.
        binary: Whether to ask for values in binary form.
        consume: Whether to move the slot past what was read.

    Returns:
        (wal_start, message) pairs.
    """
    verb = "get" if consume else "peek"
    rows = connection.execute(
        f"SELECT (lsn - '0/0')::int8, data FROM pg_logical_slot_{verb}_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', %s, 'messages', 'true', 'binary', %s)",
        (slot, publication, "true" if binary else "false"),
    )
    return [(lsn, bytes(data)) for lsn, data in rows]


def select(connection: psycopg.Connection[Any], table: str) -> dict[str, Any]:
    """A table's rows as the server prints them."""
    result = connection.pgconn.exec_params(f"SELECT * FROM {table} ORDER BY id".encode(), [])
    if result.error_message:
        raise RuntimeError(result.error_message.decode())
    columns = [result.fname(number) for number in range(result.nfields)]
    rows = [[result.get_value(row, number) for number in range(result.nfields)] for row in range(result.ntuples)]
    return {
        "columns": [(name or b"").decode() for name in columns],
        "rows": [[None if value is None else value.decode() for value in row] for row in rows],
    }


def capture(dsn: str) -> tuple[Captured, Captured, dict[str, Any]]:
    """Run the workload in an empty database and capture it.

    Args:
        dsn: A database that is empty and a user who is superuser there.

    Returns:
        The messages with values in text form, in binary form, and the tables as SELECT prints them.
    """
    with connect(dsn) as connection:
        connection.execute("CREATE PUBLICATION golden FOR ALL TABLES WITH (publish_via_partition_root = true)")
        connection.execute("SELECT pg_create_logical_replication_slot('golden', 'pgoutput')")
        try:
            for statement in statements():
                connection.execute(statement)
            text = peek(connection, "golden", "golden", binary=False)
            binary = peek(connection, "golden", "golden", binary=True)
            return text, binary, {table: select(connection, table) for table in SELECTED}
        finally:
            if connection.info.transaction_status:
                connection.rollback()
            connection.execute("SELECT pg_drop_replication_slot('golden')")


@dataclass(frozen=True)
class Manner:
    """A way to ask for the same transactions.

    Attributes:
        options: Of START_REPLICATION.
        two_phase: Whether the slot decodes transactions when they are prepared.
        since: The first version that knows this.
    """

    options: dict[str, str]
    two_phase: bool = False
    since: int = 14


def manners(version: int) -> dict[str, Manner]:
    """The ways in which the workload of streams is captured, by the captures' names.

    Args:
        version: PostgreSQL's major version.

    Returns:
        Those that the version knows, with the highest protocol that it speaks.
    """
    highest = str({14: 2, 15: 3}.get(version, 4))
    on = {"proto_version": highest, "streaming": "on"}
    every = {
        "plain": Manner({"proto_version": "1"}),
        "streamed": Manner(on),
        "streamed-binary": Manner(on | {"binary": "true"}),
        "parallel": Manner(on | {"streaming": "parallel"}, since=16),
        "prepared": Manner(on | {"two_phase": "on"}, two_phase=True, since=15),
        "unasked": Manner({"proto_version": "1"}, two_phase=True, since=15),
    }
    return {name: manner for name, manner in every.items() if version >= manner.since}


def sent(dsn: str, slot: str, manner: Manner, publication: str = streams.PUBLICATION) -> Generator[tuple[int, bytes]]:
    """What a walsender streams, without end; closing the iterator closes the connection.

    Args:
        dsn: The slot's database.
        slot: The slot's name.
        manner: How to ask.
        publication: The publication's name.

    Yields:
        (wal_start, message) pairs.
    """
    options = manner.options | {"publication_names": f'"{publication}"', "messages": "true"}
    words = ", ".join(f"{name} '{value}'" for name, value in options.items())
    settings = f"{PINNED} -c logical_decoding_work_mem=64kB"
    walsender = psycopg.connect(dsn, autocommit=True, replication="database", options=settings, client_encoding="utf8")
    try:
        started = walsender.pgconn.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({words})".encode())
        if started.error_message:
            raise RuntimeError(started.error_message.decode())
        while True:
            size, data = walsender.pgconn.get_copy_data(0)
            frame = bytes(data)
            if size <= 0:
                ended = walsender.pgconn.get_result()
                raise RuntimeError(ended.error_message.decode() if ended else "the stream ended")
            if frame[:1] == b"w":
                yield struct.unpack_from(">Q", frame, 1)[0], frame[25:]
    finally:
        walsender.pgconn.finish()  # in the middle of a COPY


def stream(dsn: str, slot: str, manner: Manner, end: str | None = None) -> Captured:
    """What a walsender streams, up to the logical message with which the workload ends.

    Args:
        dsn: The slot's database.
        slot: The slot's name.
        manner: How to ask.
        end: That message's prefix.

    Returns:
        (wal_start, message) pairs.
    """
    captured: Captured = []
    with closing(sent(dsn, slot, manner)) as messages:
        for lsn, message in messages:
            if message[:1] == b"M" and (end or END).encode() in message:
                break
            captured.append((lsn, message))
    return captured


END = "the end of the capture"


def capture_streams(dsn: str, version: int) -> dict[str, Captured]:
    """Run the workload of streams in an empty database and capture it in every manner.

    Args:
        dsn: A database that is empty and a user who is superuser there.
        version: PostgreSQL's major version.

    Returns:
        The messages by the name of the manner. The slots are left to be dropped with the server.
    """
    every = manners(version)
    with ExitStack() as stack:
        sessions = {name: stack.enter_context(connect(dsn)) for name in "abc"}
        for statement in streams.setup(version):
            sessions["a"].execute(statement)
        for name, manner in every.items():
            sessions["a"].execute(
                "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, %s)",
                (name.replace("-", "_"), manner.two_phase),
            )
        for session, statement in streams.steps():
            sessions[session].execute(statement)
        sessions["a"].execute("SELECT pg_logical_emit_message(false, %s, '')", (END,))
        # What was committed by others must be in the WAL's file before it is decoded.
        sessions["a"].execute("CREATE TABLE flushed ()")
    return {name: stream(dsn, name.replace("-", "_"), manner) for name, manner in every.items()}


def main(arguments: list[str]) -> None:
    """Make the captures of some or all versions."""
    from tests.servers.postgres import PostgresServer, remove_templates  # only here: reading captures needs no server

    for version in map(int, arguments or VERSIONS):
        with PostgresServer(version) as server:
            text, binary, tables = capture(server.dsn())
            with server.connect() as connection:
                connection.execute("CREATE DATABASE streams")
            streamed = capture_streams(server.dsn("streams"), version)
        folder = HERE / f"pg{version}"
        folder.mkdir(exist_ok=True)
        write_capture(folder / "text.capture", text)
        write_capture(folder / "binary.capture", binary)
        with (folder / "select.json").open("w", encoding="utf-8") as file:
            json.dump(tables, file, ensure_ascii=False, indent=0)
            file.write("\n")
        for name, messages in streamed.items():
            write_capture(folder / f"{name}.capture", messages)
        print(f"PostgreSQL {version}: {len(text)} messages in text, {len(binary)} in binary", file=sys.stderr)
    remove_templates()


if __name__ == "__main__":
    main(sys.argv[1:])
