"""Rebuilds of projections that were begun from a page: each in a thread, told how far it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pgcdc.console.wording import count, rate, span
from pgcdc.errors import ConfigError, Error
from pgcdc.eventstore import RebuildProgress, rebuild

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc.console.subject import Subject

__all__ = ["Rebuilds"]


class _StoppedError(Exception):
    """The console ends; the next rebuild goes on there."""


class _Rebuild:
    """One of them."""

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread
        self.progress: RebuildProgress | None = None
        self.error: str | None = None
        self.is_done = False

    @property
    def text(self) -> str:
        if self.error is not None:
            return self.error
        if self.progress is None:
            return "begins"
        at = self.progress
        if self.is_done:
            return f"done: {count(at.done)} events in {span(at.seconds)}, {rate(at.rate)} a second"
        left = at.seconds_left
        rest = "" if left is None else f", about {span(left)} left"
        return f"{count(at.done)} of {count(at.total)} events, {rate(at.rate)} a second{rest}"


class Rebuilds:
    """Begins them, and says how far they are.

    Args:
        subject: Has the store.
        redact: Takes secrets out of errors.
    """

    def __init__(self, subject: Subject, redact: Callable[[str], str]) -> None:
        self._subject = subject
        self._redact = redact
        self._lock = threading.Lock()
        self._known: dict[str, _Rebuild] = {}
        self._stopping = threading.Event()

    def begin(self, name: str) -> None:
        """Begin one; one that was interrupted goes on.

        Args:
            name: The projection's name.

        Raises:
            ConfigError: When there is no such projection, or it is being rebuilt.
        """
        store = self._subject.store
        if store is None or name not in [one.name for one in store.projections]:
            raise ConfigError(
                f"the class of the projection {name} is not known here",
                hint="pgcdc console --store MODULE:STORE, or pgcdc events rebuild",
            )
        with self._lock:
            known = self._known.get(name)
            if known is not None and known.thread.is_alive():
                raise ConfigError(f"the projection {name} is being rebuilt", hint="let that end")
            thread = threading.Thread(target=self._run, args=(name,), name=f"pgcdc-console-rebuild-{name}")
            self._known[name] = _Rebuild(thread)
            thread.start()

    def _run(self, name: str) -> None:
        store, this = self._subject.store, self._known[name]
        assert store is not None

        def told(progress: RebuildProgress) -> None:
            this.progress = progress
            if self._stopping.is_set():
                raise _StoppedError

        try:
            this.progress = rebuild(store, name, told=told)
            this.is_done = True
        except _StoppedError:
            this.error = "interrupted: the next rebuild goes on there"
        except Error as error:
            hint = f" ({error.hint})" if error.hint else ""
            this.error = self._redact(f"{error}{hint}")
        except Exception as error:
            this.error = f"a defect: {type(error).__name__}"
            raise

    @property
    def texts(self) -> dict[str, str]:
        """How far each is, in words."""
        return {f"rebuild/{name}": this.text for name, this in list(self._known.items())}

    @property
    def bars(self) -> dict[str, float]:
        """How far each is, from 0 to 1."""
        found = {}
        for name, this in list(self._known.items()):
            at = this.progress
            found[f"rebuild/{name}"] = (
                1.0 if this.is_done else at.done / at.total if at is not None and at.total else 0.0
            )
        return found

    def stop(self) -> None:
        """Interrupt those that go on, between two stretches, and wait for that."""
        self._stopping.set()
        for this in list(self._known.values()):
            this.thread.join()
