"""`./dev` on a machine that lacks something: one sentence, a hint, and an exit code that is not 0."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DEV = Path(__file__).parents[1] / "dev"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with nothing but `dev`, and `bin`: all that is on PATH."""
    shutil.copy(DEV, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "cat", "dirname", "mktemp", "rm"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    return tmp_path


def dev(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `./dev` with nothing on PATH but what the checkout has in `bin`."""
    environment = {"PATH": str(checkout / "bin"), "HOME": str(checkout)}
    return subprocess.run(
        [checkout / "dev", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def put(checkout: Path, *names: str) -> None:
    """Programs that do nothing, successfully."""
    for name in names:
        program = checkout / "bin" / name
        program.write_text("#!/usr/bin/env bash\n")
        program.chmod(0o755)
    (checkout / "bin" / "env").symlink_to("/usr/bin/env")


@pytest.mark.parametrize("verb", ["demo", "test", "bench", "type", "docs", "fuzz", "wheel"])
def test_no_rust(checkout: Path, verb: str) -> None:
    done = dev(checkout, verb)
    assert done.returncode == 1
    assert done.stderr == "dev: no Rust: cargo is not on PATH\nhint: install it from https://rustup.rs\n"
    assert done.stdout == ""
    assert not (checkout / ".venv").exists()


def test_no_compiler(checkout: Path) -> None:
    put(checkout, "cargo")
    done = dev(checkout, "demo")
    assert done.returncode == 1
    assert done.stderr.startswith("dev: no C compiler: Rust links with cc\nhint: ")


def test_no_python(checkout: Path) -> None:
    put(checkout, "cargo", "cc")
    done = dev(checkout, "demo")
    assert done.returncode == 1
    assert done.stderr.startswith("dev: no Python 3.11 or newer on PATH\nhint: ")


def test_python_is_too_old(checkout: Path) -> None:
    put(checkout, "cargo", "cc")
    old = checkout / "bin" / "python3"
    old.write_text("#!/usr/bin/env bash\nexit 1\n")  # how Python answers whether it is at least 3.11
    old.chmod(0o755)
    done = dev(checkout, "test")
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr


def test_unknown_verb_shows_the_verbs(checkout: Path) -> None:
    done = dev(checkout, "tset")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "./dev test" in done.stderr
    assert done.stderr.endswith("dev: there is no verb tset\n")


def test_help_is_on_stdout(checkout: Path) -> None:
    done = dev(checkout, "help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("./dev demo")
