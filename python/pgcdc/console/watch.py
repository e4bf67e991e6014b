"""Looks again and again, keeps the numbers of the last half hour, and wakes who waits for the next."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import Any, Final

from pgcdc.console import wording
from pgcdc.console.observation import Observation, Observer

__all__ = ["Watch", "numbers_of", "texts_of"]

_KEPT: Final = 1800
"""Samples: half an hour of seconds; longer while nobody looks, when there are fewer of them."""
_OVER: Final = 5.0
"""Seconds over which a rate is taken: a second alone jumps about."""
_LAST: Final = 0.5
"""Seconds that a look that is under way has at the end."""

Numbers = dict[str, float]


def numbers_of(seen: Observation) -> Numbers:
    """What is drawn, by its key.

    Args:
        seen: What was seen.

    Returns:
        Numbers: `"slot/NAME/held"`, `"consumer/PIPELINE/NAME/seconds"` and so on; what is not known is left out.
    """
    found: dict[str, float | None] = {"wal/written": seen.wal_lsn or None, "letters": seen.letters}
    for slot in seen.slots:
        key = f"slot/{slot.name}"
        found |= {f"{key}/held": slot.held_bytes, f"{key}/lag": slot.lag_bytes, f"{key}/safe": slot.safe_wal_size}
        found[f"{key}/seconds"] = slot.lag_seconds
    for one in seen.consumers:
        key = f"consumer/{one.key}"
        found |= {f"{key}/behind": one.behind, f"{key}/seconds": one.seconds, f"{key}/through": one.through_lsn or None}
        if one.statistics is not None:
            found |= {f"{key}/delivered": one.statistics.delivered, f"{key}/queued": one.statistics.queued_rows}
            found[f"{key}/spooled"] = one.statistics.spooled_bytes
    for projection in seen.projections:
        found[f"projection/{projection.name}/{projection.generation}/events"] = projection.events
    return {key: float(value) for key, value in found.items() if value is not None}


_RATES: Final = {"wal/written": "wal/rate", "/delivered": "/rate", "/through": "/pace", "/events": "/rate"}
"""What is counted up, and what it becomes in a second."""


def texts_of(seen: Observation, numbers: Numbers) -> dict[str, str]:
    """The same as people read it, and what is no number: put on pages where an element says `data-live="KEY"`.

    Args:
        seen: What was seen.
        numbers: With rates.

    Returns:
        Texts by key.
    """
    texts = {}
    for key, value in numbers.items():
        last = key.rsplit("/", 1)[-1]
        if last in ("held", "lag", "safe", "behind", "spooled"):
            texts[key] = wording.size(value)
        elif last == "pace" or key == "wal/rate":
            texts[key] = f"{wording.size(value)}/s"
        elif last == "seconds":
            texts[key] = wording.span(value)
        elif last == "rate":
            texts[key] = wording.rate(value)
        elif last in ("delivered", "queued", "events") or key == "letters":
            texts[key] = wording.count(value)
    texts["wal/lsn"] = wording.lsn(seen.wal_lsn)
    for slot in seen.slots:
        texts[f"slot/{slot.name}/confirmed"] = wording.lsn(slot.confirmed_flush_lsn)
        texts[f"slot/{slot.name}/restart"] = wording.lsn(slot.restart_lsn)
    for one in seen.consumers:
        texts[f"consumer/{one.key}/position"] = wording.place(one.position)
        texts[f"consumer/{one.key}/lsn"] = wording.lsn(one.through_lsn)
        texts[f"consumer/{one.key}/letters"] = wording.count(one.letters.failed + one.letters.held)
        if one.statistics is not None:
            texts[f"consumer/{one.key}/state"] = "parked" if one.statistics.parked else one.statistics.state
    if seen.statistics is not None:
        texts["phase"] = seen.statistics.source.phase
        if (copy := seen.statistics.source.snapshot) is not None:
            texts["snapshot"] = str(copy)
    return texts


class Watch:
    """Looks, on the event loop of the console's server.

    Args:
        observer: Who looks.
        every: Seconds between two looks while a page is open.
        unwatched: And while none is.
        within: Seconds after which a server that has not answered is said to hang; it cancels what takes five.
    """

    def __init__(self, observer: Observer, *, every: float = 1.0, unwatched: float = 5.0, within: float = 8.0) -> None:
        self._observer = observer
        self._every, self._unwatched = every, unwatched
        self._kept: deque[tuple[float, Numbers]] = deque(maxlen=_KEPT)
        self._seen: Observation | None = None
        self._waiters: set[asyncio.Event] = set()
        self._hurry = asyncio.Event()
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._within = within
        self._let_go = asyncio.Event()
        self._thread: asyncio.Future[Observation] | None = None
        self._hangs_since: float | None = None
        self.number = 0
        self.watchers = 0
        self.is_stopping = False

    async def start(self) -> None:
        """Look once, and go on looking."""
        await self._look()
        self._task = asyncio.create_task(self._run(), name="pgcdc-console-watch")

    async def _run(self) -> None:
        while not self.is_stopping:
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self._every if self.watchers else self._unwatched)
            if not self.is_stopping:
                await self._look()

    async def refresh(self, age: float = 1.0, patience: float = 2.0) -> None:
        """Look again before a page is shown, when nobody was looking; a server that hangs is not waited for.

        Args:
            age: Seconds that what was seen may be old.
            patience: Seconds that a page waits.
        """
        if self._seen is None or self.is_stopping or time.time() - self._seen.at <= age:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._look(), name="pgcdc-console-refresh")
        await asyncio.wait([self._refreshing], timeout=0.0 if self.is_hanging else patience)

    @property
    def is_hanging(self) -> bool:
        """Whether the server has been asked and does not answer."""
        return self._hangs_since is not None

    async def _look(self) -> None:
        async with self._looking:
            seen = await self._observed()
            if self.is_stopping and seen is None:
                return
            if seen is None:
                assert self._hangs_since is not None
                seconds = time.monotonic() - self._hangs_since
                seen = self._observer.alone(f"the server has not answered for {wording.span(seconds)}")
            numbers = numbers_of(seen)
            numbers |= self._rates(seen.at, numbers)
            self._kept.append((seen.at, numbers))
            self._seen = seen
            self.number += 1
        for waiter in self._waiters:
            waiter.set()

    async def _observed(self) -> Observation | None:
        """One look, in a thread that neither a page nor the end waits for; None when the server does not answer."""
        looking = self._thread
        if looking is None:
            began, looking = time.monotonic(), asyncio.get_running_loop().create_future()
            self._thread = looking
            threading.Thread(target=self._observe, args=(looking,), name="pgcdc-console-look", daemon=True).start()
        else:
            began = self._hangs_since or time.monotonic()
        letting_go = asyncio.create_task(self._let_go.wait())
        try:
            both: list[asyncio.Future[Any]] = [looking, letting_go]
            await asyncio.wait(both, timeout=self._within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            letting_go.cancel()
        if not looking.done():
            self._hangs_since = began
            return None
        self._thread = self._hangs_since = None
        return looking.result()

    def _observe(self, looking: asyncio.Future[Observation]) -> None:
        """In the thread."""

        def told() -> None:
            if looking.cancelled():
                return
            if error is None:
                assert seen is not None
                looking.set_result(seen)
            else:
                looking.set_exception(error)

        seen: Observation | None = None
        error: BaseException | None = None
        try:
            seen = self._observer.observe()
        except BaseException as raised:
            error = raised
        if self.is_stopping:
            self._observer.close()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            looking.get_loop().call_soon_threadsafe(told)

    def _rates(self, at: float, numbers: Numbers) -> Numbers:
        """How fast everything rises that is counted up: since some seconds ago, or the last look before that."""
        before = next((one for one in reversed(self._kept) if at - one[0] >= _OVER), None)
        if before is None and self._kept:
            before = self._kept[0]
        if before is None or at <= before[0]:
            return {}
        then, old = before
        rates = {}
        for ending, name in _RATES.items():
            for key, value in numbers.items():
                if key.endswith(ending) and key in old:
                    rates[key.removesuffix(ending) + name] = max(value - old[key], 0.0) / (at - then)
        return rates

    @property
    def seen(self) -> Observation:
        """What was seen last.

        Raises:
            RuntimeError: Before `start`.
        """
        if self._seen is None:
            raise RuntimeError("the watch was not started")
        return self._seen

    @property
    def numbers(self) -> Numbers:
        """The numbers that were seen last, with rates."""
        return self._kept[-1][1] if self._kept else {}

    @property
    def texts(self) -> dict[str, str]:
        """The same as texts."""
        return texts_of(self.seen, self.numbers)

    def series(self, keys: list[str]) -> dict[str, Any]:
        """What was seen of some numbers.

        Args:
            keys: Which.

        Returns:
            `at`: times, and `values`: for each key a list as long, with None where it was not known.
        """
        kept = list(self._kept)
        return {"at": [at for at, _ in kept], "values": [[numbers.get(key) for _, numbers in kept] for key in keys]}

    def growth(self, key: str, over: float = 300.0) -> float | None:
        """How fast a number has risen lately.

        Args:
            key: Which.
            over: In the last so many seconds.

        Returns:
            So much in a second, negative where it has fallen; None when it was not seen for half of that time.
        """
        known = [(at, numbers[key]) for at, numbers in list(self._kept) if key in numbers]
        if not known:
            return None
        at, value = known[-1]
        then, before = next((one for one in known if at - one[0] <= over), known[-1])
        return (value - before) / (at - then) if at - then >= over / 2 else None

    async def after(self, number: int) -> int:
        """Wait for the next look.

        Args:
            number: That of the look that is known.

        Returns:
            The number of the last one.
        """
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while self.number <= number and not self.is_stopping:
                await waiter.wait()
                waiter.clear()
        finally:
            self._waiters.discard(waiter)
        return self.number

    def look_now(self) -> None:
        """Look without waiting: something was changed, or somebody has begun to look."""
        self._hurry.set()

    def let_go(self) -> None:
        """Look no more, and let go whoever waits; on the event loop."""
        self.is_stopping = True
        self._let_go.set()
        self._hurry.set()
        for waiter in self._waiters:
            waiter.set()

    async def stop(self) -> None:
        """End."""
        self.let_go()
        for task in (self._task, self._refreshing):
            if task is not None:
                await task
        self._task = self._refreshing = None
        if self._thread is not None:
            await asyncio.wait([self._thread], timeout=_LAST)
        if self._thread is None or self._thread.done():  # else the thread does it, or ends with the process
            self._observer.close()
