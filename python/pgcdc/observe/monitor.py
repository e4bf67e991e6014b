"""Looks at one pipeline of this process and at its slots, whenever somebody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

import msgspec

from pgcdc.observe.observation import Limits, Observation, Reason, ServerState, Stream
from pgcdc.observe.readiness import illnesses, unready
from pgcdc.observe.server_watch import Look, ServerWatch, until_lost
from pgcdc.pipeline import ConsumerStatistics, Pipeline, PipelineStatistics

__all__ = ["Monitor"]


class Monitor:
    """Makes observations; may be asked from any thread, also before the pipeline runs and after it did.

    Args:
        pipeline: The pipeline.
        limits: From when on it is not ready.
        redact: Called with each text that is not of pgcdc's own making: what a target's driver has said.
        watch: Looks at the server; None: one of its own.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        limits: Limits | None = None,
        redact: Callable[[str], str] | None = None,
        watch: ServerWatch | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.limits = Limits() if limits is None else limits
        self._redact = redact
        # Nobody else is to have the DSN, so it is no part of the pipeline's interface.
        self._watch = ServerWatch(pipeline._settings.dsn) if watch is None else watch
        self._lock = threading.Lock()
        self._goals: dict[str, tuple[int, float]] = {}

    def observe(self) -> Observation:
        """Look at the pipeline, and at its slots when they were not looked at just now.

        Returns:
            What is seen.
        """
        look = None if self.pipeline.statistics().source.kind == "kafka" else self._watch.look()
        # Only now: the server may have taken its time.
        statistics = self.pipeline.statistics()
        ahead = 0.0 if look is None else look.clock_ahead
        consumers = {name: self._seen(one, ahead) for name, one in statistics.consumers.items()}
        statistics = msgspec.structs.replace(statistics, consumers=consumers)
        streams = self._streams(statistics)
        server = None if look is None else _state(look, {stream.slot for stream in streams})
        stalled = {stream.slot: self._stalled(stream, look) for stream in streams}
        reasons = unready(statistics, streams, server, stalled, self.limits)
        ill = illnesses(statistics, streams, self.limits)
        return Observation(
            streams=streams,
            statistics=statistics,
            server=server,
            ready=not (reasons or ill),
            reasons=[*ill, *reasons],
            well=not ill,
            illnesses=ill,
        )

    def health(self) -> list[Reason]:
        """Say what is wrong with the threads, without asking the server.

        Returns:
            As `Observation.illnesses`.
        """
        statistics = self.pipeline.statistics()
        return illnesses(statistics, self._streams(statistics), self.limits)

    def _streams(self, statistics: PipelineStatistics) -> list[Stream]:
        outline = self.pipeline.outline()
        slots = {one.name: one.slot for one in outline.consumers}
        shared = [Stream(slot=outline.slot, consumer=None, source=statistics.source)]
        own = [Stream(slot=slots[name], consumer=name, source=one) for name, one in statistics.own_slots.items()]
        # Where all have slots of their own, nobody streams from the pipeline's.
        return [*(shared if outline.slot in slots.values() or not own else []), *own]

    def _seen(self, one: ConsumerStatistics, ahead: float) -> ConsumerStatistics:
        lag = one.lag_seconds
        # Commits have the server's time, and it was compared with ours.
        lag = lag if not lag else max(0.0, lag + ahead)
        error, parked = (
            text if text is None or self._redact is None else self._redact(text)
            for text in (one.last_error, one.parked)
        )
        return msgspec.structs.replace(one, lag_seconds=lag, last_error=error, parked=parked)

    def _stalled(self, stream: Stream, look: Look | None) -> float:
        """For how long a stream has not brought what the server had when it was looked at."""
        now = time.monotonic()
        with self._lock:
            if look is None or stream.source.phase != "streaming":
                self._goals.pop(stream.slot, None)
                return 0.0
            goal = self._goals.get(stream.slot)
            if goal is None or stream.source.received_lsn >= goal[0]:
                goal = self._goals[stream.slot] = (look.wal_lsn, now)
            return now - goal[1]


def _state(look: Look, names: Collection[str]) -> ServerState:
    slots = [one for one in look.slots if one.name in names]
    left = {slot.name: until_lost(slot, look.wal_bytes_per_second) for slot in slots}
    return ServerState(
        age=look.age,
        slots=slots,
        wal_lsn=look.wal_lsn,
        wal_bytes_per_second=look.wal_bytes_per_second,
        seconds_until_lost={name: seconds for name, seconds in left.items() if seconds is not None},
        clock_ahead=look.clock_ahead,
    )
