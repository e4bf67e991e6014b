"""`pgcdc tail` as a process: what it prints, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import typer

from pgcdc.cli.tail import tail as tail_command
from tests.demo.running import Ended, run, start
from tests.pipeline.running import until

if TYPE_CHECKING:
    import subprocess

    from tests.conftest import Database

PATIENCE = 120.0


class Tail:
    """A tail that has begun: everything that is committed from now on is printed."""

    def __init__(self, database: Database, *arguments: str) -> None:
        self.process: subprocess.Popen[str] = start("tail", database.dsn, *arguments)
        assert self.process.stderr is not None
        self.said: list[str] = []
        while not self.said or "Ctrl-C ends it" not in self.said[-1]:
            line = self.process.stderr.readline()
            assert line, self.said
            self.said.append(line)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: signal.Signals | None = None) -> Ended:
        if number is not None:
            self.process.send_signal(number)
        # From the same files that lines were read from: they have read ahead.
        assert self.process.stdout is not None and self.process.stderr is not None
        with self.process:
            stdout, stderr = self.process.stdout.read(), self.process.stderr.read()
        return Ended(self.process.returncode, stdout, stderr)


def left(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT pubname FROM pg_publication UNION ALL"
        " SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
    )


@pytest.fixture
def orders(newest_database: Database) -> Database:
    newest_database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, status text)", "CREATE TABLE log (line text)", "CREATE SCHEMA pgcdc"
    )
    return newest_database


def test_everything_until_ctrl_c(database: Database) -> None:
    """Also of tables that nobody may publish updates of: whoever writes to them does not notice."""
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, status text)",
        "CREATE TABLE log (line text)",
        "CREATE TABLE parts (id int, region text) PARTITION BY LIST (region)",
        "CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu')",
    )
    tail = Tail(database)
    assert sorted(line for line in tail.said if "only inserts" in line) == [
        "tail: of public.log only inserts and truncates: it has no replica identity\n",
        "tail: of public.parts only inserts and truncates: it has no replica identity\n",
    ]
    database.execute(
        "INSERT INTO orders VALUES (1, 'new')",
        "UPDATE orders SET status = 'paid'",
        "INSERT INTO log VALUES ('one')",
        "UPDATE log SET line = 'two'",
        "DELETE FROM log",
        "INSERT INTO parts VALUES (1, 'eu')",
        "UPDATE parts SET id = 2",
        "DELETE FROM orders",
    )
    lines = [json.loads(tail.line()) for _ in range(5)]
    assert [(line["table"], line["action"], line.get("new", line.get("old"))) for line in lines] == [
        ("orders", "insert", {"id": 1, "status": "new"}),
        ("orders", "update", {"id": 1, "status": "paid"}),
        ("log", "insert", {"line": "one"}),
        ("parts", "insert", {"id": 1, "region": "eu"}),
        ("orders", "delete", {"id": 1}),
    ]
    assert tail.end(signal.SIGINT) == Ended(0, "", "")
    until(lambda: left(database) == [], "the slot is gone", PATIENCE)


def test_what_is_wanted_in_the_words_that_are_wanted(orders: Database) -> None:
    wanted = (
        "--table",
        "orders",
        "--action",
        "insert",
        "--action",
        "update",
        "--where",
        "status ~ ^pa",
        "--count",
        "2",
    )
    tail = Tail(orders, *wanted, "--template", "{table} {action} {row[id]}")
    orders.execute(
        "INSERT INTO orders VALUES (1, 'new'), (2, 'paid')",
        "INSERT INTO log VALUES ('paid')",
        "UPDATE orders SET status = 'part' WHERE id = 1",
        "UPDATE orders SET status = 'past' WHERE id = 1",
    )
    assert tail.end() == Ended(0, "orders insert 2\norders update 1\n", "")
    until(lambda: left(orders) == [], "the slot is gone", PATIENCE)


def test_a_reader_that_has_enough(orders: Database) -> None:
    tail = Tail(orders)
    orders.execute("INSERT INTO orders VALUES (1, 'new')")
    assert tail.line()
    assert tail.process.stdout is not None
    tail.process.stdout.close()
    # Nothing more is written: it notices all the same.
    assert tail.process.wait(PATIENCE) == 0
    assert tail.process.stderr is not None and tail.process.stderr.read() == ""
    tail.process.stderr.close()
    until(lambda: left(orders) == [], "the slot is gone", PATIENCE)


def test_what_a_killed_one_leaves_the_next_drops_but_not_what_another_uses(orders: Database) -> None:
    killed = Tail(orders)
    killed.end(signal.SIGKILL)
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgcdc' AND datname = current_database()"
    until(lambda: orders.execute(sessions) == [(0,)], "the server has noticed", PATIENCE)
    assert len(left(orders)) == 2, "the publications of orders, and of the inserts of log"
    other = Tail(orders, "--table", "orders", "--count", "1")
    assert len(left(orders)) == 2, "one publication and one slot"
    tail = Tail(orders, "--table", "orders", "--count", "1")
    orders.execute("INSERT INTO orders VALUES (1, 'new')")
    assert [one.end().code for one in (other, tail)] == [0, 0]
    until(lambda: left(orders) == [], "both slots are gone", PATIENCE)


def test_a_slot_that_stays(orders: Database) -> None:
    """Looking takes nothing away; with --confirm what was printed whole does not come again."""
    orders.execute("CREATE PUBLICATION shop FOR TABLE orders")
    stays = ("--slot", "mine", "--publication", "shop", "--template", "{row[id]}")
    tail = Tail(orders, *stays, "--count", "1")
    assert tail.said[0] == "tail: the slot stays, and keeps WAL: SELECT pg_drop_replication_slot('mine')\n"
    orders.execute("INSERT INTO orders VALUES (1, ''), (2, '')")
    [(lsn,)] = orders.execute("SELECT pg_current_wal_insert_lsn()")
    orders.execute("INSERT INTO orders VALUES (3, ''), (4, '')")
    assert tail.end() == Ended(0, "1\n", "")
    assert run("tail", orders.dsn, *stays, "--count", "4").stdout == "1\n2\n3\n4\n"
    assert run("tail", orders.dsn, *stays, "--count", "2", "--from-lsn", lsn).stdout == "3\n4\n"
    assert run("tail", orders.dsn, *stays, "--count", "2", "--confirm").stdout == "1\n2\n"
    cut = run("tail", orders.dsn, *stays, "--count", "1", "--confirm")
    assert cut.stdout == "3\n", "the transaction before is confirmed"
    assert run("tail", orders.dsn, *stays, "--count", "2").stdout == "3\n4\n", "a transaction that was cut is not"
    orders.execute("SELECT pg_drop_replication_slot('mine')")


def test_the_slot_of_a_pipeline_is_not_confirmed(orders: Database) -> None:
    orders.execute(
        "CREATE TABLE pgcdc.positions (pipeline text, slot text)",
        "INSERT INTO pgcdc.positions VALUES ('shop', 'pgcdc_shop')",
        "CREATE PUBLICATION shop FOR TABLE orders",
    )
    ended = run("tail", orders.dsn, "--slot", "pgcdc_shop", "--publication", "shop", "--confirm")
    assert ended.code == 2 and ended.stderr.startswith("error: slot pgcdc_shop is that of pipeline 'shop'")


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        ({"action": ["upsert"]}, "--action upsert does not exist", "did you mean 'insert'?"),
        ({"template": "{tabel}"}, "--template: {tabel} is no field", "did you mean 'table'?"),
        ({"template": "x", "json": True}, "--json and --template contradict each other", "give one"),
        ({"confirm": True}, "--confirm and --from-lsn are for a slot that stays", "--slot NAME"),
        ({"slot": "mine"}, "a slot that stays needs a publication that stays", "--publication NAME"),
    ],
)
def test_what_is_wrong_before_it_connects(
    capsys: pytest.CaptureFixture[str], arguments: dict[str, Any], says: str, hint: str
) -> None:
    with pytest.raises(typer.Exit) as raised:
        tail_command("host=nowhere", **arguments)
    told = capsys.readouterr().err
    if "json" in arguments:
        told = "error: {error}\nhint: {hint}\n".format(**json.loads(told))
    assert raised.value.exit_code == 2 and told.startswith(f"error: {says}") and f"hint: {hint}" in told


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (["--where", "staus=paid"], "--where: no table has a column 'staus'", "did you mean 'status'?"),
        (["--table", "nowhere", "--json"], "table public.nowhere does not exist", "correct the name"),
    ],
)
def test_what_is_wrong(orders: Database, arguments: list[str], says: str, hint: str) -> None:
    ended = run("tail", f"{orders.dsn} password=hush-hush", *arguments)
    told = ended.stderr
    if "--json" in arguments:
        told = "error: {error}\nhint: {hint}\n".format(**json.loads(told))
    assert (ended.code, ended.stdout) == (2, "") and "hush" not in told
    assert told.startswith(f"error: {says}") and f"hint: {hint}" in told
    assert left(orders) == []
