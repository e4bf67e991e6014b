"""What a pipeline's process answers over HTTP to those who watch it: `/metrics`, `/statistics`, `/healthz`, `/readyz`.

It is served by threads of its own, so a handler that blocks, or a server that hangs, does not keep it from saying so.
It only answers: nothing can be changed through it. Whoever reaches the address can read it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.observe.metrics import PipelineCollector, SlotsCollector, registry
from pgcdc.observe.monitor import Monitor
from pgcdc.observe.observation import Limits
from pgcdc.observe.server_watch import ServerWatch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from pgcdc.pipeline import Pipeline

__all__ = ["Address", "Endpoint", "exporting", "parse_listen", "serving"]

logger = logging.getLogger("pgcdc.observe")

LOCAL: Final = "127.0.0.1"
SILENCE: Final = 10.0
"""Seconds after which a connection on which nothing comes is closed."""
AT_ONCE: Final = 16
"""Requests that are answered at once: each is a thread."""


class Address(NamedTuple):
    """Where to listen.

    Attributes:
        host: A name or an address.
        port: 0 for one that is free.
    """

    host: str
    port: int


class Answer(NamedTuple):
    """What is answered.

    Attributes:
        status: The HTTP status.
        content_type: What the body is.
        body: The body.
    """

    status: HTTPStatus
    content_type: str
    body: bytes


def parse_listen(text: str | int) -> Address:
    """Read where to listen.

    Args:
        text: A port, on this machine only; or a host and a port: `"0.0.0.0:9440"`, `"[::1]:9440"`.

    Returns:
        The address.

    Raises:
        ConfigError: When it is neither.
    """
    host, colon, port = str(text).rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not port.isascii() or not port.isdecimal() or int(port) > 65535 or (colon and not host):
        raise ConfigError(f"{str(text)!r} is not where to listen", hint="PORT or HOST:PORT, as in 0.0.0.0:9440")
    return Address(host or LOCAL, int(port))


class Endpoint:
    """A server of answers; `with` starts and ends it.

    Args:
        listen: See `parse_listen`.
        pages: What is answered on each path, given what the client accepts.

    Raises:
        ConfigError: When it is no address, or somebody else listens there.
    """

    def __init__(self, listen: str | int, pages: dict[str, Callable[[str], Answer]]) -> None:
        host, port = parse_listen(listen)
        try:
            # Of a name that has both, the older: localhost is 127.0.0.1 for most who ask.
            families = [one[0] for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            family = socket.AF_INET if socket.AF_INET in families else families[0]
            self._server = _Server(host, port, family, pages)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}", hint="another port, or another host"
            ) from None
        self.address = Address(host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="pgcdc-endpoint", daemon=True
        )

    @property
    def url(self) -> str:
        """Where it is: `http://127.0.0.1:9440`."""
        host, port = self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def serving(
    pipeline: Pipeline,
    listen: str | int,
    *,
    limits: Limits | None = None,
    redact: Callable[[str], str] | None = None,
) -> Iterator[Endpoint]:
    """Let a pipeline be watched for the length of a block; it is run in it.

    Args:
        pipeline: The pipeline.
        listen: Where to listen: a port, on this machine only; or `"HOST:PORT"`.
        limits: From when on it is not ready.
        redact: Called with each text that is not of pgcdc's own making.

    Yields:
        What answers; its `url` says where.

    Raises:
        ConfigError: When it cannot listen there, or prometheus-client is not installed.
    """
    monitor = Monitor(pipeline, limits=limits, redact=redact)
    metrics = registry(PipelineCollector(monitor))

    def ready(_: str) -> Answer:
        seen = monitor.observe()
        return _json({"ready": seen.ready, "reasons": seen.reasons}, fine=seen.ready)

    def healthy(_: str) -> Answer:
        ill = monitor.health()
        return _json({"healthy": not ill, "reasons": ill}, fine=not ill)

    pages: dict[str, Callable[[str], Answer]] = {
        "/metrics": lambda accept: _metrics(metrics, accept),
        "/statistics": lambda _: _json(monitor.observe()),
        "/healthz": healthy,
        "/readyz": ready,
    }
    with Endpoint(listen, pages) as endpoint:
        logger.info("pipeline %r: metrics are served on %s/metrics", pipeline.name, endpoint.url)
        yield endpoint


@contextlib.contextmanager
def exporting(dsn: str, listen: str | int) -> Iterator[Endpoint]:
    """Serve the metrics of all slots of a server for the length of a block, without a pipeline.

    Args:
        dsn: Any database of the server, as libpq understands it.
        listen: As for `serving`.

    Yields:
        What answers.

    Raises:
        ConfigError: As `serving`.
    """
    watch = ServerWatch(dsn)
    metrics = registry(SlotsCollector(watch))

    def ready(_: str) -> Answer:
        seen = watch.look() is not None
        return _json({"ready": seen}, fine=seen)

    pages: dict[str, Callable[[str], Answer]] = {
        "/metrics": lambda accept: _metrics(metrics, accept),
        "/healthz": lambda _: _json({"healthy": True}),
        "/readyz": ready,
    }
    with Endpoint(listen, pages) as endpoint:
        logger.info("metrics of slots are served on %s/metrics", endpoint.url)
        yield endpoint


def _json(value: Any, *, fine: bool = True) -> Answer:
    status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
    return Answer(status, "application/json", msgspec.json.encode(value) + b"\n")


def _metrics(metrics: CollectorRegistry, accept: str) -> Answer:
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return Answer(HTTPStatus.OK, content_type, encode(metrics))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that reads slowly is not waited for

    def __init__(
        self, host: str, port: int, family: socket.AddressFamily, pages: dict[str, Callable[[str], Answer]]
    ) -> None:
        self.address_family = family
        self.pages = pages
        self._free = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # Without what HTTPServer does: it asks the DNS for a name that nobody needs, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address
        logger.debug("an answer was not taken", exc_info=True)  # noqa: LOG014 (it is called where that is handled)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENCE
    server_version = "pgcdc"
    sys_version = ""

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            known = ", ".join(self.server.pages)
            answer = Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"there are {known}\n".encode())
        else:
            try:
                answer = page(self.headers.get("Accept", ""))
            except Exception as error:  # whoever watches has to hear of it
                logger.exception("%s could not be answered", self.path)
                answer = Answer(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "text/plain; charset=utf-8",
                    f"{type(error).__name__}: see the log\n".encode(),
                )
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET  # noqa: N815 (http.server finds it by this name)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)
