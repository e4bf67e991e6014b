"""The order of the shop: what it refuses, and what follows from what. No server is needed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from examples.order import (
    Item,
    Order,
    OrderCancelled,
    OrderCreated,
    OrderPaid,
    OrderShipped,
    WrongOrder,
    cancel,
    create,
    pay,
    ship,
)
from pgcdc.eventstore.testing import given

ITEMS = [Item("A-1", "books", Decimal("19.90"), 2), Item("B-1", "toys", Decimal("5.00"), 1)]
CREATED = OrderCreated("1", "anna", ITEMS)
PAID = OrderPaid(ITEMS, Decimal("44.80"))
AT = datetime(2026, 11, 27, 12, tzinfo=UTC)


def test_the_way_of_an_order() -> None:
    assert create("1", "anna", ITEMS) == [CREATED]
    given(Order, CREATED).when(pay, Decimal("44.80")).then(PAID).then_state(status="paid")
    given(Order, CREATED, PAID).when(ship, "Elm Street 1").then(OrderShipped("Elm Street 1"))
    shipped = given(Order, CREATED, PAID, OrderShipped("Elm Street 1"), at=AT)
    shipped.then_state(status="shipped", shipping_address="Elm Street 1", paid_at=AT, shipped_at=AT, items=ITEMS)
    given(Order, CREATED).when(cancel).then(OrderCancelled()).then_state(status="cancelled")


def test_what_is_done_already_is_not_done_again() -> None:
    given(Order, CREATED, PAID).when(pay, Decimal("44.80")).then()
    given(Order, CREATED, OrderCancelled()).when(cancel).then()


def test_what_is_refused() -> None:
    given(Order).when(pay, Decimal("44.80")).then_raises(WrongOrder)
    given(Order, CREATED).when(pay, Decimal("44.79")).then_raises(WrongOrder)
    given(Order, CREATED).when(ship).then_raises(WrongOrder)
    given(Order, CREATED, PAID, OrderShipped()).when(cancel).then_raises(WrongOrder)
    with pytest.raises(WrongOrder):
        create("1", "anna", [])


@pytest.mark.parametrize(
    "events", [[PAID], [OrderShipped()], [OrderCancelled()], [CREATED, CREATED], [CREATED, PAID, PAID]]
)
def test_events_in_a_wrong_order_raise(events: list[object]) -> None:
    with pytest.raises(WrongOrder):
        given(Order, *events)  # type: ignore[arg-type]
