"""Values of rows are in the files of a pipeline: whatever it makes is for its owner alone, as the modes say."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.pipeline import SqlitePositions
from pgcdc.pipeline.private_file import make_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Database

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


def modes(root: Path) -> dict[str, int]:
    """Of everything in a folder, and of itself."""
    paths = (root, *root.rglob("*"))
    return {f"{path.relative_to(root)}{'/' * path.is_dir()}": stat.S_IMODE(path.stat().st_mode) for path in paths}


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_spool_dead_letters_positions_and_schemas(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    kept, spool = tmp_path / "kept", tmp_path / "spool"
    kept.mkdir()
    pipeline = pgcdc.Pipeline(
        "shop",
        newest_database.dsn,
        tables=["orders"],
        snapshot="never",
        positions=SqlitePositions(kept / "positions.db"),
        spool=spool,
        max_rows_in_flight=1,
    )
    spooled: dict[str, int] = {}

    @pipeline.on("orders", on_failure="park", retry=pgcdc.Retry(attempts=1))
    async def slow(change: pgcdc.Change) -> None:
        number = change.new.id if change.new else 0
        if number == 1:
            await until(lambda: pipeline.statistics().consumers["slow"].spooled_batches > 0)
            spooled.update(modes(spool))
        elif number == 2:
            raise ValueError("not this one")
        elif number == 9:
            pipeline.stop()

    running = asyncio.create_task(pipeline.arun())
    try:
        await until(lambda: running.done() or pipeline.statistics().source.phase == "streaming")
        for number in range(1, 10):
            newest_database.execute(f"INSERT INTO orders VALUES ({number}, 'of a customer')")
    finally:
        await running
    assert len(pipeline.dead_letters.list()) == 1
    assert modes(kept)["positions.db"] == 0o600
    assert any(name.endswith("/owner") for name in spooled)
    assert sum(not name.endswith("/") for name in spooled) > 1, "there is a segment"
    assert spooled == {name: 0o700 if name.endswith("/") else 0o600 for name in spooled}
    pipeline.destroy()


def test_a_file_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever made it has decided."""
    path = tmp_path / "positions.db"
    make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    make_private(tmp_path / "no" / "such.db")
