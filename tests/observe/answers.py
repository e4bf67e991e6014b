"""Asks an endpoint as those who watch a process do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from tests.pipeline.running import until

if TYPE_CHECKING:
    from typing import TypeAlias

    from pgcdc.observe import Endpoint

    Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


class Asked:
    """What was answered."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.body)

    @property
    def kinds(self) -> set[str]:
        return {reason["kind"] for reason in self.json["reasons"]}


def ask(endpoint: Endpoint | str, path: str, *, method: str = "GET", accept: str = "*/*") -> Asked:
    """One request, to what is on this machine."""
    url = endpoint if isinstance(endpoint, str) else endpoint.url
    request = urllib.request.Request(f"{url}{path}", method=method, headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return Asked(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Asked(error.code, error.headers, error.read())


def ready(endpoint: Endpoint) -> None:
    """Waits until a pipeline is ready."""
    until(lambda: ask(endpoint, "/readyz").status == 200, "it is ready", pause=0.05)


def unready(endpoint: Endpoint, kind: str) -> Asked:
    """Waits until it is not, for a reason."""
    until(lambda: kind in ask(endpoint, "/readyz").kinds, f"not ready: {kind}", pause=0.05)
    return ask(endpoint, "/readyz")


def samples(endpoint: Endpoint | str, *, accept: str = OPEN_METRICS) -> Samples:
    """The metrics of ours, by name and labels but for the pipeline's, each once; the form is checked by a parser."""
    answer = ask(endpoint, "/metrics", accept=accept)
    assert answer.status == 200
    parse = open_metrics if "openmetrics" in answer.headers["Content-Type"] else plain_text
    found: Samples = {}
    for family in parse(answer.body.decode()):
        for sample in family.samples:
            if sample.name.startswith("pgcdc_"):
                labels = frozenset((name, value) for name, value in sample.labels.items() if name != "pipeline")
                assert (sample.name, labels) not in found, "twice"
                found[sample.name, labels] = sample.value
    return found


def value(found: Samples, name: str, **labels: str) -> float:
    """One of them."""
    return found[name, frozenset(labels.items())]
