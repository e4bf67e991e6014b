"""The helpers for tests: what is wrong fails, with words that say what."""

from __future__ import annotations

import random
import time
from decimal import Decimal
from typing import ClassVar

import msgspec
import pytest

from examples.order import Order, OrderCancelled, OrderShipped, WrongOrder, cancel, pay
from pgcdc import ConfigError
from pgcdc.eventstore import Append, Event, InvalidEvent, Registry
from pgcdc.eventstore.testing import assert_idempotent, given
from tests.eventstore.contract import CREATED
from tests.eventstore.revenue import Closed, Revenue, Sold


def test_another_event() -> None:
    with pytest.raises(AssertionError, match=r"OrderCancelled\(\) follows, not OrderShipped"):
        given(Order, CREATED).when(cancel).then(OrderShipped())
    with pytest.raises(AssertionError, match=r"OrderCancelled\(\) follows, not nothing"):
        given(Order, CREATED).when(cancel).then()


def test_another_state() -> None:
    with pytest.raises(AssertionError, match="status is 'pending', not 'paid'"):
        given(Order, CREATED).then_state(status="paid")
    with pytest.raises(AssertionError, match="status is 'cancelled', not 'paid'"):
        given(Order, CREATED).when(cancel).then(OrderCancelled()).then_state(status="paid")


def test_a_refusal_that_was_not_said() -> None:
    with pytest.raises(WrongOrder):
        given(Order).when(cancel).then(OrderCancelled()).then_state()
    with pytest.raises(WrongOrder):
        given(Order).when(pay, Decimal(1)).then()
    with pytest.raises(WrongOrder):
        given(Order).when(pay, Decimal(1)).then_state()


def test_a_refusal_that_does_not_come() -> None:
    with pytest.raises(AssertionError, match=r"OrderCancelled\(\) follows, and WrongOrder is not raised"):
        given(Order, CREATED).when(cancel).then_raises(WrongOrder)
    with pytest.raises(WrongOrder):
        given(Order).when(pay, Decimal(1)).then_raises(KeyError)


def test_an_event_that_no_store_would_take() -> None:
    with pytest.raises(InvalidEvent):
        given(Order, CREATED, OrderShipped(5))  # type: ignore[arg-type]


class Refunded(Event, tag="Refunded", registry=Registry()):
    amount: int


class Refunds(msgspec.Struct):
    total: int = 0

    def on_refunded(self, event: Refunded) -> None:
        self.total += event.amount


def test_events_of_a_registry_of_ones_own() -> None:
    given(Refunds, Refunded(1), Refunded(2)).then_state(total=3)
    given(Refunds).then_state(total=0)
    given(Refunds).when(lambda _: [Refunded(4)]).then_state(total=4)


def test_a_projection_that_remembers_is_found() -> None:
    events = [Append(stream=f"till-{number % 3}", events=[Sold("toys", number), Closed()]) for number in range(12)]
    assert assert_idempotent(Revenue, [*events, Sold("books", 1), [Sold("books", 2)]]) == {
        "revenue": [
            {"category": "books", "total": 3, "sales": 2},
            {"category": "toys", "total": 66, "sales": 12},
        ]
    }

    class Remembering(Revenue):
        seen = 0

        def on_sold(self, event: Sold) -> None:
            self.seen += 1
            self.revenue.put(category=event.category, total=event.amount, sales=self.seen)

    with pytest.raises(AssertionError, match=r"the table revenue of .*Remembering is another one in run"):
        assert_idempotent(Remembering, events)


def test_one_run_is_enough_for_what_an_instance_remembers() -> None:
    """Also within a transaction: when one of its events is skipped, each is applied by itself."""

    class Numbering(Revenue):
        def __init__(self) -> None:
            self.seen = 0

        def on_sold(self, event: Sold) -> None:
            self.seen += 1
            self.revenue.put(category=event.category, total=event.amount, sales=self.seen)

    for events in ([Sold("toys", 1), Sold("toys", 2)], [[Sold("toys", 1), Sold("toys", 2)]]):
        for seed in range(20):
            with pytest.raises(AssertionError, match="another one in run 1, in 2 batches"):
                assert_idempotent(Numbering, events, runs=1, seed=seed)
            assert assert_idempotent(Revenue, events, runs=1, seed=seed)["revenue"][0]["total"] == 3


def test_the_clock_and_lots_are_found_with_one_event() -> None:
    class Timed(Revenue):
        def on_sold(self, event: Sold) -> None:
            self.revenue.put(category=event.category, total=time.perf_counter_ns(), sales=1)

    class Drawn(Revenue):
        def on_sold(self, event: Sold) -> None:
            self.revenue.put(category=event.category, total=random.getrandbits(60), sales=1)

    for wrong in (Timed, Drawn):
        with pytest.raises(AssertionError, match="another one in run 1"):
            assert_idempotent(wrong, [Sold("toys", 1)])


def test_what_is_applied_again_gets_to_the_class_again() -> None:
    """So a test sees effects elsewhere by its own means; what was written already does not get there."""

    class Sending(Revenue):
        sent: ClassVar[list[int]] = []

        def on_sold(self, event: Sold) -> None:
            self.sent.append(event.amount)
            super().on_sold(event)

    assert_idempotent(Sending, [Sold("toys", number) for number in range(5)], runs=20)
    assert all(Sending.sent.count(number) > 21 for number in range(5))


@pytest.mark.parametrize("runs", [0, -1])
def test_no_run_proves_nothing(runs: int) -> None:
    with pytest.raises(ConfigError, match="without a run"):
        assert_idempotent(Revenue, [Sold("toys", 1)], runs=runs)
