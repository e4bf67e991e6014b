"""A pipeline's spans and metrics through OpenTelemetry's API: where they go is the application's to say, by its SDK.

Source: OpenTelemetry specification, "Trace API", "Metrics API"; semantic conventions, "Recording errors".
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pgcdc import __version__
from pgcdc.errors import ConfigError
from pgcdc.observe.monitor import Monitor
from pgcdc.observe.observation import Observation
from pgcdc.pipeline.target import GaveUp
from pgcdc.protocol import Batch

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.metrics import Observation as Measured
    from opentelemetry.trace import Tracer, TracerProvider

    from pgcdc.pipeline import Pipeline

__all__ = ["instrument", "is_set_up"]

_Values: TypeAlias = Iterable[tuple[float | None, dict[str, str]]]

_SAME: Final = 0.5
"""Seconds for which one look serves all instruments, so that what is exported together was seen together."""


def is_set_up() -> bool:
    """Whether this process has said where spans or metrics go; without that, nothing is to be had of them.

    Returns:
        Whether there is a provider other than the API's own.
    """
    return any(
        not type(getattr(module, f"get_{kind}_provider")()).__module__.startswith(f"opentelemetry.{package}")
        for package, kind in (("trace", "tracer"), ("metrics", "meter"))
        if (module := sys.modules.get(f"opentelemetry.{package}")) is not None
    )


def instrument(
    pipeline: Pipeline,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    monitor: Monitor | None = None,
) -> None:
    """Give a pipeline's spans and metrics to OpenTelemetry; before it runs.

    A span is around each batch from its first attempt until it is durable. What asynchronous handlers and sinks do is
    within it; blocking ones run in threads of their own, which know nothing of it.

    Args:
        pipeline: The pipeline.
        tracer_provider: Where spans go; None: as the process has said.
        meter_provider: Where metrics go; None: likewise.
        monitor: What looks at it; None: one of its own.

    Raises:
        ConfigError: When the package opentelemetry-api is not installed.
    """
    try:
        from opentelemetry import metrics, trace
    except ImportError:
        raise ConfigError(
            "spans need the package opentelemetry-api, which is not installed", hint="pip install 'pgcdc[otel]'"
        ) from None
    tracer = trace.get_tracer("pgcdc", __version__, tracer_provider)
    meter = metrics.get_meter("pgcdc", __version__, meter_provider)
    pipeline.around_writes(_Writes(pipeline.name, tracer, meter))
    _Instruments(pipeline.name, meter, Monitor(pipeline) if monitor is None else monitor)


class _Writes:
    """Makes a span for each write of a batch, and counts how long it takes."""

    def __init__(self, pipeline: str, tracer: Tracer, meter: Meter) -> None:
        self._pipeline = pipeline
        self._tracer = tracer
        self._durations = meter.create_histogram(
            "pgcdc.consumer.write.duration", "s", "Time from a batch's first attempt until it is durable."
        )

    @contextlib.contextmanager
    def __call__(self, consumer: str, batch: Batch) -> Iterator[None]:
        from opentelemetry.trace import SpanKind, StatusCode

        attributes: dict[str, str | int] = {
            "pgcdc.pipeline": self._pipeline,
            "pgcdc.consumer": consumer,
            "pgcdc.changes": batch.changes_count,
            "pgcdc.bytes": batch.nbytes,
            "pgcdc.first_position": str(batch.first_position),
            "pgcdc.last_position": str(batch.last_position),
        }
        began = time.monotonic()
        # The text of what was raised can have values of rows: only its class is told.
        with self._tracer.start_as_current_span(
            f"write {consumer}",
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except (GaveUp, GeneratorExit, asyncio.CancelledError):  # it comes again at the next start
                span.set_attribute("pgcdc.given_up", True)
                raise
            except BaseException as error:
                cause = error.__cause__ or error
                span.set_attribute("error.type", type(cause).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise
            whose = {"pgcdc.pipeline": self._pipeline, "pgcdc.consumer": consumer}
            self._durations.record(time.monotonic() - began, whose)


class _Instruments:
    """Metrics that are asked for when they are exported."""

    def __init__(self, pipeline: str, meter: Meter, monitor: Monitor) -> None:
        self._pipeline = pipeline
        self._monitor = monitor
        self._lock = threading.Lock()
        self._seen: tuple[float, Observation] | None = None
        gauges: list[tuple[str, str, str, Callable[[Observation], _Values]]] = [
            ("pgcdc.ready", "1", "Whether the pipeline does what it is there for.", lambda seen: [(seen.ready, {})]),
            (
                "pgcdc.consumer.lag",
                "s",
                "How old the oldest transaction is that came and is not durable in the consumer.",
                _of_consumers(lambda one: one.lag_seconds),
            ),
            ("pgcdc.consumer.queued", "{change}", "Changes in flight.", _of_consumers(lambda one: one.queued_rows)),
            (
                "pgcdc.consumer.failed_attempts",
                "{attempt}",
                "Attempts in a row that have failed, up to now.",
                _of_consumers(lambda one: one.failures),
            ),
            (
                "pgcdc.consumer.parked",
                "1",
                "Whether the consumer's target applies nothing for now: a projection that has failed.",
                _of_consumers(lambda one: one.parked is not None),
            ),
            ("pgcdc.dead_letters", "{letter}", "Dead letters.", _of_consumers(lambda one: one.dead_letters)),
            ("pgcdc.slot.active", "1", "Whether a process streams from the slot.", _of_slots(lambda slot: slot.active)),
            ("pgcdc.slot.lag", "By", "WAL since what was confirmed.", _of_slots(lambda slot: slot.lag_bytes)),
            ("pgcdc.slot.retained", "By", "WAL that is kept for the slot.", _of_slots(lambda slot: slot.held_bytes)),
            (
                "pgcdc.slot.safe",
                "By",
                "WAL that can be written before the slot may be lost.",
                _of_slots(lambda slot: slot.safe_wal_size),
            ),
        ]
        for name, unit, text, read in gauges:
            meter.create_observable_gauge(name, [self._reading(read)], unit, text)
        delivered = self._reading(_of_consumers(lambda one: one.delivered))
        text = "Changes that became durable in the consumer during this run."
        meter.create_observable_counter("pgcdc.consumer.delivered", [delivered], "{change}", text)

    def _reading(self, read: Callable[[Observation], _Values]) -> Callable[[CallbackOptions], Iterable[Measured]]:
        from opentelemetry.metrics import Observation as Measured

        def measured(_: CallbackOptions) -> Iterable[Measured]:
            for value, labels in read(self._look()):
                if value is not None:
                    yield Measured(value, {"pgcdc.pipeline": self._pipeline, **labels})

        return measured

    def _look(self) -> Observation:
        with self._lock:
            if self._seen is None or time.monotonic() - self._seen[0] > _SAME:
                seen = self._monitor.observe()
                self._seen = (time.monotonic(), seen)
            return self._seen[1]


def _of_consumers(
    read: Callable[[Any], float | None],
) -> Callable[[Observation], _Values]:
    return lambda seen: [(read(one), {"pgcdc.consumer": name}) for name, one in seen.statistics.consumers.items()]


def _of_slots(
    read: Callable[[Any], float | None],
) -> Callable[[Observation], _Values]:
    return lambda seen: [
        (read(slot), {"pgcdc.slot": slot.name}) for slot in ([] if seen.server is None else seen.server.slots)
    ]
