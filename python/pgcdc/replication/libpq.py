"""The one place where psycopg is imported, so that a missing libpq is one sentence and not a traceback."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError
from pgcdc.protocol import Libpq

if TYPE_CHECKING:
    from pgcdc.protocol import Frames

try:
    import psycopg
    from psycopg import conninfo, pq, waiting
except ImportError as error:  # psycopg is there but finds no libpq, or it is not there at all
    raise ConfigError(
        "psycopg finds no libpq, the PostgreSQL client library, on this machine",
        hint="pip install 'psycopg[binary]', or install libpq by the system's package manager",
    ) from error

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

__all__ = ["conninfo", "find", "pq", "psycopg", "take", "waiting"]


def find() -> Libpq | None:
    """The libpq that psycopg has loaded, for the Rust half to call.

    Returns:
        None where it cannot be found: on Windows, or with a psycopg that is made otherwise.
    """
    module = sys.modules.get(pq.PGconn.__module__)
    try:
        if pq.__impl__ == "python":
            library = sys.modules["psycopg.pq._pq_ctypes"].pq
        elif module is not None and module.__file__ is not None and sys.platform != "win32":
            # Symbols are also looked for in what a library was linked with; nothing new is loaded.
            library = ctypes.CDLL(module.__file__, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        else:
            return None
        if library.PQlibVersion() != pq.version():
            return None
        addresses = (ctypes.cast(library[name], ctypes.c_void_p).value for name in ("PQgetCopyData", "PQfreemem"))
        return Libpq(*(address or 0 for address in addresses))
    except (OSError, AttributeError, KeyError, ValueError):
        return None


_FOUND = find()


def take(pgconn: PGconn, frames: Frames, max_bytes: int, max_frames: int, libpq: Libpq | None = _FOUND) -> int:
    """Take the CopyData payloads that libpq holds.

    Args:
        pgconn: A connection in COPY OUT or COPY BOTH.
        frames: Where payloads are put.
        max_bytes: Stop when so many bytes are there.
        max_frames: Stop when so many payloads are there.
        libpq: How; None for by psycopg alone, one payload at a time.

    Returns:
        What PQgetCopyData said last: a positive number when a limit was reached, 0 when nothing more has come so far,
        -1 when the server ended the COPY.

    Raises:
        psycopg.Error: When libpq cannot make out what came.

    Source:
        libpq: PQgetCopyData.
    """
    pointer: int | None = getattr(pgconn, "pgconn_ptr", None)  # in psycopg's documentation, not in its protocol class
    if libpq is not None and pointer is not None:
        said = frames.take(libpq, pointer, max_bytes, max_frames)
        if said < -1:
            raise psycopg.OperationalError(
                f"receiving copy data failed: {pgconn.error_message.decode(errors='replace')}"
            )
        return said
    while frames.nbytes < max_bytes and len(frames) < max_frames:
        said, payload = pgconn.get_copy_data(1)
        if said <= 0:
            return said
        frames.append(payload)
    return 1
