"""One run of the demo, from the server to the comparison: the order in which everything is started and ended."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg

from pgcdc.demo import check, shop
from pgcdc.demo.analytics import AnalyticsTables
from pgcdc.demo.cache import MemoryCounts, RedisCounts
from pgcdc.demo.control import Interrupt, Running
from pgcdc.demo.place import NAME, Place, embedded_server, own_server, sql_connection
from pgcdc.demo.report import Options, Report, TargetReport
from pgcdc.demo.search import SearchIndex
from pgcdc.demo.troubled import SlowReports, Webhook
from pgcdc.demo.view import Status, TargetStatus, View
from pgcdc.demo.writer import Settings, Writer
from pgcdc.errors import ConfigError, ConnectionLost, SinkUnavailable
from pgcdc.lsn import parse_lsn
from pgcdc.pipeline import Pipeline, PostgresPositions

__all__ = ["run_demo"]

_EXISTING_ORDERS: Final = 2000
_TICK_SECONDS: Final = 0.25
_ENDLESS_ALTER_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 60.0
"""How long nothing may move, at the start and while the targets catch up, before the demo gives up."""


def run_demo(options: Options, view: View) -> Report:
    """Run the demo.

    Args:
        options: What was asked for.
        view: What is told meanwhile.

    Returns:
        What came of it, also when the targets are not equal.

    Raises:
        Error: When it cannot be done; nothing is left behind.
        KeyboardInterrupt: When it was interrupted before there was anything to compare, or twice.
    """
    with ExitStack() as stack:
        interrupt = stack.enter_context(Interrupt())
        directory = _directory(options.directory, stack)
        analytics = AnalyticsTables(directory / "analytics.duckdb")
        search = SearchIndex(directory / "search.sqlite")
        cache = _cache(options.redis, stack)
        view.say("starting PostgreSQL ..." if options.dsn is None else "looking at the server ...")
        place = stack.enter_context(embedded_server() if options.dsn is None else own_server(options.dsn))
        connection = stack.enter_context(sql_connection(place.dsn))
        existing = shop.create(connection, place.schema, _EXISTING_ORDERS)
        view.say(f"PostgreSQL {place.server_version}, a shop with {existing:,} rows")
        pipeline = Pipeline(
            NAME,
            place.dsn,
            [(place.schema, table) for table in shop.TABLES],
            slot=NAME,
            publication=NAME,
            positions=PostgresPositions(place.dsn, schema=NAME),
            reconnect=False,  # the shop is gone with the server
        )
        pipeline.add(search, tables=[(place.schema, "orders")], name="search")
        pipeline.add(cache, tables=[(place.schema, "orders")], name="cache")
        pipeline.add(analytics, name="analytics")
        webhook, reports = Webhook(), SlowReports()
        pipeline.add(webhook, tables=[(place.schema, "order_status_history")], name="webhook")
        pipeline.add(reports, tables=[(place.schema, "orders")], name="reports", max_rows=10_000)
        for logger in ("pgcdc.pipeline", "stamina"):
            # That a target is away is in the view; without a handler the warnings would be between its lines.
            logging.getLogger(logger).addHandler(logging.NullHandler())
        if not place.embedded:
            stack.callback(pipeline.destroy)
        targets = _Targets(search, cache, analytics, webhook, reports)
        return _Demo(options, place, connection, pipeline, view, interrupt, targets).run()


class _Targets(NamedTuple):
    """Everything that is kept in step with the shop."""

    search: SearchIndex
    cache: MemoryCounts | RedisCounts
    analytics: AnalyticsTables
    webhook: Webhook
    reports: SlowReports

    def compare(self, connection: psycopg.Connection[tuple[Any, ...]], schema: str) -> tuple[check.Comparison, ...]:
        """Compare each with the source."""
        received, statuses = self.webhook.received(), self.reports.statuses()
        history = ("order_status_history", ("order_id", "status"))
        return (
            check.compare_search(connection, schema, self.search.path),
            check.compare_counts(connection, schema, self.cache.counts()),
            check.compare_analytics(connection, schema, self.analytics.path),
            check.compare_kept(connection, schema, "webhook", *history, received),
            check.compare_kept(connection, schema, "reports", "orders", ("status",), statuses),
        )


class _Demo:
    """The run itself, once everything is there."""

    def __init__(
        self,
        options: Options,
        place: Place,
        connection: psycopg.Connection[tuple[Any, ...]],
        pipeline: Pipeline,
        view: View,
        interrupt: Interrupt,
        targets: _Targets,
    ) -> None:
        self._options = options
        self._place = place
        self._connection = connection
        self._pipeline = pipeline
        self._view = view
        self._interrupt = interrupt
        self._targets = targets
        self._analytics = targets.analytics
        self._started = 0.0
        self._altered_at: float | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=round(2 / _TICK_SECONDS) + 1)

    def run(self) -> Report:
        settings = Settings(self._place.dsn, self._place.schema, _EXISTING_ORDERS + 1, self._options.rate)
        with Writer(settings) as writer:
            # The initial copy is taken while the shop is being written to: that is what has to be right.
            writer.wait_until_writing()
            self._started = time.monotonic()
            with Running(self._pipeline) as running, self._view, self._interrupt.noted():
                self._watch(writer, running)
                last = writer.stop()
                stopped = time.monotonic()
                self._catch_up(last.rows, running)
                finished = time.monotonic()
                self._show("done", last.rows)
        self._view.say("comparing every target with the source ...")
        statistics = self._pipeline.statistics()
        seconds = finished - self._started
        comparisons = self._targets.compare(self._connection, self._place.schema)
        away = {"webhook": self._targets.webhook.away}
        return Report(
            written=last.rows,
            delivered=self._analytics.copied + self._analytics.streamed,
            targets_equal=all(comparison.equal for comparison in comparisons),
            seconds=round(seconds, 2),
            rows_per_second=round(self._analytics.streamed / seconds),
            snapshot_rows=self._analytics.copied,
            streamed=self._analytics.streamed,
            catch_up_seconds=round(finished - stopped, 2),
            schema_changes=int(last.altered),
            transactions=last.transactions,
            rolled_back=last.rolled_back,
            targets={
                comparison.target: TargetReport(
                    equal=comparison.equal,
                    rows=comparison.rows,
                    delivered=statistics.consumers[comparison.target].delivered,
                    differing=comparison.differing,
                    first_differences=comparison.first,
                    away=away.get(comparison.target, 0),
                )
                for comparison in comparisons
            },
            server_version=self._place.server_version,
            binary=statistics.source.binary,
        )

    def _watch(self, writer: Writer, running: Running) -> None:
        """Until the time is over, or somebody interrupts; half way the table gets its column."""
        limit = self._options.seconds
        half = _ENDLESS_ALTER_SECONDS if limit is None else limit / 2
        while not self._interrupt.wait(_TICK_SECONDS):
            running.check()
            seconds = time.monotonic() - self._started
            progress = writer.progress
            phase = self._pipeline.statistics().source.phase
            self._show(phase, progress.rows)
            if phase == "streaming" and seconds >= half and self._altered_at is None:
                self._altered_at = seconds
                self._view.say("ALTER TABLE orders ADD COLUMN discount numeric(10,2)")
                writer.add_discount()
            # Nothing is compared before the initial copy is done and the column is there: a short run takes longer.
            if limit is not None and seconds >= limit and progress.altered:
                return
            if limit is not None and seconds >= limit + _PATIENCE_SECONDS and self._altered_at is None:
                raise ConnectionLost(
                    f"the initial copy is not done {seconds:.0f} s after the start", hint="give --seconds more time"
                )

    def _catch_up(self, written: int, running: Running) -> None:
        """Wait until every target has what was written, as long as something moves."""
        lsn = self._current_lsn()
        moved, before = time.monotonic(), -1
        while True:
            with suppress(TimeoutError):
                self._pipeline.wait_sync(lsn, timeout=_TICK_SECONDS)
                return
            running.check()
            self._show("catching up", written)
            delivered = sum(consumer.delivered for consumer in self._pipeline.statistics().consumers.values())
            if delivered != before:
                moved, before = time.monotonic(), delivered
            elif time.monotonic() - moved > _PATIENCE_SECONDS:
                behind = [
                    f"{name} ({consumer.last_error or consumer.state})"
                    for name, consumer in self._pipeline.statistics().consumers.items()
                    if consumer.through_lsn < lsn
                ]
                raise SinkUnavailable(f"the targets do not catch up any more: {', '.join(behind)}")

    def _current_lsn(self) -> int:
        row = self._connection.execute("SELECT pg_catalog.pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def _show(self, phase: str, written: int) -> None:
        statistics = self._pipeline.statistics()
        now, delivered = time.monotonic(), self._analytics.streamed
        self._recent.append((now, delivered))
        then, had = self._recent[0]
        reached = [consumer.through_lsn for consumer in statistics.consumers.values() if consumer.through_lsn]
        self._view.show(
            Status(
                seconds=now - self._started,
                phase=phase,
                written=written,
                delivered=delivered,
                rows_per_second=(delivered - had) / (now - then) if now > then else 0.0,
                lag=self._current_lsn() - min(reached) if reached else 0,
                targets=tuple(
                    TargetStatus(
                        name=name,
                        delivered=consumer.delivered,
                        position="" if consumer.position is None else str(consumer.position),
                        queued=consumer.queued_rows,
                        state=consumer.state,
                    )
                    for name, consumer in statistics.consumers.items()
                ),
                altered_at=self._altered_at,
            )
        )


def _directory(kept: Path | None, stack: ExitStack) -> Path:
    if kept is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgcdc-demo-")))
    for name in ("analytics.duckdb", "search.sqlite"):
        if (kept / name).exists():
            raise ConfigError(
                f"{kept / name} exists already",
                hint="name another directory, or delete what an earlier demo left there",
            )
    try:
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the directory {kept} cannot be made: {error.strerror}") from None
    return kept


def _cache(url: str | None, stack: ExitStack) -> MemoryCounts | RedisCounts:
    if url is None:
        return MemoryCounts()
    counts = RedisCounts(url)
    if counts.exists():
        raise ConfigError(
            "this Redis has keys of an earlier demo",
            hint="redis-cli --scan --pattern 'pgcdc-demo:*' | xargs redis-cli del",
        )
    stack.callback(counts.delete)
    return counts
