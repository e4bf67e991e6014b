"""How the demo is ended: by Ctrl-C and SIGTERM, and how the pipeline runs beside the one who watches it."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from pgcdc.pipeline import Pipeline

__all__ = ["Interrupt", "Running"]


class Interrupt:
    """Ctrl-C and SIGTERM: an exception while things are being started, afterwards a note that it is time to end."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._noting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within this block the first one is noted; the second one is an exception again."""
        self._noting = True
        try:
            yield
        finally:
            self._noting = False

    def wait(self, seconds: float) -> bool:
        """Whether it is time to end; waits for at most so many seconds."""
        return self._event.wait(seconds)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (what signal.signal calls)
        if not self._noting or self._event.is_set():
            raise KeyboardInterrupt
        self._event.set()


class Running:
    """The pipeline in a thread of its own, because this one watches it; stopped at the end of the `with` block."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="pgcdc-demo-pipeline")

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipeline.stop()
        self._thread.join()
        if kind is None:
            self.check()

    def check(self) -> None:
        """Raise what ended the pipeline, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._pipeline.arun())
        except BaseException as error:
            self._error = error
