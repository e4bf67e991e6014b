"""The sink `Webhook`: changes as JSON to a URL, signed, in batches or one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final

import aiohttp

from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.protocol import Batch
from pgcdc.sinks.lines import digest, lines, positions
from pgcdc.sinks.signature import SIGNATURE_HEADER, InvalidSignature, sign, verify

__all__ = ["SIGNATURE_HEADER", "InvalidSignature", "Webhook", "verify"]

_LATER: Final = frozenset({408, 425, 429})
"""Answers below 500 that are over by themselves."""
_MOST_WAITED: Final = 300.0
"""Seconds that a Retry-After may ask for at most."""
_MOST_REMEMBERED: Final = 100_000


@dataclass(frozen=True)
class _Post:
    """One request.

    Attributes:
        body: What is sent.
        key: Its Idempotency-Key.
        positions: Of the changes in it.
        orders: What it is in order with: keys of rows; None for everything.
    """

    body: bytes
    key: str
    positions: Sequence[Position]
    orders: tuple[bytes, ...] | None


class Webhook:
    """Sends changes to a URL by POST.

    **Promise: at least once, and every request says which one it is.** The header `Idempotency-Key` is made of the
    position: what comes again after a crash comes with the same key when it is sent one by one (`single=True`). In
    batches it may be cut in another way; each change in them has its `position`, and a receiver that keeps the last one
    of each row, or of all, skips what is not above it. An answer of 2xx means that the receiver has it durably.

    The body is what `Batch.to_json` writes: an array of such objects, or one object with `single=True`. Unchanged TOAST
    values are left out of `new`; an update that changes the key has `old`; TRUNCATE and logical messages are objects
    of their own; a change of shape is seen by the columns, and in `schema_version`.

    Order: batches are sent one after the other. One by one, `concurrency` requests are under way at once, those of one
    row's key in order, and a TRUNCATE alone. A request that fails holds back those behind it of the same key.

    Answers: 408, 425, 429 and 5xx, and no answer, are tried again later, not before a `Retry-After` is over (300 s at
    most); so is a redirect, which is not followed. As long as something is taken in between, that is no failure in a
    row, and the next attempt comes soon: a receiver may limit the rate. Any other 4xx is `SinkRejected`: of one
    change, it becomes a dead letter; a batch is taken apart until it is known which one it was.

    Args:
        url: Where requests go.
        secret: What requests are signed with, or several while one takes the place of another; see `verify`. None for
            no signature.
        single: Whether each change is a request of its own.
        max_changes: How many changes a request has at most.
        max_bytes: How many bytes of received messages a request is made of at most; one change may be larger.
        concurrency: How many requests are under way at once, with `single=True`.
        headers: More headers: `{"Authorization": "Bearer …"}`.
        timeout: How long an answer is waited for, in seconds.

    Raises:
        ConfigError: When an argument makes no sense.
    """

    defaults: ClassVar[dict[str, Any]] = {"max_rows": 1000}

    def __init__(
        self,
        url: str,
        *,
        secret: str | Sequence[str] | None = None,
        single: bool = False,
        max_changes: int = 100,
        max_bytes: int = 1 << 20,
        concurrency: int = 8,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("the URL of a webhook begins with http:// or https://")
        for name, value in (("max_changes", max_changes), ("max_bytes", max_bytes), ("concurrency", concurrency)):
            if value < 1:
                raise ConfigError(f"{name} has to be 1 at least")
        self._url = url
        self._host = url.split("/")[2].rpartition("@")[2]
        self._secrets = () if secret is None else (secret,) if isinstance(secret, str) else tuple(secret)
        if secret is not None and not all(self._secrets or [""]):
            raise ConfigError("a webhook's secret is empty")
        self._single = single
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._concurrency = concurrency
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._not_before = 0.0
        # The keys of requests that were taken, of batches that were not taken whole: these come again.
        self._taken: set[str] = set()

    async def open(self) -> None:
        """Get ready; nothing is sent yet."""
        connector = aiohttp.TCPConnector(limit=max(self._concurrency, 1))
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout, headers=self._headers)

    async def write(self, batch: Batch) -> None:
        """Send a batch.

        Raises:
            SinkUnavailable: When the receiver cannot take it now.
            SinkRejected: When it refuses a request.
        """
        wait = self._not_before - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        posts = _singles(batch) if self._single else self._batches(batch)
        left = [post for post in posts if post.key not in self._taken]
        errors = await _Run(self, left).run()
        if not errors:
            self._taken.difference_update(post.key for post in posts)
            return
        took_some = any(post.key in self._taken for post in left)
        if len(self._taken) > _MOST_REMEMBERED:
            self._taken.clear()
        refused = [(post, error) for post, error in errors if isinstance(error, SinkRejected)]
        for _, error in errors:
            if isinstance(error, SinkUnavailable):
                error.partly = took_some
                raise error
        # Of a request with several changes nobody knows which one it was.
        named = [post.positions[0] for post, _ in refused if len(post.positions) == 1]
        raise SinkRejected(str(refused[0][1]), positions=named)

    def _batches(self, batch: Batch) -> list[_Post]:
        posts = []
        for piece in batch.pieces(self._max_changes, self._max_bytes):
            places = positions(piece)
            body = b"[" + piece.to_json()[:-1].replace(b"\n", b",") + b"]"
            first, last = places[0], places[-1]
            plain = first.index >= 0 and last.index >= 0
            key = f"{first}-{last}" if plain else f"{first}-{last}-{digest(body)}"
            posts.append(_Post(body, key, places, None))
        return posts

    async def post(self, post: _Post) -> SinkRejected | SinkUnavailable | None:
        """Send one request.

        Args:
            post: The request.

        Returns:
            What went wrong; None when it was taken.
        """
        assert self._session is not None, "open was not called"
        headers = {"Idempotency-Key": post.key}
        if self._secrets:
            headers[SIGNATURE_HEADER] = sign(post.body, self._secrets, int(time.time()))
        try:
            async with self._session.post(
                self._url, data=post.body, headers=headers, allow_redirects=False
            ) as response:
                # So that the connection can be used again; what it says is nobody's business here.
                await response.content.read(1 << 16)
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return SinkUnavailable(f"the webhook at {self._host} does not answer ({type(error).__name__})")
        if 200 <= status < 300:
            self._taken.add(post.key)
            return None
        if 400 <= status < 500 and status not in _LATER:
            what = "a change" if len(post.positions) == 1 else f"one of {len(post.positions)} changes"
            return SinkRejected(f"the webhook at {self._host} refused {what} with {status}")
        if retry_after is not None and status >= 400:
            self._not_before = time.monotonic() + _seconds(retry_after)
        hint = "give the URL that it redirects to" if status < 400 else None
        return SinkUnavailable(f"the webhook at {self._host} answers {status}", hint=hint)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    @property
    def at_once(self) -> int:
        """How many requests may be under way."""
        return self._concurrency if self._single else 1


class _Run:
    """The requests of a batch: several under way, those of one key one after the other.

    Args:
        sink: What sends them.
        posts: The requests.
    """

    def __init__(self, sink: Webhook, posts: Sequence[_Post]) -> None:
        self._sink = sink
        self._posts = posts
        self._room = asyncio.Semaphore(sink.at_once)
        self._errors: list[tuple[_Post, SinkRejected | SinkUnavailable]] = []
        self._is_over = False

    async def run(self) -> list[tuple[_Post, SinkRejected | SinkUnavailable]]:
        """Send all that can be sent.

        Returns:
            Those that were not taken, with what went wrong.
        """
        last: dict[bytes, asyncio.Task[bool]] = {}
        barrier: asyncio.Task[bool] | None = None
        tasks: list[asyncio.Task[bool]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for post in self._posts:
                    if post.orders is None:
                        before = set(tasks)
                    else:
                        before = {last[key] for key in post.orders if key in last}
                        before |= set() if barrier is None else {barrier}
                    task = group.create_task(self._one(post, before))
                    tasks.append(task)
                    if post.orders is None:
                        last, barrier = {}, task
                    else:
                        last.update(dict.fromkeys(post.orders, task))
        finally:
            # Tasks know one another; what they have is not to wait for a collection.
            last.clear()
            tasks.clear()
        return self._errors

    async def _one(self, post: _Post, before: set[asyncio.Task[bool]]) -> bool:
        """Send one when all those before it were taken."""
        for task in before:
            if not await task:
                return False
        async with self._room:
            if self._is_over:
                return False
            error = await self._sink.post(post)
        if error is None:
            return True
        self._errors.append((post, error))
        if not isinstance(error, SinkRejected):
            self._is_over = True  # what is away for one is away for all
        return False


def _singles(batch: Batch) -> list[_Post]:
    keys = batch.keys({relation.oid: batch.key_columns(relation) for relation in batch.relations})
    return [_Post(line.body, line.name, [line.position], of) for line, of in zip(lines(batch), keys, strict=True)]


def _seconds(retry_after: str) -> float:
    """What a Retry-After says: seconds, or a date."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(seconds, 0.0), _MOST_WAITED)
