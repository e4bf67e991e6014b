"""Every Python block of the README is run as it stands there, but for the DSN, and says what the README says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Database

_ROOT = Path(__file__).parents[1]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
_BLOCKS = re.findall(r"^```python\n(.*?)^```$", _README, re.MULTILINE | re.DOTALL)
_PIPELINE = (_ROOT / "examples" / "pipeline.py").read_text(encoding="utf-8")

# What begins a block's interesting line, and what it has to print for the one order of the test's shop.
_EXPECTED = {
    'Pipeline("shop"': "insert Order(id=1, status='paid', total=Decimal('9.90'))",
    "class Printer": "insert orders",
    "match decoder.decode(": "2 pending 5.00",
    "to_arrow(": "[('pending', Decimal('5.00'))]",
    "connection.stream(": "<Commit ",
}


@pytest.fixture
def shop(newest_database: Database) -> Database:
    """What the README takes for granted: tables, a publication, a slot, somebody who writes."""
    database = newest_database
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, user_id int, status text, total numeric(12,2))",
        "CREATE TABLE order_items (id int PRIMARY KEY)",
        "INSERT INTO orders VALUES (1, 1, 'paid', 9.90)",
        "CREATE PUBLICATION my_publication FOR TABLE orders",
    )
    for slot in ("my_slot", "my_stream"):
        database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    database.execute("INSERT INTO orders VALUES (2, 1, 'pending', 5)")
    return database


def test_pipeline_is_the_example_and_short() -> None:
    assert _PIPELINE in _BLOCKS
    assert len([line for line in _PIPELINE.splitlines() if line.strip()]) <= 20


def test_every_block_is_known() -> None:
    assert len(_BLOCKS) == len(_EXPECTED)
    for key in _EXPECTED:
        assert sum(key in block for block in _BLOCKS) == 1, key


@pytest.mark.parametrize("key", _EXPECTED)
def test_block(shop: Database, key: str, tmp_path: Path) -> None:
    [block] = [block for block in _BLOCKS if key in block]
    program = tmp_path / "block.py"
    program.write_text(block.replace('"dbname=shop"', repr(shop.dsn)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(_ROOT / "python"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, str(program), shop.dsn],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if _EXPECTED[key] in line:
                break
        else:
            pytest.fail(f"{_EXPECTED[key]!r} did not come, but {lines}; {process.communicate()[1]}")
        # A signal for a program that is ending by itself would meet the interpreter while it shuts down.
        endless = "pipeline.run()" in block or "pgcdc.connect(" in block
        if endless:
            process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    # A pipeline ends well when told to; a bare loop ends as Python ends one.
    if "pipeline.run()" in block or not endless:
        assert (process.returncode, complaint) == (0, "")
    elif complaint or process.returncode not in (0, -signal.SIGINT):
        assert complaint.rstrip().endswith("KeyboardInterrupt"), complaint


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", _README):
        assert (_ROOT / link).exists(), link
