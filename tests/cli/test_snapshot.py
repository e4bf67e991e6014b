"""`pgcdc snapshot` as a process: each format against what the server itself says of the table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.demo.running import run, start

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

ROWS = """INSERT INTO items VALUES
    (1, 'plain', 1.50, '2026-01-31', '{"a": 1}'), (2, 'with "quotes", and a comma', -0.001, NULL, NULL),
    (3, E'two\\nlines', NULL, '0001-01-01', '[]'), (4, '', 12345678901234567890.123, NULL, 'true'),
    (5, NULL, 0, NULL, '1')"""


@pytest.fixture
def items(newest_database: Database) -> Database:
    newest_database.execute(
        "CREATE TABLE items (id int PRIMARY KEY, note text, price numeric, day date, doc jsonb)",
        ROWS,
        'CREATE TABLE "Empty" (id int, at timestamptz)',
    )
    return newest_database


def left(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
        " UNION ALL SELECT pubname FROM pg_publication"
    )


def test_lines_of_all_tables(items: Database) -> None:
    ended = run("snapshot", items.dsn)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert ended.code == 0 and {(line["action"], line["table"], line["index"]) for line in lines} == {
        ("insert", "items", -1)
    }
    assert sorted(line["new"]["id"] for line in lines) == [1, 2, 3, 4, 5]
    assert " snapshot of " in ended.stderr and "2 of 2 tables, 5" in ended.stderr
    assert left(items) == []


def test_a_reader_that_has_enough(newest_database: Database) -> None:
    newest_database.execute(
        "CREATE TABLE many (id int, text text)",
        "INSERT INTO many SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g",
    )
    with start("snapshot", newest_database.dsn) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in errors and "rror" not in errors, errors
    assert left(newest_database) == []


def test_csv_is_what_the_server_writes(items: Database) -> None:
    with (
        items.connect() as connection,
        connection.cursor().copy("COPY (SELECT * FROM items) TO STDOUT (FORMAT csv, HEADER)") as copy,
    ):
        wanted = b"".join(bytes(piece) for piece in copy).decode()
    ended = run("snapshot", items.dsn, "--table", "items", "--format", "csv")
    assert (ended.code, ended.stdout) == (0, wanted)
    ended = run("snapshot", items.dsn, "--table", "items", "--format", "csv", "--where", "price < 1 AND id > 2")
    assert ended.stdout.splitlines()[1:] == ["5,,0,,1"]


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_columns(items: Database, tmp_path: Path, format: str) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'pgcdc[objects]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    items.execute("ALTER TABLE items DROP COLUMN price", "ALTER TABLE items DROP COLUMN doc")
    ended = run("snapshot", items.dsn, "--format", format, "--output", str(tmp_path / "out"), "--json")
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    files = {one["table"]: tmp_path / "out" / f"{one['table']}.{format}" for one in told}
    assert ended.code == 0 and {one["table"]: one["rows"] for one in told} == {"public.Empty": 0, "public.items": 5}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files.values())

    def read(path: Path) -> Any:
        if format == "parquet":
            return parquet.read_table(path)
        with pyarrow.ipc.open_file(str(path)) as reader:
            return reader.read_all()

    rows = read(files["public.items"])
    found = items.execute("SELECT id, note, day FROM items")
    assert sorted(map(tuple, (row.values() for row in rows.to_pylist()))) == sorted(found)
    empty = read(files["public.Empty"])
    assert empty.num_rows == 0 and empty.column_names == ["id", "at"]


def test_a_file_is_there_when_it_is_whole(items: Database, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'pgcdc[objects]'")
    items.execute("UPDATE items SET day = 'infinity' WHERE id = 5")
    file = tmp_path / "items.parquet"
    arguments = ("snapshot", items.dsn, "--table", "items", "--output", str(file))
    refused = run(*arguments)
    assert refused.code == 1 and "hint: --text public.items.day writes it as text" in refused.stderr
    assert list(tmp_path.iterdir()) == [] and left(items) == []
    assert run(*arguments, "--text", "public.items.day").code == 0
    again = run(*arguments, "--text", "public.items.day", "--json")
    assert again.code == 2 and json.loads(again.stderr.splitlines()[-1])["hint"] == "--overwrite takes its place"
    assert list(tmp_path.iterdir()) == [file]


def test_each_table_has_a_file_of_its_own(newest_database: Database, tmp_path: Path) -> None:
    """Whatever is in names: none is the file of another one, or in another folder."""
    tables = ['"x/y"', '"x_y"', '"x%2Fy"', '"..\\x"', '"we"."ird.t"', '"we.ird"."t"']
    newest_database.execute(
        'CREATE SCHEMA "we"',
        'CREATE SCHEMA "we.ird"',
        *(f"CREATE TABLE {name} AS SELECT {number} AS id" for number, name in enumerate(tables)),
    )
    ended = run("snapshot", newest_database.dsn, "--format", "csv", "--output", str(tmp_path / "out"), "--json")
    assert ended.code == 0, ended
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {
        "public.x%2Fy.csv": "id\n0\n",
        "public.x_y.csv": "id\n1\n",
        "public.x%252Fy.csv": "id\n2\n",
        "public.%2E%2E%5Cx.csv": "id\n3\n",
        "we.ird%2Et.csv": "id\n4\n",
        "we%2Eird.t.csv": "id\n5\n",
    }
    assert {json.loads(line)["file"] for line in ended.stdout.splitlines()} == {
        str(tmp_path / "out" / name) for name in found
    }


def test_a_role_that_may_only_read(items: Database, tmp_path: Path) -> None:
    role = f"reader_{items.name}"
    items.execute(f"CREATE ROLE {role} LOGIN REPLICATION", f"GRANT SELECT ON items TO {role}")
    try:
        ended = run("snapshot", f"{items.dsn} user={role}")
        assert ended.code == 0 and ended.stdout.count("\n") == 5
        assert ended.stderr.startswith("snapshot: without 1 table that this role may not read\n")
    finally:
        items.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "parquet"], "parquet is not written to stdout"),
        (["--format", "csv"], "CSV on stdout is of one table"),
        (["--table", "nowhere"], "table public.nowhere does not exist"),
    ],
)
def test_what_is_wrong(items: Database, arguments: list[str], says: str) -> None:
    ended = run("snapshot", items.dsn, *arguments)
    assert (ended.code, ended.stdout) == (2, "") and ended.stderr.startswith(f"error: {says}")
