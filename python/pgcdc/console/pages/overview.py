"""The first page: what needs somebody, then everything else in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgcdc.console.troubles import all_well

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]


def routes(console: Console) -> list[Route]:
    """The page `/`.

    Args:
        console: What it is given to work with.
    """

    def overview(request: Request) -> Response:
        return console.page(request, "overview.html", title="Overview", well=all_well(console.watch.seen))

    return [Route("/", overview)]
