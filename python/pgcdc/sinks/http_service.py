"""A server that is spoken to over HTTP, for sinks: one session, and what cannot be reached is SinkUnavailable."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import aiohttp

from pgcdc.errors import ConfigError, SinkUnavailable

__all__ = ["HttpService", "quoted"]


class HttpService:
    """One address.

    Args:
        url: `http://` or `https://`, host, port, and a path that all requests begin with. A user and password in it are
            taken out and sent as basic authentication.
        what: What is there, for messages: `"OpenSearch"`.
        user: For basic authentication.
        password: Likewise.
        headers: Sent with every request.
        ca_file: Certificates (PEM) that the server's is checked with; None: those that the system trusts.
        tls: All of it as the caller wants it; instead of `ca_file`.
        timeout: How long a request may take, in seconds.

    Attributes:
        address: The URL without user and password.

    Raises:
        ConfigError: When the URL is none.
    """

    def __init__(
        self,
        url: str,
        *,
        what: str,
        user: str | None = None,
        password: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 60.0,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"the address of {what} is not a URL", hint='write "http://localhost:9200"')
        if ca_file is not None and tls is not None:
            raise ConfigError("ca_file and tls exclude each other", hint="load the file into the context")
        place = f"[{host}]" if ":" in host else host
        place = place if port is None else f"{place}:{port}"
        self.address = urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))
        self._what = what
        user = unquote(parts.username) if user is None and parts.username is not None else user
        password = unquote(parts.password) if password is None and parts.password is not None else password
        self._headers = dict(headers or {})
        if user is not None:
            login = b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._tls: ssl.SSLContext | bool = True if tls is None else tls
        if ca_file is not None:
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"the certificates in {ca_file} cannot be read") from error
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"<{self._what} at {self.address}>"

    async def open(self) -> None:
        """Make the session; a connection is made by the first request."""
        await self.close()
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trust_env=True,
            # What a server has closed meanwhile is not to be found out by a request that fails.
            connector=aiohttp.TCPConnector(ssl=self._tls, keepalive_timeout=10.0),
        )

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, bytes]:
        """Ask, and read the answer whole.

        Args:
            method: `"GET"`, `"POST"` …
            path: Begins with a slash; quoted where it needs to be.
            query: Parameters of the URL.
            body: What is sent.
            content_type: What that is.

        Returns:
            The status and the answer.

        Raises:
            SinkUnavailable: When there was no answer.
        """
        assert self._session is not None, "open() comes first"
        # As a file, so that other work is done while much is sent.
        data, headers = (None, None) if body is None else (BytesIO(body), {"Content-Type": content_type})
        arguments: dict[str, Any] = {"params": query, "data": data, "headers": headers, "allow_redirects": False}
        try:
            async with self._session.request(method, self.address + path, **arguments) as answer:
                return answer.status, await answer.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            # The text of an error may have the whole URL in it.
            raise SinkUnavailable(
                f"{self._what} at {self.address} did not answer: {type(error).__name__}",
                hint="is it running, and is the address right?",
            ) from error


def quoted(name: str) -> str:
    """A name as one part of a path.

    Args:
        name: The name.
    """
    return quote(name, safe="")
