"""What an assembler says of itself."""

from __future__ import annotations

import msgspec

__all__ = ["AssemblerStatistics"]


class AssemblerStatistics(msgspec.Struct, frozen=True):
    """What is open in an assembler at one moment, and what room it takes.

    Attributes:
        streamed: Streamed transactions that have neither been committed nor rolled back nor prepared.
        prepared: Prepared transactions that have neither been committed nor rolled back.
        memory_bytes: What of them, and of the transaction that is coming out, is in memory, in bytes: messages, the
            shapes of their tables, ids of what was rolled back.
        spilled_bytes: What of them is in files, in bytes, compressed.
    """

    streamed: int
    prepared: int
    memory_bytes: int
    spilled_bytes: int
