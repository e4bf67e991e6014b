"""Who may see and do what: the one place that every request goes through, so that no page can forget it.

- A page of elsewhere whose name leads here (DNS rebinding) has another Host: without a token only names of this machine
  are answered to. With a token it has no cookie, because cookies belong to names.
- A form of elsewhere (CSRF) has another Origin, and no token of this session.
- Script that got into a page is not run: the Content-Security-Policy allows files of the console's own, nothing inline.
- The token is compared in constant time, and is never in a URL.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from pgcdc.errors import ConfigError

__all__ = ["SHORTEST_TOKEN", "Application", "Guard", "Receive", "Scope", "Send", "Session", "is_loopback"]

SHORTEST_TOKEN: Final = 16
_LARGEST: Final = 64 * 1024
_LASTS: Final = 12 * 3600
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer browsers send forms with "Origin: null"
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone.

    Args:
        host: `"127.0.0.1"`, `"::1"`, `"localhost"` are; a name that resolves to one of them is not taken for it.
    """
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdecimal())


class Session:
    """Who asks: a cookie that only the console can have made.

    Args:
        id: Its id, random.
        ends_at: Seconds since 1970.
        is_known: Whether the token was given.
        key: The console's.
    """

    def __init__(self, id: str, ends_at: int, is_known: bool, key: bytes) -> None:
        self.id, self.ends_at, self.is_known = id, ends_at, is_known
        self._key = key

    @classmethod
    def begin(cls, key: bytes, now: float, *, is_known: bool = False) -> Session:
        """Make a new one: another id after the token was given, so that nobody has planted it.

        Args:
            key: The console's.
            now: Seconds since 1970.
            is_known: Whether the token was given.

        Returns:
            The session.
        """
        return cls(secrets.token_urlsafe(18), int(now) + _LASTS, is_known, key)

    @classmethod
    def read(cls, cookie: str, key: bytes, now: float) -> Session | None:
        """Read a cookie.

        Args:
            cookie: Its value.
            key: The console's.
            now: Seconds since 1970.

        Returns:
            The session; None when it is over, or was made by somebody else.
        """
        try:
            id, ends_at, known, _ = cookie.split(".")
            session = cls(id, int(ends_at), known == "1", key)
        except ValueError:
            return None
        return (
            session if hmac.compare_digest(session.cookie.encode(), cookie.encode()) and session.ends_at > now else None
        )

    @property
    def cookie(self) -> str:
        """Its value."""
        said = f"{self.id}.{self.ends_at}.{int(self.is_known)}"
        return f"{said}.{self._signed(f'session {said}')}"

    @property
    def csrf(self) -> str:
        """What its forms carry."""
        return self._signed(f"form {self.id}")

    def _signed(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets requests through to the pages, or refuses them.

    Puts into the scope of those that it lets through: `session`, and `form`, the fields of a POST.

    Args:
        application: The pages.
        host: What is bound to.
        port: The port.
        token: What has to be given; None: nothing.

    Raises:
        ConfigError: When others can reach the address and there is no token, or it is short.
    """

    def __init__(self, application: Application, *, host: str, port: int, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(
                f"a console at {host} can be reached by others, and has no token",
                hint='export PGCDC_CONSOLE_TOKEN="$(openssl rand -base64 24)", or bind to 127.0.0.1',
            )
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"the console's token has fewer than {SHORTEST_TOKEN} characters",
                hint='export PGCDC_CONSOLE_TOKEN="$(openssl rand -base64 24)"',
            )
        self._application = application
        self._token = None if token is None else hashlib.sha256(token.encode()).digest()
        self._hosts = _LOCAL | {host.lower()}
        self._cookie = f"pgcdc_console_{port}"  # cookies are of a host, whatever the port
        self._key = secrets.token_bytes(32)

    def takes(self, token: str) -> bool:
        """Whether this is the token; in constant time, whatever its length.

        Args:
            token: What was given.
        """
        return self._token is not None and hmac.compare_digest(hashlib.sha256(token.encode()).digest(), self._token)

    @property
    def asks(self) -> bool:
        """Whether a token has to be given."""
        return self._token is not None

    def enter(self, scope: Scope) -> None:
        """Give who has given the token another cookie, with the answer.

        Args:
            scope: Of the request.
        """
        scope["new_session"] = Session.begin(self._key, time.time(), is_known=True)

    def leave(self, scope: Scope) -> None:
        """Forget who it was, with the answer.

        Args:
            scope: Of the request.
        """
        scope["new_session"] = Session.begin(self._key, time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._application(scope, receive, send)
            return
        headers = Headers(scope=scope)
        known = self._session(headers)
        session = known or Session.begin(self._key, time.time())
        scope["session"], scope["form"] = session, {}
        is_static = scope["path"].startswith("/static/")

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    out[name] = value
                out.setdefault("cache-control", "no-cache" if is_static else "no-store")
                new = scope.get("new_session") or (None if known or is_static else session)
                if new is not None:
                    secure = "; Secure" if scope.get("scheme") == "https" else ""
                    out.append(
                        "set-cookie",
                        f"{self._cookie}={new.cookie}; Max-Age={_LASTS}; Path=/; HttpOnly; SameSite=Lax{secure}",
                    )
            await send(message)

        refusal = await self._refusal(scope, headers, session, receive)
        if refusal is not None:
            await refusal(scope, receive, answer)
        else:
            await self._application(scope, receive, answer)

    async def _refusal(self, scope: Scope, headers: Headers, session: Session, receive: Receive) -> Response | None:
        path, method = scope["path"], scope["method"]
        if self._token is None and _name_of(headers.get("host", "")) not in self._hosts:
            return _refused(421, "this console answers to localhost; with a token it answers to any name")
        if method not in ("GET", "HEAD", "POST"):
            return _refused(405, "there is nothing that is done like this")
        if method == "POST":
            refusal = await self._read_form(scope, headers, session, receive)
            if refusal is not None:
                return refusal
        if self.asks and not session.is_known and path != "/login" and not path.startswith("/static/"):
            if method != "GET" or path == "/live":
                return _refused(401, "log in first")
            query = f"?{scope['query_string'].decode('latin-1')}" if scope.get("query_string") else ""
            there = quote(path) + query
            return RedirectResponse(f"/login?to={quote(there, safe='')}", 303)
        return None

    async def _read_form(self, scope: Scope, headers: Headers, session: Session, receive: Receive) -> Response | None:
        """Read what was sent, and see whether it comes from a page of ours."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return _refused(403, "this was sent from a page of another origin")
        if origin is None and site not in (None, "same-origin", "none"):
            return _refused(403, "this was sent from a page of another origin")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return _refused(415, "forms are sent as application/x-www-form-urlencoded")
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return _refused(400, "the request ended early")
            body += message.get("body", b"")
            if len(body) > _LARGEST:
                return _refused(413, "this form is too large")
            if not message.get("more_body"):
                break
        try:
            form = parse_qs(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=2000)
        except ValueError:
            return _refused(400, "this is not a form")
        given = form.get("csrf", [""])[0]
        if not hmac.compare_digest(given.encode(), session.csrf.encode()):
            return _refused(403, "this form is not of this session: load the page again")
        scope["form"] = form
        return None

    def _session(self, headers: Headers) -> Session | None:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        found = cookies.get(self._cookie)
        return None if found is None else Session.read(found.value, self._key, time.time())


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return (host.rpartition(":")[0] if ":" in host else host).removesuffix(".")


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status)
