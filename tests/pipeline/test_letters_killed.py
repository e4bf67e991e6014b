"""kill -9 before and after each write of dead letters: each is there once, the position never past it (F1).

The judge knows what was written, what the handler took, and what the store has.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pgcdc.pipeline import PostgresDeadLetters, Which
from tests.pipeline.killed_letters import make
from tests.pipeline.running import confirmed, flushed, running, until
from tests.program import Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def taken(folder: Path) -> list[tuple[int, str]]:
    lines = (line.split() for line in (folder / "handled.log").read_text().splitlines())
    return [(int(key), status) for key, status in lines]


def test_kills_around_each_write_of_letters(newest_database: Database, tmp_path: Path) -> None:
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    with running(make(newest_database.dsn, tmp_path, "never:0")) as run:
        run.streaming()
    newest_database.execute(
        "INSERT INTO orders SELECT g, CASE WHEN g IN (3, 7) THEN 'poison' ELSE 'x' END FROM generate_series(1, 9) g",
        "UPDATE orders SET status = 'y'",
        "UPDATE orders SET status = 'z'",
    )
    end = flushed(newest_database)
    letters = PostgresDeadLetters(newest_database.dsn)
    kills = 0

    def play(place: str) -> None:
        nonlocal kills
        program = Program(
            "tests.pipeline.killed_letters", tmp_path / "stderr.log", newest_database.dsn, str(tmp_path), place
        )
        assert program.end() == -9, (tmp_path / "stderr.log").read_text()[-3000:]
        kills += 1

    # However the changes are read: each of these writes is made, of what waits or of the second that fails.
    for place in ("before:1", "after:1", "before:2", "after:2", "after:1"):
        play(place)
    with running(make(newest_database.dsn, tmp_path, "never:0")) as run:
        run.streaming()
        run.pipeline.wait_sync(end, 30)
    healthy = [key for key in range(1, 10) if key not in (3, 7)]
    seen = taken(tmp_path)
    assert set(seen) == {(key, status) for key in healthy for status in "xyz"}, (
        "nothing lost, nothing held is delivered"
    )
    for key in healthy:
        statuses = [status for status, _ in itertools.groupby(status for one, status in seen if one == key)]
        assert statuses[0] == "x" and statuses[-1] == "z"
    waiting = letters.find(Which())
    assert [(one.key, one.action, one.state) for one in waiting] == [
        *((f'{{"id": "{key}"}}', "insert", "failed") for key in (3, 7)),
        *(2 * [(f'{{"id": "{key}"}}', "update", "held") for key in (3, 7)]),
    ]
    assert confirmed(newest_database) >= end

    (tmp_path / "handled.log").write_text("")
    (tmp_path / "cured").touch()
    for place in ("before:1", "after:1", "before:2", "after:2"):
        letters.request([one.id for one in letters.find(Which(state="failed"))])
        play(place)
    with running(make(newest_database.dsn, tmp_path, "never:0")) as run:
        run.streaming()
        letters.request([one.id for one in letters.find(Which(state="failed"))])
        until(lambda: letters.find(Which()) == [], "all are delivered")
    for key in (3, 7):
        statuses = [status for status, _ in itertools.groupby(status for one, status in taken(tmp_path) if one == key)]
        assert statuses == ["poison", "y", "z"], "in order, each at least once"
    assert {key for key, _ in taken(tmp_path)} == {3, 7}, "nothing else again"
    letters.close()
    assert kills == 9
