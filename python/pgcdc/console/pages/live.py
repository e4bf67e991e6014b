"""The numbers that follow: one stream of server-sent events for each open page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pgcdc.console.troubles import all_well

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]

_MOST: Final = 64
"""Pages that may be open at once."""


def routes(console: Console) -> list[Route]:
    """What pages listen to: `/live?series=KEY&series=…`.

    Args:
        console: What it is given to work with.
    """
    watch = console.watch

    async def live(request: Request) -> Response:
        keys = request.query_params.getlist("series")[:16]
        if watch.watchers >= _MOST:
            return PlainTextResponse("too many pages are open\n", 503)

        async def told() -> AsyncIterator[bytes]:
            watch.watchers += 1
            watch.look_now()
            try:
                yield b"retry: 2000\n\n"
                yield _event("history", watch.series(keys))
                number = watch.number
                while not watch.is_stopping:
                    yield _event("sample", sample(keys))
                    number = await watch.after(number)
            finally:
                watch.watchers -= 1

        return StreamingResponse(told(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    def sample(keys: list[str]) -> dict[str, Any]:
        seen, numbers = watch.seen, watch.numbers
        troubles = console.troubles()
        return {
            "at": seen.at,
            "texts": watch.texts | console.rebuilds.texts,
            "bars": console.rebuilds.bars | _copying(seen.statistics),
            "values": [numbers.get(key) for key in keys],
            "troubles": troubles,
            "well": all_well(seen),
        }

    return [Route("/live", live)]


def _copying(statistics: Any) -> dict[str, float]:
    copy = None if statistics is None else statistics.source.snapshot
    if copy is None:
        return {}
    return {"copy": copy.done} | {f"copy/{one.schema}.{one.name}": one.done for one in copy.tables}


def _event(name: str, value: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(value))
