"""What was seen of a pipeline, or of a server's slots, as metrics of Prometheus; docs/observe.md says what each means.

Pulled: made when somebody asks, from frozen numbers, and nothing is kept. How many series there are is known from the
pipeline: its consumers, its tables while they are copied, and fixed words.

Source: Prometheus documentation, "Metric and label naming", "Writing exporters".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, get_args

from pgcdc import __version__
from pgcdc.errors import ConfigError
from pgcdc.observe.observation import REASONS, Observation, Stream
from pgcdc.observe.server_watch import ServerWatch, until_lost
from pgcdc.pipeline import ConsumerStatistics
from pgcdc.pipeline.delivery import ConsumerState
from pgcdc.pipeline.queue import Waiting
from pgcdc.pipeline.statistics import Phase
from pgcdc.replication import SlotState

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

    from pgcdc.observe.monitor import Monitor

__all__ = ["MOST_TABLES", "PipelineCollector", "SlotsCollector", "registry"]

MOST_TABLES: Final = 100
"""Tables that are copied with a series of their own; the others are one together."""
_OTHERS: Final = "(others)"


class _Families:
    """Metrics by name, in the order in which they were begun.

    Args:
        names: The names of the labels that all of them begin with.
        values: Their values.
    """

    def __init__(self, names: Sequence[str] = (), values: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        self._values = tuple(values)
        self._made: dict[str, Metric] = {}

    def gauge(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Add a value that goes up and down; none when it is not known."""
        from prometheus_client.core import GaugeMetricFamily

        if value is not None:
            family = self._made.setdefault(name, GaugeMetricFamily(name, text, labels=[*self._names, *labels]))
            family.add_metric([*self._values, *labels.values()], float(value))  # type: ignore[attr-defined]

    def counter(self, name: str, text: str, value: float | None, **labels: str) -> None:
        """Add a value that goes up only; its name gets `_total`."""
        from prometheus_client.core import CounterMetricFamily

        if value is not None:
            family = self._made.setdefault(name, CounterMetricFamily(name, text, labels=[*self._names, *labels]))
            family.add_metric([*self._values, *labels.values()], float(value))  # type: ignore[attr-defined]

    def words(self, name: str, text: str, label: str, words: Iterable[str], now: Iterable[str], **labels: str) -> None:
        """Add for each word that there can be whether it is so now."""
        are = set(now)
        for word in words:
            self.gauge(name, text, float(word in are), **labels, **{label: word})

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._made.values())


def registry(*collectors: Collector) -> CollectorRegistry:
    """Make what the answers are written from: what is collected, and what the system knows of the process.

    Args:
        *collectors: Of this file.

    Returns:
        A registry of its own: nothing is added to that of the application.

    Raises:
        ConfigError: When the package prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError:
        raise ConfigError(
            "metrics need the package prometheus-client, which is not installed", hint="pip install 'pgcdc[metrics]'"
        ) from None
    made = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=made)
    for collector in collectors:
        made.register(collector)
    return made


class PipelineCollector:
    """Collects the metrics of a pipeline of this process.

    Args:
        monitor: Looks at it.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def describe(self) -> list[Metric]:
        """Nothing: names are known from what is collected, and a look at registration would come too early."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Look, and give what is seen."""
        seen = self._monitor.observe()
        outline = self._monitor.pipeline.outline()
        families = _Families(("pipeline",), (seen.statistics.name,))
        families.gauge(
            "pgcdc_info",
            "The version of pgcdc, and what the pipeline's publication is called.",
            1.0,
            version=__version__,
            publication=outline.publication,
        )
        _add_pipeline(families, seen)
        for name, one in seen.statistics.consumers.items():
            _add_consumer(families, name, one, seen)
        for stream in seen.streams:
            _add_copy(families, stream)
        yield from families
        if seen.server is not None:
            rate = seen.server.wal_bytes_per_second
            yield from _of_slots(seen.server.slots, rate, seen.server.wal_lsn, seen.server.age, seen.statistics.name)


class SlotsCollector:
    """Collects the metrics of all slots of a server, without a pipeline.

    Args:
        watch: Looks at it.
    """

    def __init__(self, watch: ServerWatch) -> None:
        self._watch = watch

    def describe(self) -> list[Metric]:
        """As `PipelineCollector.describe`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Look, and give what is seen."""
        look = self._watch.look()
        families = _Families()
        families.gauge("pgcdc_server_up", "Whether the server has answered within a minute.", look is not None)
        yield from families
        if look is not None:
            slots = [slot for slot in look.slots if not slot.temporary]
            yield from _of_slots(slots, look.wal_bytes_per_second, look.wal_lsn, look.age, "")


def _add_pipeline(families: _Families, seen: Observation) -> None:
    families.gauge("pgcdc_ready", "Whether the pipeline does what it is there for, as /readyz says.", seen.ready)
    families.gauge("pgcdc_healthy", "Whether its threads and its event loop run, as /healthz says.", seen.well)
    kinds = [reason.kind for reason in seen.reasons]
    families.words("pgcdc_not_ready", "Why it is not ready: 1 for each reason that there is.", "reason", REASONS, kinds)
    for stream in seen.streams:
        _add_stream(families, stream)
    families.gauge(
        "pgcdc_positions_stored_age_seconds",
        "Seconds since positions could last be stored.",
        seen.statistics.stored_ago,
    )
    if seen.server is not None:
        families.gauge(
            "pgcdc_clock_ahead_seconds",
            "Seconds by which the server's clock is ahead of ours.",
            seen.server.clock_ahead,
        )


def _add_stream(families: _Families, stream: Stream) -> None:
    source, slot = stream.source, stream.slot
    families.words(
        "pgcdc_phase",
        "What the stream does: 1 for the phase that it is in.",
        "phase",
        _words(Phase),
        [source.phase],
        slot=slot,
    )
    families.counter(
        "pgcdc_wal_received_bytes",
        "How far the WAL was received: an LSN, in bytes since the WAL's beginning.",
        source.received_lsn or None,
        slot=slot,
    )
    families.counter(
        "pgcdc_wal_confirmed_bytes",
        "How far the WAL was confirmed to the server: an LSN, likewise.",
        source.confirmed_lsn or None,
        slot=slot,
    )


def _add_consumer(families: _Families, name: str, one: ConsumerStatistics, seen: Observation) -> None:
    families.gauge(
        "pgcdc_consumer_lag_seconds",
        "How old the oldest transaction is that came and is not durable in the consumer; 0 when it has everything.",
        one.lag_seconds,
        consumer=name,
    )
    server = seen.server
    source = seen.statistics.own_slots.get(name, seen.statistics.source)
    if server is not None and one.through_lsn:
        families.gauge(
            "pgcdc_consumer_lag_bytes",
            "Bytes of WAL that the server has and that are not done for the consumer.",
            # It may have come since the server was asked.
            max(0, server.wal_lsn - one.through_lsn, source.received_lsn - one.through_lsn),
            consumer=name,
        )
    families.counter(
        "pgcdc_consumer_delivered_changes",
        "Changes that became durable in the consumer during this run.",
        one.delivered,
        consumer=name,
    )
    families.counter(
        "pgcdc_consumer_done_bytes",
        "How far the WAL is done for the consumer: an LSN, in bytes since the WAL's beginning.",
        one.through_lsn or None,
        consumer=name,
    )
    families.gauge("pgcdc_consumer_queued_changes", "Changes in flight.", one.queued_rows, consumer=name)
    families.gauge("pgcdc_consumer_queued_bytes", "Memory that they take.", one.queued_bytes, consumer=name)
    families.words(
        "pgcdc_consumer_state",
        "What the consumer is about: 1 for the state that it is in.",
        "state",
        _words(ConsumerState),
        [one.state],
        consumer=name,
    )
    families.gauge(
        "pgcdc_consumer_parked",
        "Whether its target applies nothing for now: a projection that has failed.",
        one.parked is not None,
        consumer=name,
    )
    families.gauge(
        "pgcdc_consumer_failed_attempts",
        "Attempts in a row that have failed, up to now.",
        one.failures,
        consumer=name,
    )
    families.gauge(
        "pgcdc_consumer_breaker_open",
        "Whether its target is left alone after many of them.",
        one.breaker == "open",
        consumer=name,
    )
    families.gauge("pgcdc_dead_letters", "Dead letters of the consumer.", one.dead_letters, consumer=name)
    families.gauge("pgcdc_held_keys", "Keys that wait behind one of them.", one.held_keys, consumer=name)
    families.words(
        "pgcdc_consumer_waiting",
        "Where what comes for it waits: 1 for the place.",
        "place",
        _words(Waiting),
        [one.waiting],
        consumer=name,
    )
    families.gauge("pgcdc_spool_bytes", "What the files of its spool take.", one.spooled_bytes, consumer=name)


def _add_copy(families: _Families, stream: Stream) -> None:
    copy = stream.source.snapshot
    if copy is None:
        return
    shown = [(f"{one.schema}.{one.name}", one.rows, one.done) for one in copy.tables[:MOST_TABLES]]
    if rest := copy.tables[MOST_TABLES:]:
        shown.append((_OTHERS, sum(one.rows for one in rest), sum(one.done for one in rest) / len(rest)))
    for table, rows, done in shown:
        labels = {"slot": stream.slot, "table": table}
        families.gauge("pgcdc_snapshot_rows", "Rows of the table that were copied.", rows, **labels)
        families.gauge("pgcdc_snapshot_done_ratio", "Which part of it that is, 0 to 1.", done, **labels)


def _of_slots(
    slots: Iterable[SlotState], rate: float | None, wal_lsn: int, age: float, pipeline: str
) -> Iterator[Metric]:
    families = _Families(("pipeline",), (pipeline,))
    families.counter(
        "pgcdc_server_wal_bytes",
        "How far the server's WAL is flushed: an LSN, in bytes since the WAL's beginning.",
        wal_lsn,
    )
    families.gauge("pgcdc_server_look_age_seconds", "Seconds since the server was asked for this and slots.", age)
    for slot in slots:
        _add_slot(families, slot, rate)
    yield from families


def _add_slot(families: _Families, slot: SlotState, rate: float | None) -> None:
    name = slot.name
    # From one that is a copy of the primary's, on a standby, nobody can stream.
    active = None if slot.synced else slot.active
    families.gauge("pgcdc_slot_active", "Whether a process streams from the slot.", active, slot=name)
    families.gauge("pgcdc_slot_lost", "Whether it can never be used again.", slot.lost, slot=name)
    families.gauge(
        "pgcdc_slot_lag_bytes", "Bytes of WAL since what was confirmed to the slot.", slot.lag_bytes, slot=name
    )
    families.gauge(
        "pgcdc_slot_lag_seconds",
        "How old the WAL just behind that is, at least; where the role may see the times of WAL files.",
        slot.lag_seconds,
        slot=name,
    )
    families.gauge(
        "pgcdc_slot_retained_bytes", "Bytes of WAL that the server keeps for the slot.", slot.held_bytes, slot=name
    )
    families.gauge(
        "pgcdc_slot_safe_wal_bytes",
        "Bytes of WAL that can be written before the slot may be lost; where max_slot_wal_keep_size is set.",
        slot.safe_wal_size,
        slot=name,
    )
    families.gauge(
        "pgcdc_slot_seconds_until_lost",
        "How long that is at the rate at which WAL was written in the last ten minutes.",
        until_lost(slot, rate),
        slot=name,
    )
    if slot.inactive_since is not None and active is False:
        since = (datetime.now(UTC) - slot.inactive_since).total_seconds()
        families.gauge(
            "pgcdc_slot_inactive_seconds",
            "For how long no process has streamed from it; from PostgreSQL 17 on.",
            max(0.0, since),
            slot=name,
        )


def _words(alias: object) -> tuple[str, ...]:
    return get_args(alias)
