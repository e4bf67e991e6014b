"""The example that tells all events apart: every kind, made by hand, and those of real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_origin

import pgcdc
from examples import match_events
from tests.protocol import wire

if TYPE_CHECKING:
    from tests.conftest import Database

KINDS = {get_origin(kind) or kind for kind in get_args(pgcdc.Event)}

MESSAGES = [
    wire.type_(16390, "public", "state"),
    wire.relation(1, "orders", [("id", 23), ("status", 25)]),
    wire.begin(),
    wire.origin(5, "elsewhere"),
    wire.insert(1, ["1", "new"]),
    wire.update(1, ["1", "paid"]),
    wire.update(1, ["2", "paid"], ["1", "paid"]),
    wire.delete(1, ["2", None]),
    wire.truncate([1], 1),
    wire.message("app", b"hello"),
    wire.commit(),
    wire.message("app", b"hello", transactional=False),
    wire.stream_start(),
    wire.stream_stop(),
    wire.stream_start(first=False),
    wire.stream_stop(),
    wire.stream_abort(7, 8),
    wire.stream_commit(),
    wire.stream_start(9),
    wire.stream_stop(),
    wire.stream_abort(9, 9),
    wire.begin_prepare(),
    wire.prepare(),
    wire.commit_prepared(),
    wire.rollback_prepared(),
    wire.stream_start(10),
    wire.stream_stop(),
    wire.prepare(streamed=True),
]


def test_every_kind() -> None:
    """Each has words of its own; none is forgotten here either."""
    decoder = pgcdc.Decoder(rows="dict")
    events: list[Any] = [decoder.decode(message) for message in MESSAGES]
    assert {type(event) for event in events} == KINDS
    said = [match_events.describe(event) for event in events]
    assert said[:12] == [
        "type 16390 is public.state",
        "table public.orders has 2 columns",
        f"transaction 7, committed at {wire.COMMITTED}",
        "it came from elsewhere",
        "new row in orders: {'id': 1, 'status': 'new'}",
        "row in orders is now {'id': 1, 'status': 'paid'}",
        "row in orders was {'id': 1, 'status': 'paid'}, is now {'id': 2, 'status': 'paid'}",
        "row of orders is gone: {'id': 2, 'status': UNSET}",
        "emptied: orders and what refers to it",
        "message app: b'hello'",
        "that was it; 0/418 may be confirmed",
        "message app, whether or not the transaction around it commits: b'hello'",
    ]
    repeated = ["the piece ends"] * 3 + ["gid is prepared: nobody knows yet whether it commits"]
    assert sorted(said) == sorted([*set(said), *repeated]), "all others differ"


def test_events_of_a_server(database: Database) -> None:
    """A transaction that is streamed, with a part rolled back, one that is rolled back whole, and a small one."""
    database.execute(
        "CREATE TYPE state AS ENUM ('new')",
        "CREATE TABLE orders (id int PRIMARY KEY, status text, state state)",
        "CREATE PUBLICATION shop FOR TABLE orders",
        "SELECT pg_create_logical_replication_slot('example', 'pgoutput')",
        "INSERT INTO orders VALUES (0, 'new', 'new')",
    )
    big = "INSERT INTO orders SELECT i, repeat('x', 100), 'new' FROM generate_series({}, {}) i"
    with database.connect() as connection:
        connection.execute(
            f"BEGIN; {big.format(1, 1500)}; SAVEPOINT s; {big.format(2000, 3500)}; ROLLBACK TO s;"
            f" {big.format(4000, 4500)}; COMMIT"
        )
        connection.execute(f"BEGIN; {big.format(5000, 7500)}; ROLLBACK")
    database.execute(f"ALTER DATABASE {database.name} SET logical_decoding_work_mem = '64kB'")
    events: list[Any] = match_events.main(database.dsn, "example", "shop")
    said = [match_events.describe(event) for event in events]
    assert {"Begin", "Relation", "Type", "Insert", "Commit", "StreamStart", "StreamStop", "StreamCommit"} <= {
        type(event).__name__ for event in events
    }
    assert sum(words.startswith("a first piece of transaction") for words in said) in (1, 2)
    assert any(words.startswith("the part ") and words.endswith(" was rolled back") for words in said)
