"""User-defined types reach every consumer as the same values, from the copy and from the stream."""

from __future__ import annotations

import json
from typing import Any

import pgcdc
from pgcdc import Batch, Pipeline
from tests.conftest import Database
from tests.pipeline.running import running, until
from tests.pipeline.targets import Recorder


class Lines(Recorder):
    """Keeps what `to_json` says of the new rows too."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def write(self, batch: Batch) -> None:
        self.lines += [json.loads(line)["new"] for line in batch.to_json().splitlines()]
        super().write(batch)


def test_enums_and_domains_are_known_to_sinks_and_handlers(database: Database) -> None:
    """Also those that are made while the pipeline runs, although values come in binary."""
    database.execute(
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "CREATE DOMAIN cents AS int CHECK (value >= 0)",
        "CREATE TABLE orders (id int PRIMARY KEY, m mood, c cents, ms mood[])",
        "INSERT INTO orders VALUES (1, 'glad', 5, '{glad,sad}')",
    )
    pipeline = Pipeline("shop", database.dsn, tables=["orders"])
    sink = Lines()
    handled: list[Any] = []
    pipeline.add(sink, name="sink")

    @pipeline.on("orders", name="handler")
    def handle(change: pgcdc.Change[Any]) -> None:
        handled.append(change.new)

    with running(pipeline) as run:
        run.streaming()
        assert pipeline.statistics().source.binary
        database.execute("INSERT INTO orders VALUES (2, 'sad', 7, '{}')")
        run.catch_up(database)
        database.execute(
            "CREATE TYPE late AS ENUM ('x')",
            "ALTER TABLE orders ADD COLUMN l late",
            "INSERT INTO orders VALUES (3, 'sad', 9, NULL, 'x')",
        )
        until(lambda: len(handled) == 3 and len(sink.changes) == 3, "all three rows")
    rows = [change.new for change in sink.changes]
    for one, two, three in (rows, handled):
        assert (one.m, one.c, one.ms) == ("glad", 5, ["glad", "sad"])
        assert (two.m, two.c, two.ms) == ("sad", 7, [])
        assert (three.m, three.l) == ("sad", "x")
    assert sink.lines == [
        {"id": 1, "m": "glad", "c": 5, "ms": ["glad", "sad"]},
        {"id": 2, "m": "sad", "c": 7, "ms": []},
        {"id": 3, "m": "sad", "c": 9, "ms": None, "l": "x"},
    ]
