"""Completion in bash: the script that typer prints is loaded, and asked as the shell asks it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo.running import environment

ASK = """
source <(pgcdc --show-completion)
COMP_WORDS=(%s) COMP_CWORD=%d
_pgcdc_completion pgcdc
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_installed_for_bash(tmp_path: Path) -> None:
    variables = environment(HOME=str(tmp_path))
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    command = ["bash", "--norc", "-c", "pgcdc --install-completion; true"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=120)
    assert "bash completion installed in" in done.stdout, done.stderr
    [installed] = (tmp_path / ".bash_completions").iterdir()
    assert "_pgcdc_completion" in installed.read_text() and installed.name in (tmp_path / ".bashrc").read_text()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [("pgcdc sn", ["snapshot"]), ("pgcdc deadletter re", ["retry"]), ("pgcdc tail --templ", ["--template"])],
)
def test_bash(words: str, found: list[str]) -> None:
    script = ASK % (words, len(words.split()) - 1)
    variables = environment()
    variables["PATH"] = f"{Path(sys.executable).parent}:{variables['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=variables, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == found, done.stderr
