"""What type checkers know of rows: mypy and basedpyright both check this file; nothing of it is run."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, assert_type

import msgspec
from msgspec import UnsetType

import pgcdc


class Order(msgspec.Struct):
    """A row class of the user's."""

    id: int
    total: Decimal | None = None


class Item(msgspec.Struct):
    """Another one."""

    order_id: int
    price: Decimal


def one_class(message: bytes) -> None:
    """`types` says what the rows are."""
    decoder = pgcdc.Decoder(types={"orders": Order})
    assert_type(decoder, pgcdc.Decoder[Order])
    event = decoder.decode(message)
    assert_type(event, pgcdc.Event[Order])
    if isinstance(event, pgcdc.Insert):
        assert_type(event, pgcdc.Insert[Order])
        assert_type(event.new.total, Decimal | None)
        assert_type(event.old, UnsetType)
        _ = event.new.nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def patterns(event: pgcdc.Event[Order]) -> None:
    """Class patterns narrow as `isinstance` does, by keyword and by position."""
    match event:
        case pgcdc.Insert(new=row) | pgcdc.Update(new=row):
            assert_type(row, Order)
        case pgcdc.Delete(relation, _, row):
            assert_type(relation, pgcdc.Relation)
            assert_type(row, Order)
        case pgcdc.Truncate(relations=relations):
            assert_type(relations, list[pgcdc.Relation])
        case pgcdc.Commit(end_lsn=lsn, commit_time=time):
            assert_type(lsn, int)
            assert_type(time, datetime)
        case pgcdc.Message(transactional, lsn, prefix, content):
            assert_type(transactional, bool)
            assert_type(prefix, str)
            assert_type(content, bytes)
        case _:
            pass


def old_rows(update: pgcdc.Update[Order]) -> None:
    """`old` may not be there, and the checker says so."""
    assert_type(update.old, Order | UnsetType)
    assert_type(update.commit_lsn, int | UnsetType)
    assert_type(update.position, pgcdc.Position | UnsetType)
    _ = update.old.id  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue]


def several_classes() -> None:
    """Rows are one or the other."""
    decoder: pgcdc.Decoder[Order | Item] = pgcdc.Decoder(types={"orders": Order, "items": Item})
    for event in decoder.decode_many([]):
        assert_type(event, pgcdc.Event[Order | Item] | pgcdc.DecodeError)
        match event:
            case pgcdc.Insert(new=Order(id=number)):
                assert_type(number, int)
            case pgcdc.Insert(new=Item(price=price)):
                assert_type(price, Decimal)
            case _:
                pass


def made_rows(message: bytes) -> None:
    """Structs that pgcdc makes have the columns' names, which no type checker knows; dicts and tuples are that."""
    assert_type(pgcdc.Decoder(), pgcdc.Decoder[Any])
    assert_type(pgcdc.Decoder("dict"), pgcdc.Decoder[dict[str, Any]])
    assert_type(pgcdc.Decoder(rows="tuple"), pgcdc.Decoder[tuple[Any, ...]])
    event = pgcdc.Decoder(rows="dict", json="raw").decode(message)
    if isinstance(event, pgcdc.Delete):
        assert_type(event.old, dict[str, Any])
    without: pgcdc.Event = event
    if isinstance(without, pgcdc.Insert):
        _ = without.new.whatever  # (rows of an Event without brackets are Any)


def wrong_arguments() -> None:
    """What is a ConfigError when it is run is an error before that."""
    pgcdc.Decoder(rows="list")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pgcdc.Decoder(types={"orders": dict})  # type: ignore[type-var]  # pyright: ignore[reportCallIssue, reportArgumentType]


def batches(batch: pgcdc.Batch) -> None:
    """A batch gives the rows that its reader asks for."""
    assert_type(batch.events(pgcdc.RowFormat(types={"orders": Order})), list[pgcdc.Event[Order] | pgcdc.DecodeError])
    assert_type(batch.events(), list[pgcdc.Event[Any] | pgcdc.DecodeError])
    for change in batch.changes(pgcdc.RowFormat(rows="tuple")):
        if isinstance(change, pgcdc.Update):
            assert_type(change, pgcdc.Update[tuple[Any, ...]])


def handlers(pipeline: pgcdc.Pipeline) -> None:
    """The class given to a pipeline must be the one that the handler takes."""

    @pipeline.on("orders", "insert", "update", row=Order)
    def index(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> None:
        assert_type(change.new, Order)

    @pipeline.on("orders", row=Order)
    async def follow(change: pgcdc.Change[Order]) -> None:
        assert_type(change.relation, pgcdc.Relation)

    @pipeline.on("items", row=Item)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    def wrong(change: pgcdc.Change[Order]) -> None: ...


def wider(insert: pgcdc.Insert[Order]) -> pgcdc.Change[Order | Item]:
    """Events are frozen: a row of one class is a row of one class or another."""
    return insert


def positions(change: pgcdc.Change[Order]) -> None:
    """Small things that are promised."""
    assert_type(pgcdc.parse_lsn("0/0"), int)
    assert_type(pgcdc.format_lsn(0), str)
    assert_type(change.table, str)
    assert_type(change.snapshot, bool)
    _ = pgcdc.Nothing  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
