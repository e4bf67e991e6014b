"""The console as an ASGI application: pages, templates, what all of them share, and the numbers that follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec
import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pgcdc import __version__
from pgcdc.console import wording
from pgcdc.console.guard import Application, Guard, Receive, Scope, Send
from pgcdc.console.observation import Observer
from pgcdc.console.rebuilds import Rebuilds
from pgcdc.console.subject import Subject
from pgcdc.console.troubles import Trouble, troubles_of
from pgcdc.console.watch import Watch
from pgcdc.errors import Error

__all__ = ["Console", "made"]

_HERE: Final = Path(__file__).parent
_THEMES: Final = ("auto", "light", "dark")
_ASKING: Final = ("/tables", "/deadletter", "/schema", "/stream")
"""Pages that ask the server by themselves."""
PAGES: Final = (
    ("/", "Overview", "o"),
    ("/slots", "Slots and WAL", "s"),
    ("/consumers", "Consumers", "c"),
    ("/tables", "Tables", "t"),
    ("/deadletters", "Dead letters", "d"),
    ("/schema", "Schema", "h"),
    ("/streams", "Event store", "e"),
)
"""What is in the navigation: address, title, and the letter that leads there after `g`."""


class Console:
    """What pages are given to work with.

    Args:
        subject: What is looked at.
        redact: Takes secrets out of texts that others have worded.
        links: Further addresses to be shown, by name: of metrics, of health.
        every: Seconds between two looks while a page is open.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        redact: Callable[[str], str] = lambda text: text,
        links: Mapping[str, str] | None = None,
        every: float = 1.0,
    ) -> None:
        self.subject = subject
        self.redact = redact
        self.links = dict(links or {})
        self.watch = Watch(Observer(subject), every=every)
        self.rebuilds = Rebuilds(subject, redact)
        self.guard: Guard | None = None
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["redact"] = redact
        for name in wording.__all__:
            self._templates.filters[name] = getattr(wording, name)

    def page(self, request: Request, template: str, *, status: int = 200, title: str, **more: Any) -> Response:
        """Make a page.

        Args:
            request: What was asked for.
            template: The file in `templates/`.
            status: Of the answer.
            title: Its title.
            more: What the template shows.

        Returns:
            The answer.
        """
        seen = self.watch.seen
        troubles = self.troubles()
        session = request.scope["session"]
        html = self._templates.get_template(template).render(
            title=title,
            path=request.url.path,
            here=_here(request),
            pages=PAGES,
            theme=theme_of(request),
            csrf=session.csrf,
            asks=self.guard is not None and self.guard.asks and session.is_known,
            links=self.links,
            version=__version__,
            subject=self.subject,
            seen=seen,
            now=datetime.fromtimestamp(seen.at, UTC),
            numbers=self.watch.numbers,
            texts=self.watch.texts,
            troubles=troubles,
            worst=troubles[0].grave if troubles else "well",
            **more,
        )
        return HTMLResponse(html, status)

    def troubles(self) -> list[Trouble]:
        """What somebody has to know, the worst first."""
        found = troubles_of(self.watch.seen, self.watch.growth)
        return [msgspec.structs.replace(one, what=self.redact(one.what), then=self.redact(one.then)) for one in found]

    def bare(self, request: Request, template: str, *, status: int = 200, **more: Any) -> Response:
        """Make a page for somebody who is not known: it shows nothing that was seen.

        Args:
            request: What was asked for.
            template: The file in `templates/`.
            status: Of the answer.
            more: What the template shows.

        Returns:
            The answer.
        """
        csrf = request.scope["session"].csrf
        html = self._templates.get_template(template).render(theme=theme_of(request), csrf=csrf, **more)
        return HTMLResponse(html, status)

    def failed(
        self, request: Request, error: Error, title: str = "That did not work", *, status: int = 409
    ) -> Response:
        """Make the page of an error.

        Args:
            request: What was asked for.
            error: What was raised.
            title: Its title.
            status: 404 where the address names what does not exist; 409 where what there is does not allow it.

        Returns:
            The answer.
        """
        hint = None if error.hint is None else self.redact(error.hint)
        return self.page(request, "error.html", status=status, title=title, what=self.redact(str(error)), hint=hint)


def theme_of(request: Request) -> str:
    """The theme that the reader has chosen; `"auto"`: that of the system.

    Args:
        request: What was asked for.
    """
    try:
        found = SimpleCookie(request.headers.get("cookie", "")).get("pgcdc_theme")
    except CookieError:
        return "auto"
    return found.value if found is not None and found.value in _THEMES else "auto"


def _here(request: Request) -> str:
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def made(console: Console, *, host: str, port: int, token: str | None) -> Application:
    """Put an application together.

    Args:
        console: What it shows.
        host: What is bound to.
        port: The port.
        token: What has to be given; None: nothing.

    Returns:
        The application, guarded.

    Raises:
        ConfigError: As `Guard`.
    """
    from pgcdc.console.pages import routes_of

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await console.watch.start()
        try:
            yield
        finally:
            await console.watch.stop()
            await asyncio.to_thread(console.rebuilds.stop)

    routes = [
        *routes_of(console),
        Route("/theme", _theme, methods=["POST"]),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]

    def missing(request: Request, _: Exception) -> Response:
        text = "There is no such page."
        return console.page(request, "error.html", status=404, title="Not found", what=text, hint=None)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Error)
        return console.failed(request, error)

    def not_answered(request: Request, error: Exception) -> Response:
        """Of what the server or its driver says only what has no values."""
        assert isinstance(error, psycopg.Error)
        said = error.diag.message_primary or type(error).__name__
        return console.failed(request, Error(f"the server cannot answer that: {said}"))

    handlers: Any = {404: missing, Error: refused, psycopg.Error: not_answered}
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)

    async def fresh(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(("/static/", "/live")):
            await console.watch.refresh()
            if console.watch.is_hanging and scope["path"].startswith(_ASKING):
                # Whoever asked would wait with it, and keep the process from ending.
                error = Error(console.watch.seen.error or "the server does not answer")
                await console.failed(Request(scope), error)(scope, receive, send)
                return
        await application(scope, receive, send)

    console.guard = Guard(fresh, host=host, port=port, token=token)
    return console.guard


async def _theme(request: Request) -> Response:
    form = request.scope["form"]
    wanted = form.get("theme", ["auto"])[0]
    response = RedirectResponse(local(form.get("to", ["/"])[0]), 303)
    if wanted in _THEMES:
        response.set_cookie("pgcdc_theme", wanted, max_age=365 * 86400, samesite="lax", httponly=True)
    return response


def local(address: str) -> str:
    """An address of this console; the first page for any other one.

    Args:
        address: What a form has said.

    Returns:
        A path, with its query.
    """
    return (
        address if address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable() else "/"
    )
