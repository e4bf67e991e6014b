"""A pipeline: existing orders, then every change, to a function. python examples/pipeline.py "dbname=shop"."""

import sys
from decimal import Decimal

import msgspec

import pgcdc


class Order(msgspec.Struct):
    """The columns that are wanted; the others are left out."""

    id: int
    status: str | None = None
    total: Decimal | None = None


pipeline = pgcdc.Pipeline("shop", sys.argv[1], tables=["orders"])


@pipeline.on("orders", "insert", "update", row=Order)
def index(change: pgcdc.Change[Order]) -> None:
    """Called with existing rows first, then with every change."""
    print(change.position, change.action, change.new, flush=True)


pipeline.run()  # until Ctrl-C; started again it goes on where it was
