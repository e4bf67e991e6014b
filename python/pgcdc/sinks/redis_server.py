"""The connection of the Redis sink: scripts, loaded again when the server has lost them, and what its errors mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable

__all__ = ["Call", "Server", "pages"]

Returned = TypeVar("Returned")

_LATER: Final = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
)
"""Words with which errors begin that are over when the server's state is another."""
_ACCESS: Final = ("NOAUTH", "NOPERM", "WRONGPASS")


class Call(NamedTuple):
    """A script with what it is given.

    Attributes:
        script: Its text.
        keys: The keys.
        arguments: The other arguments.
    """

    script: str
    keys: Sequence[str]
    arguments: Sequence[str | bytes]


class Server:
    """A Redis or Valkey server. Thread-safe: each call takes a connection of its own.

    Args:
        url: Where it is.
        timeout: How long an answer is waited for, in seconds.

    Raises:
        ConfigError: When the URL is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            # Whoever calls tries again, and says so.
            self._client: Any = redis.Redis.from_url(
                url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            # What redis says of it may hold the password.
            raise ConfigError("the URL of Redis cannot be read", hint="redis://user:password@host:6379/0") from None

    def open(self, scripts: Sequence[str]) -> None:
        """Connect, and load scripts.

        Args:
            scripts: Their texts.

        Raises:
            SinkUnavailable: When the server cannot be reached.
            ConfigError: When it is one of a cluster.
        """
        if self.ask(self._is_of_cluster):
            raise ConfigError(
                "this is one of a Redis Cluster, each of which has a part of the keys: a batch takes effect as a whole",
                hint="one server, or a primary with replicas, with or without Sentinel",
            )
        self.ask(self._load, scripts)

    def _is_of_cluster(self) -> bool:
        self._client.ping()
        try:
            return bool(self._client.info("cluster").get("cluster_enabled"))
        except redis.exceptions.NoPermissionError:
            return False

    def _load(self, scripts: Sequence[str]) -> None:
        self._client.ping()
        for script in scripts:
            self._client.script_load(script)

    def ask(self, function: Callable[..., Returned], *arguments: Any) -> Returned:
        """Call something that uses the connection.

        Args:
            function: What is called.
            *arguments: What it is given.

        Raises:
            SinkUnavailable: When the server cannot take it now.
            SinkRejected: When it never will.
        """
        try:
            return function(*arguments)
        except (redis.RedisError, OSError) as error:
            raise _error(error) from error

    def commands(self, build: Callable[[Any], None], *, at_once: bool = False) -> list[Any]:
        """Run commands in one round trip.

        Args:
            build: Is given what takes the commands.
            at_once: Whether nothing else may be done between them.

        Returns:
            An answer for each.

        Raises:
            SinkUnavailable: When the server cannot take them now.
            SinkRejected: When one is refused for good.
        """
        return self.ask(self._commands, build, at_once)

    def _commands(self, build: Callable[[Any], None], at_once: bool) -> list[Any]:
        pipeline = self._client.pipeline(transaction=at_once)
        build(pipeline)
        answers: list[Any] = pipeline.execute()
        return answers

    def unlink(self, chunks: Sequence[Sequence[str | bytes]]) -> None:
        """Delete keys, in one round trip.

        Args:
            chunks: The keys, so many in a command; none is right too.

        Raises:
            SinkUnavailable: When the server cannot take it now.
        """

        def build(pipeline: Any) -> None:
            for chunk in chunks:
                pipeline.unlink(*chunk)

        if chunks:
            self.commands(build)

    def scan(self, hash_name: str) -> Callable[[int], tuple[int, list[bytes]]]:
        """Look through the fields of a hash.

        Args:
            hash_name: Its key.

        Returns:
            A function that is given a cursor, 0 at first, and returns the next one and some fields.
        """

        def more(cursor: int) -> tuple[int, list[bytes]]:
            after, found = self.ask(self._client.hscan, hash_name, cursor, None, 1000)
            return int(after), list(found)

        return more

    def find(self, pattern: str) -> Callable[[int], tuple[int, list[bytes]]]:
        """Look through all keys for some.

        Args:
            pattern: As Redis's KEYS takes it.

        Returns:
            As `scan`.
        """

        def more(cursor: int) -> tuple[int, list[bytes]]:
            after, found = self.ask(self._client.scan, cursor, pattern, 1000)
            return int(after), list(found)

        return more

    def run(self, calls: Sequence[Call]) -> list[list[int]]:
        """Run scripts one after the other, with nothing of anybody else in between, in one round trip.

        Args:
            calls: What to run; none is right too.

        Returns:
            What each gives.

        Raises:
            SinkUnavailable: When the server cannot take it now. It may have.
            SinkRejected: When it never will.
        """
        if not calls:
            return []
        return self.ask(self._run, calls)

    def _run(self, calls: Sequence[Call]) -> list[list[int]]:
        try:
            return self._run_once(calls)
        except NoScriptError:
            # The server was started again, or somebody has flushed them. To repeat what did run changes nothing.
            self._load(list(dict.fromkeys(call.script for call in calls)))
            return self._run_once(calls)

    def _run_once(self, calls: Sequence[Call]) -> list[list[int]]:
        pipeline = self._client.pipeline(transaction=True)
        for script, keys, arguments in calls:
            pipeline.evalsha(_digest(script), len(keys), *keys, *arguments)
        answers: list[list[int]] = pipeline.execute()
        return answers

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def pages(more: Callable[[int], tuple[int, list[bytes]]]) -> Iterator[list[bytes]]:
    """Go through what `Server.scan` or `Server.find` gives.

    Args:
        more: That.
    """
    cursor = -1
    while cursor != 0:
        cursor, found = more(max(cursor, 0))
        if found:
            yield found


def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _error(error: Exception) -> SinkUnavailable | SinkRejected:
    """What it is to the caller. Of what Redis says only the first word is told: the rest may have keys in it."""
    if isinstance(error, redis.AuthenticationError):
        return _refused_access()
    if not isinstance(error, redis.ResponseError):
        return SinkUnavailable(f"Redis cannot be reached ({type(error).__name__})", hint="is it running?")
    # Some come without their first word, as a class of their own.
    names = {redis.exceptions.OutOfMemoryError: "OOM", redis.exceptions.ReadOnlyError: "READONLY"}
    word = names.get(type(error), str(error).partition(" ")[0])
    if word in _ACCESS or isinstance(error, redis.exceptions.NoPermissionError):
        return _refused_access()
    if word in _LATER or isinstance(error, redis.exceptions.ExecAbortError):
        return SinkUnavailable(f"Redis does not take writes now ({word})", hint="redis-cli INFO")
    return SinkRejected(f"Redis refused a command ({word if word.isupper() else type(error).__name__})")


def _refused_access() -> SinkUnavailable:
    return SinkUnavailable("Redis refuses the user, the password or a command", hint="see the URL, and ACL LIST")
