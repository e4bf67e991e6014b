"""What a wheel lacks, and what it should not have, is found; `./dev wheel` asks it of each."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from tools.wheel_contents import PACKAGE, differences, of_tree


def made(tmp_path: Path, *names: str) -> Path:
    """A wheel of these files."""
    wheel = tmp_path / "some.whl"
    with ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return wheel


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "pgcdc"
    for name in ("a.py", "py.typed", "console/static/style.css", "__pycache__/a.pyc", "_pgoutput.so"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    return package


WHOLE = ("pgcdc/a.py", "pgcdc/py.typed", "pgcdc/console/static/style.css", "pgcdc/_pgoutput.so")


def test_a_whole_wheel(tmp_path: Path, package: Path) -> None:
    wheel = made(tmp_path, *WHOLE, "pgcdc-1.dist-info/METADATA")
    assert differences(wheel, package) == []


def test_one_that_lacks_or_has_too_much(tmp_path: Path, package: Path) -> None:
    wheel = made(tmp_path, *WHOLE[:2], "pgcdc/b.py", WHOLE[3])
    assert differences(wheel, package) == [
        "some.whl lacks pgcdc/console/static/style.css",
        "some.whl has pgcdc/b.py, and nobody knows why",
    ]


def test_one_without_its_extension(tmp_path: Path, package: Path) -> None:
    with pytest.raises(ValueError, match="0 extensions"):
        differences(made(tmp_path, *WHOLE[:3]), package)


def test_what_is_no_code_is_looked_for() -> None:
    """In the package itself: types, SQL, the console's files."""
    suffixes = {Path(name).suffix for name in of_tree(PACKAGE)}
    assert {".typed", ".pyi", ".sql", ".css", ".js"} <= suffixes
