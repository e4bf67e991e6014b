"""One batch to many lanes: filtered once for each distinct filter, shared by the like, decoded once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import pgcdc
from pgcdc import Batch, Pipeline
from pgcdc.events import Column, Relation
from pgcdc.pipeline.fanout import Fanout
from pgcdc.pipeline.items import Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.replication import PublishedTable
from tests.pipeline.targets import Recorder
from tests.protocol import wire

MESSAGES = [
    wire.relation(1, "orders", [("id", 23)]),
    wire.relation(2, "order_items", [("id", 23)]),
    wire.begin(100),
    wire.insert(1, ["1"]),
    wire.insert(2, ["2"]),
    wire.delete(1, ["1"]),
    wire.commit(100, 108),
]


def never(ready: Callable[[], bool]) -> None:
    """Room is not waited for in these tests."""
    pytest.fail("a lane had no room")


def published(oid: int, name: str) -> PublishedTable:
    """A table as it is at the start."""
    columns = [Column(name="id", type_oid=23, type_modifier=-1, is_key=True)]
    return PublishedTable(
        relation=Relation(oid=oid, schema="public", name=name, replica_identity="d", columns=columns),
        row_filter=None,
        filenode=oid,
        storage=((oid, oid),),
        binary_columns=[True],
        column_types=["pg_catalog.int4"],
        described_types=[(23, -1)],
        generated=False,
        primary_key=["id"],
        partitioned=False,
    )


async def sent(consumers: list[tuple[str, ...]], now: dict[int, str], *messages: bytes) -> list[list[tuple[str, int]]]:
    """What consumers of some tables get of a batch, when the tables have these names at LSN 1000."""
    pipeline = Pipeline("shop", "", tables=sorted({table for tables in consumers for table in tables}))
    for number, tables in enumerate(consumers):
        pipeline.add(Recorder(), tables=tables, name=str(number))
    condition, loop = threading.Condition(), asyncio.get_running_loop()
    lanes = {name: Lane(name, condition, 100, 1 << 20, loop, lambda: None) for name in pipeline._subscriptions}
    fanout = Fanout(pipeline._subscriptions, lanes, never, RowFormats().renamed)
    fanout.know([published(oid, name) for oid, name in now.items()], 1000)
    fanout.send(Batch.of(messages), 2000)
    got = []
    for lane in lanes.values():
        lane.close()
        item = await lane.take()
        changes: list[Any] = item.batch.changes() if isinstance(item, Rows) else []
        got.append([(change.table, change.new.id) for change in changes])
    return got


def row(lsn: int, oid: int, name: str, number: int) -> list[bytes]:
    """One transaction that inserts one row."""
    return [
        wire.begin(lsn),
        wire.relation(oid, name, [("id", 23)]),
        wire.insert(oid, [str(number)]),
        wire.commit(lsn, lsn + 8),
    ]


async def test_the_oid_says_which_table_a_former_name_means() -> None:
    # 1 was a, 2 was b; they swapped names by way of c.
    swapped = {1: "b", 2: "a"}
    messages = [*row(100, 1, "a", 11), *row(200, 1, "c", 12), *row(1300, 1, "b", 13)]
    assert await sent([("a",), ("b",)], swapped, *messages) == [[], [("a", 11), ("c", 12), ("b", 13)]]
    both = [*row(100, 1, "a", 11), *row(200, 2, "b", 21), *row(1300, 1, "b", 12), *row(1400, 2, "a", 22)]
    assert await sent([("a", "b")], swapped, *both) == [[("a", 11), ("b", 21), ("b", 12), ("a", 22)]]
    with pytest.raises(pgcdc.SchemaError, match=r"have both been called public.a,"):
        await sent([("a",), ("b",)], swapped, *both)


async def test_a_table_that_was_dropped_and_made_again_is_the_same_to_its_consumers() -> None:
    messages = [*row(100, 1, "a", 11), *row(200, 2, "a", 21)]
    assert await sent([("a",), ("b",)], {2: "a", 3: "b"}, *messages) == [[("a", 11), ("a", 21)], []]
    # One that is made, and renamed, while it runs.
    with pytest.raises(pgcdc.SchemaError, match=r"public.a was renamed to public.c while"):
        await sent([("a",)], {}, *row(1100, 9, "a", 91), *row(1200, 9, "c", 92))


async def test_a_table_put_aside_under_another_name_is_not_left_out_silently() -> None:
    messages = row(100, 1, "a", 11)
    now = {1: "old_a", 2: "a"}
    with pytest.raises(pgcdc.SchemaError, match=r"is called public.old_a now") as raised:
        await sent([("a",)], now, *messages)
    assert "'public.old_a'" in (raised.value.hint or "")
    assert await sent([("a",), ("old_a",)], now, *messages) == [[], [("a", 11)]]
    # Nobody's business.
    assert await sent([("a",)], {1: "x", 2: "a"}, *row(100, 1, "y", 11), *row(1100, 1, "z", 12)) == [[]]


async def test_a_table_that_takes_a_consumers_name_while_it_runs_stops_it() -> None:
    with pytest.raises(pgcdc.SchemaError, match=r"public.x was renamed to public.a while"):
        await sent([("a",)], {1: "x", 2: "a"}, *row(1000, 1, "a", 11))


async def test_who_wants_all_tables_of_a_batch_gets_no_messages_that_it_did_not_ask_for() -> None:
    inside, outside = wire.message("p", b"x", lsn=90), wire.message("p", b"x", lsn=110, transactional=False)
    begin, *rest = row(100, 1, "a", 11)
    assert await sent([("a",), ("a", "b")], {1: "a"}, begin, inside, *rest, outside) == [[("a", 11)], [("a", 11)]]


async def handed_over(*messages: bytes) -> dict[str, Rows | None]:
    """What each of four consumers finds in its lane."""
    pipeline = Pipeline("shop", "", tables=["orders", "order_items"])
    for name in ("all", "all again"):
        pipeline.add(Recorder(), name=name)
    pipeline.add(Recorder(), tables=["orders"], actions=["delete"], name="deletes")
    pipeline.add(Recorder(), tables=["order_items"], actions=["truncate"], name="nothing")
    condition = threading.Condition()
    loop = asyncio.get_running_loop()
    lanes = {name: Lane(name, condition, 100, 1 << 20, loop, lambda: None) for name in pipeline._subscriptions}
    Fanout(pipeline._subscriptions, lanes, never, RowFormats().renamed).send(Batch.of(messages), 108)
    found: dict[str, Rows | None] = {}
    for name, lane in lanes.items():
        lane.close()
        item = await lane.take()
        assert item is None or isinstance(item, Rows)
        found[name] = item
        if item is None:
            assert lane.through_lsn == 108, "WAL without anything for it is done at once"
    return found


async def test_the_same_filter_gets_the_same_batch_and_the_same_objects() -> None:
    """Two sinks that want the same decode it once."""
    found = await handed_over(*MESSAGES)
    one, other, deletes = found["all"], found["all again"], found["deletes"]
    assert one is not None and other is not None and deletes is not None
    assert one.batch is other.batch
    assert [change.action for change in deletes.batch.changes()] == ["delete"]  # type: ignore[union-attr]
    # A part of it, in the same format, is made of the same objects too.
    assert deletes.batch.changes()[0] is one.batch.changes()[2]
    assert found["nothing"] is None


async def test_what_cannot_be_read_goes_to_everybody() -> None:
    """Whoever it was for, nobody goes past it unknowingly."""
    found = await handed_over(*MESSAGES[:-1], b"?", MESSAGES[-1])
    for rows in found.values():
        assert rows is not None
        assert isinstance(rows.batch.changes()[-1], pgcdc.DecodeError)
