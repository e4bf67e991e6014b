"""The contract of sinks for targets that know the shop's orders and no other table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pgcdc.testing import Table
from pgcdc.testing.contracts import SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ORDERS = Table(
    "orders",
    {
        "id": "bigint",
        "user_id": "bigint",
        "status": "text",
        "total": "numeric(12,2)",
        "shipping_address": "jsonb",
    },
    key=("id",),
)


class OfOrders(SinkContract):
    """The rows of the shop's orders."""

    table = ORDERS
    toast: ClassVar[str | None] = "shipping_address"
    dropped: ClassVar[str | None] = "shipping_address"
    retyped: ClassVar[tuple[str, str] | None] = ("total", "numeric(14,2)")

    def row(self, key: int, variant: int) -> dict[str, Any]:
        row = super().row(key, variant)
        address = {"city": row["name"], "street": row["note"]}
        return {
            "id": key,
            "user_id": key % 3 + variant,
            "status": row["name"],
            "total": row["amount"],
            "shipping_address": address,
        }


class OfCounts(OfOrders):
    """How many orders each user has: nothing of the other columns is kept."""

    toast = None
    added = None

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, int]:
        users = [row["user_id"] for row in rows.values()]
        return {user: users.count(user) for user in users}
