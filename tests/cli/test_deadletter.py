"""`pgcdc deadletter`: of which pipeline, which letters, what it prints, and how it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.pipeline import run as run_module
from tests.demo.running import run
from tests.pipeline.running import running, until
from tests.pipeline.test_dead_letters import Picky

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database


def test_it_lists_shows_retries_and_drops(
    newest_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = newest_database
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.05)
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    sink = Picky()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(sink, name="sink", on_failure="hold")
    by_dsn = ("--dsn", database.dsn, "--pipeline", "shop")
    (tmp_path / "shop.toml").write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{database.dsn}"\ntables = ["orders"]\n'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\non_failure = "hold"\nmax_dead_letters = 7\n'
        'retry = { attempts = 3, on = ["TimeoutError", "sqlite3:OperationalError"] }\n'
    )
    by_file = ("--target", str(tmp_path / "shop.toml"))
    with running(pipeline) as one:
        one.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'poison'), (2, 'poison'), (3, 'x')")
        database.execute("UPDATE orders SET status = 'y'")
        one.catch_up(database)

        ended = run("deadletter", "list", *by_dsn)
        assert (ended.code, ended.stderr) == (0, "")
        lines = ended.stdout.splitlines()
        assert len(lines) == 4
        assert lines[0].endswith('insert of public.orders {"id": "1"}: 1 attempts, pgcdc.errors.SinkRejected')
        assert lines[3].endswith('update of public.orders {"id": "2"}: waits')
        ended = run("deadletter", "list", "--json", "--consumer", "sink", "--table", "orders", *by_file)
        assert (ended.code, ended.stderr) == (0, "")
        found = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [(each["key"], each["state"]) for each in found] == [
            ({"id": "1"}, "failed"), ({"id": "2"}, "failed"), ({"id": "1"}, "held"), ({"id": "2"}, "held"),
        ]  # fmt: skip
        ended = run("deadletter", "list", "--json", "--position", found[1]["position"], *by_dsn)
        assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == [found[1]["id"]]
        assert run("deadletter", "list", "--since", "2999-01-01T00:00:00Z", *by_dsn).stdout == ""

        ended = run("deadletter", "show", str(found[0]["id"]), *by_dsn)
        assert ended.code == 0 and "error_text: poison" in ended.stdout and '"status":"poison"' in ended.stdout
        whole = json.loads(run("deadletter", "show", "--json", str(found[0]["id"]), *by_file).stdout)
        [change] = pgcdc.Batch.from_bytes(bytes.fromhex(whole["message"])).changes()
        assert isinstance(change, pgcdc.Insert) and change.new.id == 1

        ended = run("deadletter", "retry", str(found[0]["id"]), "--wait", "30", *by_dsn)
        assert ended.code == 5 and "0 delivered, 1 failed again" in ended.stderr
        sink.cured = True
        ended = run("deadletter", "retry", str(found[0]["id"]), "--wait", "30", *by_file)
        assert ended.code == 0 and "1 delivered, 0 failed again" in ended.stderr
        ended = run("deadletter", "drop", "--table", "public.orders", "--consumer", "sink", *by_dsn)
        assert ended.code == 0 and ended.stderr.startswith("dropped ")
        assert run("deadletter", "list", *by_dsn).stdout == ""


def test_of_a_consumer_with_a_slot_of_its_own(
    newest_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the names that the user gave; also when the consumer is not registered any more."""
    database = newest_database
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.05)
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Picky(), name="apart", own_slot=True, on_failure="park")
    with running(pipeline) as one:
        until(lambda: all(own.phase == "streaming" for own in pipeline.statistics().own_slots.values()), "it streams")
        database.execute("INSERT INTO orders VALUES (1, 'poison')")
        until(lambda: bool(pipeline.dead_letters.list()) or not one.alive, "it is parked")
    pipeline.dead_letters.close()
    file = tmp_path / "shop.toml"
    for name, own_slot, gone in (("apart", "true", False), ("other", "false", True)):
        file.write_text(
            f'[pipeline]\nname = "shop"\ndsn = "{database.dsn}"\ntables = ["orders"]\n'
            f'[consumers.{name}]\nsink = "tests.pipeline.targets:Recorder"\nown_slot = {own_slot}\n'
        )
        ended = run("deadletter", "list", "--target", str(file))
        assert ended.code == 0 and len(ended.stdout.splitlines()) == 1 and "  shop/apart  " in ended.stdout
        assert ended.stdout.endswith("; the pipeline has no such consumer any more\n") is gone
        told = json.loads(run("deadletter", "list", "--json", "--target", str(file)).stdout)
        assert (told["pipeline"], told["consumer"], told["gone"]) == ("shop", "apart", gone)
    told = json.loads(run("deadletter", "list", "--json", "--dsn", database.dsn, "--pipeline", "shop").stdout)
    assert (told["pipeline"], told["consumer"], told["gone"]) == ("shop", "apart", None)
    assert run("deadletter", "list", "--dsn", database.dsn, "--pipeline", "sho").stdout == ""
    ended = run("deadletter", "drop", "--consumer", "apart", "--target", str(file), "--json")
    assert json.loads(ended.stdout) == {"dropped": 1}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list",), "it is not said whose dead letters"),
        (("list", "--dsn", "", "--target", "a:b"), "it is not said whose dead letters"),
        (("retry", "--dsn", ""), "it is not said which dead letters"),
        (("drop", "--dsn", ""), "it is not said which dead letters"),
        (("list", "--dsn", "", "--since", "yesterday"), "--since yesterday is no time"),
        (("list", "--dsn", "", "--since", "2026-11-27"), "since has no time zone"),
        (("list", "--dsn", "", "--position", "5"), "'5' is not a position"),
    ],
)
def test_what_is_not_said_or_no_value(arguments: tuple[str, ...], says: str) -> None:
    ended = run("deadletter", *arguments)
    assert ended.code == 2 and ended.stdout == "" and says in ended.stderr


def test_no_password_is_printed_when_nobody_answers() -> None:
    ended = run("deadletter", "list", "--dsn", "host=127.0.0.1 port=1 password=hush")
    assert ended.code == 1 and "hush" not in ended.stderr and ended.stderr.startswith("error: the dead-letter table")
