"""WAL positions: PostgreSQL's `X/Y` notation, and the totally ordered position of one change.

An LSN is a plain `int` everywhere in pgcdc (bytes since the beginning of the WAL), so that comparing and subtracting
work; `format_lsn` and `parse_lsn` translate to and from the notation that PostgreSQL prints.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pgcdc.errors import ConfigError

__all__ = ["SNAPSHOT_INDEX", "Position", "format_lsn", "parse_lsn"]

SNAPSHOT_INDEX: Final = -1
"""The index of rows of the initial copy: before the first change (index 0) of a transaction at the same LSN."""


def format_lsn(lsn: int) -> str:
    """Print an LSN as PostgreSQL does.

    Args:
        lsn: Bytes since the beginning of the WAL, 0 to 2**64 - 1.

    Returns:
        Two hexadecimal halves: `"16/B374D848"`.

    Source:
        PostgreSQL manual, "pg_lsn Type"; server function `pg_lsn_out`.
    """
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read an LSN in PostgreSQL's notation.

    Args:
        text: Two hexadecimal numbers of at most eight digits, separated by a slash.

    Returns:
        Bytes since the beginning of the WAL.

    Raises:
        ConfigError: When the text is not an LSN.

    Source:
        PostgreSQL manual, "pg_lsn Type"; server function `pg_lsn_in`.
    """
    high, slash, low = text.partition("/")
    digits = set("0123456789abcdefABCDEF")
    if not slash or not (1 <= len(high) <= 8 and 1 <= len(low) <= 8) or not set(high + low) <= digits:
        raise ConfigError(f"{text!r} is not an LSN", hint='an LSN is written like "16/B374D848"')
    return int(high, 16) << 32 | int(low, 16)


class Position(NamedTuple):
    """Where one change stands in the order of all changes of a server.

    All changes of one transaction share the commit LSN, so the LSN alone is not a position. Positions compare as
    tuples; as text they are fixed-width hexadecimal, so that a target which compares strings gets the same order.

    Attributes:
        commit_lsn: The LSN of the transaction's commit record; for rows of the initial copy the consistent point.
        index: The number of the change among those of its transaction, from 0; -1 for rows of the initial copy.
    """

    commit_lsn: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs of a position

    @property
    def version(self) -> int:
        """A number of 64 bits for targets that keep one with each row, and take what is not below it.

        It is the commit's LSN, so all changes of a transaction have the same: of a row that changed twice in one, the
        last change must be written last, or alone. Rows of the initial copy have one less than the consistent point:
        a transaction may commit exactly there. It is below 2**63 until a server has written 8 EiB of WAL.
        """
        return self.commit_lsn - (self.index == SNAPSHOT_INDEX)

    def __str__(self) -> str:
        return f"{self.commit_lsn:016X}.{self.index + 1:08X}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read what `str(position)` printed.

        Args:
            text: Sixteen hexadecimal digits, a full stop, eight hexadecimal digits.

        Returns:
            The position.

        Raises:
            ConfigError: When the text is not a position.
        """
        try:
            high, low = text.split(".")
            if len(high) != 16 or len(low) != 8:
                raise ValueError
            return cls(int(high, 16), int(low, 16) - 1)
        except ValueError:
            raise ConfigError(f"{text!r} is not a position") from None
