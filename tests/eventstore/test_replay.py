"""Replays: every way of reading gives the same events, old versions and unknown ones too; what is broken says where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgcdc.eventstore import Event, EventStore, InvalidEvent, Registry, UnknownEvent, upcast
from tests.eventstore.contract import CREATED, Counted

if TYPE_CHECKING:
    from tests.conftest import Database

OLD, NEW = Registry(), Registry()


class OldPaid(Event, tag="Paid", version=1, registry=OLD):
    amount: int


class Gone(Event, tag="Gone", version=3, registry=OLD):
    what: str

    @upcast(1)
    @staticmethod
    def one(payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @upcast(2)
    @staticmethod
    def two(payload: dict[str, Any]) -> dict[str, Any]:
        return payload


class NewPaid(Event, tag="Paid", version=2, registry=NEW):
    amount: int
    currency: str

    @upcast(1)
    @staticmethod
    def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
        return payload | {"currency": "EUR"}


class Money:
    """What was paid, and in what."""

    def __init__(self) -> None:
        self.paid: list[tuple[int, str]] = []

    def on_paid(self, event: NewPaid) -> None:
        self.paid.append((event.amount, event.currency))


@pytest.fixture(params=["pieces", "copy"], autouse=True)
def libpq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With libpq's rows in pieces, and with a libpq that is older than that."""
    if request.param == "copy":
        monkeypatch.setattr(psycopg.capabilities, "has_stream_chunked", lambda: False)


@pytest.fixture
def dsn(newest_database: Database) -> str:
    with EventStore(newest_database.dsn, registry=OLD) as store:
        store.init()
        store.append("a-1", [OldPaid(1), Gone("x"), OldPaid(2)])
    with EventStore(newest_database.dsn, registry=NEW) as store:
        store.append("a-1", [NewPaid(3, "USD")])
    return newest_database.dsn


def test_old_versions_and_unknown_events(dsn: str, newest_database: Database) -> None:
    expected = [NewPaid(1, "EUR"), UnknownEvent("Gone", 3, {"what": "x"}), NewPaid(2, "EUR"), NewPaid(3, "USD")]
    with EventStore(dsn, registry=NEW) as store:
        read = store.read("a-1")
        assert [recorded.event for recorded in read] == expected
        assert [recorded.event_version for recorded in read] == [1, 3, 1, 2]
        for batch in (1, 3, 4, 100):
            assert [recorded for rows in store.replay(batch=batch) for recorded in rows] == read
            assert [placed.event for rows in store.scan(batch=batch) for placed in rows] == expected
        with newest_database.connect() as connection:
            assert [recorded for rows in store.replay(connection=connection) for recorded in rows] == read
            assert [recorded for rows in store.replay(batch=3, connection=connection) for recorded in rows] == read
        money, version = store.load("a-1", Money)
        assert (money.paid, version) == ([(1, "EUR"), (2, "EUR"), (3, "USD")], 4)


def test_a_newer_version_than_the_class(dsn: str) -> None:
    with EventStore(dsn, registry=OLD) as store:
        for read in (lambda: store.read("a-1"), lambda: list(store.replay()), lambda: list(store.scan())):
            with pytest.raises(InvalidEvent, match="newer than the class") as raised:
                read()
            assert (raised.value.stream, raised.value.sequence) == ("a-1", 4)
        assert len(store.read("a-1", limit=3)) == 3


def test_a_payload_of_another_shape(dsn: str, newest_database: Database) -> None:
    newest_database.execute(
        "INSERT INTO es.events (stream_id, stream_type, event_type, event_version, payload, sequence)"
        " VALUES ('b-1', 'b', 'Paid', 2, '{\"amount\": \"hidden\", \"currency\": \"EUR\"}', 1)"
    )
    with EventStore(dsn, registry=NEW) as store:
        for read in (
            lambda: store.read("b-1"),
            lambda: list(store.replay()),
            lambda: list(store.scan()),
            lambda: store.load("b-1", Money),
        ):
            with pytest.raises(InvalidEvent, match=r"event 1 of the stream b-1 \(Paid, version 2\)") as raised:
                read()
            assert "hidden" not in str(raised.value)
        assert len(store.read("a-1")) == 4, "the store goes on"


def test_who_stops_in_the_middle(newest_database: Database) -> None:
    with EventStore(newest_database.dsn, max_connections=1) as store:
        store.init()
        store.append("count-1", [Counted(0, number) for number in range(5000)])
        for _ in range(3):
            for batch in store.replay(batch=10):
                assert len(batch) == 10
                break
        assert store.append("order-1", [CREATED]) == 1
        assert sum(map(len, store.replay(batch=999))) == 5001


def test_it_is_one_moment(newest_database: Database) -> None:
    """What is appended meanwhile is not in it."""
    with EventStore(newest_database.dsn) as store:
        store.init()
        store.append("count-1", [Counted(0, number) for number in range(500)])
        replay = store.replay(batch=100)
        first = next(replay)
        store.append("count-1", [Counted(0, 500)])
        assert len(first) + sum(map(len, replay)) == 500
