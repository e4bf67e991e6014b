"""What is special about the Redis sink: its guard, its counters, its streams, the whole way from PostgreSQL.

Over 400 lines because each of the five forms is held against the same changes.
"""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from msgspec import UNSET

import pgcdc
from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.protocol import Batch
from pgcdc.sinks import Redis
from pgcdc.testing import Table, delete, insert, message, transaction, truncate, update
from tests.pipeline.running import running
from tests.servers.ports import free_port
from tests.servers.redis import RedisServer
from tests.sinks.batches import batch_of
from tests.sinks.workload import ORDERS, work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Database

TABLE = Table("orders", {"id": "bigint", "user_id": "bigint", "note": "text"}, key=("id",))


class Place:
    """A sink's keys on the server, and what is under them."""

    def __init__(self, server: RedisServer, name: str) -> None:
        self.server = server
        self.client = server.client
        self.name = name

    def sink(self, key: str = "{id}", **options: Any) -> Redis:
        sink = Redis(self.server.url, key=f"{self.name}:{key}", prefix=f"state:{self.name}", **options)
        sink.open()
        return sink

    def keys(self, beginning: str = "") -> list[str]:
        return sorted(key.removeprefix(beginning) for key in self.client.keys(f"{beginning or self.name}*"))

    def get(self, key: object) -> Any:
        found = self.client.get(f"{self.name}:{key}")
        return None if found is None else json.loads(found)


@pytest.fixture
def place(redis_server: RedisServer, tmp_path: Path) -> Iterator[Place]:
    place = Place(redis_server, tmp_path.name)
    yield place
    redis_server.client.flushdb()


def order(key: int, user: int = 1, note: Any = None) -> dict[str, Any]:
    return {"id": key, "user_id": user, "note": note}


def parts(batch: Batch) -> list[Batch]:
    """Each change by itself."""
    return batch.pieces(1)


def test_a_late_old_write_is_skipped(place: Place) -> None:
    """As from a process that was stopped, and wakes up after another one took over."""
    old, new = place.sink(), place.sink()
    first, second, third = parts(
        batch_of([insert(TABLE, order(1)), update(TABLE, order(1, 2)), delete(TABLE, order(1, 2))])
    )
    new.write(first)
    new.write(second)
    old.write(first)
    assert place.get(1)["user_id"] == 2
    new.write(third)
    old.write(second)
    assert place.keys() == []


def test_how_long_a_deleted_row_stays_deleted(place: Place) -> None:
    """Its tombstone has a time to live, and a row that comes back takes its place."""
    sink = place.sink(tombstones=1000)
    sink.write(batch_of([insert(TABLE, order(1)), delete(TABLE, order(1))]))
    [tombstone] = [key for key in place.keys(f"state:{place.name}") if ":gone:" in key]
    assert 900 < place.client.ttl(f"state:{place.name}{tombstone}") <= 1000
    sink.write(batch_of([insert(TABLE, order(1)), delete(TABLE, order(1)), insert(TABLE, order(1, 5))]))
    assert place.get(1) == order(1, 5)


@pytest.mark.parametrize("form", ["json", "hash", "count"])
def test_what_a_truncate_removed_stays_removed(place: Place, form: Any) -> None:
    """More rows than are looked through at once; and only those that were written before it."""
    sink = place.sink("{user_id}" if form == "count" else "{id}", form=form)
    place.client.set(f"{place.name}:stays", "not ours")
    many = [insert(TABLE, order(key, key % 7)) for key in range(1, 2500)]
    rows = batch_of([transaction(*many), transaction(truncate(TABLE), insert(TABLE, order(5, 5)))])
    before = rows.take(range(len(many)))
    for batch in (before, rows.take([len(many)]), rows.take([len(many) + 1]), before):
        sink.write(batch)
    assert place.keys() == [f"{place.name}:5", f"{place.name}:stays"]
    sink.write(rows)
    assert place.keys() == [f"{place.name}:5", f"{place.name}:stays"]


@pytest.mark.parametrize("form", ["json", "hash", "count"])
def test_a_copy_that_is_made_again(place: Place, form: Any) -> None:
    """It begins with a TRUNCATE, at the position that its rows have, too."""
    sink = place.sink(form=form)
    batch = batch_of([insert(TABLE, order(3))], existing=[insert(TABLE, order(1)), insert(TABLE, order(2))])
    copied, [lsn, _] = batch.take([0, 1]), batch.changes()[0].position  # type: ignore[misc]
    place.sink(form=form).write(batch.take([0]))
    for _ in range(2):
        sink.write(Batch.truncation(copied.relations, lsn))
        sink.write(copied)
    sink.write(batch.take([2]))
    assert place.keys() == [f"{place.name}:{key}" for key in (1, 2, 3)]


def test_a_row_that_cannot_be_completed_is_a_miss(place: Place) -> None:
    """The value is gone, as one is that expired, and an update does not send all of the row."""
    for form in ("json", "hash"):
        sink = place.sink(f"{form}:{{id}}", form=form)
        first, second, third = parts(
            batch_of(
                [
                    insert(TABLE, order(1, 1, "long")),
                    update(TABLE, order(1, 2) | {"note": UNSET}),
                    update(TABLE, order(1, 3, "new")),
                ]
            )
        )
        sink.write(first)
        place.client.delete(f"{place.name}:{form}:1")
        sink.write(second)
        assert place.keys() == []
        sink.write(third)
        assert place.keys() == [f"{place.name}:{form}:1"]
        place.client.flushdb()


@pytest.mark.parametrize("form", ["json", "hash"])
@pytest.mark.parametrize("reused", [False, True])
def test_what_was_not_sent_is_taken_from_the_row_itself(place: Place, form: Any, reused: bool) -> None:
    """After a crash batches begin elsewhere: the row has moved by then, and another one may have its former place."""
    changes = [
        insert(TABLE, order(1, 1, "long")),
        update(TABLE, order(2, 2) | {"note": UNSET}, old={"id": 1}),
        insert(TABLE, order(1, 9, "other")) if reused else insert(TABLE, order(8)),
        update(TABLE, order(2, 3) | {"note": UNSET}),
        update(TABLE, order(3, 4) | {"note": UNSET}, old={"id": 2}),
        update(TABLE, order(3, 5) | {"note": UNSET}),
    ]
    batch = batch_of(changes)
    for done in range(1, len(changes) + 1):
        for again in range(1, done + 1):
            sink = place.sink(form=form)
            for part in (batch.take(range(done)), batch.take(range(again, len(changes)))):
                sink.write(part)
            found = place.client.hgetall(f"{place.name}:3") if form == "hash" else place.get(3)
            assert {name: str(value) for name, value in found.items()} == {"id": "3", "user_id": "5", "note": "long"}
            place.client.flushdb()


def test_values_expire(place: Place) -> None:
    sink = place.sink(ttl=500)
    sink.write(batch_of([insert(TABLE, order(1))]))
    assert 400 < place.client.ttl(f"{place.name}:1") <= 500


def test_what_a_hash_has(place: Place) -> None:
    """Text as JSON has it, without quotes; no field for NULL, and none of before."""
    table = Table("t", {"id": "bigint", "a": "jsonb", "b": "text", "c": "boolean", "d": "timestamptz"}, key=("id",))
    sink = place.sink(form="hash")
    first, second, third = parts(
        batch_of(
            [
                insert(table, {"id": 1, "a": {"x": [1, None]}, "b": 'é"\n', "c": True}),
                update(table, {"id": 1, "b": ""}),
                update(table, {"id": 1, "b": UNSET, "c": False}),
            ]
        )
    )
    sink.write(first)
    assert place.client.hgetall(f"{place.name}:1") == {"id": "1", "a": '{"x":[1,null]}', "b": 'é"\n', "c": "true"}
    sink.write(second)
    assert place.client.hgetall(f"{place.name}:1") == {"id": "1", "b": ""}
    sink.write(third)
    assert place.client.hgetall(f"{place.name}:1") == {"id": "1", "b": "", "c": "false"}


def test_half_a_pair_in_a_hash(place: Place) -> None:
    """A column of type json may hold a character that no UTF-8 has: it comes as the three bytes that it would be."""
    sink = place.sink(form="hash")
    table = Table("t", {"id": "bigint", "a": "json"}, key=("id",))
    sink.write(batch_of([insert(table, {"id": 1, "a": '"\\ud83d \\ud83d\\ude00"'})]))
    with redis.Redis.from_url(place.server.url) as client:
        assert client.hget(f"{place.name}:1", "a") == b"\xed\xa0\xbd " + "😀".encode()


def test_counters(place: Place) -> None:
    """Rows that belong to nothing count for nothing, and what was counted twice is not."""
    sink = place.sink("{user_id}", form="count")
    batch = batch_of(
        [
            insert(TABLE, order(1, 1)),
            insert(TABLE, order(2, 1)),
            insert(TABLE, {"id": 3}),
            update(TABLE, order(2, 2)),
            update(TABLE, order(3, 2)),
            update(TABLE, order(9, 1), old=order(1, 1)),
        ]
    )
    for _ in range(2):
        for part in parts(batch):
            sink.write(part)
        sink.write(batch)
        assert {key: place.get(key) for key in (1, 2)} == {1: 1, 2: 2}
    sink.write(batch_of([delete(TABLE, {"id": key}) for key in (2, 3, 9)]).after((0, 0)))


def test_a_counter_that_is_something_else(place: Place) -> None:
    """SinkRejected for those rows alone; the others count, once."""
    place.client.set(f"{place.name}:2", "words")
    sink = place.sink("{user_id}", form="count", amount="id")
    batch = batch_of([transaction(insert(TABLE, order(5, 1)), insert(TABLE, order(6, 2)), insert(TABLE, order(7, 1)))])
    for _ in range(2):
        with pytest.raises(SinkRejected, match="counts for a key that holds something else") as raised:
            sink.write(batch)
        assert {position[1] for position in raised.value.positions} == {1}
        assert place.get(1) == 12
    place.client.delete(f"{place.name}:2")
    sink.write(batch)
    assert place.get(2) == 6
    place.client.set(f"{place.name}:1", "words")
    [moved] = parts(batch_of([insert(TABLE, order(1)), update(TABLE, order(5, 2))]))[1:]
    with pytest.raises(SinkRejected):
        sink.write(moved)
    assert place.get(2) == 6


def test_amounts_that_are_no_whole_numbers(place: Place) -> None:
    table = Table("t", {"id": "bigint", "amount": "numeric"}, key=("id",))
    sink = place.sink("all", form="count", amount="amount")
    with pytest.raises(SinkRejected, match="not of an integer type") as raised:
        sink.write(batch_of([insert(table, {"id": 1, "amount": 1}), insert(table, {"id": 2})]))
    assert len(raised.value.positions) == 1
    assert place.keys() == []


def test_keys_of_a_cache_are_deleted(place: Place) -> None:
    """Those of rows that changed, old and new ones; at a TRUNCATE all that could be of the table."""
    sink = place.sink("{table}:{id}", form="delete")

    def fill(*keys: object) -> None:
        for key in keys:
            place.client.set(f"{place.name}:{key}", "cached")

    fill("orders:1", "orders:2", "orders:3", "orders:4", "orders:9", "others:1")
    sink.write(
        batch_of(
            [
                insert(TABLE, order(1)),
                insert(TABLE, order(2)),
                delete(TABLE, order(2)),
                insert(TABLE, order(3)),
                update(TABLE, order(4), old=order(3)),
            ]
        )
    )
    assert place.keys(f"{place.name}:") == ["orders:9", "others:1"]
    fill(*(f"orders:{key}" for key in range(3000)))
    sink.write(batch_of([insert(TABLE, order(1)), truncate(TABLE)]))
    assert place.keys(f"{place.name}:") == ["others:1"]
    assert place.keys("state:") == []


def test_a_stream_has_every_change_once(place: Place) -> None:
    """Its ids are the positions; copied rows come before all, messages have no table."""
    sink = place.sink("{table}", form="stream")
    batch = batch_of(
        [transaction(insert(TABLE, order(3)), message("p", "c")), truncate(TABLE)],
        existing=[insert(TABLE, order(1)), insert(TABLE, order(2))],
    )
    sink.write(batch)
    sink.write(batch.after(Position(batch.changes()[0].commit_lsn, -1)))  # type: ignore[union-attr,arg-type]
    entries = place.client.xrange(f"{place.name}:orders")
    assert [entry["action"] for _, entry in entries] == ["insert", "insert", "insert", "truncate"]
    positions = [Position.parse(entry["position"]) for _, entry in entries]
    start = positions[0].commit_lsn
    assert [at for at, _ in entries] == [
        f"{start - 1}-0" if start > 1 else "0-1",
        f"{start - 1}-1" if start > 1 else "0-2",
        *(f"{position.commit_lsn}-{position.index + 1}" for position in positions[2:]),
    ]
    assert json.loads(entries[2][1]["change"])["new"] == order(3)
    [(_, entry)] = place.client.xrange(f"{place.name}:messages")
    assert (entry["action"], entry["table"]) == ("message", "messages")


def test_what_comes_late_is_at_the_end_of_a_stream(place: Place) -> None:
    """As from another lane, or a dead letter; where its id is taken by then, too. What was there is known again."""
    sink = place.sink("{table}", form="stream")
    batch = batch_of(
        [
            transaction(insert(TABLE, order(1)), insert(TABLE, order(2))),
            transaction(insert(TABLE, order(3)), insert(TABLE, order(4)), insert(TABLE, order(5))),
        ],
        existing=[insert(TABLE, order(9))],
    )
    for numbers in ([1], [3], [2], [4, 5], [1], [3], [0], [5]):
        sink.write(batch.take(numbers))
    entries = [json.loads(entry["change"])["new"]["id"] for _, entry in place.client.xrange(f"{place.name}:orders")]
    assert entries == [1, 3, 2, 4, 5, 9, 5], "5 once more: it has not the id of its position, and may be there twice"


def test_a_stream_of_a_length(place: Place) -> None:
    sink = place.sink("{table}", form="stream", max_entries=100)
    batch = batch_of([transaction(*(insert(TABLE, order(key)) for key in range(2000)))])
    sink.write(batch)
    assert 100 <= place.client.xlen(f"{place.name}:orders") < 400
    kept = place.client.xlen(f"{place.name}:orders")
    sink.write(batch.take([0, 1999]))
    assert place.client.xlen(f"{place.name}:orders") == kept


def test_a_stream_takes_any_row_or_none(place: Place) -> None:
    """Where its key holds something else, all of its changes are refused, and those of other tables are not."""
    sink = place.sink("{table}", form="stream")
    items = Table("items", TABLE.columns, key=("id",))
    place.client.set(f"{place.name}:orders", "words")
    batch = batch_of([insert(TABLE, order(1)), insert(items, order(2)), insert(TABLE, order(3))])
    with pytest.raises(SinkRejected, match="whose key holds something else") as raised:
        sink.write(batch)
    assert raised.value.positions == {batch.take([number]).first_position for number in (0, 2)}
    assert place.client.xlen(f"{place.name}:items") == 1
    place.client.delete(f"{place.name}:orders")
    sink.write(batch)
    assert [place.client.xlen(f"{place.name}:{table}") for table in ("orders", "items")] == [2, 1]


def test_a_row_without_a_key(place: Place) -> None:
    """All that have none are named, and nothing of the batch is written."""
    heap = Table("heap", {"a": "bigint", "b": "text"}, replica_identity="f")
    batch = batch_of([insert(TABLE, order(1)), insert(heap, {"a": 1}), insert(heap, {"a": None})])
    for form in ("json", "delete"):
        with pytest.raises(SinkRejected, match="heap has no key of") as raised:
            place.sink("{a}", form=form).write(batch.select([("public", "heap")]).take([1]))
        assert len(raised.value.positions) == 1
    with pytest.raises(SinkRejected, match="heap has no key that is known") as raised:
        place.sink("{table}:{key}").write(batch.with_primary_keys({}))
    assert len(raised.value.positions) == 2
    assert raised.value.table == "public.heap"
    assert place.keys() == []


@pytest.mark.parametrize("form", ["json", "hash"])
def test_a_part_of_the_primary_key(place: Place, form: Any) -> None:
    """Rows that differ in the rest of it would overwrite each other, and a delete would take another's away."""
    table = Table("places", {"a": "int", "b": "int", "c": "text"}, key=("a", "b"))
    batch = batch_of([insert(table, {"a": 1, "b": 1, "c": "x"}), insert(table, {"a": 1, "b": 2, "c": "y"})])
    for template, rest in (("{a}", "b"), ("{table}", "a, b")):
        with pytest.raises(ConfigError, match=rf"rows of the table public\.places that differ in {rest} would have"):
            place.sink(template, form=form).write(batch)
    assert place.keys() == []
    place.sink("{b}:{a}", form=form).write(batch)
    place.sink("{c}", form=form).write(batch)  # it may be unique, too
    place.sink("of:{a}", form="count").write(batch)
    place.sink("{a}", form="delete").write(batch)
    assert len(place.keys()) == 5


@pytest.mark.parametrize("form", ["json", "hash"])
def test_two_tables_with_the_same_keys(place: Place, form: Any) -> None:
    """They would overwrite and delete each other's rows."""
    sales, items = Table("sales.orders", TABLE.columns, key=("id",)), Table("items", TABLE.columns, key=("id",))
    sink = place.sink("{id}", form=form)
    sink.write(batch_of([insert(TABLE, order(1))]))
    with pytest.raises(ConfigError, match=r"the tables public\.orders and public\.items would have the same keys"):
        sink.write(batch_of([insert(TABLE, order(1)), delete(items, order(1))]))
    assert place.keys() == [f"{place.name}:1"]
    with pytest.raises(ConfigError, match=r"the tables public\.orders and sales\.orders would have the same keys"):
        place.sink("{table}:{id}", form=form).write(batch_of([insert(TABLE, order(1)), insert(sales, order(1))]))
    sink = place.sink("{schema}:{table}:{id}", form=form)
    sink.write(batch_of([insert(one, order(1)) for one in (TABLE, sales, items)]))
    assert len(place.keys()) == 4


def test_scripts_that_the_server_has_lost(place: Place) -> None:
    sink = place.sink()
    place.client.script_flush()
    sink.write(batch_of([insert(TABLE, order(1))]))
    assert place.get(1) == order(1)


def test_a_server_without_room(place: Place) -> None:
    """The pipeline tries again later."""
    sink = place.sink()
    place.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(SinkUnavailable, match="does not take writes now"):
            sink.write(batch_of([insert(TABLE, order(1))]))
    finally:
        place.client.config_set("maxmemory", 0)
    sink.write(batch_of([insert(TABLE, order(1))]))
    assert place.get(1) == order(1)


def test_a_password_that_is_wrong(place: Place) -> None:
    """It is in no message, nor is one in an URL that cannot be read."""
    sink = Redis(place.server.url.replace("unix://", "unix://user:hidden@"), key="{id}")
    with pytest.raises(SinkUnavailable, match="refuses the user") as raised:
        sink.open()
    for error in (raised.value, raised.value.__cause__):
        assert "hidden" not in repr(error)
    with pytest.raises(ConfigError, match="cannot be read") as other:
        Redis("rediss:/hidden", key="{id}")
    assert "hidden" not in str(other.value)
    assert "hidden" not in repr(sink)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "{id", "form": "json"}, "is no template"),
        ({"key": "{id}", "form": "set"}, "is no form"),
        ({"key": "{id}", "form": "delete"}, "begins with a name"),
        ({"key": "x:{id}", "form": "stream"}, "names a column"),
        ({"key": "x:{key}", "form": "stream"}, "names a column"),
        ({"key": "{id}", "amount": "a"}, "amount= is not for"),
        ({"key": "x:{id}", "form": "delete", "ttl": 5}, "ttl= is not for"),
        ({"key": "{id}", "ttl": 0}, "1 at least"),
    ],
)
def test_what_is_wrong_is_said_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Redis("redis://localhost", **options)


@pytest.mark.usefixtures("redis_server")
def test_a_cluster_is_refused_before_anything_is_written() -> None:
    with RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        sink = Redis(server.url, key="{id}")
        with pytest.raises(ConfigError, match="one of a Redis Cluster") as caught:
            sink.open()
        sink.close()
    assert "primary with replicas" in str(caught.value.hint)


def test_the_whole_way(newest_database: Database, place: Place) -> None:
    """Copied rows, random changes, a restart in the middle: what Redis has is what SELECT gives."""
    database, chance = newest_database, random.Random(7)
    database.execute(*ORDERS)
    work(database, chance, 60)
    for number in range(3):
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        for form in ("json", "hash"):
            pipeline.add(Redis(place.server.url, key=f"{place.name}:{form}:{{id}}", form=form), name=form)
        pipeline.add(Redis(place.server.url, key=f"{place.name}:count:{{user_id}}", form="count"), name="count")
        pipeline.add(
            Redis(place.server.url, key=f"{place.name}:ids:{{user_id}}", form="count", amount="id", prefix="ids"),
            name="ids",
            concurrency=3,
        )
        with running(pipeline) as run:
            run.streaming()
            work(database, chance, 60)
            run.catch_up(database)
        if number < 2:
            work(database, chance, 60)
    rows = database.execute("SELECT id, user_id, note, total::text FROM orders")
    assert rows, "the workload leaves some"
    names = ("id", "user_id", "note", "total")
    at = f"{place.name}:"
    assert {key: json.loads(place.client.get(f"{at}json:{key}")) for key in place.keys(f"{at}json:")} == {
        str(row[0]): dict(zip(names, row, strict=True)) for row in rows
    }
    assert {key: place.client.hgetall(f"{at}hash:{key}") for key in place.keys(f"{at}hash:")} == {
        str(row[0]): {name: str(value) for name, value in zip(names, row, strict=True)} for row in rows
    }
    users = database.execute("SELECT user_id, count(*)::int, sum(id)::int FROM orders GROUP BY 1")
    assert {int(key): place.get(f"count:{key}") for key in place.keys(f"{at}count:")} == {
        user: count for user, count, _ in users
    }
    assert {int(key): place.get(f"ids:{key}") for key in place.keys(f"{at}ids:")} == {
        user: total for user, _, total in users if total
    }


def test_a_batch_is_one_round_trip(place: Place) -> None:
    """Ten thousand rows within the time that as many round trips would not take; and what it costs is printed."""
    sink = place.sink()
    batch = batch_of([transaction(*(insert(TABLE, order(key, key % 7, "note")) for key in range(10_000)))])
    calls = place.client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]
    start = time.monotonic()
    sink.write(batch)
    print(f"{10_000 / (time.monotonic() - start):.0f} rows/s")
    assert place.client.info("commandstats")["cmdstat_exec"]["calls"] == calls + 1
    assert len(place.keys()) == 10_000


@pytest.mark.parametrize("foreign", [b"\xff", b"no JSON", b'{"id":1,"b":undefined}', b"[1]"])
def test_a_value_that_somebody_else_has_set(place: Place, foreign: bytes) -> None:
    """What an update did not send cannot be taken from it: the row is refused, and nothing else."""
    table = Table("t", {"id": "bigint", "b": "text", "c": "text"}, key=("id",))
    row = {"id": 1, "b": "long", "c": "x"}
    sink = place.sink()
    first, second = parts(batch_of([insert(table, row), update(table, row | {"b": UNSET, "c": "y"})]))
    sink.write(first)
    place.client.set(f"{place.name}:1", foreign)
    with pytest.raises(SinkRejected, match="no JSON object") as raised:
        sink.write(second)
    assert raised.value.positions == {second.first_position}
