"""Consumers: whether each gets on, how fast, and how late."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgcdc.console.observation import ConsumerSeen
from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]


def routes(console: Console) -> list[Route]:
    """The pages `/consumers` and `/consumer?pipeline=&name=`.

    Args:
        console: What they are given to work with.
    """

    def consumers(request: Request) -> Response:
        found = sorted(console.watch.seen.consumers, key=_worst_first)
        return console.page(request, "consumers.html", title="Consumers", consumers=found)

    def consumer(request: Request) -> Response:
        pipeline, name = request.query_params.get("pipeline", ""), request.query_params.get("name", "")
        seen = console.watch.seen
        found = seen.consumer(pipeline, name)
        if found is None:
            error = ConfigError(f"there is no consumer {name} of a pipeline {pipeline}")
            return console.failed(request, error, "No such consumer", status=404)
        query = urlencode({"pipeline": pipeline, "name": name})
        letters = urlencode({"consumer": name, "pipeline": pipeline})
        links = (f"/consumer?{query}", f"/deadletters?{letters}")
        outline = console.subject.outline
        made_of = None if outline is None else next((one for one in outline.consumers if one.name == name), None)
        return console.page(
            request,
            "consumer.html",
            title=f"Consumer {name}",
            one=found,
            made_of=made_of if outline is not None and outline.name == pipeline else None,
            mine=[trouble for trouble in console.troubles() if trouble.link in links],
            letters=f"/deadletters?{letters}",
        )

    return [Route("/consumers", consumers), Route("/consumer", consumer)]


def _worst_first(one: ConsumerSeen) -> tuple[bool, bool, float, int, str]:
    now = one.statistics
    failing = now is not None and bool(now.parked or now.state in ("failed", "retrying") or now.breaker != "closed")
    return not failing, not (one.letters.failed or one.letters.held), -(one.seconds or 0.0), -(one.behind or 0), one.key
