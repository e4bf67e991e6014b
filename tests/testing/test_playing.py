"""Changes written down by hand, played into a pipeline: handlers and sinks get what a server's stream would give."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec import UNSET

import pgcdc
from pgcdc import testing
from pgcdc.pipeline import MemoryPositions, SqlitePositions
from pgcdc.testing import (
    Capture,
    FaultySink,
    RecordingSink,
    Table,
    aplay,
    delete,
    insert,
    message,
    play,
    transaction,
    truncate,
    update,
)
from tests.conftest import Database
from tests.golden.make import read_capture
from tests.pipeline.targets import AsyncRecorder, SqliteMirror, logged, mirrored

GOLDEN = Path(__file__).parents[1] / "golden"


class Order(msgspec.Struct):
    id: int
    status: str | None = None
    discount: Decimal | None = None


def shop(*tables: str) -> pgcdc.Pipeline:
    return pgcdc.Pipeline("shop", tables=tables or ["orders"])


def test_a_handler_gets_what_was_written_down() -> None:
    pipeline = shop("orders", "sales.items")
    seen: list[Any] = []

    @pipeline.on("orders", "insert", "update", row=Order)
    def index(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        seen.append((change.action, change.new, change.position))

    played = play(
        pipeline,
        [
            insert("orders", {"id": 1, "status": "new"}),
            transaction(
                insert("sales.items", {"id": 7, "sku": "book"}),
                update("orders", Order(1, "paid", Decimal("1.50"))),
                delete("orders", {"id": 1}),
            ),
        ],
    )
    assert [(action, new) for action, new, _ in seen] == [
        ("insert", Order(1, "new")),
        ("update", Order(1, "paid", Decimal("1.50"))),
    ]
    first, second = (position for *_, position in seen)
    assert first.index == 0 and second.index == 1 and first.commit_lsn < second.commit_lsn
    assert played.delivered("index") == 2
    assert played.statistics.source.phase == "stopped"
    assert played.positions.load("shop")["index"].position == second


def test_a_sink_gets_every_form() -> None:
    pipeline, sink = shop(), RecordingSink()
    pipeline.add(sink, name="sink")
    play(pipeline, [insert("orders", {"id": 1, "total": Decimal("9.90"), "address": {"city": "Łódź"}})])
    [batch] = sink.batches
    assert msgspec.json.decode(batch.to_json())["new"] == {"id": 1, "total": "9.90", "address": {"city": "Łódź"}}
    assert batch.to_arrow()["public.orders"].num_rows == 1
    assert (sink.opened, sink.closed, sink.actions) == (1, 1, ["insert"])


VALUES = {
    "id": 1,
    "flag": True,
    "ratio": 0.1,
    "price": Decimal("12345678901234567890.10"),
    "raw": b"\x00\xff",
    "day": date(2024, 2, 29),
    "at": datetime(2024, 2, 29, 12, 30, 0, 5, tzinfo=UTC),
    "local": datetime(2024, 2, 29, 12, 30),
    "key": UUID("12345678-1234-5678-1234-567812345678"),
    "document": {"a": [1, None, "ä"]},
    "tags": ["a b", 'q"'],
    "numbers": [1, 2],
    "nothing": None,
    "text": "it's",
}


def test_values_come_as_they_were_given() -> None:
    pipeline, seen = shop(), []
    pipeline.on("orders", name="all")(lambda change: seen.append(change.new))
    play(pipeline, [insert("orders", VALUES)])
    assert {name: getattr(seen[0], name) for name in VALUES} == VALUES


def test_a_server_gives_the_same(newest_database: Database) -> None:
    """The same rows written to a server, recorded, played, are the same changes as those written down by hand."""
    newest_database.execute(
        "CREATE TABLE orders (id int8 PRIMARY KEY, total numeric(12,2), note text, tags text[], at timestamptz)",
        "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL",
        "CREATE PUBLICATION p FOR TABLE orders",
        f"SELECT pg_create_logical_replication_slot('{newest_database.name}', 'pgoutput')",
        "INSERT INTO orders VALUES (1, 5, repeat('x', 9000), '{a,b c}', '2024-05-17 12:30+00')",
        "UPDATE orders SET total = 6.5",
        "UPDATE orders SET id = 2",
        "TRUNCATE orders",
        "SELECT pg_logical_emit_message(true, 'shop', 'hello')",
    )
    columns = {"id": "bigint", "total": "numeric(12, 2)", "note": "text", "tags": "text[]", "at": "timestamptz"}
    orders = Table("orders", columns)
    row = {"id": 1, "total": Decimal("5.00"), "note": "x" * 9000, "tags": ["a", "b c"]}
    row["at"] = datetime(2024, 5, 17, 12, 30, tzinfo=UTC)
    paid = row | {"total": Decimal("6.50"), "note": UNSET}
    by_hand = Capture.of(
        [
            insert(orders, row),
            update(orders, paid),
            update(orders, paid | {"id": 2}, old=row),
            truncate(orders),
            message("shop", "hello"),
        ]
    )

    def said(capture: Capture) -> list[Any]:
        sink, pipeline = RecordingSink(), shop()
        pipeline.add(sink)
        play(pipeline, capture)
        found = []
        for change in sink.changes:
            relations = getattr(change, "relations", None) or [change.relation]
            shapes = [(one.name, one.replica_identity, one.columns) for one in relations]
            found.append((change.action, shapes, repr(getattr(change, "new", 0)), repr(getattr(change, "old", 0))))
        return found

    recorded = Capture.record(newest_database.dsn, newest_database.name, "p")
    assert said(by_hand) == said(recorded)
    assert [action for action, *_ in said(by_hand)] == ["insert", "update", "update", "truncate"]
    assert b"M" in {payload[:1] for _, payload in recorded.messages}
    assert b"M" in {payload[:1] for _, payload in by_hand.messages}


def test_a_capture_is_a_file(tmp_path: Path) -> None:
    path = GOLDEN / "pg18" / "binary.capture"
    capture = Capture.load(path)
    assert list(capture.messages) == read_capture(path)
    capture.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    for end in (10, 20, 40):
        (tmp_path / "cut").write_bytes(path.read_bytes()[:end])
        with pytest.raises(pgcdc.ConfigError, match="capture"):
            Capture.load(tmp_path / "cut")


@pytest.mark.parametrize("name", ["plain", "streamed", "parallel", "prepared"])
def test_golden_captures_can_be_played(name: str) -> None:
    """However transactions came, the same comes out of them; nothing depends on how much one read holds."""
    seen = {}
    for kind, at_once in ((name, 100), (name, 1), ("plain", 7)):
        capture = Capture.load(GOLDEN / "pg18" / f"{kind}.capture")
        pipeline, sink = pgcdc.Pipeline("shop", tables=sorted(_tables(capture))), RecordingSink()
        pipeline.add(sink)
        played = play(pipeline, capture, messages_at_once=at_once)
        seen[kind, at_once] = [(change.action, repr(getattr(change, "new", None))) for change in sink.changes]
        assert played.delivered("recordingsink") == len(sink.changes) > 10
    one, two, plain = seen.values()
    assert one == two == plain


def _tables(capture: Capture) -> set[tuple[str, str]]:
    decoder = pgcdc.Decoder()
    events = decoder.decode_many([payload for _, payload in capture.messages])
    names: dict[int, set[tuple[str, str]]] = {}
    for event in events:
        if isinstance(event, pgcdc.Relation):
            names.setdefault(event.oid, set()).add((event.schema, event.name))
    # One that is renamed while it runs stops a pipeline that has it.
    return {name for found in names.values() if len(found) == 1 for name in found}


def test_existing_rows_come_first() -> None:
    pipeline, sink, late = shop(), RecordingSink(), RecordingSink()
    pipeline.add(sink, name="sink")
    pipeline.add(late, name="late", snapshot="never")
    existing = [insert("orders", {"id": 1, "status": None}), insert("orders", {"id": 2, "status": "old"})]
    play(pipeline, [insert("orders", {"id": 3, "status": "new"})], existing=existing)
    assert [(change.new.id, change.new.status, change.snapshot) for change in sink.changes] == [
        (1, None, True),
        (2, "old", True),
        (3, "new", False),
    ]
    assert [change.new.id for change in late.changes] == [3]


def test_a_column_is_added() -> None:
    pipeline, seen = shop(), []
    pipeline.on("orders", row=Order, name="all")(lambda change: seen.append((change.new, len(change.relation.columns))))
    play(pipeline, [insert("orders", {"id": 1}), insert("orders", {"id": 2, "discount": Decimal("0.5")})])
    assert seen == [(Order(1), 1), (Order(2, None, Decimal("0.5")), 2)]


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A longer list goes on where a shorter one ended, also inside a transaction, with positions in any store."""
    changes = [transaction(*(insert("orders", {"id": key, "status": "x"}) for key in range(n, n + 4))) for n in (1, 5)]
    whole = Capture.of(changes)
    store = SqlitePositions(tmp_path / "positions.db")
    for end in range(1, len(whole) + 1):
        pipeline = shop()
        pipeline.add(SqliteMirror(tmp_path / "mirror.db"), name="mirror")
        play(pipeline, whole.cut(end), positions=store)
    assert len(mirrored(tmp_path / "mirror.db", "orders")) == 8
    assert len(logged(tmp_path / "mirror.db")) == 8, "nothing twice"


def test_what_a_handler_raises_ends_it_and_is_stored_up_to_there() -> None:
    store = MemoryPositions()
    seen: list[int] = []
    for broken in (True, False):
        pipeline = shop()

        @pipeline.on("orders")
        def index(change: Any, broken: bool = broken) -> None:
            if broken and change.new.id == 2:
                raise ValueError
            seen.append(change.new.id)

        changes = [insert("orders", {"id": key}) for key in (1, 2, 3)]
        if broken:
            with pytest.raises(pgcdc.SinkRejected, match="handler 'index' raised ValueError on an insert of public"):
                play(pipeline, changes, positions=store)
        else:
            play(pipeline, changes, positions=store)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("identity", ["d", "f"])
def test_changes_of_one_key_stay_in_order(identity: Any) -> None:
    """However many are handled at once; under replica identity full the key is still the primary key."""
    orders = Table("orders", {"id": "bigint", "status": "text"}, replica_identity=identity)
    changes = [insert(orders, {"id": key, "status": "0"}) for key in range(5)]
    for number in range(1, 9):
        for key in range(5):
            before = {"id": key, "status": str(number - 1)}
            changes.append(update(orders, {"id": key, "status": str(number)}, old=before))
    pipeline, seen, came = shop(), dict[int, list[str]](), threading.Event()

    @pipeline.on("orders", concurrency=4)
    async def index(change: Any) -> None:
        if change.new.id == 1:
            came.set()
        elif change.new.id == 0 and not seen:
            assert await asyncio.to_thread(came.wait, 30), "another key is handled meanwhile"
        for _ in range(9 - int(change.new.status)):  # later ones would overtake, if they might
            await asyncio.sleep(0)
        seen.setdefault(change.new.id, []).append(change.new.status)

    play(pipeline, changes)
    assert seen == {key: [str(number) for number in range(9)] for key in range(5)}


async def test_on_a_running_loop() -> None:
    pipeline, seen = shop(), []

    @pipeline.on("orders")
    async def index(change: Any) -> None:
        seen.append(change.new.id)

    await aplay(pipeline, [insert("orders", {"id": 1})])
    assert seen == [1]


def test_what_cannot_be_written_down() -> None:
    wrong: list[tuple[Any, str]] = [
        ([truncate("orders")], "nothing is known of the columns"),
        ([insert("orders", {"status": None, "id": None})], "has no id, which is its key"),
        ([insert(Table("orders", {"id": "nothing"}), {"id": 1})], "'nothing' is no type"),
        ([insert(Table("orders", {"id": "bigint"}), {"id": 1, "more": 2})], "has no column more"),
        ([insert("orders", {"id": object()})], "no text form"),
        ([transaction(insert("orders", {"id": 1}), commit_lsn=5)], "commits go up"),
        ([update(Table("orders", {"id": "bigint"}, replica_identity="f"), {"id": 1})], "has an old row"),
    ]
    for changes, text in wrong:
        with pytest.raises(pgcdc.ConfigError, match=text):
            Capture.of(changes)
    with pytest.raises(pgcdc.ConfigError, match="are written down as inserts"):
        Capture.of([], existing=[delete("orders", {"id": 1})])


def test_types_by_their_names() -> None:
    found = [
        testing.changes.type_of(name)
        for name in ("numeric(12,2)", "varchar(9)", "character varying(9)", "timestamptz(3)", "INTEGER", "jsonb[]", 99)
    ]
    assert found == [(1700, 786438), (1043, 13), (1043, 13), (1184, 3), (23, -1), (3807, -1), (99, -1)]


class TestFaultySink:
    def test_each_write_fails_once_until_none_does(self, tmp_path: Path) -> None:
        """The n-th write fails, before or after it took effect; what comes again changes nothing."""
        changes = [insert("orders", {"id": key}) for key in range(1, 6)]
        for written in (False, True):
            number = 0
            while True:
                number += 1
                path = tmp_path / f"{written}-{number}.db"
                store, failed = MemoryPositions(), False
                for fail_at in (number, None):
                    pipeline = shop()
                    sink = FaultySink(SqliteMirror(path), fail_at=fail_at, written=written)
                    assert isinstance(sink, pgcdc.TransactionalSink)
                    pipeline.add(sink, name="mirror")
                    try:
                        play(pipeline, changes, positions=store, messages_at_once=1)
                    except pgcdc.SinkError:
                        failed = True
                        assert sink.failures == 1
                    else:
                        assert sink.failures == 0
                assert mirrored(path, "orders") == ["1", "2", "3", "4", "5"]
                assert len(logged(path)) == 5
                if not failed:
                    break
            assert number > 1

    def test_away_for_some_writes(self) -> None:
        for inside in (RecordingSink(), AsyncRecorder()):
            pipeline, sink = shop(), FaultySink(inside, unavailable=range(1, 3))
            assert not isinstance(sink, pgcdc.TransactionalSink)
            pipeline.add(sink, name="sink")
            played = play(pipeline, [insert("orders", {"id": 1}), insert("orders", {"id": 2})])
            assert [change.new.id for change in inside.changes] == [1, 2]
            assert sink.failures == 2
            assert "told to be away" in (played.statistics.consumers["sink"].last_error or "")

    def test_refuses_what_it_is_told_to(self) -> None:
        pipeline, sink = shop(), FaultySink(reject=lambda change: change.new.id == 2)
        pipeline.add(sink, name="sink")
        with pytest.raises(pgcdc.SinkRejected, match="told not to take a change"):
            play(pipeline, [insert("orders", {"id": 1}), insert("orders", {"id": 2})], messages_at_once=3)

    @pytest.mark.parametrize("inside", [RecordingSink, AsyncRecorder])
    def test_a_gate_holds_one_sink_and_no_other(self, inside: Any) -> None:
        gate, pipeline = threading.Event(), shop()
        held, free = FaultySink(inside(), gate=gate), RecordingSink()
        pipeline.add(held, name="held")
        pipeline.add(free, name="free")
        thread = threading.Thread(target=play, args=(pipeline, [insert("orders", {"id": n}) for n in range(50)]))
        thread.start()
        try:
            free.wait(50)
            assert held.waiting.wait(30)
            assert held.sink.changes == []  # type: ignore[attr-defined]
        finally:
            gate.set()
            thread.join(30)
        assert len(held.sink.changes) == 50  # type: ignore[attr-defined]
