"""What every store does, whatever keeps its events: the one in PostgreSQL in both colours, and the one in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from examples import order as shop
from examples.order import Item, Order, OrderCancelled, OrderCreated, OrderPaid, OrderShipped, WrongOrder
from pgcdc import ConfigError
from pgcdc.eventstore import (
    Append,
    ConcurrencyConflict,
    Event,
    EventStoreError,
    InvalidEvent,
    PayloadTooLarge,
    Placed,
    UnknownEvent,
    caused_by,
    context,
)

BOOKS = [Item("A-1", "books", Decimal("19.90"), 2)]
CREATED = OrderCreated("1", "anna", BOOKS)
PAID = OrderPaid(BOOKS, Decimal("39.80"))


class Counted(Event, tag="test.Counted"):
    """What the tests of concurrency append."""

    writer: int
    number: int


class Weighed(Event, tag="test.Weighed"):
    """A number that may be missing."""

    grams: float | None
    said: Any = None


class Total:
    """A state that is changed in its place, by one method for each event."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_test_counted(self, event: Counted) -> None:
        self.seen.append(event.number)


class StoreContract:
    """Inherited by a test class for each store; `store` is an empty one, `other` another writer's for the same."""

    def test_the_order(self, store: Any) -> None:
        version = store.append("order-1", shop.create("1", "anna", BOOKS), stream_type="order", expected="none")
        assert version == 1
        version = store.append("order-1", [PAID, OrderShipped("Elm Street 1")], expected=version)
        order, version = store.load("order-1", Order)
        assert version == 3
        assert (order.order_id, order.customer_id, order.items) == ("1", "anna", BOOKS)
        assert (order.status, order.shipping_address) == ("shipped", "Elm Street 1")
        assert order.paid_at == order.shipped_at == store.read("order-1")[1].occurred_at

    def test_a_stream_that_is_not_there(self, store: Any) -> None:
        assert store.read("order-1") == []
        assert store.load("order-1", Order) == (Order(), 0)
        assert store.history("order-1", Order) == []
        assert list(store.replay()) == []

    def test_wrong_order_raises(self, store: Any) -> None:
        store.append("order-1", [PAID])
        with pytest.raises(WrongOrder) as raised:
            store.load("order-1", Order)
        assert raised.value.__notes__ == ["at event 1 of the stream order-1, OrderPaid"]

    def test_envelopes(self, store: Any) -> None:
        before = datetime.now(UTC) - timedelta(minutes=1)
        store.append("order-1", [CREATED, PAID])
        first, second = store.read("order-1")
        assert (first.event, second.event) == (CREATED, PAID)
        assert [(e.stream_id, e.stream_type, e.sequence) for e in (first, second)] == [
            ("order-1", "order", 1),
            ("order-1", "order", 2),
        ]
        assert (first.event_type, first.event_version, first.metadata) == ("OrderCreated", 1, {})
        assert first.event_id != second.event_id
        assert before < first.occurred_at < before + timedelta(minutes=2)
        assert store.read("order-1", after=1) == [second]
        assert store.read("order-1", limit=1) == [first]
        assert store.read("order-1", after=2) == []

    def test_expected(self, store: Any) -> None:
        with pytest.raises(ConcurrencyConflict, match="does not exist"):
            store.append("order-1", [CREATED], expected="exists")
        with pytest.raises(ConcurrencyConflict, match="expected version 3"):
            store.append("order-1", [CREATED], expected=3)
        assert store.append("order-1", [CREATED], expected="none") == 1
        with pytest.raises(ConcurrencyConflict, match="is at version 1") as raised:
            store.append("order-1", [CREATED], expected="none")
        assert (raised.value.stream, raised.value.expected, raised.value.version) == ("order-1", "none", 1)
        assert store.append("order-1", [PAID], expected="exists") == 2
        assert store.append("order-1", [OrderShipped()], expected="any") == 3
        assert store.append("order-2", [CREATED], expected="any") == 1
        assert store.append("order-3", [CREATED], expected=0) == 1
        with pytest.raises(ConcurrencyConflict) as raised:
            store.append("order-1", [OrderCancelled()], expected=2)
        assert (raised.value.expected, raised.value.version) == (2, 3)
        assert len(store.read("order-1")) == 3
        for nonsense in (-1, "some", True, None, 1.0, 2**63):
            with pytest.raises(ValueError, match="expected is a version or one of"):
                store.append("order-1", [CREATED], expected=nonsense)

    def test_no_events(self, store: Any) -> None:
        assert store.append("order-1", []) == 0
        store.append("order-1", [CREATED])
        assert store.append("order-1", [], expected=1) == store.append("order-1", [], expected="exists") == 1
        for expected in (0, 2, "none"):
            with pytest.raises(ConcurrencyConflict):
                store.append("order-1", [], expected=expected)

    def test_an_append_is_repeated(self, store: Any) -> None:
        first, second, third = (uuid.uuid4() for _ in range(3))
        assert store.append("order-1", [CREATED, PAID], expected=0, event_ids=[first, second]) == 2
        assert store.append("order-1", [OrderShipped()], expected=2) == 3
        for expected in (0, "none", "any", "exists"):
            again = store.append("order-1", [CREATED, PAID], expected=expected, event_ids=[str(first), str(second)])
            assert again == 2, "the version after these events, not that of the stream"
        for expected in (0, "any"):
            with pytest.raises(EventStoreError):
                store.append("order-1", [CREATED, PAID], expected=expected, event_ids=[first, third])
        assert [recorded.event_id for recorded in store.read("order-1")][:2] == [first, second]
        assert len(store.read("order-1")) == 3
        # Its answer was lost: the program has read again, and repeats it with the version that it sees.
        assert store.append("order-1", [CREATED, PAID], expected=3, event_ids=[first, second]) == 2
        again = Append(stream="order-1", events=[CREATED, PAID], expected=3, event_ids=[first, second])
        assert store.append_many([again]) == {"order-1": 2}
        with pytest.raises(EventStoreError, match="some of these events"):
            store.append("order-1", [CREATED, PAID], expected=3, event_ids=[third, second])
        with pytest.raises(EventStoreError, match="events of these ids are in the stream order-1 already"):
            store.insert("order-1", [CREATED], after=3, event_ids=[second])
        assert len(store.read("order-1")) == 3
        assert store.append("order-1", [PAID], expected=3, event_ids=[third]) == 4, "an id that is new"
        for wrong in ([first], [first, first], [first, "no uuid"]):
            with pytest.raises(ValueError, match="id"):
                store.append("order-1", [CREATED, PAID], event_ids=wrong)

    def test_stream_types(self, store: Any) -> None:
        store.append("order-1", [CREATED], stream_type="purchase")
        store.append("order-1", [PAID])
        assert {recorded.stream_type for recorded in store.read("order-1")} == {"purchase"}
        with pytest.raises(EventStoreError, match="another stream_type"):
            store.append("order-1", [OrderShipped()], stream_type="order")
        assert len(store.read("order-1")) == 2

    def test_several_streams_or_none(self, store: Any) -> None:
        versions = store.append_many(
            [
                Append(stream="order-2", events=[CREATED], expected="none", metadata={"actor": "anna"}),
                Append(stream="order-1", events=[CREATED, PAID]),
            ]
        )
        assert versions == {"order-1": 2, "order-2": 1}
        assert store.read("order-2")[0].metadata == {"actor": "anna"}
        with pytest.raises(ConcurrencyConflict) as raised:
            store.append_many(
                [
                    Append(stream="order-0", events=[CREATED]),
                    Append(stream="order-1", events=[OrderShipped()], expected=2),
                    Append(stream="order-2", events=[PAID], expected=7),
                ]
            )
        assert (raised.value.stream, raised.value.expected, raised.value.version) == ("order-2", 7, 1)
        assert store.read("order-0") == []
        assert len(store.read("order-1")) == 2
        assert store.append("order-1", [OrderShipped()], expected=2) == 3
        again = [
            Append(stream=f"order-{number}", events=[CREATED], event_ids=[uuid.UUID(int=number)]) for number in (8, 9)
        ]
        assert store.append_many(again) == store.append_many(again) == {"order-8": 1, "order-9": 1}
        with pytest.raises(ValueError, match="twice"):
            store.append_many([Append(stream="a", events=[CREATED]), Append(stream="a", events=[PAID])])
        with pytest.raises(ValueError, match="no event"):
            store.append_many([Append(stream="a", events=[])])

    def test_plain_insert(self, store: Any) -> None:
        assert store.insert("order-1", [CREATED, PAID], after=0) == 2
        assert store.append("order-1", [OrderShipped()], expected=2) == 3
        with pytest.raises(ConcurrencyConflict) as raised:
            store.insert("order-1", [OrderCancelled()], after=2)
        assert raised.value.sqlstate == "23505"
        with pytest.raises(EventStoreError, match="hole"):
            store.insert("order-1", [OrderCancelled()], after=4)
        with pytest.raises(EventStoreError, match="hole"):
            store.insert("order-2", [OrderCancelled()], after=1)
        assert store.insert("order-1", [OrderCancelled()], after=3) == 4
        assert [recorded.sequence for recorded in store.read("order-1")] == [1, 2, 3, 4]

    def test_retry(self, store: Any, other: Any) -> None:
        store.append("order-1", [CREATED])
        calls = 0

        def decide(order: Order) -> list[Event]:
            nonlocal calls
            calls += 1
            if calls == 1:  # another one is first
                other.append("order-1", [PAID])
            return [*shop.pay(order, Decimal("39.80")), OrderShipped()]

        assert store.retry("order-1", Order, decide) == 3
        assert calls == 2
        assert [recorded.event_type for recorded in store.read("order-1")] == [
            "OrderCreated",
            "OrderPaid",
            "OrderShipped",
        ]
        assert store.retry("order-1", Order, lambda _order: []) == 3

    def test_retry_is_bounded(self, store: Any, other: Any) -> None:
        calls = 0

        def decide(_total: Total) -> list[Event]:
            nonlocal calls
            calls += 1
            other.append("count-1", [Counted(0, calls)])
            return [Counted(1, calls)]

        with pytest.raises(ConcurrencyConflict) as raised:
            store.retry("count-1", Total, decide, attempts=3)
        assert raised.value.__notes__ == ["after 3 attempts"]
        assert calls == 3
        with pytest.raises(ValueError, match="attempt"):
            store.retry("count-1", Total, decide, attempts=0)

    def test_arguments_that_are_none(self, store: Any) -> None:
        store.append("count-1", [Counted(0, number) for number in range(5)])
        assert len(store.read("count-1", after=-1)) == 5
        assert store.state("count-1", Total, at=-1)[1] == 0
        assert store.history("count-1", at=-1) == []
        calls: list[Callable[[], Any]] = [
            lambda: store.read("count-1", limit=-1),
            lambda: store.read("count-1", limit=1.5),
            lambda: store.read("count-1", after="all"),
            lambda: store.read("count-1", after=2**63),
            lambda: list(store.replay(after_id=None)),
            lambda: list(store.scan(after_id=2**63)),
            lambda: store.state("count-1", Total, at=None),
            lambda: store.state("count-1", Total, at=True),
            lambda: store.state("count-1", Total, at=2**63),
            lambda: store.history("count-1", at="today"),
            lambda: store.append("count-1", [], expected="nonsense"),
            lambda: store.insert("count-1", [Counted(0, 5)], after=-1),
            lambda: store.insert("count-1", [Counted(0, 5)], after=2**63 - 1),
            lambda: store.insert("count-1", [], after="any"),
            lambda: list(store.replay(batch=0)),
            lambda: list(store.scan(batch=-1)),
        ]
        for wrong in calls:
            with pytest.raises(ConfigError):
                wrong()
        assert store.load("count-1", Total)[1] == 5

    @pytest.mark.parametrize("text", ["a\0b", "half \ud800", None, 5])
    def test_a_stream_that_no_text_is(self, store: Any, text: Any) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.append(text, [Counted(0, 1)]),
            lambda: store.append(text, [Counted(0, 1)], expected=1),
            lambda: store.append(text, []),
            lambda: store.append("count-1", [Counted(0, 1)], stream_type=text or 5),
            lambda: store.append_many([Append(stream=text, events=[Counted(0, 1)])]),
            lambda: store.insert(text, [Counted(0, 1)], after=0),
            lambda: store.read(text),
            lambda: store.load(text, Total),
            lambda: store.state(text, Total, at=1),
            lambda: store.history(text),
        ]
        for wrong in calls:
            with pytest.raises(ConfigError):
                wrong()
        assert list(store.replay()) == []

    def test_no_events_are_inserted(self, store: Any) -> None:
        assert store.insert("count-1", [], after=0) == 0
        with pytest.raises(ConcurrencyConflict):
            store.insert("count-1", [], after=5)
        store.append("count-1", [Counted(0, 1)], stream_type="")
        assert store.insert("count-1", [], after=1) == 1
        assert store.read("count-1")[0].stream_type == ""

    def test_what_json_has_no_number_for(self, store: Any) -> None:
        for number in (float("nan"), float("inf")):
            with pytest.raises(InvalidEvent, match="would be null"):
                store.append("count-1", [Counted(0, 1)], metadata={"a": [{"b": number}]})
            with pytest.raises(InvalidEvent, match="would be null"):
                store.append("weighed-1", [Weighed(number)])
            for said in ([number], {"a": (1, number)}, Weighed(number), frozenset([number])):
                with pytest.raises(InvalidEvent, match="would be null"):
                    store.append("weighed-1", [Weighed(1.5, said)])
        assert store.append("weighed-1", [Weighed(None)], metadata={"a": None}) == 1
        assert store.read("weighed-1")[0].event == Weighed(None)
        # What only looks like it, and what JSON has of its own.
        raw = msgspec.Raw(b'{"a":null}')
        assert (
            store.append("weighed-1", [Weighed(1.5, raw), Weighed(None, {"null": [b"a", 1.5]})], metadata={"r": raw})
            == 3
        )
        assert store.read("weighed-1")[1].event == Weighed(1.5, {"a": None})
        assert store.read("weighed-1")[1].metadata == {"r": {"a": None}}

    def test_a_state_at_a_sequence_and_a_time(self, store: Any) -> None:
        store.append("order-1", [CREATED])
        created = store.read("order-1")[0].occurred_at
        store.append("order-1", [PAID, OrderShipped()])
        assert store.read("order-1")[1].occurred_at > created
        states = [store.state("order-1", Order, at=at)[0].status for at in range(4)]
        assert states == ["new", "pending", "paid", "shipped"]
        assert store.state("order-1", Order, at=99)[1] == 3
        assert store.state("order-1", Order, at=created)[0].status == "pending"
        assert store.state("order-1", Order, at=created - timedelta(days=1)) == (Order(), 0)
        assert store.state("order-1", Order, at=created + timedelta(days=1))[0].status == "shipped"
        with pytest.raises(ValueError, match="zone"):
            store.state("order-1", Order, at=datetime(2026, 1, 1))

    def test_history(self, store: Any) -> None:
        with context(actor="anna"):
            store.append("order-1", [CREATED])
        store.append("order-1", [PAID, OrderShipped("Elm Street 1")], metadata={"actor": "warehouse"})
        steps = store.history("order-1", Order)
        assert [(step.sequence, step.event_type, step.actor) for step in steps] == [
            (1, "OrderCreated", "anna"),
            (2, "OrderPaid", "warehouse"),
            (3, "OrderShipped", "warehouse"),
        ]
        assert steps[0].changes["status"] == ("new", "pending")
        assert set(steps[2].changes) == {"status", "shipping_address", "shipped_at"}
        assert steps[2].changes["shipping_address"] == (None, "Elm Street 1")
        assert len(store.history("order-1", Order, at=2)) == 2
        assert store.history("order-1")[2].changes == {"address": (None, "Elm Street 1")}

    def test_metadata_goes_with_the_context(self, store: Any) -> None:
        with context(actor="anna", correlation_id="c-1", request=7):
            with context(actor="bob"):
                store.append("order-1", [CREATED], metadata={"request": 8})
            store.append("order-1", [PAID])
        first, second = store.read("order-1")
        assert first.metadata == {"actor": "bob", "correlation_id": "c-1", "request": 8}
        assert second.metadata == {"actor": "anna", "correlation_id": "c-1", "request": 7}
        with caused_by(second, actor="warehouse"):
            store.append("order-1", [OrderShipped()])
        assert store.read("order-1")[2].metadata == {
            "actor": "warehouse",
            "correlation_id": "c-1",
            "causation_id": str(second.event_id),
        }
        store.append("order-2", [CREATED])
        (first,) = store.read("order-2")
        with caused_by(first):
            store.append("order-2", [PAID])
        assert store.read("order-2")[1].metadata["correlation_id"] == str(first.event_id)

    def test_payloads_have_a_limit(self, store: Any) -> None:
        with pytest.raises(PayloadTooLarge, match="limit is 262,144") as raised:
            store.append("order-1", [CREATED, OrderShipped("x" * 300_000)])
        assert raised.value.hint is not None and "reference" in raised.value.hint
        assert raised.value.payload_bytes > 300_000
        assert store.read("order-1") == []

    def test_what_could_not_be_read_again_is_not_stored(self, store: Any) -> None:
        wrong: Any = 5
        for events in ([OrderShipped(wrong)], [CREATED, object()], [Event()], ["OrderShipped"]):
            with pytest.raises(InvalidEvent):
                store.append("order-1", events)
        with pytest.raises(InvalidEvent):
            store.append("order-1", [OrderShipped()], metadata={"at": object()})
        assert store.read("order-1") == []

    def test_replay(self, store: Any) -> None:
        for number in range(5):
            store.append(f"order-{number % 2}", [CREATED, OrderShipped(str(number))], metadata={"actor": "anna"})
        batches = list(store.replay(batch=4))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        events = [recorded for batch in batches for recorded in batch]
        assert sorted(events, key=lambda e: (e.stream_id, e.sequence)) == store.read("order-0") + store.read("order-1")
        assert [e.id for e in events] == sorted(e.id for e in events)
        assert [e for batch in store.replay(after_id=events[6].id) for e in batch] == events[7:]
        placed = [e for batch in store.scan(after_id=events[6].id, batch=2) for e in batch]
        assert [(e.event, e.stream_id, e.sequence) for e in placed] == [
            (e.event, e.stream_id, e.sequence) for e in events[7:]
        ]

    def test_names_that_need_quotes(self, store: Any) -> None:
        stream = 'or"der\\-\n1, \u00e9\u2028€\x7f'
        store.append(
            stream, [OrderShipped('a "b" \\ \n \x1f\u2028')], stream_type='x"\\,\t', metadata={'k"': ["\n", None]}
        )
        (found,) = store.read(stream)
        assert found.event == OrderShipped('a "b" \\ \n \x1f\u2028')
        assert (found.stream_id, found.stream_type, found.metadata) == (stream, 'x"\\,\t', {'k"': ["\n", None]})
        assert [list(batch) for batch in store.replay()] == [[found]]
        assert next(iter(store.scan())) == [Placed(event=found.event, stream_id=stream, sequence=1)]

    def test_a_state_that_is_changed_in_its_place(self, store: Any) -> None:
        store.append("count-1", [Counted(0, 3), OrderShipped(), Counted(0, 4)])
        total, version = store.load("count-1", Total)
        assert (total.seen, version) == ([3, 4], 3)

    def test_unknown_events_pass(self, store: Any) -> None:
        class Gone(Event, tag="test.Gone"):
            what: str

        store.append("order-1", [CREATED, Gone("a"), PAID])
        del Gone.__registry__._types["test.Gone"]
        Gone.__registry__.generation += 1
        order, version = store.load("order-1", Order)
        assert (order.status, version) == ("paid", 3)
        unknown = UnknownEvent("test.Gone", 1, {"what": "a"})
        assert store.read("order-1")[1].event == unknown
        assert [recorded.event for batch in store.replay() for recorded in batch] == [CREATED, unknown, PAID]
