"""Standard output that nobody reads any more, or that has no room."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Final

__all__ = ["forget_stdout", "is_of_output"]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def forget_stdout() -> None:
    """Let what is still to be printed go nowhere: Python would complain at its end that it cannot flush."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_of_output(error: OSError) -> bool:
    """Whether an error is that of writing to standard output: it names no file.

    Args:
        error: What was raised.
    """
    return error.filename is None and error.errno in _FULL
