"""The alert rules and the dashboard that are shipped, on a real Prometheus that scrapes real pipelines."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc.observe import exporting, serving
from pgcdc.observe.observation import REASONS
from pgcdc.testing import FaultySink
from tests.conftest import _server_or_skip, _strict
from tests.observe.answers import ask, samples
from tests.pipeline.running import running, until
from tests.pipeline.shop import shop
from tests.servers.prometheus import PrometheusServer, programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCS = DEPLOY.parent / "docs" / "observe.md"
RULES = DEPLOY / "prometheus" / "pgcdc.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "pgcdc.json"

# What Grafana puts in.
VARIABLES = {"$__rate_interval": "10s", "$pipeline": ".*"}
COMPARED = re.compile(r"^(.*) (?:==|<|>) [\d.]+(?:e\+\d+)?$", re.DOTALL)


def expressions() -> list[tuple[str, str]]:
    """The queries of the dashboard, by the title of their panel."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [(panel["title"], one["expr"]) for panel in dashboard["panels"] for one in panel.get("targets", ())]


@pytest.fixture(scope="module")
def promtool(request: pytest.FixtureRequest) -> str:
    """The program that checks rules."""
    return _server_or_skip(request.config, lambda: programs(install=_strict(request.config)))[1]


@pytest.fixture
def scraped(newest_database: Database, request: pytest.FixtureRequest) -> Iterator[PrometheusServer]:
    """A Prometheus that scrapes a pipeline in trouble, one that copies, and the slots of a server."""
    _server_or_skip(request.config, lambda: programs(install=_strict(request.config)))
    database, gate = newest_database, threading.Event()
    left = f"left_{database.name}"
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, status text)",
        "INSERT INTO orders VALUES (1, 'good')",
        f"SELECT pg_create_logical_replication_slot('{left}', 'pgoutput')",
    )
    troubled = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], snapshot="never")
    retry = pgcdc.Retry(first=0.01, longest=0.01, breaker_after=2, breaker_pause=120.0)
    troubled.add(FaultySink(unavailable=range(1, 1000)), name="away", retry=retry)
    troubled.add(FaultySink(reject=lambda change: change.new.status == "bad"), name="picky", on_failure="hold")
    copying = pgcdc.Pipeline("copying", database.dsn, tables=["orders"])
    held = FaultySink(gate=gate)
    copying.add(held, name="held")
    with contextlib.ExitStack() as stack:
        stack.enter_context(database.server.settings(max_slot_wal_keep_size="10GB"))
        endpoints = [
            stack.enter_context(serving(troubled, 0)),
            stack.enter_context(serving(copying, 0)),
            stack.enter_context(exporting(database.dsn, 0)),
        ]
        run = stack.enter_context(running(troubled))
        stack.enter_context(running(copying))
        stack.callback(gate.set)
        run.streaming()
        database.execute("INSERT INTO orders VALUES (2, 'bad'), (3, 'good')")
        assert held.waiting.wait(30), "the copy is held up"
        until(lambda: troubled.statistics().consumers["picky"].dead_letters == 1, "a dead letter")
        until(lambda: troubled.statistics().consumers["away"].breaker == "open", "a target that is away")
        targets = [f"127.0.0.1:{endpoint.address.port}" for endpoint in endpoints]
        server = stack.enter_context(PrometheusServer(targets, [RULES]))
        until(lambda: len(server.query('up{job="pgcdc"} == 1')) == 3, "all are scraped", pause=0.05)
        yield server


def test_the_rules_fire_when_they_have_to(promtool: str) -> None:
    """Over hours that promtool makes; each alert before it has to come and when it has come."""
    checked = subprocess.run([promtool, "check", "rules", RULES.name], cwd=RULES.parent, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tests = RULES.with_name("pgcdc.rules.test.yml")
    done = subprocess.run([promtool, "test", "rules", tests.name], cwd=RULES.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:", tests.read_text()))
    assert fired == names, "each of them is seen to fire"


def test_every_rule_and_query_has_series(scraped: PrometheusServer) -> None:
    """Rules without their limit: what they look at is there, under the names and labels that they use."""
    rules = scraped.ask("rules")["groups"][0]["rules"]
    assert {rule["name"] for rule in rules} == set(re.findall(r"alert: (\w+)", RULES.read_text()))
    wanted: dict[str, str] = {}
    for rule in rules:
        compared = COMPARED.match(rule["query"])
        assert compared is not None, rule
        wanted[f"alert {rule['name']}"] = compared[1]
    for number, (title, expression) in enumerate(expressions()):
        for name, text in VARIABLES.items():
            expression = expression.replace(name, text)
        assert "$" not in expression
        wanted[f"panel {title} {number}"] = expression
    missing = dict(wanted)

    def all_answered() -> bool:
        for what, expression in list(missing.items()):
            if scraped.query(expression):
                del missing[what]
        return not missing

    try:
        until(all_answered, "every query has series", pause=0.25)
    except AssertionError:
        raise AssertionError(missing) from None
    until(
        lambda: all(rule["health"] == "ok" for rule in scraped.ask("rules")["groups"][0]["rules"]),
        "every rule was evaluated",
        pause=0.1,
    )
    # What is wrong is found, with the names that people look for.
    wrong = {("PgcdcNotReady", "shop"), ("PgcdcNotReady", "copying"), ("PgcdcDeadLetters", "shop")}

    def alerts() -> set[tuple[str, str]]:
        found = [alert["labels"] for alert in scraped.ask("alerts")["alerts"]]
        return {(one["alertname"], one.get("pipeline", "")) for one in found}

    until(lambda: wrong <= alerts(), "what is wrong waits for its time to be over", pause=0.1)
    # What two scrapes foretell, or one that takes longer than a second, waits, and does not last.
    firing = {one["labels"]["alertname"] for one in scraped.ask("alerts")["alerts"] if one["state"] == "firing"}
    assert firing <= {"PgcdcNotReady", "PgcdcDeadLetters", "PgcdcSlotInactive"}
    inactive = {one["slot"] for one, _ in scraped.query("max by (pipeline, slot) (pgcdc_slot_active) == 0")}
    assert any(slot.startswith("left_") for slot in inactive)
    page = DOCS.read_text()
    names = {series["__name__"] for series in scraped.ask("series", **{"match[]": '{__name__=~"pgcdc_.*"}'})}
    assert {name for name in names if f"`{name}`" not in page} == set(), "the page has every metric"
    assert {kind for kind in REASONS if f"`{kind}`" not in page} == set(), "and every reason"
    labels: dict[str, set[str]] = {}
    for series in scraped.ask("series", **{"match[]": '{__name__=~"pgcdc_.*"}'}):
        for name, value in series.items():
            labels.setdefault(name, set()).add(value)
    assert labels.keys() - {"__name__"} <= {
        "instance", "job", "pipeline", "consumer", "slot", "table", "phase", "state", "reason", "place",
        "version", "publication",
    }  # fmt: skip
    assert labels["pipeline"] == {"shop", "copying"}
    assert labels["consumer"] == {"away", "picky", "held"} and labels["table"] == {"public.orders"}


def test_names_are_by_convention(promtool: str, newest_database: Database) -> None:
    """As promtool knows it: units, suffixes, help."""
    newest_database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    pipeline = shop(newest_database)
    with serving(pipeline, 0) as endpoint, running(pipeline) as run:
        run.streaming()
        until(lambda: "pgcdc_slot_active" in {name for name, _ in samples(endpoint)}, "its slot is seen")
        text = ask(endpoint, "/metrics", accept="text/plain").body
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_dashboard_is_one_that_grafana_knows() -> None:
    """Read into the classes that Grafana makes of its own schema, and written again, it is what it was."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    written: dict[str, Any] = json.loads(DASHBOARD.read_text())
    known = json.loads(json.dumps(Dashboard.from_json(written), cls=JSONEncoder))
    lost = list(differences(written, known))
    assert lost == []
    identifiers = [panel["id"] for panel in written["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in written["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["targets"], panel["title"]


def differences(written: Any, known: Any, path: str = "") -> Iterator[str]:
    """What of a document is not in another one; the other may have more: defaults."""
    if isinstance(written, dict) and isinstance(known, dict):
        for name, value in written.items():
            if name not in known:
                yield f"{path}.{name} is not known"
            else:
                yield from differences(value, known[name], f"{path}.{name}")
    elif isinstance(written, list) and isinstance(known, list):
        if len(written) != len(known):
            yield f"{path} has {len(known)} items"
        for number, (one, other) in enumerate(zip(written, known, strict=False)):
            yield from differences(one, other, f"{path}[{number}]")
    elif written != known:
        yield f"{path} is {known!r}, not {written!r}"
