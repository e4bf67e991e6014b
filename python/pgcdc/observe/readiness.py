"""Whether a pipeline does what it is there for, and if not, why not: a judgement of what was seen of it.

Not *ready* is what a person, or whoever routes work, has to know; it may get better by itself. Not *well* is what only
a new process puts right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pgcdc.observe.observation import Limits, Reason, ReasonKind, ServerState, Stream
from pgcdc.pipeline import ConsumerStatistics, PipelineStatistics

__all__ = ["illnesses", "unready"]

_PHASES: Final = {
    "starting": "it starts",
    "standby": "another process has the pipeline, and this one waits for it to end",
    "reconnecting": "it has lost the server, and connects again",
    "stopped": "it does not run",
}


def unready(
    statistics: PipelineStatistics,
    streams: Sequence[Stream],
    server: ServerState | None,
    stalled: Mapping[str, float],
    limits: Limits,
) -> list[Reason]:
    """Say why a pipeline is not ready.

    Args:
        statistics: What it says of itself.
        streams: Its streams.
        server: What the server said.
        stalled: For how many seconds each of them has lacked what the server had, by its slot.
        limits: What may be.

    Returns:
        The reasons, the gravest first; none when it is ready.
    """
    return [
        *_of_slot(server),
        *(reason for stream in streams for reason in _of_stream(stream, stalled.get(stream.slot, 0.0), limits)),
        *_of_store(statistics, limits),
        *(
            reason
            for name, one in statistics.consumers.items()
            if not (one.state == "starting" and not _streams(name, streams))  # it would say so twice
            for reason in _of_consumer(name, one, limits)
        ),
    ]


def _of_slot(server: ServerState | None) -> Iterator[Reason]:
    for slot in () if server is None else server.slots:
        if slot.lost:
            why = slot.invalidation_reason or "its WAL was removed"
            yield Reason(kind="slot_lost", text=f"slot {slot.name!r} is lost: {why}")


def _of_stream(stream: Stream, stalled: float, limits: Limits) -> Iterator[Reason]:
    source, consumer = stream.source, stream.consumer
    whose = "" if consumer is None else f"the slot of consumer {consumer!r}: "
    if source.phase == "snapshot":
        done = "" if source.snapshot is None else f": {source.snapshot.done:.0%} done"
        yield Reason(kind="snapshot", consumer=consumer, text=f"{whose}existing rows are copied{done}")
    elif source.phase != "streaming":
        yield Reason(kind=source.phase, consumer=consumer, text=f"{whose}{_PHASES[source.phase]}")
    elif stalled > limits.stalled:
        text = f"{whose}for {stalled:.0f} s the stream has not brought what the server has"
        yield Reason(kind="stalled", consumer=consumer, text=text)


def _streams(consumer: str, streams: Sequence[Stream]) -> bool:
    """Whether the stream that a consumer gets its changes from goes on."""
    own = [stream for stream in streams if stream.consumer == consumer]
    shared = [stream for stream in streams if stream.consumer is None]
    return any(stream.source.phase == "streaming" for stream in own or shared)


def _of_store(statistics: PipelineStatistics, limits: Limits) -> Iterator[Reason]:
    if statistics.stored_ago is not None and statistics.stored_ago > limits.stalled:
        yield Reason(kind="store_away", text=f"for {statistics.stored_ago:.0f} s positions could not be stored")


def _of_consumer(name: str, one: ConsumerStatistics, limits: Limits) -> Iterator[Reason]:
    said = f": {one.last_error}" if one.last_error else ""
    if one.state == "failed":
        yield Reason(kind="consumer_failed", consumer=name, text=f"consumer {name!r} has failed{said}")
    elif one.breaker == "open":
        pause = "" if one.next_attempt_in is None else f" for another {one.next_attempt_in:.0f} s"
        text = f"consumer {name!r} leaves its target alone{pause} after {one.failures} failures{said}"
        yield Reason(kind="breaker_open", consumer=name, text=text)
    elif one.state == "retrying":
        yield Reason(kind="retrying", consumer=name, text=f"consumer {name!r} tries again{said}")
    elif one.state != "running":
        kind: ReasonKind = "consumer_starting" if one.state == "starting" else "stopped"
        yield Reason(kind=kind, consumer=name, text=f"consumer {name!r} is {one.state}")
    if one.parked is not None:
        yield Reason(kind="parked", consumer=name, text=f"consumer {name!r} applies nothing: {one.parked}")
    if one.waiting == "full":
        yield Reason(kind="spool_full", consumer=name, text=f"the spool of consumer {name!r} is full: all wait for it")
    if one.lag_seconds is not None and one.lag_seconds > limits.late:
        text = f"consumer {name!r} is {one.lag_seconds:.0f} s late, more than {limits.late:.0f}"
        yield Reason(kind="late", consumer=name, text=text)


def illnesses(statistics: PipelineStatistics, streams: Sequence[Stream], limits: Limits) -> list[Reason]:
    """Say what is wrong with a pipeline that only a new process puts right.

    Args:
        statistics: What it says of itself.
        streams: Its streams.
        limits: What may be.

    Returns:
        What is; nothing also before its run has begun.
    """
    found = []
    if statistics.loop_ago is None:
        if statistics.source.phase == "stopped" and statistics.consumers:
            found.append(Reason(kind="stopped", text="its run has ended"))
    elif statistics.loop_ago > limits.stuck:
        text = f"the event loop has not turned for {statistics.loop_ago:.0f} s: a handler blocks it"
        found.append(Reason(kind="loop_stuck", text=text))
    for stream in streams:
        moved = stream.source.moved_ago
        if moved is not None and moved > limits.stuck:
            text = f"the thread that reads from slot {stream.slot!r} has not moved for {moved:.0f} s"
            found.append(Reason(kind="thread_stuck", consumer=stream.consumer, text=text))
    return found
