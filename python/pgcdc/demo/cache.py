"""The cache of the demo: how many orders each user has, in memory or in Redis.

A count is not idempotent by itself, so both keep the user of each order beside the counts: applying a change twice
finds nothing to do. Redis keeps the position too, in the same MULTI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, SinkUnavailable
from pgcdc.events import Delete, Message, Truncate
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, RowFormat

if TYPE_CHECKING:
    import redis

__all__ = ["MemoryCounts", "Owner", "RedisCounts"]

_CHUNK: Final = 1000


class Owner(msgspec.Struct, frozen=True):
    """What the counts need of a row of `orders`; the other columns are never made into Python objects."""

    id: int
    user_id: int = 0


class _Emptied:
    """The table was truncated."""


def _owners(batch: Batch, rows: RowFormat) -> Iterator[tuple[int, int | None] | _Emptied]:
    """What a batch says of each order: whose it is now, None when it is gone."""
    for change in batch.changes(rows):
        if isinstance(change, DecodeError):
            raise change
        if isinstance(change, Message):  # belongs to no table
            continue
        if isinstance(change, Truncate):
            yield _Emptied()
        elif isinstance(change, Delete):
            yield change.old.id, None
        else:
            if change.old is not UNSET and change.old.id != change.new.id:  # the key was changed
                yield change.old.id, None
            yield change.new.id, change.new.user_id


class MemoryCounts:
    """Counts in memory. They are gone with the process, and a new initial copy makes them again."""

    def __init__(self) -> None:
        self._rows = RowFormat("struct", types={"orders": Owner})
        self._users: dict[int, int] = {}
        self._counts: Counter[int] = Counter()

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: Batch) -> None:
        """Apply a batch."""
        for owner in _owners(batch, self._rows):
            if isinstance(owner, _Emptied):
                self._users.clear()
                self._counts.clear()
                continue
            order, user = owner
            before = self._users.pop(order, None)
            if before is not None:
                self._counts[before] -= 1
            if user is not None:
                self._users[order] = user
                self._counts[user] += 1

    def counts(self) -> dict[int, int]:
        """The number of orders of each user who has one."""
        return {user: count for user, count in self._counts.items() if count}

    def close(self) -> None:
        """Nothing to close."""


class RedisCounts:
    """Counts in a Redis hash, `order-count`, with the user of each order in another.

    Args:
        url: Where Redis is: `redis://localhost:6379/0`.
        prefix: What all keys begin with.

    Raises:
        ConfigError: When the Python package redis is missing.
    """

    def __init__(self, url: str, prefix: str = "pgcdc-demo") -> None:
        try:
            import redis
        except ImportError:
            raise ConfigError(
                "the cache in Redis needs the package redis, which is not installed", hint="pip install 'pgcdc[redis]'"
            ) from None
        try:
            self._redis: redis.Redis = redis.Redis.from_url(url, decode_responses=True)
        except ValueError as error:
            raise ConfigError(f"the Redis URL cannot be read: {error}", hint="redis://localhost:6379/0") from None
        self._unreachable = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError)
        self._rows = RowFormat("struct", types={"orders": Owner})
        self._users, self._counts, self._last = (f"{prefix}:{name}" for name in ("users", "order-count", "position"))
        self._position: Position | None = None

    def open(self) -> None:
        """Read the position.

        Raises:
            SinkUnavailable: When Redis cannot be reached.
        """
        stored = self._ask(self._redis.get, self._last)
        self._position = None if stored is None else Position.parse(stored)

    def position(self) -> Position | None:
        """The last position applied."""
        return self._position

    def write(self, batch: Batch) -> None:
        """Apply a batch in one MULTI.

        Raises:
            SinkUnavailable: When Redis cannot be reached.
        """
        if self._position is not None and self._position.index >= 0:
            batch = batch.after(self._position)
        if batch.last_position is None:
            return
        emptied = False
        changed: dict[int, int | None] = {}
        for owner in _owners(batch, self._rows):
            if isinstance(owner, _Emptied):
                emptied = True
                changed.clear()
            else:
                changed[owner[0]] = owner[1]
        self._ask(self._apply, changed, emptied, batch.last_position)
        self._position = batch.last_position

    def _apply(self, changed: dict[int, int | None], emptied: bool, position: Position) -> None:
        before = {} if emptied else self._read(self._users, list(changed))
        difference: Counter[int] = Counter(user for user in changed.values() if user is not None)
        difference.subtract(before.values())
        counts = {} if emptied else self._read(self._counts, list(difference))
        transaction = self._redis.pipeline(transaction=True)
        if emptied:
            transaction.delete(self._users, self._counts)
        self._write(transaction, self._users, changed)
        self._write(
            transaction, self._counts, {user: counts.get(user, 0) + more or None for user, more in difference.items()}
        )
        transaction.set(self._last, str(position))
        transaction.execute()

    def _read(self, name: str, keys: list[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            values: Any = self._redis.hmget(name, [str(key) for key in chunk])
            found.update((key, int(value)) for key, value in zip(chunk, values, strict=True) if value is not None)
        return found

    def _write(self, transaction: Any, name: str, values: dict[int, int | None]) -> None:
        if kept := {key: value for key, value in values.items() if value is not None}:
            transaction.hset(name, mapping=kept)
        if gone := [key for key, value in values.items() if value is None]:
            transaction.hdel(name, *gone)

    def counts(self) -> dict[int, int]:
        """The number of orders of each user who has one."""
        return {int(user): int(count) for user, count in self._ask(self._redis.hgetall, self._counts).items()}

    def exists(self) -> bool:
        """Whether Redis has any of the keys."""
        return bool(self._ask(self._redis.exists, self._users, self._counts, self._last))

    def delete(self) -> None:
        """Delete all keys."""
        self._ask(self._redis.delete, self._users, self._counts, self._last)

    def close(self) -> None:
        """Close the connections; they are made again when needed."""
        self._redis.close()

    def _ask(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._unreachable as error:
            raise SinkUnavailable("Redis cannot be reached", hint="see --redis; is it running?") from error
