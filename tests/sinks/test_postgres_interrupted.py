"""Ctrl-C at any point within a write of the sink `Postgres`: the same sink goes on, and has each row once."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import pytest

from pgcdc.sinks.postgres_rows import RowTable
from pgcdc.testing.changes import insert
from tests.sinks.test_postgres import ITEMS, ROW, in_order, opened

if TYPE_CHECKING:
    from pgcdc.sinks import Postgres
    from tests.conftest import Database

_FILES: Final = frozenset({"postgres.py", "postgres_session.py", "postgres_wire.py", "postgres_rows.py"})
_EVERY: Final = 5
"""Of the lines that a write runs through, each fifth is tried, with another beginning in each case."""


class Interrupted:
    """Raises KeyboardInterrupt before some line of the sink's own files, as a handler of signals would.

    Args:
        at: Which of the lines that are run.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0

    def __enter__(self) -> Interrupted:
        sys.settrace(self._call)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if Path(frame.f_code.co_filename).name in _FILES else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.seen += 1
            if self.seen == self.at:
                raise KeyboardInterrupt
        return self._line


def goes_on(sink: Postgres, batch: Any) -> None:
    """What is lost with the interrupted connection is written by the next one."""
    for _ in range(3):
        with suppress(Exception):
            sink.write(batch)
            return
    sink.write(batch)


@pytest.mark.parametrize("rows", [1, 60])
@pytest.mark.parametrize("first", range(1, _EVERY + 1, 2))
def test_each_row_is_there_once(newest_database: Database, rows: int, first: int) -> None:
    at = first
    while True:
        newest_database.execute("DROP TABLE IF EXISTS public.items", "DROP SCHEMA IF EXISTS pgcdc CASCADE")
        keys = [[1], [2], [3], [4 + 1000 * n for n in range(rows)], [5]]
        batches = list(in_order(*([insert(ITEMS, ROW | {"id": key}) for key in some] for some in keys)))
        with opened(newest_database) as sink:
            for batch in batches[:3]:
                sink.write(batch)
            with Interrupted(at) as interrupted, suppress(KeyboardInterrupt):
                sink.write(batches[3])
            for batch in batches[3:]:
                goes_on(sink, batch)
        found = [key for (key,) in newest_database.execute("SELECT id FROM public.items ORDER BY id")]
        assert found == sorted(key for some in keys for key in some), f"interrupted at line {at}"
        if interrupted.seen < at:
            break
        at += 4 * _EVERY


def test_statements_are_known_when_all_of_them_are(newest_database: Database) -> None:
    """What is interrupted while it prepares them is not taken for something that needs none."""
    with opened(newest_database) as sink:
        sink.write(next(iter(in_order([insert(ITEMS, ROW | {"id": 1})]))))
        [(keyed, made)] = sink._rows.values()
        target, text = sink._target(keyed.relation), [False] * len(keyed.relation.columns)
        row = [(None, b"i", None, *[None] * len(text))]
        whole = len(made.one_by_one(row))
        at = 1
        while True:
            table = RowTable(sink._connection(), 1000 + at, target, keyed.relation, text, keyed.key)
            with Interrupted(at) as interrupted, suppress(KeyboardInterrupt):
                table.one_by_one(row)
            assert len(table.one_by_one(row)) == whole, f"interrupted at line {at}"
            if interrupted.seen < at:
                return
            at += 1
