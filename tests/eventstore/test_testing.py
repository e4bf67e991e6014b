"""The helpers for tests: what is wrong fails, with words that say what."""

from __future__ import annotations

from decimal import Decimal

import pytest

from examples.order import Order, OrderCancelled, OrderShipped, WrongOrder, cancel, pay
from pgcdc.eventstore import InvalidEvent
from pgcdc.eventstore.testing import given
from tests.eventstore.contract import CREATED


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
