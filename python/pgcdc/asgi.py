"""A pipeline inside a web application: it runs while the application is up, and the application answers for it.

Any framework that speaks ASGI has lifespans: FastAPI, Starlette, Litestar, Quart. None is imported, or needed, here.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from pgcdc.errors import Error
from pgcdc.observe import Limits, Monitor, Observation

if TYPE_CHECKING:
    from pgcdc.pipeline import Pipeline

__all__ = ["Lifespan"]

_Message: TypeAlias = MutableMapping[str, Any]

logger = logging.getLogger("pgcdc.asgi")

_BAD_METHOD: Final = (405, b'{"error":"only GET and HEAD"}')
_NO_SUCH_PATH: Final = (404, b'{"error":"only readyz and healthz"}')


class Lifespan:
    """Runs a pipeline for as long as an application is up.

        running = Lifespan(pipeline)
        app = FastAPI(lifespan=running)
        app.mount("/pipeline", running.health)

    Within a lifespan of one's own it is `async with running:`. When the application goes down, what is queued is
    finished within 5 s, positions are stored and confirmed, as with `Pipeline.stop`. An error that ends the pipeline
    meanwhile is logged, makes it not ready, is handed to `on_failure`, and is raised when the application goes down;
    requests are answered all the while.

    Args:
        pipeline: The pipeline. Where an application has several processes, one with `standby=True`.
        own_thread: False: it runs on the application's event loop, so that async handlers may use what the application
            has there (pools, clients); what is not async runs in threads in any case. True: on one of its own, in a
            thread of its own: async handlers that compute for long keep no request waiting.
        on_failure: Called with the error, on the application's event loop; to end the process, for example.
        limits: From when on the pipeline is not ready.
        redact: Called with each text that is not of pgcdc's own making before it is answered.

    Attributes:
        error: What has ended the pipeline; None while it runs, and after it was stopped.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        own_thread: bool = False,
        on_failure: Callable[[BaseException], None] | None = None,
        limits: Limits | None = None,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self._pipeline = pipeline
        self._own_thread = own_thread
        self._on_failure = on_failure
        self._monitor = Monitor(pipeline, limits=limits, redact=redact)
        self._done: asyncio.Future[None] | None = None
        self._stop: Callable[[], object] | None = None
        self._leaving = False

    def __call__(self, app: object) -> Lifespan:  # noqa: ARG002 (what frameworks call it with)
        """The lifespan, as frameworks take one."""
        return self

    async def __aenter__(self) -> None:
        if self._done is not None:
            raise RuntimeError("this lifespan has begun already")
        self.error, self._leaving = None, False
        if self._own_thread:
            self._done, self._stop = await self._in_thread()
        else:
            task = asyncio.create_task(self._run(), name=f"pgcdc-{self._pipeline.name}")
            self._done, self._stop = task, task.cancel
        self._done.add_done_callback(self._ended)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        assert self._done is not None and self._stop is not None
        self._leaving = True
        self._stop()
        await asyncio.wait([self._done])
        done, self._done = self._done, None
        if error is None and not done.cancelled():
            done.result()

    async def _run(self) -> None:
        """Run until it is cancelled, which is how it is stopped: also before it has begun."""
        try:
            await self._pipeline.arun()
        except asyncio.CancelledError as cancelled:
            if isinstance(cancelled.__context__, Exception):  # of the drain
                raise cancelled.__context__ from None

    async def _in_thread(self) -> tuple[asyncio.Future[None], Callable[[], object]]:
        begun: concurrent.futures.Future[Callable[[], object]] = concurrent.futures.Future()
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()

        async def supervised() -> None:
            task, loop = asyncio.create_task(self._run()), asyncio.get_running_loop()

            def stop() -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended in this moment
                    loop.call_soon_threadsafe(task.cancel)

            begun.set_result(stop)
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

        def main() -> None:
            try:
                asyncio.run(supervised())
            except BaseException as error:  # handed over, whatever it is
                ended.set_exception(error)
            else:
                ended.set_result(None)

        threading.Thread(target=main, name=f"pgcdc-{self._pipeline.name}", daemon=True).start()
        stop = await asyncio.wrap_future(begun)
        return asyncio.wrap_future(ended), stop

    def _ended(self, done: asyncio.Future[None]) -> None:
        self.error = None if done.cancelled() else done.exception()
        if self.error is None or self._leaving:
            return
        logger.error("pipeline %r has ended, and the application goes on: %s", self._pipeline.name, _said(self.error))
        if self._on_failure is not None:
            self._on_failure(self.error)

    async def observe(self) -> Observation:
        """Look at the pipeline, as `pgcdc.observe.Monitor` does; the server is asked in a thread.

        Returns:
            What is seen; `ready` and `reasons` are what `/readyz` answers.
        """
        return await asyncio.to_thread(self._monitor.observe)

    async def health(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],  # noqa: ARG002
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """An ASGI application to be mounted: `readyz` and `healthz` below its path, as `pgcdc run --metrics` answers.

        Args:
            scope: Of the request.
            receive: Not called.
            send: Gets the answer.
        """
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        status, body = await self._answer(scope["method"], scope["path"].rpartition("/")[2])
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, method: str, name: str) -> tuple[int, bytes]:
        if method not in ("GET", "HEAD"):
            return _BAD_METHOD
        if name == "readyz":
            seen = await self.observe()
            answer: dict[str, Any] = {"ready": seen.ready, "reasons": seen.reasons}
            fine = seen.ready
        elif name == "healthz":
            ill = self._monitor.health()
            answer = {"healthy": not ill, "reasons": ill}
            fine = not ill
        else:
            return _NO_SUCH_PATH
        if self.error is not None:
            answer["error"] = _said(self.error)
        return 200 if fine else 503, msgspec.json.encode(answer)


def _said(error: BaseException) -> str:
    """What has ended a pipeline, in a sentence that has no values: others' errors are called by their class."""
    return str(error) if isinstance(error, Error) else type(error).__name__
