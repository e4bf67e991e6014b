"""What the demo is asked for, and what it reports in its closing line."""

from __future__ import annotations

from pathlib import Path

import msgspec

__all__ = ["Options", "Report", "TargetReport"]


class Options(msgspec.Struct, frozen=True):
    """What was asked for.

    Attributes:
        seconds: How long the writer writes; None: until Ctrl-C.
        dsn: The user's own server; None: the embedded one.
        rate: Row changes a second that the writer does not exceed; 0: as many as it can.
        redis: The URL of a Redis for the cache; None: in memory.
        directory: Where the target files stay; None: they are deleted.
    """

    seconds: float | None = None
    dsn: str | None = None
    rate: int = 3000
    redis: str | None = None
    directory: Path | None = None


class TargetReport(msgspec.Struct, frozen=True):
    """One target at the end.

    Attributes:
        equal: Whether it is the same as the source.
        rows: How many rows, documents or counts it has.
        delivered: Changes that it was given, with the rows of the initial copy.
        differing: How many keys differ from the source.
        first_differences: The first of them.
        away: How many times it could not be reached, and was tried again.
    """

    equal: bool
    rows: int
    delivered: int
    differing: int
    first_differences: tuple[str, ...]
    away: int = 0


class Report(msgspec.Struct, frozen=True):
    """The closing line.

    Attributes:
        written: Row changes of transactions that committed, after the existing rows.
        delivered: Rows of the initial copy and changes from the stream that reached the target of all three tables.
        targets_equal: Whether every target is the same as the source.
        seconds: From the first write until every target had everything.
        rows_per_second: `streamed` by `seconds`.
        snapshot_rows: Rows of the initial copy, with what was written before its snapshot.
        streamed: Changes from the stream.
        catch_up_seconds: How long the targets needed after the last write.
        schema_changes: How many times the shape of a table was changed, and followed.
        transactions: Transactions that committed.
        rolled_back: Transactions that were rolled back; no target has seen anything of them.
        targets: The targets by name.
        server_version: The server's version.
        binary: Whether the server sent values in binary.
    """

    written: int
    delivered: int
    targets_equal: bool
    seconds: float
    rows_per_second: int
    snapshot_rows: int
    streamed: int
    catch_up_seconds: float
    schema_changes: int
    transactions: int
    rolled_back: int
    targets: dict[str, TargetReport]
    server_version: str
    binary: bool | None
