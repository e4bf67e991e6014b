"""Reference: tid, pg_lsn, xid8, pg_snapshot, int2vector and oidvector.

Source: server files `utils/adt/tid.c`, `pg_lsn.c`, `xid.c`, `xid8funcs.c`, `int.c`, `oid.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from pgcdc.protocol import PgTid
from tests.reference_values.reading import matched, need, unpack


def tid_text(data: bytes) -> PgTid:
    """`(0,1)`."""
    block, offset = map(int, matched(r"\(([0-9]{1,10}),([0-9]{1,5})\)", data).groups())
    need(block < 1 << 32 and offset < 1 << 16, "out of range")
    return PgTid(block, offset)


def tid_binary(data: bytes) -> PgTid:
    """Block and offset."""
    return PgTid(*unpack(">IH", data))


def lsn_text(data: bytes) -> int:
    """`16/B374D848`."""
    high, low = matched(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", data).groups()
    return int(high, 16) << 32 | int(low, 16)


def lsn_binary(data: bytes) -> int:
    """Eight bytes."""
    lsn: int = unpack(">Q", data)[0]
    return lsn


def snapshot_text(data: bytes) -> str:
    """`10:20:10,14,15`."""
    return matched(r"[0-9]+:[0-9]+:(?:[0-9]+(?:,[0-9]+)*)?", data).group()


def snapshot_binary(data: bytes) -> str:
    """How many transactions are in progress, the first, the one after the last, those in progress."""
    need(len(data) >= 20, "wrong length")
    count, low, high = struct.unpack_from(">IQQ", data)
    need(len(data) == 20 + 8 * count, "wrong length")
    return f"{low}:{high}:" + ",".join(map(str, struct.unpack_from(f">{count}Q", data, 20)))


def vector_text(element: Callable[[bytes], int]) -> Callable[[bytes], list[int]]:
    """int2vector and oidvector: numbers with a space between them."""

    def from_text(data: bytes) -> list[int]:
        return [element(word) for word in data.split(b" ")] if data else []

    return from_text
