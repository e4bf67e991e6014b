"""What can be asked of a running pipeline: frozen numbers, made when somebody asks."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from pgcdc.lsn import Position
from pgcdc.pipeline.breaker import BreakerState
from pgcdc.pipeline.delivery import ConsumerState
from pgcdc.pipeline.queue import Waiting
from pgcdc.replication import SnapshotProgress

__all__ = ["ConsumerStatistics", "Phase", "PipelineStatistics", "SourceStatistics"]

Phase: TypeAlias = Literal["starting", "standby", "snapshot", "streaming", "reconnecting", "stopped"]


class ConsumerStatistics(msgspec.Struct, frozen=True):
    """One consumer.

    Attributes:
        delivered: Changes that became durable in it during this run.
        position: The last change that is durable in it.
        through_lsn: How far the WAL is done for it.
        queued_rows: Changes in flight: handed over and not yet durable.
        queued_bytes: Bytes of raw messages that they keep in memory; a batch counts whole, whatever the filter left.
        state: `"starting"`, `"running"`, `"retrying"`, `"failed"` or `"stopped"`.
        last_error: The last thing that went wrong, also when a later attempt went well.
        failures: How many attempts in a row have failed, up to now.
        breaker: `"closed"`; `"open"` while the target is left alone after many of them; `"half-open"` while it is tried
            once.
        next_attempt_in: Seconds until then, while it is open.
        dead_letters: How many dead letters it has, those that wait included.
        held_keys: How many keys wait behind one of them.
        waiting: Where what comes for it waits: in `"memory"`; in the `"spool"`, because it did not fit; or nowhere,
            because the spool is `"full"`, too, and then nothing more is read from the server.
        spooled_batches: Batches in its spool that are still needed.
        spooled_bytes: What the files of its spool take.
        lag_seconds: How late it is: how old the oldest transaction is, by its commit time, that came and is not durable
            in it; 0.0 when it has everything and the server has nothing more to send. While there is no connection, the
            time since the server was heard of counts, too, and of one that is parked the time since then. None before
            the stream, and from Kafka.
        parked: Why it applies nothing for now though its writes return, as a projection that has failed; None when it
            does.
    """

    delivered: int
    position: Position | None
    through_lsn: int
    queued_rows: int
    queued_bytes: int
    state: ConsumerState
    last_error: str | None
    failures: int = 0
    breaker: BreakerState = "closed"
    next_attempt_in: float | None = None
    dead_letters: int = 0
    held_keys: int = 0
    waiting: Waiting = "memory"
    spooled_batches: int = 0
    spooled_bytes: int = 0
    lag_seconds: float | None = None
    parked: str | None = None


class SourceStatistics(msgspec.Struct, frozen=True):
    """The replication stream.

    Attributes:
        phase: `"starting"`, `"standby"`, `"snapshot"`, `"streaming"`, `"reconnecting"` or `"stopped"`.
        received_lsn: How far the WAL was received.
        confirmed_lsn: How far it was confirmed to the server.
        binary: Whether values come in binary; None before the stream.
        lag: Bytes of WAL between what was received and what the slowest consumer has done.
        snapshot: How far the copy of existing rows is: of the first copy, or of what is copied for consumers and tables
            that joined later, while the phase is `"streaming"`. None while nothing is copied.
        kind: Where changes come from: the `"slot"`, or topics on `"kafka"`.
        moved_ago: Seconds since the thread that reads from the server was last seen to do something; None while it does
            not stream: what comes before may take its time.
    """

    phase: Phase
    received_lsn: int
    confirmed_lsn: int
    binary: bool | None
    lag: int
    snapshot: SnapshotProgress | None = None
    kind: Literal["slot", "kafka"] = "slot"
    moved_ago: float | None = None


class PipelineStatistics(msgspec.Struct, frozen=True):
    """One pipeline.

    Attributes:
        name: The pipeline's name.
        source: The stream.
        consumers: The consumers by name.
        own_slots: The streams of those that have a slot of their own.
        loop_ago: Seconds since the event loop last turned, to a second; None while no run is under way.
        stored_ago: Seconds since positions could last be stored, or since the run began; None likewise, and from Kafka.
    """

    name: str
    source: SourceStatistics
    consumers: dict[str, ConsumerStatistics]
    own_slots: dict[str, SourceStatistics] = {}
    loop_ago: float | None = None
    stored_ago: float | None = None
