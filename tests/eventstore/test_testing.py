"""The helpers for tests: what is wrong fails, with words that say what."""

from __future__ import annotations

from decimal import Decimal

import pytest

from examples.order import Order, OrderCancelled, OrderShipped, WrongOrder, cancel, pay
from pgcdc.eventstore import Append, InvalidEvent
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
