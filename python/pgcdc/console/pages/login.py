"""The page where the token is given, and the way out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pgcdc.console.application import local

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]

logger = logging.getLogger("pgcdc.console")


def routes(console: Console) -> list[Route]:
    """The page `/login`, and what is sent to `/login` and `/logout`.

    Args:
        console: What they are given to work with.
    """

    def asked(request: Request) -> Response:
        if console.guard is None or not console.guard.asks:
            return RedirectResponse("/", 303)
        return shown(request, local(request.query_params.get("to", "/")))

    def given(request: Request) -> Response:
        form, guard = request.scope["form"], console.guard
        to = local(form.get("to", ["/"])[0])
        if guard is None or not guard.takes(form.get("token", [""])[0]):
            who = "?" if request.client is None else request.client.host
            logger.warning("a wrong token was given to the console, from %s", who)
            return shown(request, to, wrong=True)
        guard.enter(request.scope)
        return RedirectResponse(to, 303)

    def shown(request: Request, to: str, *, wrong: bool = False) -> Response:
        return console.bare(request, "login.html", status=403 if wrong else 200, title="Log in", to=to, wrong=wrong)

    def left(request: Request) -> Response:
        if console.guard is not None:
            console.guard.leave(request.scope)
        return RedirectResponse("/login", 303)

    return [
        Route("/login", asked),
        Route("/login", given, methods=["POST"]),
        Route("/logout", left, methods=["POST"]),
    ]
