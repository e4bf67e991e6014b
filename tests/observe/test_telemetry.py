"""Spans and metrics through OpenTelemetry: what its SDK gets of a real pipeline, and nothing where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import pgcdc
from pgcdc.observe import instrument
from pgcdc.observe.telemetry import is_set_up
from pgcdc.testing import FaultySink
from tests.demo.running import finish, start
from tests.pipeline.running import Running, running, until
from tests.pipeline.shop import ORDERS, shop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

REPOSITORY = Path(__file__).parents[2]
MODULE = """
import sys
import pgcdc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: span.to_json(None) + "\\n")))
trace.set_tracer_provider(provider)

pipeline = pgcdc.Pipeline("shop", {dsn!r}, tables=["orders"])

@pipeline.on("orders")
def announce(change):
    pipeline.stop()
"""


class Collected:
    """What an SDK of the test's own has got."""

    def __init__(self) -> None:
        self.spans_exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans_exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def instrument(self, pipeline: pgcdc.Pipeline) -> None:
        instrument(pipeline, tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.spans_exporter.get_finished_spans())

    def measured(self) -> dict[str, list[tuple[dict[str, Any], Any]]]:
        """The attributes and values of each metric."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: [
                (dict(point.attributes or {}), getattr(point, "value", getattr(point, "count", None)))
                for point in metric.data.data_points
            ]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def collected() -> Iterator[Collected]:
    made = Collected()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


def test_a_span_is_around_each_batch(newest_database: Database, collected: Collected) -> None:
    database = newest_database
    database.execute(ORDERS)
    sink = FaultySink(unavailable=[1])
    pipeline = shop(database, sink)
    within: list[bool] = []

    @pipeline.on("orders")
    async def handler(change: Any) -> None:
        del change
        from opentelemetry.trace import get_current_span

        within.append(get_current_span().get_span_context().is_valid)

    collected.instrument(pipeline)
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'secret')")
        run.catch_up(database)
        measured = collected.measured()
    by_name = {span.name: span for span in collected.spans}
    assert by_name.keys() == {"write sink", "write handler"}
    for name, span in by_name.items():
        attributes = dict(span.attributes or {})
        assert attributes["pgcdc.pipeline"] == "shop" and f"write {attributes['pgcdc.consumer']}" == name
        assert attributes["pgcdc.changes"] == 1 and int(str(attributes["pgcdc.bytes"])) > 0
        first, last = (pgcdc.Position.parse(str(attributes[f"pgcdc.{end}_position"])) for end in ("first", "last"))
        assert first == last and first.index == 0
        assert (span.kind, span.status.status_code) == (SpanKind.CONSUMER, StatusCode.UNSET)
    assert within == [True], "what a coroutine does is within the span"
    assert sink.writes == 2, "one span for both attempts"
    consumers = {"sink", "handler"}
    delivered = measured["pgcdc.consumer.delivered"]
    assert {(attributes["pgcdc.consumer"], value) for attributes, value in delivered} == {(one, 1) for one in consumers}
    assert [value for _, value in measured["pgcdc.consumer.write.duration"]] == [1, 1], "counted once each"
    for name in ("lag", "queued", "failed_attempts"):
        assert {one["pgcdc.consumer"] for one, _ in measured[f"pgcdc.consumer.{name}"]} == consumers
    assert measured["pgcdc.ready"][0][0] == {"pgcdc.pipeline": "shop"}
    assert "secret" not in "".join(span.to_json() for span in collected.spans)


def test_slots_are_measured(newest_database: Database, collected: Collected) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database)
    collected.instrument(pipeline)
    with running(pipeline) as run:
        run.streaming()
        whose = {"pgcdc.pipeline": "shop", "pgcdc.slot": "pgcdc_shop"}
        until(lambda: collected.measured().get("pgcdc.slot.active") == [(whose, 1)], "its slot", pause=0.1)
        assert collected.measured()["pgcdc.slot.retained"][0][1] >= 0


def test_a_write_that_fails_says_so_without_values(newest_database: Database, collected: Collected) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database, FaultySink(fail_at=1, error=LookupError("a secret")))
    collected.instrument(pipeline)
    run = Running(pipeline)
    run.streaming()
    database.execute("INSERT INTO orders VALUES (1, 'new')")
    assert isinstance(run.ended(), pgcdc.Error)
    [span] = collected.spans
    assert span.status.status_code == StatusCode.ERROR and not span.events
    assert dict(span.attributes or {})["error.type"] == "LookupError"
    assert "a secret" not in span.to_json()


def test_a_write_that_is_given_up_is_no_error(newest_database: Database, collected: Collected) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database, FaultySink(unavailable=range(1, 1000)))
    collected.instrument(pipeline)
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        until(lambda: pipeline.statistics().consumers["sink"].state == "retrying", "it tries again")
    [span] = collected.spans
    assert span.status.status_code == StatusCode.UNSET
    assert dict(span.attributes or {})["pgcdc.given_up"] is True


def test_consumers_with_slots_of_their_own_have_spans_too(newest_database: Database, collected: Collected) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database, snapshot="never")
    pipeline.add(FaultySink(), name="alone", own_slot=True)
    collected.instrument(pipeline)
    with running(pipeline) as run:
        run.streaming()
        until(lambda: all(one.phase == "streaming" for one in pipeline.statistics().own_slots.values()), "both")
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        run.catch_up(database)
    assert {span.name for span in collected.spans} == {"write sink", "write alone"}


def test_without_an_sdk_it_costs_nothing_and_says_nothing(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database)
    assert not is_set_up(), "tests have providers of their own"
    instrument(pipeline)
    with running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        run.catch_up(database)
    assert pipeline.statistics().consumers["sink"].delivered == 1


def test_nothing_of_it_is_imported_by_itself() -> None:
    program = (
        "import sys, pgcdc.observe\n"
        "from pgcdc.observe.telemetry import is_set_up\n"
        "assert not is_set_up()\n"
        "assert not [name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))]\n"
        "sys.modules['opentelemetry'] = sys.modules['prometheus_client'] = None\n"
        "import pgcdc\n"
        "pipeline = pgcdc.Pipeline('shop', '', tables=['orders'])\n"
        "for call, hint in ((lambda: pgcdc.observe.instrument(pipeline), 'otel'),\n"
        "                   (lambda: pgcdc.observe.serving(pipeline, 0).__enter__(), 'metrics')):\n"
        "    try:\n"
        "        call()\n"
        "    except pgcdc.ConfigError as error:\n"
        "        assert 'which is not installed' in str(error) and f'[{hint}]' in error.hint, error\n"
        "    else:\n"
        "        raise SystemExit('no error')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_whose_process_has_said_where_spans_go(newest_database: Database, tmp_path: Path) -> None:
    database = newest_database
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'new')")
    (tmp_path / "shop.py").write_text(MODULE.format(dsn=database.dsn))
    ended = finish(
        start(
            "run", "shop:pipeline", PYTHONPATH=f"{REPOSITORY / 'python'}:{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
        )
    )
    assert ended.code == 0, ended
    [span] = [json.loads(line) for line in ended.stdout.splitlines()]
    assert span["name"] == "write announce" and span["attributes"]["pgcdc.changes"] == 1
