"""What `stats` and `check` have found, as values for programs and as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    import psycopg

__all__ = ["PAYS_MILLISECONDS", "Finding", "StoreStatistics", "StreamTypeStatistics", "bytes_of", "not_taken"]

PAYS_MILLISECONDS: Final = 20.0
"""Below this a stream is read from its beginning quickly enough: a snapshot is one more thing that can be wrong."""


class StreamTypeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The streams of one type.

    Attributes:
        stream_type: The type.
        streams: How many there are.
        events: How many events they have, those that were archived included.
        longest: How many events the longest has.
        load_milliseconds: What it takes to read and decode the longest, by what was measured; the fold comes on top.
        snapshots: How many snapshots there are of them.
        snapshots_pay: Whether they are worth it.
    """

    stream_type: str
    streams: int
    events: int
    longest: int
    load_milliseconds: float
    snapshots: int
    snapshots_pay: bool


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of a store.

    Attributes:
        schema: Its schema.
        streams: How many streams there are.
        events: How many events they have, those that were archived included.
        table_bytes: What the events take, without indexes.
        index_bytes: What their indexes take.
        payload_bytes: The mean size of a payload in the table, compressed where it is; of the last thousand events.
        largest_payload_bytes: The largest of these.
        oldest: When the first event occurred that is in the table; None when there is none.
        microseconds_per_event: What reading and decoding an event of the longest stream takes here and now; 0.0 when no
            stream has enough events in the table to measure it, and then no snapshots pay.
        segments: How many files the archive has.
        archived_events: How many events are in them.
        archive_bytes: What they take.
        types: The stream types, those with most events first.
    """

    schema: str
    streams: int
    events: int
    table_bytes: int
    index_bytes: int
    payload_bytes: float
    largest_payload_bytes: int
    oldest: datetime | None
    microseconds_per_event: float
    segments: int
    archived_events: int
    archive_bytes: int
    types: list[StreamTypeStatistics]

    def __str__(self) -> str:
        """Some lines for people."""
        lines = [
            f"event store in the schema {self.schema}: {self.events:,} events in {self.streams:,} streams",
            f"table {bytes_of(self.table_bytes)}, indexes {bytes_of(self.index_bytes)};"
            f" payloads {self.payload_bytes:,.0f} bytes on average, {self.largest_payload_bytes:,} at most"
            " (the last thousand events)",
            f"reading an event takes {self.microseconds_per_event:.1f} µs"
            if self.microseconds_per_event
            else "what reading an event takes was not measured: too few events of a stream are in the table",
        ]
        if self.segments:
            lines.append(
                f"archive: {self.archived_events:,} of these events in {self.segments:,} segments,"
                f" {bytes_of(self.archive_bytes)}"
            )
        for one in self.types:
            verdict = "snapshots pay" if one.snapshots_pay else f"no snapshots needed below {PAYS_MILLISECONDS:.0f} ms"
            measured = f"{one.load_milliseconds:.1f} ms without a snapshot; {verdict}"
            lines.append(
                f"  {one.stream_type}: {one.events:,} events in {one.streams:,} streams, the longest {one.longest:,}:"
                f" {measured if self.microseconds_per_event else 'not measured'}; {one.snapshots:,} there"
            )
        return "\n".join(lines)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the checklist.

    Attributes:
        number: Its number.
        what: What is asked for.
        status: "ok", "warning", "failed", or "nothing" when there is nothing yet that it could be about.
        found: What was found.
        hint: What to do; None when nothing.
    """

    number: int
    what: str
    status: Literal["ok", "warning", "failed", "nothing"]
    found: str
    hint: str | None = None

    def __str__(self) -> str:
        """A line, and one for the hint."""
        line = f"{self.number} {self.status:<8}{self.what}: {self.found}"
        return line if self.hint is None else f"{line}\n  {'':8}{self.hint}"


TRIGGERS: Final = {
    ("events", "append_only"): ("ENABLE", "OA"),
    ("events", "advance_stream"): ("ENABLE", "OA"),
}
"""Table and name: how it is put in force, and the modes (`tgenabled`) in which it is."""
RULES: Final = {
    ("events", "keep_rules"): ("ENABLE ALWAYS", "A"),
    ("events", "keep_rules_of_copies"): ("ENABLE REPLICA", "RA"),
    ("streams", "keep_rules"): ("ENABLE ALWAYS", "A"),
}
"""Likewise, from migration 9 on."""


OWN: Final = frozenset(
    {
        "events_event_version_check",
        "events_metadata_object",
        "events_occurred_finite",
        "events_payload_object",
        "events_payload_size",
        "events_pkey",
        "events_retention_class_check",
        "events_sequence_check",
        "events_stream_sequence",
        "streams_no_hole",
        "streams_pkey",
        "streams_state",
        "streams_state_check",
        "streams_type",
        "streams_version_check",
    }
)
"""What the store's own constraints, rules and refusals are named."""
_NO_REFUSALS: Final = ("08", "40", "42", "53", "54", "55P03", "57", "58", "XX")
"""What SQLSTATEs begin with that say nothing of a row: the server, its locks, or a store that is not there."""


def not_taken(error: psycopg.Error, triggers: Sequence[str]) -> str | None:
    """Why the event that is tried was not taken, where the store itself takes it.

    Args:
        error: What the server has raised.
        triggers: The names of those on the store's tables that are not the store's.

    Returns:
        Some words; None where it is the store, or the server, that did not take it.
    """
    state, constraint = error.sqlstate or "", error.diag.constraint_name
    if not state or state.startswith(_NO_REFUSALS) or constraint in OWN:
        return None
    whose = f", constraint {constraint}" if constraint else ""
    if not constraint and triggers:
        whose = f", triggers of your own: {', '.join(triggers)}"
    said = f"{error.diag.message_primary} (SQLSTATE {state}{whose})"
    return f"was not tried, because an event of the type pgcdc.check is refused: {said}"


def bytes_of(count: int) -> str:
    """A number of bytes, short.

    Args:
        count: The number.

    Returns:
        As in "12 kB".
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 10_000:
            return f"{count:,} {unit}"
        count //= 1024
    return f"{count:,} TB"
