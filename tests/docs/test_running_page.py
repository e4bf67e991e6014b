"""The page "Running a pipeline": its files are written as they stand there, its commands say what stands below them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pgcdc import cli, config
from tests.demo.running import environment
from tests.pipeline.running import until
from tests.pipeline.test_kill import copied_positions

if TYPE_CHECKING:
    from tests.conftest import Database

PAGE = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
CONSOLES = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    tuple(command.split("\n", 1))
    for console in CONSOLES
    for command in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]
]
RUNS = "pgcdc run pgcdc.toml"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    assert set(FILES) == {"shop.py", "targets.py", "pgcdc.toml"}
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def variables(**more: str) -> dict[str, str]:
    found = environment(**more)
    return {**found, "PATH": f"{Path(sys.executable).parent}:{found['PATH']}"}


def even(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "NOW", text)
    text = re.sub(r"after [\d.]+ s", "after N s", text)
    return re.sub(r"\b[0-9A-F]{1,8}/[0-9A-F]{1,8}\b", "X/Y", text)


@pytest.mark.parametrize(("command", "output"), [given for given in COMMANDS if given[0] != RUNS])
def test_a_command(place: Path, command: str, output: str) -> None:
    done = subprocess.run(
        command,
        shell=True,
        cwd=place,
        env=variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout + done.stderr == output
    assert done.returncode == (2 if "error:" in output else 0)


def test_the_run(place: Path, newest_database: Database) -> None:
    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    [output] = [output for command, output in COMMANDS if command == RUNS]
    process = subprocess.Popen(
        RUNS.split(),
        cwd=place,
        env=variables(SHOP_DSN=newest_database.dsn),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def streams() -> bool:
        # The slot is active for a moment when it is made, too; from the copy's end on, only while it is streamed from.
        active = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop' AND active"
        return copied_positions(newest_database)[1] == 2 and newest_database.execute(active) == [(1,)]

    with process:
        try:
            until(lambda: streams() or process.poll() is not None, "it streams", 120, 0.25)
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, stderr
    said = "".join(line for line in stderr.splitlines(keepends=True) if " pgcdc.snapshot: " not in line)
    assert even(stdout + said) == even(output)
    assert (place / "orders.ndjson").read_text().count('"insert"') == 1


def test_every_key_is_in_the_table() -> None:
    table = PAGE.partition("| section |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    for section in (config.PipelineSection, config.PositionsSection, config.ConsumerSection):
        assert set(section.__struct_fields__) <= named


def test_every_exit_code_is_in_the_table() -> None:
    for code in (0, cli.EXIT_ERROR, cli.EXIT_CONFIGURATION, cli.EXIT_SLOT_IN_USE, cli.EXIT_INTERRUPTED):
        assert re.search(rf"^\| {code}\b", PAGE, re.MULTILINE)
