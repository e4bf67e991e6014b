"""A store on a caller's connection, however that was made: its cursors, its encoding, its settings."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from examples.order import Order, OrderShipped
from pgcdc.eventstore import Append, AsyncEventStore, EventStore, EventStoreError, plan_archive
from pgcdc.eventstore.refusals import answered
from tests.eventstore.contract import CREATED, PAID
from tests.eventstore.test_archive import LATER, leave
from tests.eventstore.test_store import Waited

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Database

STREAM = "order-1"


def everything(store: Any, connection: Any) -> None:
    """All that is done on a caller's connection, on a stream of three events of which one may be in the archive."""
    on = {"connection": connection}
    assert store.append(STREAM, [], expected=3, **on) == 3
    assert (store.load(STREAM, Order, **on)[0].status, store.load(STREAM, Order, **on)[1]) == ("shipped", 3)
    assert [one.sequence for one in store.read(STREAM, **on)] == [1, 2, 3]
    assert store.state(STREAM, Order, at=2, **on)[0].status == "paid"
    assert store.state(STREAM, Order, at=datetime.now(UTC), **on)[1] == 3
    assert len(store.history(STREAM, Order, **on)) == 3
    assert [len(batch) for batch in store.replay(**on)] == [len(batch) for batch in store.scan(**on)] == [3]
    ids = ["00000000-0000-0000-0000-000000000001"]
    assert store.append("order-2", [CREATED], expected="none", metadata={"actor": "anna"}, **on) == 1
    assert store.append("order-2", [PAID], expected=1, event_ids=ids, **on) == 2
    assert store.append("order-2", [PAID], expected=1, event_ids=ids, **on) == 2
    with pytest.raises(pgcdc.ConcurrencyConflict):
        store.append("order-2", [PAID], expected=1, **on)
    assert store.append_many([Append(stream="order-2", events=[OrderShipped("5 % of é")])], **on) == {"order-2": 3}
    assert store.insert("order-3", [CREATED], after=0, **on) == 1
    assert store.insert("order-3", [PAID], after=1, event_ids=ids, **on) == 2
    assert store.append(STREAM, [PAID], event_ids=ids, **on) == 4  # its ids are looked for in the archive
    assert store.load("order-2", Order, **on)[0].shipping_address == "5 % of é"


CONNECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "ClientCursor": lambda: {"cursor_factory": psycopg.ClientCursor},
    "RawCursor": lambda: {"cursor_factory": psycopg.RawCursor},
    "DateStyle": lambda: {"options": "-c datestyle=SQL,DMY -c timezone=Asia/Kolkata -c intervalstyle=sql_standard"},
}


@pytest.fixture
def store(newest_database: Database, tmp_path: Path) -> Any:
    """One whose stream begins in the archive."""
    with EventStore(newest_database.dsn, archive=tmp_path) as store:
        store.init()
        store.append(STREAM, [CREATED])
        assert leave(store) == 1
        store.append(STREAM, [PAID, OrderShipped()])
        yield store


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_whatever_connection_a_caller_has(newest_database: Database, store: EventStore, kind: str) -> None:
    with psycopg.connect(newest_database.dsn, **CONNECTIONS[kind]()) as connection:
        everything(store, connection)
        connection.rollback()
        connection.autocommit = True
        everything(store, connection)


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_whatever_asynchronous_connection_a_caller_has(
    newest_database: Database, store: EventStore, tmp_path: Path, kind: str
) -> None:
    named = CONNECTIONS[kind]()
    if factory := named.get("cursor_factory"):
        named["cursor_factory"] = getattr(psycopg, f"Async{factory.__name__}")
    with asyncio.Runner() as runner:
        asynchronous = AsyncEventStore(newest_database.dsn, archive=tmp_path)
        connection = runner.run(psycopg.AsyncConnection.connect(newest_database.dsn, **named))
        everything(Waited(asynchronous, runner), connection)
        runner.run(connection.close())
        runner.run(asynchronous.close())


def test_a_connection_on_which_nothing_is_text(newest_database: Database, store: EventStore) -> None:
    """Before anything is done: an append would be done, and its answer could not be read."""
    with psycopg.connect(newest_database.dsn, client_encoding="SQL_ASCII") as connection:
        for call in (
            lambda: store.append("order-2", [CREATED], connection=connection),
            lambda: store.append("order-2", [], connection=connection),
            lambda: store.append_many([Append(stream="order-2", events=[CREATED])], connection=connection),
            lambda: store.insert("order-2", [CREATED], after=0, connection=connection),
            lambda: store.load(STREAM, Order, connection=connection),
            lambda: store.read(STREAM, connection=connection),
            lambda: store.state(STREAM, Order, at=1, connection=connection),
            lambda: store.history(STREAM, connection=connection),
            lambda: list(store.replay(connection=connection)),
            lambda: list(store.scan(connection=connection)),
        ):
            with pytest.raises(pgcdc.ConfigError, match="SQL_ASCII") as raised:
                call()
            assert raised.value.hint is not None and "client_encoding" in raised.value.hint
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert store.read("order-2") == []


def test_a_word_that_is_not_known() -> None:
    for word in ("sure", b"ok", "archived"):
        with pytest.raises(EventStoreError, match="does not know"):
            answered(word, 1, STREAM, 0)  # type: ignore[arg-type]
    with pytest.raises(EventStoreError, match="some of these events"):
        answered("partial", 1, STREAM, 0)


def test_characters_that_an_encoding_does_not_have(newest_database: Database, store: EventStore) -> None:
    store.append("order-2", [OrderShipped("☃")])
    with psycopg.connect(newest_database.dsn, client_encoding="LATIN1") as connection:
        for call in (
            lambda: store.load("order-2", Order, connection=connection),
            lambda: store.read("order-2", connection=connection),
            lambda: store.append("order-3", [OrderShipped("☃")], connection=connection),
            lambda: store.append("order-☃", [OrderShipped()], connection=connection),
        ):
            with pytest.raises(pgcdc.ConfigError, match="encoding of the connection"):
                call()
            connection.rollback()
        assert store.append("order-3", [OrderShipped("é")], connection=connection) == 1
        assert store.append("order-3", [OrderShipped("Ã©")], connection=connection) == 2  # as if it were UTF-8
        texts = [OrderShipped("é"), OrderShipped("Ã©")]
        assert [one.event for one in store.read("order-3", connection=connection)] == texts
        for whole in (store.replay(connection=connection), store.scan(connection=connection)):
            assert [one.event for batch in whole for one in batch][-3:] == [OrderShipped("☃"), *texts]
    with pytest.raises(pgcdc.InvalidEvent, match=r"U\+0000"):
        store.append("order-2", [OrderShipped("\0")])


def test_a_transaction_that_only_reads(newest_database: Database, store: EventStore) -> None:
    with psycopg.connect(newest_database.dsn) as connection:
        connection.read_only = True
        assert store.load(STREAM, Order, connection=connection)[1] == 3
        with pytest.raises(EventStoreError, match="read-only") as raised:
            store.append(STREAM, [PAID], connection=connection)
        assert raised.value.sqlstate == "25006"
        assert raised.value.hint is not None and "read_only" in raised.value.hint
        connection.rollback()


def test_a_database_that_writes_dates_in_another_way(newest_database: Database, tmp_path: Path) -> None:
    with newest_database.connect() as connection:
        for setting in ("datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'", "timezone = 'Asia/Kolkata'"):
            connection.execute(f'ALTER DATABASE "{newest_database.name}" SET {setting}')
    with EventStore(newest_database.dsn, archive=tmp_path) as store:
        store.init()
        store.append(STREAM, [CREATED])
        assert leave(store) == 1
        store.append(STREAM, [PAID, OrderShipped()])
        assert store.state(STREAM, Order, at=datetime.now(UTC))[1] == 3
        assert [len(batch) for batch in store.replay()] == [3]
        assert store.stats().events == 3
        assert all(finding.status != "failed" for finding in store.check(deep=True))
        assert plan_archive(store, now=LATER).events == 2


def test_a_connection_that_is_closed(newest_database: Database, store: EventStore) -> None:
    with psycopg.connect(newest_database.dsn) as connection:
        connection.close()
        with pytest.raises(pgcdc.ConnectionLost):
            store.append(STREAM, [PAID], connection=connection)
        with pytest.raises(pgcdc.ConnectionLost):
            store.load(STREAM, Order, connection=connection)
