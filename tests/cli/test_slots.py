"""`pgcdc slots` and `pgcdc lag`: what they print of a server's slots, and how they end."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc import observe
from tests.demo.running import run

if TYPE_CHECKING:
    from tests.conftest import Database


def test_slots_are_listed_with_what_they_lack(database: Database) -> None:
    name = f"slot_{database.name}"
    database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    database.execute("CREATE TABLE t (id int)", "INSERT INTO t SELECT generate_series(1, 50000)")
    [one] = [slot for slot in observe.slots(database.dsn) if slot.name == name]
    ended = run("slots", "--dsn", database.dsn)
    head, *lines = ended.stdout.splitlines()
    assert (ended.code, ended.stderr) == (0, "") and head.split()[:4] == ["slot", "plugin", "database", "state"]
    [line] = [line for line in lines if line.startswith(f"{name} ")]
    assert line.split()[1:4] == ["pgoutput", database.name, "inactive"] and " MB" in line
    found = [json.loads(line) for line in run("slots", "--dsn", database.dsn, "--json").stdout.splitlines()]
    [stored] = [slot for slot in found if slot["name"] == name]
    assert stored["lag_bytes"] >= (one.lag_bytes or 0) > 1_000_000 and stored["lost"] is False
    assert pgcdc.parse_lsn(stored["confirmed_flush_lsn"]) == one.confirmed_flush_lsn


def test_lag_of_a_slot_and_of_a_pipeline(newest_database: Database, tmp_path: Path) -> None:
    database = newest_database
    database.execute("SELECT pg_create_logical_replication_slot('pgcdc_shop', 'pgoutput')")
    (tmp_path / "shop.toml").write_text(
        f'[pipeline]\nname = "shop"\ndsn = "{database.dsn}"\ntables = ["t"]\n'
        '[consumers.sink]\nsink = "tests.pipeline.targets:Recorder"\n'
    )
    for arguments in (("pgcdc_shop", "--dsn", database.dsn), (str(tmp_path / "shop.toml"),)):
        ended = run("lag", *arguments)
        assert ended.code == 0 and ended.stdout.startswith("pgcdc_shop: inactive, "), ended
        assert json.loads(run("lag", *arguments, "--json").stdout)["name"] == "pgcdc_shop"
    ended = run("lag", "nowhere", "--dsn", database.dsn)
    assert ended.code == 2 and ended.stderr.splitlines()[0] == 'error: slot "nowhere" does not exist'
    database.execute("SELECT pg_drop_replication_slot('pgcdc_shop')")


@pytest.mark.parametrize(("seconds", "code"), [("600", 0), ("0", 1)])
def test_a_slot_that_is_too_far_behind_is_an_error(newest_database: Database, seconds: str, code: int) -> None:
    """The age is that of a WAL file's last write, less a second: it was written a minute ago."""
    database = newest_database
    database.execute("SELECT pg_create_logical_replication_slot('late', 'pgoutput')")
    database.execute("CREATE TABLE t (id int)")
    data = database.execute("SHOW data_directory")[0][0]
    [(file,)] = database.execute(
        "SELECT pg_walfile_name(confirmed_flush_lsn) FROM pg_replication_slots WHERE slot_name = 'late'"
    )
    database.execute("SELECT pg_switch_wal()", "CREATE TABLE u (id int)")
    path = Path(data, "pg_wal", file)
    before = path.stat()
    os.utime(path, (before.st_atime - 60, before.st_mtime - 60))
    ended = run("lag", "late", "--dsn", database.dsn, "--max", seconds)
    age = re.search(r" and (\d+) s at least behind", ended.stdout)
    assert ended.code == code and age and 55 <= int(age[1]) < 600, ended
    database.execute("SELECT pg_drop_replication_slot('late')")
