"""`pgcdc events`: what it prints for people and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from examples.order import Item, OrderCreated, OrderPaid, OrderShipped
from pgcdc import cli
from pgcdc.eventstore import AsyncEventStore, EventStore, archive, context
from tests.eventstore import revenue
from tests.eventstore.revenue import store_of
from tests.pipeline.running import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Database

    Call = Callable[..., str]

ITEMS = [Item("A-1", "books", Decimal("19.90"), 2)]


@pytest.fixture
def call(newest_database: Database, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command in this process; returns what it prints."""

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(["events", *arguments, "--dsn", newest_database.dsn]) == code
        shown = capsys.readouterr()
        return shown.out or shown.err

    return run


@pytest.fixture
def store(newest_database: Database) -> Iterator[EventStore]:
    with EventStore(newest_database.dsn) as store:
        store.init()
        with context(actor="anna"):
            store.append("order-1", [OrderCreated("1", "anna", ITEMS)])
        with context(actor="bank", correlation_id="c-7"):
            store.append("order-1", [OrderPaid(ITEMS, Decimal("39.80"))])
        store.append("order-1", [OrderShipped("Elm Street 1")])
        yield store


def test_init(call: Call, newest_database: Database) -> None:
    script = call("init", "--dry-run", "--schema", "shop_events")
    assert newest_database.execute("SELECT to_regnamespace('shop_events')") == [(None,)]
    assert 'CREATE TABLE "shop_events".events' in script
    newest_database.execute(script)
    assert call("init", "--schema", "shop_events") == "the event store in the schema shop_events is complete\n"
    assert "index events_occurred_brin" in call("init", "--profile", "lean")
    assert json.loads(call("init", "--json")) == {"schema": "es", "steps": []}
    assert "error: the profile is full or lean" in call("init", "--profile", "big", code=2)


def test_history(call: Call, store: EventStore) -> None:
    text = call("history", "order-1", "--state", "examples.order:Order")
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0].startswith("1 ") and lines[0].endswith("OrderCreated  by anna")
    assert 'status: "new" → "pending"' in lines
    assert 'status: "paid" → "shipped"' in lines
    assert 'shipping_address: "Elm Street 1"' in lines
    assert 'address: "Elm Street 1"' in call("history", "order-1")
    assert "by nobody that is known" in call("history", "order-1")
    assert "shipped" not in call("history", "order-1", "--state", "examples.order:Order", "--at", "2")
    assert call("history", "order-2", code=1) == "the stream order-2 has no events\n"


def test_history_of_a_store_that_is_declared(
    store: EventStore,
    newest_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It knows where it is, its archive and its classes, and may be an asynchronous one."""
    command = ["events", "history", "order-1", "--json", "--store"]
    for declared in (EventStore(newest_database.dsn), AsyncEventStore(newest_database.dsn)):
        monkeypatch.setattr(revenue, "declared", declared, raising=False)
        assert cli.main([*command, "tests.eventstore.revenue:declared"]) == 0
        assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [1, 2, 3]
    assert cli.main([*command, "tests.eventstore.revenue:registry"]) == 2


def test_history_for_programs(call: Call, store: EventStore) -> None:
    lines = [
        json.loads(line)
        for line in call("history", "order-1", "--json", "--state", "examples.order:Order").splitlines()
    ]
    assert [(line["sequence"], line["event_type"], line["actor"]) for line in lines] == [
        (1, "OrderCreated", "anna"),
        (2, "OrderPaid", "bank"),
        (3, "OrderShipped", None),
    ]
    assert lines[1]["changes"]["status"] == {"before": "pending", "after": "paid"}
    assert lines[1]["metadata"]["correlation_id"] == "c-7"
    paid = lines[1]["occurred_at"]
    assert len(call("history", "order-1", "--json", "--at", paid).splitlines()) == 2
    assert call("history", "order-1", "--json", "--at", "2020-01-01") == ""
    assert len(call("history", "order-1", "--json", "--events", "examples.order").splitlines()) == 3


@pytest.mark.parametrize(
    "arguments",
    [["--state", "examples.order:Nothing"], ["--state", "examples.order"], ["--events", "no.module"], ["--at", "soon"]],
)
def test_what_cannot_be_understood(call: Call, store: EventStore, arguments: list[str]) -> None:
    assert call("history", "order-1", *arguments, code=2).startswith("error: ")


def test_stats(call: Call, store: EventStore) -> None:
    assert "3 events in 1 streams" in call("stats")
    assert json.loads(call("stats", "--json"))["types"][0]["longest"] == 3


def test_check(call: Call, store: EventStore, newest_database: Database) -> None:
    assert call("check").splitlines()[1] == (
        "2 ok      of two writers one gets a conflict: tried by append and by INSERT (23505), rolled back"
    )
    assert [finding["number"] for finding in json.loads(call("check", "--json", "--deep"))] == list(range(1, 9))
    newest_database.execute("ALTER TABLE es.events DISABLE TRIGGER ALL")
    assert "8 failed" in call("check", code=1)


def test_a_store_that_is_declared_is_looked_at(
    newest_database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is, and where its archive is, is not said again; it may be an asynchronous one."""
    options: dict[str, Any] = {"schema": "shop", "registry": revenue.registry, "archive": tmp_path / "archive"}
    with EventStore(newest_database.dsn, **options) as store:
        store.init(profile="lean")
        store.retention("till", hot=timedelta(seconds=1))
        store.append("till-1", [revenue.Sold("toys", 1)] * 3)
        archive(store, now=datetime.now(UTC) + timedelta(days=1))
    for declared in (EventStore, AsyncEventStore):
        monkeypatch.setattr(revenue, "declared", declared(newest_database.dsn, **options), raising=False)
        for arguments, said in (
            (("check", "--deep"), "3 events are in 1 segments of the archive, "),
            (("check", "--deep"), ", all read"),
            (("stats",), "event store in the schema shop: 3 events in 1 streams"),
        ):
            assert cli.main(["events", *arguments, "--store", "tests.eventstore.revenue:declared"]) == 0
            assert said in capsys.readouterr().out


def test_no_store(call: Call) -> None:
    for verb in (["history", "order-1"], ["stats"], ["check"]):
        said = call(*verb, code=2)
        assert said.startswith("error: ") and "hint: store.init(), or pgcdc events init --schema es" in said


def test_rebuild(
    newest_database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was declared is found by the name of the module and the store."""
    with store_of(newest_database) as declared:
        monkeypatch.setattr(revenue, "declared", declared, raising=False)
        declared.append("till-1", [revenue.Sold("toys", 1), revenue.Sold("books", 2)])

        def call(*arguments: str, code: int = 0) -> str:
            assert cli.main(["events", "rebuild", *arguments]) == code
            shown = capsys.readouterr()
            return shown.out or shown.err

        monkeypatch.setenv("PGCDC_STORE", "tests.eventstore.revenue:declared")
        assert "no pipeline of this store was ever run" in call("--all", code=2)
        with running(declared.pipeline()):
            declared.wait("journal", declared.lsn(), timeout=60)
            declared.wait("revenue", declared.lsn(), timeout=60)
        assert call("revenue", "--dry-run").splitlines() == [
            "revenue: version 1 is live, version 1 is built in the schema es_revenue_2",
            "  it begins at the beginning, of 2",
            "  then these tables change places: revenue",
        ]
        assert [line.partition(" in ")[0] for line in call("--all").splitlines()] == [
            "revenue: 2 events",
            "journal: 2 events",
        ]
        assert call("journal", "--rollback") == "journal: what was live before is live again\n"
        assert json.loads(call("revenue", "--json"))["done"] == 2
        assert json.loads(call("revenue", "--json", "--dry-run"))["live_version"] == 1
        assert "say which projection, or --all" in call(code=2)
        assert "there is no projection daily" in call("daily", code=2)
        for more in ("--dry-run", "--restart"):
            assert f"--rollback, without {more}" in call("journal", "--rollback", more, code=2)
        assert "there is no event store tests.eventstore.revenue:registry" in call(
            "revenue", "--store", "tests.eventstore.revenue:registry", code=2
        )


def test_adopt(
    store: EventStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, newest_database: Database
) -> None:
    """tests/eventstore/test_adopting.py has what becomes of it."""
    monkeypatch.setattr(revenue, "declared", store, raising=False)
    monkeypatch.setenv("PGCDC_STORE", "tests.eventstore.revenue:declared")

    def adopt(*arguments: str, code: int = 0) -> str:
        assert cli.main(["events", "adopt", *arguments]) == code
        shown = capsys.readouterr()
        return shown.out or shown.err

    assert adopt("--dry-run").endswith("is that of this server: there is nothing to do\n")
    assert "error: the order of commits in the schema es is that of this server" in adopt(code=2)
    newest_database.execute("SET pgcdc.maintenance = on", "UPDATE es.events SET xid = '1000000000000'")
    assert json.loads(adopt("--dry-run", "--json"))["is_foreign"]
    assert "  3 events are written again, with a transaction id of this one\n" in adopt()
    assert not json.loads(adopt("--dry-run", "--json"))["is_foreign"]


def test_archive(
    newest_database: Database,
    store: EventStore,
    call: Call,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with EventStore(newest_database.dsn, archive=tmp_path) as declared:
        monkeypatch.setattr(revenue, "declared", declared, raising=False)
        monkeypatch.setenv("PGCDC_STORE", "tests.eventstore.revenue:declared")

        def archive(*arguments: str, code: int = 0) -> str:
            assert cli.main(["events", "archive", *arguments]) == code
            shown = capsys.readouterr()
            return shown.out or shown.err

        assert "no rule says which events leave" in archive(code=2)
        declared.retention("order", hot="90 days", warm="1 year")
        declared.retention("*", hot="36 hours")
        assert archive() == "nothing leaves\n"
        assert archive("--dry-run", "--at", "2099-01-01").splitlines() == [
            f"3 events of the schema es leave for {tmp_path}",
            "  order: hot for 90 days, then warm, cold after 1 year",
            "  other types: hot for 36 hours, then warm",
            "  order, cold: 3 of 3 leave",
        ]
        assert json.loads(archive("--dry-run", "--json"))["events"] == 0
        assert "--at is no time" in archive("--at", "soon", code=2)
        assert archive("--at", "2099-01-01", "--segment-events", "2").startswith("3 events in 2 segments, ")
        assert json.loads(archive("--json"))["done"] == 0
    assert "the store was not told where that is" in call("history", "order-1", code=1)
    assert len(call("history", "order-1", "--json", "--archive", str(tmp_path)).splitlines()) == 3
    checked = call("check", "--deep", "--archive", str(tmp_path))
    assert "6 ok      retention is planned: 3 events are in 2 segments of the archive, " in checked
    assert "archive: 3 of these events in 2 segments" in call("stats")
