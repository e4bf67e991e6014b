"""What a pipeline refuses to be told, and what its types promise."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Any

import msgspec
import pytest

import pgcdc
from pgcdc import ConfigError, Pipeline
from tests.pipeline.targets import Recorder


class Order(msgspec.Struct):
    id: int
    user_id: int
    status: str
    discount: Decimal | None = None


def shop(**settings: Any) -> Pipeline:
    return Pipeline("shop", "", tables=["orders", "sales.items", ("public", "a.b")], **settings)


def handler(change: object) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": ""}, "needs a name"),
        ({"tables": "orders"}, "must be a list"),
        ({"tables": ["a.b.c"]}, "not a table's name"),
        ({"tables": [""]}, "not a table's name"),
        ({"snapshot": "sometimes"}, "does not exist"),
        ({"slot": "No Good"}, "cannot be the name"),
        ({"name": "Größe"}, "cannot be the name"),
        ({"max_rows_in_flight": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Pipeline(**{"name": "shop", "dsn": "", "tables": ["orders"], **arguments})


def test_tables_are_found_by_every_spelling() -> None:
    pipeline = shop()
    for table in ("orders", "public.orders", ("public", "orders"), "sales.items", ("public", "a.b")):
        pipeline.on(table, name=f"of {table}")(handler)


@pytest.mark.parametrize("table", ["order", "items", "sales.orders", "Orders"])
def test_an_unknown_table_is_named(table: str) -> None:
    with pytest.raises(ConfigError, match="which the pipeline does not have"):
        shop().on(table)(handler)
    with pytest.raises(ConfigError, match="which the pipeline does not have"):
        shop().add(Recorder(), tables=[table])


def test_a_similar_table_is_suggested() -> None:
    with pytest.raises(ConfigError) as raised:
        shop().on("order")(handler)
    assert "did you mean 'public.orders'" in (raised.value.hint or "")


def test_an_unknown_action_is_named() -> None:
    with pytest.raises(ConfigError, match="'upsert', which does not exist"):
        shop().on("orders", "upsert")(handler)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="'upsert', which does not exist"):
        shop().add(Recorder(), actions=["upsert"])


def test_a_name_is_used_once() -> None:
    pipeline = shop()
    pipeline.on("orders")(handler)
    with pytest.raises(ConfigError, match="two consumers named 'handler'"):
        pipeline.on("orders")(handler)
    pipeline.add(Recorder())
    with pytest.raises(ConfigError, match="two consumers named 'recorder'"):
        pipeline.add(Recorder())


def test_what_is_no_sink_no_row_no_name() -> None:
    with pytest.raises(ConfigError, match="has no method 'open'"):
        shop().add(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"not a msgspec\.Struct"):
        shop().on("orders", row=dict)(handler)
    with pytest.raises(ConfigError, match="needs a name"):
        shop().on("orders", name="")(handler)
    with pytest.raises(ConfigError, match="does not exist for one consumer"):
        shop().add(Recorder(), snapshot="initial")  # type: ignore[arg-type]


def test_a_pipeline_without_consumers_does_not_run() -> None:
    with pytest.raises(ConfigError, match="no consumers"):
        shop().run()


def test_missing_retries_are_found_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stamina", None)
    pipeline = shop()
    pipeline.on("orders")(handler)
    with pytest.raises(ConfigError, match="stamina") as raised:
        pipeline.run()
    assert raised.value.hint == "pip install 'pgcdc[pipeline]'"


def test_handlers_are_typed() -> None:
    """Mostly for mypy --strict, which reads this file: each of these is right, each ignored one is not."""
    pipeline = shop()

    @pipeline.on("orders", "insert", "update", row=Order, name="search")
    async def index(change: pgcdc.Change[Order]) -> None:
        if isinstance(change.new, Order):
            assert change.new.user_id

    @pipeline.on("orders", "insert", "update", row=Order, name="narrow")
    def narrow(change: pgcdc.Insert[Order] | pgcdc.Update[Order]) -> str:
        return change.new.status

    @pipeline.on("orders", row=Order, name="all")
    def every(change: pgcdc.Change[Order]) -> None: ...

    @pipeline.on("orders", "delete", "truncate", row=Order, name="removals")
    def removed(change: pgcdc.Change[Order] | pgcdc.Truncate) -> None: ...

    @pipeline.on("orders", name="untyped")
    def untyped(change: pgcdc.Change[Any]) -> None: ...

    @pipeline.on("orders", "truncate", row=Order, name="wrong")  # type: ignore[arg-type]
    def wrong(change: pgcdc.Change[Order]) -> None: ...

    @pipeline.on("orders", row=Order, name="another row")  # type: ignore[arg-type]
    def another(change: pgcdc.Change[int]) -> None: ...

    assert narrow.__name__ == "narrow"
