"""An order as events: how it is created, paid, shipped, cancelled, and what state follows. It needs no database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal, Self

import msgspec

from pgcdc.eventstore import Event


class Item(msgspec.Struct, frozen=True, gc=False):
    """What is bought."""

    sku: str
    category: str
    price: Decimal
    qty: int


class OrderCreated(Event, tag="OrderCreated", version=1):
    """Somebody has ordered."""

    order_id: str
    customer_id: str
    items: list[Item]


class OrderPaid(Event, tag="OrderPaid", version=1):
    """The money has come. The items are here, too: who reads this event needs no other."""

    items: list[Item]
    amount: Decimal


class OrderShipped(Event, tag="OrderShipped", version=1):
    """The parcel has left."""

    address: str | None = None


class OrderCancelled(Event, tag="OrderCancelled", version=1):
    """It will not be sent."""


class WrongOrder(Exception):
    """An event, or a wish, does not fit what the order is."""


class Order(msgspec.Struct, frozen=True):
    """What an order is: a left fold of its events."""

    order_id: str = ""
    customer_id: str = ""
    items: list[Item] = []
    status: Literal["new", "pending", "paid", "shipped", "cancelled"] = "new"
    shipping_address: str | None = None
    paid_at: datetime | None = None
    shipped_at: datetime | None = None

    def apply(self, event: Event, occurred_at: datetime) -> Self:
        """The order after an event."""
        match event:
            case OrderCreated(order_id, customer_id, items) if self.status == "new":
                return self._with(order_id=order_id, customer_id=customer_id, items=items, status="pending")
            case OrderPaid() if self.status == "pending":
                return self._with(status="paid", paid_at=occurred_at)
            case OrderShipped(address) if self.status == "paid":
                return self._with(status="shipped", shipping_address=address, shipped_at=occurred_at)
            case OrderCancelled() if self.status in ("pending", "paid"):
                return self._with(status="cancelled")
            case OrderCreated() | OrderPaid() | OrderShipped() | OrderCancelled():
                raise WrongOrder(f"{type(event).__name__} does not follow when an order is {self.status}")
            case _:
                return self  # an event of somebody else's

    def _with(self, **changes: object) -> Self:
        return msgspec.structs.replace(self, **changes)


def create(order_id: str, customer_id: str, items: Sequence[Item]) -> list[Event]:
    """Order something."""
    if not items:
        raise WrongOrder("an order has items")
    return [OrderCreated(order_id, customer_id, list(items))]


def pay(order: Order, amount: Decimal) -> list[Event]:
    """Take the money; nothing happens when it was taken before."""
    if order.status == "paid":
        return []
    if order.status != "pending":
        raise WrongOrder(f"an order that is {order.status} is not paid")
    total = sum((item.price * item.qty for item in order.items), Decimal())
    if amount != total:
        raise WrongOrder("the amount is not the total")
    return [OrderPaid(order.items, amount)]


def ship(order: Order, address: str | None = None) -> list[Event]:
    """Send it."""
    if order.status != "paid":
        raise WrongOrder(f"an order that is {order.status} is not shipped")
    return [OrderShipped(address)]


def cancel(order: Order) -> list[Event]:
    """Do not send it."""
    if order.status == "cancelled":
        return []
    if order.status == "shipped":
        raise WrongOrder("an order that is shipped is not cancelled")
    return [OrderCancelled()]
