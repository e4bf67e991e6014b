"""The bytes that are measured: what a real server sent for four workloads, made once and kept in `.cache/`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from tests.golden.make import connect, peek, read_capture, write_capture

CACHE = Path(__file__).parent.parent / ".cache" / "benches"
VERSION = 18
CHANGES = 20_000
PER_TRANSACTION = 100

Cursor = psycopg.Cursor[Any]


@dataclass(frozen=True)
class Workload:
    """Some tables and what is written to them.

    Attributes:
        name: As printed.
        what: A sentence about it.
        tables: The statements that make the tables.
        write: Writes a change or a few; takes a cursor, the luck, and a list to remember rows in; gives how many.
        changes: About how many row changes are written.
    """

    name: str
    what: str
    tables: tuple[LiteralString, ...]
    write: Callable[[Cursor, random.Random, list[int]], int]
    changes: int = CHANGES


@dataclass(frozen=True)
class Capture:
    """A stretch of a stream in both forms.

    Attributes:
        text: Its messages, values in text form.
        binary: The same, values in binary form.
        changes: How many of them are row changes.
    """

    text: list[bytes]
    binary: list[bytes]
    changes: int


TEN_COLUMNS: LiteralString = """
CREATE TABLE orders (
    id int8 PRIMARY KEY, user_id int4, total numeric(12,2), status text, paid bool, weight float8,
    created_at timestamptz, reference uuid, shipping_address jsonb, tags text[]
)
"""
TEN_VALUES: LiteralString = """
SELECT %(n)s::int8, (%(n)s * 7919) %% 1000000, ((%(n)s::int8 * 104729) %% 10000000)::numeric / 100,
       (ARRAY['pending', 'paid', 'shipped', 'waiting for a supplier in Köln'])[%(n)s %% 4 + 1], %(n)s %% 3 = 0,
       ln(%(n)s + 1) * 100, '2024-01-01 00:00:00+00'::timestamptz + %(n)s * interval '61.234567 seconds',
       md5(%(n)s::text)::uuid,
       jsonb_build_object('street', 'Lange Straße ' || %(n)s, 'city', 'Hamburg', 'zip', (20000 + %(n)s %% 1000)::text,
                          'country', 'DE'),
       (ARRAY['tag' || %(n)s %% 10, 'gift', 'two words'])[1:1 + %(n)s %% 3]
"""


def _mixed(
    insert: LiteralString, update: LiteralString, delete: LiteralString
) -> Callable[[Cursor, random.Random, list[int]], int]:
    """78 % inserts, 16 % updates, 6 % deletes; the statements take `n`."""

    def write(cursor: Cursor, luck: random.Random, live: list[int]) -> int:
        # The first of the list is how many rows there were ever.
        live[:] = live or [0]
        kind = luck.random()
        if kind < 0.78 or len(live) < 10:
            live[0] += 1
            live.append(live[0])
            cursor.execute(insert, {"n": live[0]})
        elif kind < 0.94:
            cursor.execute(update, {"n": luck.choice(live[1:])})
        else:
            cursor.execute(delete, {"n": live.pop(luck.randrange(1, len(live)))})
        return 1

    return write


def _bank(cursor: Cursor, luck: random.Random, live: list[int]) -> int:
    """The transaction of pgbench (TPC-B, roughly): three updates and an insert."""
    values = {
        "aid": luck.randint(1, 10_000),
        "tid": luck.randint(1, 10),
        "delta": luck.randint(-5000, 5000),
    }
    cursor.execute("UPDATE pgbench_accounts SET abalance = abalance + %(delta)s WHERE aid = %(aid)s", values)
    cursor.execute("UPDATE pgbench_tellers SET tbalance = tbalance + %(delta)s WHERE tid = %(tid)s", values)
    cursor.execute("UPDATE pgbench_branches SET bbalance = bbalance + %(delta)s WHERE bid = 1", values)
    cursor.execute(
        "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (%(tid)s, 1, %(aid)s, %(delta)s, now())",
        values,
    )
    return 4


_wide_columns: LiteralString = ", ".join(f"c{number} text" for number in range(1, 51))
_wide_values: LiteralString = ", ".join(f"'column {number} of row ' || %(n)s" for number in range(1, 51))

WORKLOADS = (
    Workload(
        "ten columns",
        "int8, int4, numeric(12,2), text, bool, float8, timestamptz, uuid, jsonb, text[]; 78 % inserts, 16 % updates, "
        "6 % deletes, 100 changes a transaction",
        (TEN_COLUMNS,),
        _mixed(
            "INSERT INTO orders " + TEN_VALUES,
            "UPDATE orders SET status = 'paid', paid = true, total = total + 1 WHERE id = %(n)s",
            "DELETE FROM orders WHERE id = %(n)s",
        ),
    ),
    Workload(
        "wide",
        "an int8 key and 50 text columns; the same mix",
        ("CREATE TABLE wide (id int8 PRIMARY KEY, " + _wide_columns + ")",),
        _mixed(
            "INSERT INTO wide SELECT %(n)s, " + _wide_values,
            "UPDATE wide SET c1 = 'changed', c50 = NULL WHERE id = %(n)s",
            "DELETE FROM wide WHERE id = %(n)s",
        ),
        changes=5_000,
    ),
    Workload(
        "narrow",
        "two int4 columns; the same mix",
        ("CREATE TABLE narrow (id int4 PRIMARY KEY, amount int4)",),
        _mixed(
            "INSERT INTO narrow VALUES (%(n)s, %(n)s * 7)",
            "UPDATE narrow SET amount = amount + 1 WHERE id = %(n)s",
            "DELETE FROM narrow WHERE id = %(n)s",
        ),
    ),
    Workload(
        "pgbench",
        "pgbench's four tables and its transaction under REPLICA IDENTITY FULL, so that updates carry both rows",
        (
            "CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88))",
            "CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84))",
            "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84))",
            "CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))",
            "INSERT INTO pgbench_branches VALUES (1, 0)",
            "INSERT INTO pgbench_tellers SELECT tid, 1, 0 FROM generate_series(1, 10) tid",
            "INSERT INTO pgbench_accounts SELECT aid, 1, 0, '' FROM generate_series(1, 10000) aid",
            "ALTER TABLE pgbench_branches REPLICA IDENTITY FULL",
            "ALTER TABLE pgbench_tellers REPLICA IDENTITY FULL",
            "ALTER TABLE pgbench_accounts REPLICA IDENTITY FULL",
            "ALTER TABLE pgbench_history REPLICA IDENTITY FULL",
        ),
        _bank,
    ),
)


def stem(workload: Workload) -> str:
    """What the files of a workload are called: what decides its bytes is in the name."""
    content = "\n".join([*workload.tables, TEN_VALUES, _wide_values, f"{workload.changes} {PER_TRANSACTION}"])
    return f"{workload.name.replace(' ', '-')}-{sha256(content.encode()).hexdigest()[:8]}"


def capture(workload: Workload) -> Capture:
    """What pgoutput sent for a workload, from the cache when it is there.

    Returns:
        The capture.
    """
    files = {form: CACHE / f"{stem(workload)}-pg{VERSION}-{form}.capture" for form in ("text", "binary")}
    if not all(file.exists() for file in files.values()):
        CACHE.mkdir(parents=True, exist_ok=True)
        _make(workload, files)
    text, binary = ([message for _, message in read_capture(file)] for file in files.values())
    return Capture(text, binary, sum(message[:1] in b"IUD" for message in text))


def _make(workload: Workload, files: dict[str, Path]) -> None:
    from tests.servers.postgres import PostgresServer, remove_templates

    with PostgresServer(VERSION) as server, connect(server.dsn()) as connection:
        for statement in workload.tables:
            connection.execute(statement)
        connection.execute("CREATE PUBLICATION bench FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
        write(workload, connection)
        for form, file in files.items():
            messages = peek(connection, "bench", "bench", binary=form == "binary")
            write_capture(file.with_suffix(".part"), messages)
            file.with_suffix(".part").rename(file)
    remove_templates()


def write(workload: Workload, connection: psycopg.Connection[Any]) -> None:
    """Write a workload's changes, the same every time."""
    luck = random.Random(1)
    live: list[int] = []
    done = 0
    while done < workload.changes:
        with connection.transaction(), connection.cursor() as cursor:
            written = 0
            while written < PER_TRANSACTION:
                written += workload.write(cursor, luck, live)
            done += written
