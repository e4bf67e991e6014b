"""Which cases of the contract each sink leaves out, and that each has its reason; the page has the same table."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc.sinks
from pgcdc.testing.contracts import PartitionedSinkContract, SinkContract

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "how-we-test.md"


def below(cls: type[SinkContract]) -> Iterator[type[SinkContract]]:
    for one in cls.__subclasses__():
        yield one
        yield from below(one)


def suites() -> list[type[SinkContract]]:
    """Those of the sinks that come with pgcdc, as far as what they need is installed."""
    for path in sorted(HERE.glob("test_*.py")):
        if "SinkContract" in (text := path.read_text()) or "Contract)" in text:
            try:
                importlib.import_module(f"tests.sinks.{path.stem}")
            except pytest.skip.Exception:
                continue
    found = dict.fromkeys(one for one in below(SinkContract) if one.__name__.startswith("Test"))
    return [one for one in found if one.__module__.startswith("tests.sinks.")]


def test_what_a_sink_leaves_out_has_a_reason() -> None:
    table = PAGE.read_text()
    seen = 0
    for suite in suites():
        left_out = suite.left_out()
        assert suite.without.keys() == left_out.keys(), f"{suite.__name__} says why of other cases than it leaves out"
        for case, why in left_out.items():
            seen += 1
            [row] = [line for line in table.splitlines() if line.startswith("|") and line.endswith(f"| {why} |")]
            assert f"`{case}`" in row, f"{suite.__name__}, {case}"
    assert seen > 10


def test_every_sink_that_has_parts_has_their_contract() -> None:
    having = {name for name in pgcdc.sinks.__all__ if hasattr(getattr(pgcdc.sinks, name), "part")}
    assert "SQLite" in having
    held = {
        suite.make_sink.__annotations__["return"] for suite in suites() if issubclass(suite, PartitionedSinkContract)
    }
    assert having <= held
