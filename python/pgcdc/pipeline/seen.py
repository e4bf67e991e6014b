"""What a pipeline has seen of the catalog, in a form that is stored: a start finds what was changed meanwhile.

A row of the catalog has the ID of the transaction that wrote it (`xmin`). Whatever committed before a query began is
visible to it; so what it has seen is told by one number, below which no transaction was open any more, and the few IDs
above it that it has met.

Source: PostgreSQL manual, "System Columns" (`xmin`), "Transaction ID and Snapshot Information Functions".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

import msgspec

__all__ = ["Seen", "full_xid"]

_FIRST_NORMAL = 3
"""Lower ones are of the server's own making: as old as the database."""


class Seen(msgspec.Struct, frozen=True):
    """What was seen of the catalog.

    Attributes:
        horizon: What transactions below this had committed was seen.
        newer: Transactions at or above it of which something was seen.
    """

    horizon: int
    newer: frozenset[int]

    @classmethod
    def of(cls, horizon: int, xids: Collection[int]) -> Self:
        """Make it of what a query has given.

        Args:
            horizon: `pg_snapshot_xmin` of the query's snapshot.
            xids: All transactions that wrote what it has seen.

        Returns:
            What was seen.
        """
        return cls(horizon, frozenset(xid for xid in xids if xid >= horizon))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Undo `str`.

        Args:
            text: What `str` gave.

        Returns:
            What was seen.
        """
        horizon, *newer = map(int, text.split())
        return cls(horizon, frozenset(newer))

    def __str__(self) -> str:
        return " ".join(map(str, (self.horizon, *sorted(self.newer))))

    def has(self, xid: int) -> bool:
        """Whether what a transaction wrote was seen.

        Args:
            xid: The transaction, of one that is seen now.
        """
        return xid < self.horizon or xid in self.newer


def full_xid(xid: str, next_xid: int) -> int:
    """Make a transaction ID of 64 bits of the 32 that a row has.

    One that is older than the 32 bits can tell is taken for a later one: then something old looks new, never the other
    way round.

    Args:
        xid: `xmin` of a row that is visible.
        next_xid: `pg_snapshot_xmax` of the snapshot in which it is.

    Returns:
        The last transaction before `next_xid` that ends in these bits; 0 for those that are always in the past.
    """
    number = int(xid)
    return 0 if number < _FIRST_NORMAL else next_xid - ((next_xid - number) & 0xFFFF_FFFF)
