"""The bytes that are measured: what a real server sent for the ten-column table, made once and kept in `.cache/`."""

from __future__ import annotations

import random
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.golden.make import connect, peek, read_capture, write_capture

if TYPE_CHECKING:
    import psycopg

CACHE = Path(__file__).parent.parent / ".cache" / "benches"
VERSION = 18
CHANGES = 20_000
PER_TRANSACTION = 100

TABLE = """
CREATE TABLE orders (
    id int8 PRIMARY KEY, user_id int4, total numeric(12,2), status text, paid bool, weight float8,
    created_at timestamptz, reference uuid, shipping_address jsonb, tags text[]
)
"""
ROW = """
SELECT %(n)s::int8, (%(n)s * 7919) %% 1000000, ((%(n)s::int8 * 104729) %% 10000000)::numeric / 100,
       (ARRAY['pending', 'paid', 'shipped', 'waiting for a supplier in Köln'])[%(n)s %% 4 + 1], %(n)s %% 3 = 0,
       ln(%(n)s + 1) * 100, '2024-01-01 00:00:00+00'::timestamptz + %(n)s * interval '61.234567 seconds',
       md5(%(n)s::text)::uuid,
       jsonb_build_object('street', 'Lange Straße ' || %(n)s, 'city', 'Hamburg', 'zip', (20000 + %(n)s %% 1000)::text,
                          'country', 'DE'),
       (ARRAY['tag' || %(n)s %% 10, 'gift', 'two words'])[1:1 + %(n)s %% 3]
"""


@dataclass(frozen=True)
class Capture:
    """A stretch of a stream in both forms.

    Attributes:
        text: Its messages, values in text form.
        binary: The same, values in binary form.
        changes: How many of them are row changes.
        server: What sent them.
    """

    text: list[bytes]
    binary: list[bytes]
    changes: int
    server: str


def ten_columns() -> Capture:
    """78 % inserts, 16 % updates, 6 % deletes on ten columns of mixed types.

    Returns:
        The capture, from the cache when it is there.
    """
    content = sha256(f"{TABLE}{ROW}{CHANGES} {PER_TRANSACTION}".encode()).hexdigest()[:8]
    stem = f"ten-columns-pg{VERSION}-{content}"
    files = {form: CACHE / f"{stem}-{form}.capture" for form in ("text", "binary")}
    if not all(file.exists() for file in files.values()):
        CACHE.mkdir(parents=True, exist_ok=True)
        _make(files)
    text, binary = ([message for _, message in read_capture(file)] for file in files.values())
    changes = sum(message[:1] in b"IUD" for message in text)
    return Capture(text, binary, changes, f"PostgreSQL {VERSION}")


def _make(files: dict[str, Path]) -> None:
    from tests.servers.postgres import PostgresServer, remove_templates

    with PostgresServer(VERSION) as server, connect(server.dsn()) as connection:
        connection.execute(TABLE)
        connection.execute("CREATE PUBLICATION bench FOR TABLE orders")
        connection.execute("SELECT pg_create_logical_replication_slot('bench', 'pgoutput')")
        _write(connection)
        for form, file in files.items():
            messages = peek(connection, "bench", "bench", binary=form == "binary")
            write_capture(file.with_suffix(".part"), messages)
            file.with_suffix(".part").rename(file)
    remove_templates()


def _write(connection: psycopg.Connection[Any]) -> None:
    luck = random.Random(1)
    live: list[int] = []
    done = number = 0
    while done < CHANGES:
        with connection.transaction(), connection.cursor() as cursor:
            for _ in range(PER_TRANSACTION):
                kind = luck.random()
                if kind < 0.78 or len(live) < 10:
                    number += 1
                    live.append(number)
                    cursor.execute("INSERT INTO orders " + ROW, {"n": number})
                elif kind < 0.94:
                    cursor.execute(
                        "UPDATE orders SET status = 'paid', paid = true, total = total + 1 WHERE id = %s",
                        (luck.choice(live),),
                    )
                else:
                    cursor.execute("DELETE FROM orders WHERE id = %s", (live.pop(luck.randrange(len(live))),))
        done += PER_TRANSACTION
