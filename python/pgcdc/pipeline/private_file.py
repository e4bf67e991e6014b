"""Files of a pipeline's own, in which values of rows may be: made so that nobody but their owner reads them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["make_private"]


def make_private(path: Path) -> None:
    """Make an empty file for its owner alone (0600), where there is none; SQLite gives its journal the same mode.

    Args:
        path: The file; one that exists keeps its mode, and one that cannot be made is left to whoever opens it.
    """
    if str(path) == ":memory:":
        return
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
