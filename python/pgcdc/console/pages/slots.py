"""Slots and WAL: what the server keeps for each, how much more until it is lost, and who is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgcdc.errors import SlotNotFound

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]


def routes(console: Console) -> list[Route]:
    """The pages `/slots` and `/slot?name=`.

    Args:
        console: What they are given to work with.
    """

    def slots(request: Request) -> Response:
        found = sorted(console.watch.seen.slots, key=lambda slot: (not slot.lost, -(slot.held_bytes or 0)))
        drawn = [slot.name for slot in found[:6] if slot.held_bytes is not None]
        series = [f"slot/{name}/held" for name in drawn]
        mine = [one for one in console.troubles() if one.link.startswith("/slot?")]
        return console.page(
            request, "slots.html", title="Slots and WAL", slots=found, drawn=drawn, series=series, mine=mine
        )

    def slot(request: Request) -> Response:
        name, seen = request.query_params.get("name", ""), console.watch.seen
        found = seen.slot(name)
        if found is None:
            error = SlotNotFound(f"slot {name} does not exist", slot=name)
            return console.failed(request, error, "No such slot", status=404)
        mine = [one for one in console.troubles() if one.link.startswith("/slot?")]
        mine = [one for one in mine if one.link == f"/slot?name={name}"]
        rising = console.watch.growth(f"slot/{name}/held")
        left = None
        if found.safe_wal_size is not None and rising is not None and rising > 0:
            left = found.safe_wal_size / rising
        consumers = [one for one in seen.consumers if one.slot == name]
        consumers.sort(key=lambda one: -(one.behind or 0))
        return console.page(
            request,
            "slot.html",
            title=f"Slot {name}",
            slot=found,
            mine=mine,
            rising=rising,
            left=left,
            consumers=consumers,
        )

    return [Route("/slots", slots), Route("/slot", slot)]
