"""Whether wheels have what is in the package's folder, and nothing else: python -m tools.wheel_contents dist/*.whl."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

__all__ = ["differences", "of_tree", "of_wheel"]

PACKAGE = Path(__file__).parents[1] / "python" / "pgcdc"


def of_tree(package: Path) -> set[str]:
    """What belongs into a wheel: all files of the package but what was built or cached there.

    Args:
        package: Its folder.
    """
    return {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".pyd", ".pyc")
    }


def of_wheel(wheel: Path) -> set[str]:
    """What a wheel installs, but for its metadata and the one extension.

    Args:
        wheel: The file.

    Raises:
        ValueError: When it has no extension, or more than one.
    """
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/") and ".dist-info/" not in name}
    extensions = {name for name in names if name.endswith((".so", ".pyd"))}
    if len(extensions) != 1:
        raise ValueError(f"{wheel.name} has {len(extensions)} extensions")
    return names - extensions


def differences(wheel: Path, package: Path = PACKAGE) -> list[str]:
    """What one has and the other has not.

    Args:
        wheel: The wheel.
        package: The package's folder.

    Returns:
        A sentence for each file.
    """
    there, wanted = of_wheel(wheel), of_tree(package)
    lacks = [f"{wheel.name} lacks {name}" for name in sorted(wanted - there)]
    return lacks + [f"{wheel.name} has {name}, and nobody knows why" for name in sorted(there - wanted)]


if __name__ == "__main__":
    found = [line for name in sys.argv[1:] for line in differences(Path(name))]
    sys.exit("\n".join(found) or (0 if len(sys.argv) > 1 else "which wheels?"))
