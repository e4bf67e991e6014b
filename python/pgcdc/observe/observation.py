"""What is seen of a pipeline of this process at one moment, as values: they are what `/statistics` answers."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

import msgspec

from pgcdc.pipeline import PipelineStatistics, SourceStatistics
from pgcdc.replication import SlotState

__all__ = ["REASONS", "Limits", "Observation", "Reason", "ReasonKind", "ServerState", "Stream"]

ReasonKind: TypeAlias = Literal[
    "starting",
    "standby",
    "snapshot",
    "reconnecting",
    "stopped",
    "slot_lost",
    "stalled",
    "store_away",
    "consumer_starting",
    "consumer_failed",
    "parked",
    "breaker_open",
    "retrying",
    "spool_full",
    "late",
    "thread_stuck",
    "loop_stuck",
]
"""Why a pipeline is not ready or not well; docs/observe.md says what each means."""
REASONS: Final[tuple[ReasonKind, ...]] = get_args(ReasonKind)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """From when on a pipeline is not ready, or not well.

    Attributes:
        late: Seconds that a consumer may be late.
        stalled: Seconds that the stream may lack what the server has, and that positions may not be storable.
        stuck: Seconds without a sign of life after which a thread is taken for dead.
    """

    late: float = 600.0
    stalled: float = 60.0
    stuck: float = 60.0


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why a pipeline is not ready, or not well.

    Attributes:
        kind: Which reason it is.
        text: It in words; no values of rows.
        consumer: The consumer that it is about; None when it is about all.
    """

    kind: ReasonKind
    text: str
    consumer: str | None = None


class ServerState(msgspec.Struct, frozen=True, kw_only=True):
    """What the server said when it was asked last.

    Attributes:
        age: Seconds since then.
        slots: The pipeline's slot, and those of consumers that have one of their own; those that there are.
        wal_lsn: How far its WAL is flushed.
        wal_bytes_per_second: How much WAL it writes, over the last ten minutes at most; None until that is known.
        seconds_until_lost: How long each of these can be left alone at that rate before it may be lost, by its name;
            not there where nothing limits what it keeps, or the rate is not known.
        clock_ahead: Seconds by which the server's clock is ahead of ours.
    """

    age: float
    slots: list[SlotState]
    wal_lsn: int
    wal_bytes_per_second: float | None
    seconds_until_lost: dict[str, float]
    clock_ahead: float


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One of the streams of a pipeline.

    Attributes:
        slot: The slot that it is from.
        consumer: The consumer that has this slot for its own; None: the pipeline's slot.
        source: What the pipeline says of it.
    """

    slot: str
    consumer: str | None
    source: SourceStatistics


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline of this process, and its slots.

    Attributes:
        streams: The stream of the pipeline's slot, and those of slots that consumers have for their own.
        statistics: What the pipeline says, `lag_seconds` by the server's clock where that is known.
        server: What the server said; None when it was not heard of for a minute, and of a pipeline that reads from
            Kafka.
        ready: Whether it does what it is there for.
        reasons: Why it does not.
        well: Whether its threads and its event loop run; what does not get better by itself.
        illnesses: What is wrong with them.
    """

    streams: list[Stream]
    statistics: PipelineStatistics
    server: ServerState | None
    ready: bool
    reasons: list[Reason]
    well: bool
    illnesses: list[Reason]
