"""The pages of the console, one file for each part of what is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from pgcdc.console.pages import consumers, letters, live, login, overview, schemas, slots, streams, tables

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes_of"]


def routes_of(console: Console) -> list[Route]:
    """All pages.

    Args:
        console: What they are given to work with.

    Returns:
        Their routes.
    """
    parts = (overview, slots, consumers, tables, letters, schemas, streams, live, login)
    return [route for part in parts for route in part.routes(console)]
