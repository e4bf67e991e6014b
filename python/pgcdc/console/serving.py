"""The console's server: bound before anything else begins, run in a thread of its own, and ended within a second."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Final

import uvicorn

from pgcdc.console.application import Console, made
from pgcdc.console.guard import is_loopback
from pgcdc.errors import ConfigError

__all__ = ["PORT", "Serving", "parse_address"]

PORT: Final = 8432


def parse_address(text: str) -> tuple[str, int]:
    """Read where to listen.

    Args:
        text: `"8432"`, `"127.0.0.1:8432"`, `"[::1]:8432"`, `":0"` for any free port.

    Returns:
        Host and port; without a host this machine alone.

    Raises:
        ConfigError: When it is none.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536) or (":" in host) != text.startswith("["):
        raise ConfigError(f"{text!r} is no address to listen at", hint="8432, 127.0.0.1:8432, [::1]:8432")
    return host or "127.0.0.1", int(port)


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, is_up: threading.Event) -> None:
        super().__init__(config)
        self._is_up = is_up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._is_up.set()


class Serving:
    """A console that is served.

        with Serving(Console(subject), "127.0.0.1", 8432) as serving:
            print(serving.url)

    Args:
        console: What is shown.
        host: The address to bind to.
        port: The port; 0 for any that is free.
        token: What has to be given; None: nothing, which an address that others can reach does not allow.

    Raises:
        ConfigError: When the address cannot be bound to, or needs a token.
    """

    def __init__(
        self, console: Console, host: str = "127.0.0.1", port: int = PORT, *, token: str | None = None
    ) -> None:
        self._console = console
        self._socket = _bound(host, port)
        self.host, self.port = host, self._socket.getsockname()[1]
        try:
            application = made(console, host=f"[{host}]" if ":" in host else host, port=self.port, token=token)
        except ConfigError:
            self._socket.close()
            raise
        config = uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="on",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
            http="h11",
            loop="asyncio",
        )
        self._is_up = threading.Event()
        self._server = _Server(config, self._is_up)
        self._thread = threading.Thread(target=self._run, name="pgcdc-console")
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """Where it is, for a browser on this machine."""
        host = "localhost" if is_loopback(self.host) or self.host in ("0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> None:
        """Serve, and return when pages are answered."""
        self._thread.start()
        self._is_up.wait()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._is_up.set()
            self._socket.close()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """End it: pages that follow are let go, what is being answered has a second."""
        self._server.should_exit = True
        if self._loop is not None and self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop has ended in this moment
                self._loop.call_soon_threadsafe(self._console.watch.let_go)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def __enter__(self) -> Serving:
        try:
            self.start()
        except BaseException:  # a signal
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ConfigError(
            f"the console cannot listen at {host}, port {port}: {getattr(error, 'strerror', None) or error}",
            hint="another port: --listen 8433, or --console 8433",
        ) from None
    return bound
