"""The pipeline of most tests here, on one small table, and what it leaves on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pgcdc
from tests.pipeline.running import running, slots
from tests.pipeline.targets import Recorder

if TYPE_CHECKING:
    from tests.conftest import Database

ORDERS = "CREATE TABLE orders (id bigint PRIMARY KEY, status text)"


def shop(database: Database, sink: Any = None, **settings: Any) -> pgcdc.Pipeline:
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], **settings)
    pipeline.add(Recorder() if sink is None else sink, name="sink")
    return pipeline


def run_once(database: Database, pipeline: pgcdc.Pipeline) -> None:
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(database)


def publications(database: Database) -> list[str]:
    return [name for (name,) in database.execute("SELECT pubname FROM pg_publication ORDER BY 1")]


def left_behind(database: Database) -> tuple[list[str], list[str], int]:
    stored = database.execute("SELECT to_regclass('pgcdc.positions')::text")[0][0]
    rows = 0 if stored is None else database.execute("SELECT count(*) FROM pgcdc.positions")[0][0]
    return slots(database), publications(database), rows
