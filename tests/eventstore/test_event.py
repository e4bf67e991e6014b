"""Classes of events: what a class statement refuses, upcasters, and which class a name means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import pgcdc
from pgcdc.eventstore import Event, InvalidEvent, Registry, upcast
from pgcdc.eventstore.event import EventType
from pgcdc.eventstore.memory import MemoryEventStore


@pytest.fixture
def registry() -> Registry:
    return Registry()


def test_the_front_door() -> None:
    class OrderPaid(pgcdc.eventstore.Event, tag="test.front", version=1):
        order_id: str
        amount: int

    event = OrderPaid("1", 5)
    assert (event.order_id, event.amount) == ("1", 5)
    assert (OrderPaid.__event_type__, OrderPaid.__event_version__) == ("test.front", 1)
    assert OrderPaid.__struct_config__.frozen
    assert not OrderPaid.__struct_config__.gc
    with pytest.raises(AttributeError):
        event.amount = 6


def test_events_are_tagged_unions_for_msgspec(registry: Registry) -> None:
    class A(Event, tag="A", registry=registry):
        x: int

    class B(Event, tag="B", registry=registry):
        type: str  # a name that many events have

    events = [A(1), B("card")]
    assert msgspec.json.decode(msgspec.json.encode(events), type=list[A | B]) == events


def _store(registry: Registry, **options: Any) -> MemoryEventStore:
    return MemoryEventStore(registry=registry, **options)


def test_upcasters_lead_to_the_newest_version(registry: Registry) -> None:
    class First(Event, tag="Paid", version=1, registry=registry):
        amount: int

    old = _store(registry)
    old.append("a-1", [First(5)])

    class Second(Event, tag="Paid", version=2, registry=registry):
        amount: int
        currency: str = "DM"

        @upcast(1)
        @staticmethod
        def to_second(payload: dict[str, Any]) -> dict[str, Any]:
            return payload

    class Third(Event, tag="Paid", version=3, registry=registry):
        cents: int
        currency: str

        @upcast(1)
        @staticmethod
        def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
            return payload | {"currency": "EUR"}

        @upcast(2)
        @staticmethod
        def to_cents(payload: dict[str, Any]) -> dict[str, Any]:
            return {"cents": 100 * payload["amount"], "currency": payload["currency"]}

    middle = _store(registry, events=[Second])
    middle.append("a-1", [Second(6, "USD")])
    newest = _store(registry, events=[Third])
    newest._streams = old._streams | {"a-2": middle._streams["a-1"]}
    assert newest.read("a-1")[0].event == Third(500, "EUR")
    assert newest.read("a-1")[0].event_version == 1
    assert newest.read("a-2")[0].event == Third(600, "USD")
    assert Third.to_cents({"amount": 1, "currency": "X"}) == {"cents": 100, "currency": "X"}
    middle._streams = old._streams
    assert middle.read("a-1")[0].event == Second(5, "DM")
    newest.append("a-3", [Third(7, "EUR")])
    old._streams = newest._streams
    old = _store(registry, events=[First])
    old._streams = newest._streams
    with pytest.raises(InvalidEvent, match="newer than the class") as raised:
        old.read("a-3")
    assert (raised.value.stream, raised.value.sequence) == ("a-3", 1)


def test_a_chain_with_a_hole_is_refused_at_import(registry: Registry) -> None:
    with pytest.raises(pgcdc.ConfigError, match="no upcaster leads from version 2 to 3"):

        class Paid(Event, tag="Paid", version=4, registry=registry):
            @upcast(1)
            @staticmethod
            def one(payload: dict[str, Any]) -> dict[str, Any]:
                return payload

            @upcast(3)
            @staticmethod
            def three(payload: dict[str, Any]) -> dict[str, Any]:
                return payload

    assert registry.names() == []


def test_an_upcaster_beyond_the_version_is_refused(registry: Registry) -> None:
    with pytest.raises(pgcdc.ConfigError, match="from version 1 in a class of version 1"):

        class Paid(Event, tag="Paid", version=1, registry=registry):
            @upcast(1)
            @staticmethod
            def one(payload: dict[str, Any]) -> dict[str, Any]:
                return payload


def test_two_upcasters_of_one_version_are_refused(registry: Registry) -> None:
    with pytest.raises(pgcdc.ConfigError, match="two upcasters"):

        class Paid(Event, tag="Paid", version=2, registry=registry):
            @upcast(1)
            @staticmethod
            def one(payload: dict[str, Any]) -> dict[str, Any]:
                return payload

            @upcast(1)
            @staticmethod
            def another(payload: dict[str, Any]) -> dict[str, Any]:
                return payload


@pytest.mark.parametrize(
    ("tag", "version"), [("", 1), ("a@2", 1), ("a\n", 1), (True, 1), ("A", 0), ("A", -1), ("A", "1"), (None, 2)]
)
def test_names_and_versions_that_cannot_be(registry: Registry, tag: Any, version: Any) -> None:
    with pytest.raises(pgcdc.ConfigError):
        EventType("Paid", (Event,), {}, tag=tag, version=version, registry=registry)
    assert registry.names() == []


def test_an_upcaster_that_fails_says_where(registry: Registry) -> None:
    class First(Event, tag="Paid", version=1, registry=registry):
        amount: int

    store = _store(registry)
    store.append("a-1", [First(5)])

    class Second(Event, tag="Paid", version=2, registry=registry):
        cents: int

        @upcast(1)
        @staticmethod
        def to_cents(payload: dict[str, Any]) -> dict[str, Any]:
            return {"cents": payload["secret"]}

    newest = _store(registry, events=[Second])
    newest._streams = store._streams
    with pytest.raises(InvalidEvent, match=r"event 1 of the stream a-1 \(Paid, version 1\).*KeyError") as raised:
        newest.read("a-1")
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_payload_of_another_shape_says_where_and_no_value(registry: Registry) -> None:
    class First(Event, tag="Paid", version=1, registry=registry):
        amount: str

    class Other(Event, tag="Paid", version=1, registry=registry):
        amount: int

    store = _store(registry, events=[First])
    store.append("a-1", [First("hidden")])
    other = _store(registry, events=[Other])
    other._streams = store._streams
    with pytest.raises(InvalidEvent, match=r"Expected `int`, got `str` - at `\$.amount`") as raised:
        other.read("a-1")
    assert "hidden" not in str(raised.value)


def test_which_class_a_name_means(registry: Registry) -> None:
    class One(Event, tag="Paid", registry=registry):
        amount: int

    class Two(Event, tag="Paid", registry=registry):
        amount: int

    store = _store(registry)
    store.append("a-1", [Two(5)])
    assert type(store.read("a-1")[0].event) is Two, "it is the one that was appended"
    other = _store(registry)
    other._streams = store._streams
    with pytest.raises(pgcdc.ConfigError, match="several classes are named Paid"):
        other.read("a-1")
    assert type(_with(other, registry, [One]).read("a-1")[0].event) is One

    class Sum(msgspec.Struct):
        total: int = 0

        def apply(self, event: Event) -> Sum:
            return Sum(self.total + event.amount) if isinstance(event, One | Two) else self

    with pytest.raises(pgcdc.ConfigError, match="several classes"):
        other.load("a-1", Sum)
    Two.__module__ = "elsewhere"
    alone = Registry()
    alone.add(One)
    alone.add(Two)
    near = _with(other, alone, [])
    assert near.load("a-1", Sum)[0] == Sum(5), "of the two it is the one beside the state's class"
    assert type(near.read("a-1")[0].event) is One


def _with(store: MemoryEventStore, registry: Registry, events: list[type[Event]]) -> MemoryEventStore:
    other = _store(registry, events=events)
    other._streams = store._streams
    return other


def test_a_class_that_is_defined_again_takes_its_own_place(registry: Registry) -> None:
    for default in (1, 2):

        class Paid(Event, tag="Paid", registry=registry):
            amount: int = default

    assert registry.of("Paid") == [Paid]


def test_folds_that_cannot_be(registry: Registry) -> None:
    class Paid(Event, tag="OrderPaid", registry=registry):
        pass

    class Nothing:
        pass

    class Misspelt:
        def on_order_payed(self, event: Paid) -> None: ...

    class Forgets:
        def apply(self, event: Event) -> None: ...

    store = _store(registry)
    store.append("a-1", [Paid()])
    with pytest.raises(pgcdc.ConfigError, match="does not say how"):
        store.load("a-1", Nothing)
    with pytest.raises(pgcdc.ConfigError, match=r"Misspelt\.on_order_payed handles no event"):
        store.load("a-1", Misspelt)
    with pytest.raises(pgcdc.ConfigError, match=r"Forgets\.apply returned None for Paid"):
        store.load("a-1", Forgets)
