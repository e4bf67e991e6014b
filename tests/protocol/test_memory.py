"""Decoding does not grow: neither with rows, nor with errors, nor with relations that are sent again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Literal

import psutil
import pytest

from pgcdc.protocol import BatchReader, Decoder
from tests.protocol import wire
from tests.protocol.captures import messages

ROUNDS = 20
ROWS = 1_000_000


def grown(work: Callable[[], int]) -> float:
    """How many MB the process grew by while a million rows went through, after a first tenth of them."""
    process = psutil.Process()
    done = 0
    before = None
    while done < ROWS:
        done += work()
        if before is None and done >= ROWS // 10:
            gc.collect()
            before = process.memory_info().rss
    gc.collect()
    assert before is not None
    return float(process.memory_info().rss - before) / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["struct", "dict", "tuple"])
@pytest.mark.parametrize("form", ["text", "binary"])
def test_a_million_rows_leave_nothing_behind(rows: Literal["struct", "dict", "tuple"], form: str) -> None:
    """All types, NULLs, lists, errors in between."""
    captured = [*messages(18, form), b"?", b"", wire.insert(1, [])]
    changes = sum(message[:1] in b"IUD" for message in captured)
    decoder = Decoder(rows)
    # One row of this capture is as much work as twenty of a usual table.
    work = lambda: bool(decoder.decode_many(captured)) * changes * 20  # noqa: E731
    assert grown(work) < 8


@pytest.mark.slow
def test_a_million_rows_in_batches_leave_nothing_behind() -> None:
    """Frames in, events out, batch dropped."""
    table = wire.relation(1, "t", [("id", 23), ("v", 25), ("n", 1700)])
    rows = [wire.insert(1, [str(number), "text", "1.5"]) for number in range(1000)]
    frames = [wire.xlogdata(message, 1) for message in [table, wire.begin(), *rows, wire.commit()]]
    reader = BatchReader()

    def work() -> int:
        batch = reader.read(frames)
        return len(batch.select(tables=[("public", "t")]).changes())

    assert grown(work) < 8
