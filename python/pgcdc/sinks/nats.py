"""The sink `Nats`: changes as messages in a stream of NATS JetStream, which knows them again for a while."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Final

import nats
from nats.errors import AuthorizationError, Error, MaxPayloadError
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.protocol import Batch
from pgcdc.sinks.lines import Line, lines
from pgcdc.sinks.template import Template

__all__ = ["Nats"]

_HEADERS: Final = 1024
"""Bytes that a message's headers may take of the server's limit."""
_LONGEST_SUBJECT: Final = 3900
"""In bytes. A server ends a connection whose lines are longer than 4,096; with the subject, one has sizes and where the
acknowledgement goes. Source: the manual of NATS, "Server configuration", `max_control_line`."""
_NONE: Final = "_"
"""What a message without a table, or a TRUNCATE, has in its subject where others have a column's value."""
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")


def _digest(subject: str) -> str:
    return blake2b(subject.encode(), digest_size=8).hexdigest()


class Nats:
    """Publishes changes to a JetStream stream, one message for each.

    **Promise: at least once; within a window once.** `Nats-Msg-Id` is the position with a digest of the subject, and a
    stream leaves out what has an id that it has seen within its duplicate window (`window`, two minutes by default).
    What comes again later, after a longer stop between writing and storing the position, is in the stream twice; its
    `position` says so. A write returns when the stream has acknowledged every message of the batch.

    The message is the line of `Batch.to_json`. An unchanged TOAST value is left out of `new`; an update that changes
    the key has `old`; TRUNCATE and logical messages are messages, too; a change of shape is seen by the columns, and in
    `schema_version`. Rows of the initial copy have one position all together, so their ids have a digest of the row
    behind it.

    Messages are stored in the order of the changes. When a connection breaks, what follows is sent only after the batch
    was begun again. A stream that refuses what is new when it is full, and has no room for a batch, gets its messages
    one by one, up to the first that it refuses. A row that is larger than the server or the stream takes is
    `SinkRejected`, before anything of its batch is sent.

    Args:
        servers: `nats://user:password@host:4222`, or several of a cluster.
        stream: The stream. When it is not there it is made, with the subjects that the template can make, on disk; one
            that is there stays as it is.
        subject: The subject of a change: `{schema}`, `{table}`, columns of the key or `{key}` in braces, with dots
            between them. In values all but letters, digits, `_` and `-` are written as `=2E` and so on, and an empty
            value as `=`.
        window: How long a stream that is made knows ids again, in seconds.
        replicas: How many servers of a cluster keep a stream that is made.
        timeout: How long an acknowledgement is waited for, in seconds.
        options: More of what `nats.connect` takes: `{"user_credentials": "pgcdc.creds"}`.

    Raises:
        ConfigError: When an argument makes no sense.
    """

    defaults: ClassVar[dict[str, Any]] = {"max_rows": 2000}

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        stream: str = "pgcdc",
        subject: str = "pgcdc.{schema}.{table}",
        window: float = 120.0,
        replicas: int = 1,
        timeout: float = 10.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if _UNSAFE.search(stream) or not stream:
            raise ConfigError(f"stream={stream!r} is no name of a stream", hint="letters, digits, _ and -")
        self._template = Template(subject, "subject")
        fixed = "".join(literal for literal, _ in self._template.parts)
        if re.search(r"[\s*>]", fixed) or not all(self._pattern().split(".")):
            raise ConfigError(f"subject={subject!r} is no subject", hint='words with dots between them: "shop.{table}"')
        if window <= 0 or replicas < 1:
            raise ConfigError("window= and replicas= are above 0")
        self._servers = [servers] if isinstance(servers, str) else list(servers)
        self._stream = stream
        self._window = window
        self._replicas = replicas
        self._timeout = timeout
        self._options = dict(options or {})
        self._connection: Any = None
        self._jetstream: Any = None
        self._largest = 0
        self._refuses = False
        self._refused: asyncio.Future[Exception] | None = None
        self._opening = asyncio.Lock()

    def _pattern(self) -> str:
        """All subjects that the template can make."""
        tokens = "".join(literal + ("" if name is None else "*") for literal, name in self._template.parts)
        # A wildcard is a whole word.
        return ".".join("*" if "*" in token else token for token in tokens.split("."))

    async def open(self) -> None:
        """Connect, and make the stream when it is not there.

        Raises:
            SinkUnavailable: When no server can be reached, or refuses.
        """
        # No reconnection behind our back: what was not acknowledged would come behind what is sent after it.
        options = {"connect_timeout": self._timeout, **self._options, "allow_reconnect": False}
        self._refused = refused = asyncio.get_running_loop().create_future()

        async def note(error: Exception) -> None:
            # Errors are raised where they matter, and nats prints them otherwise; but a refusal by JetStream gets lost
            # on the way to whoever waits for an acknowledgement.
            if isinstance(error, APIError) and not refused.done():
                refused.set_result(error)

        try:
            connection = await asyncio.wait_for(
                nats.connect(self._servers, error_cb=note, **options), self._timeout * 2
            )
            self._connection = connection
            self._jetstream = connection.jetstream(timeout=self._timeout)
            try:
                config = (await self._jetstream.stream_info(self._stream)).config
            except NotFoundError:
                config = (await self._jetstream.add_stream(self._config())).config
        except (Error, OSError, TimeoutError) as error:
            await self.close()
            raise _unavailable(error) from error
        limits = [connection.max_payload - _HEADERS, (config.max_msg_size or 0) - _HEADERS]
        self._largest = min(limit for limit in limits if limit > 0)
        limited = (config.max_bytes or 0) > 0 or (config.max_msgs or 0) > 0 or config.discard_new_per_subject
        self._refuses = config.discard == DiscardPolicy.NEW and limited

    def _config(self) -> StreamConfig:
        return StreamConfig(
            name=self._stream,
            subjects=[self._pattern()],
            storage=StorageType.FILE,
            duplicate_window=self._window,
            num_replicas=self._replicas,
        )

    async def write(self, batch: Batch) -> None:
        """Publish a batch, and wait for the acknowledgements.

        Raises:
            SinkUnavailable: When they do not come. The messages may be in the stream; their ids are known there.
            SinkRejected: When a message is too large, or a row has no key for its subject, or too long a one.
        """
        async with self._opening:  # several parts of a batch may be written at once
            if self._connection is None or not self._connection.is_connected:
                await self.close()
                await self.open()
        messages = self._messages(batch)
        try:
            if self._refuses and not await self._has_room(messages):
                for subject, line in messages:
                    await self._jetstream.publish(subject, line.body, stream=self._stream, headers=_id(subject, line))
            else:
                await self._publish(messages)
        except MaxPayloadError as error:
            raise SinkRejected("a change is larger than the server takes") from error
        except (Error, OSError, TimeoutError) as error:
            # What was sent and not acknowledged is not to come behind what is sent next.
            await self.close()
            raise _unavailable(error) from error

    async def _has_room(self, messages: Sequence[tuple[str, Line]]) -> bool:
        """Whether a stream that refuses what is new has room for all, whatever its server keeps of each besides."""
        info = await self._jetstream.stream_info(self._stream)
        config, state = info.config, info.state
        if config.discard_new_per_subject and config.max_msgs_per_subject > 0:
            return False
        size = sum(len(line.body) + len(subject) + _HEADERS for subject, line in messages)
        room = [(config.max_bytes or 0, state.bytes + size), (config.max_msgs or 0, state.messages + len(messages))]
        return all(limit <= 0 or needed <= limit for limit, needed in room)

    async def _publish(self, messages: Sequence[tuple[str, Line]]) -> None:
        """Publish messages without waiting for one before the next is sent."""
        assert self._refused is not None
        acknowledgements: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._timeout):
                for subject, line in messages:
                    headers = _id(subject, line)
                    acknowledgements.append(
                        await self._jetstream.publish_async(subject, line.body, stream=self._stream, headers=headers)
                    )
                await self._connection.flush()
                taken = asyncio.gather(*acknowledgements)
                taken.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, whoever was first
                await asyncio.wait((taken, self._refused), return_when=asyncio.FIRST_COMPLETED)
                if self._refused.done():
                    raise self._refused.result()
                await taken
        finally:
            for future in acknowledgements:
                future.cancel()

    def _messages(self, batch: Batch) -> list[tuple[str, Line]]:
        def key(relation: Relation) -> Sequence[str]:
            return self._template.key(batch.key_columns(relation))

        fillers: dict[int, Callable[[Sequence[str | None]], str]] = {}
        found, large, keyless, long = [], [], [], []
        for line in lines(batch, key):
            relation, values = line.row.relation, line.row.key
            if len(line.body) > self._largest:
                large.append(line.position)
            columns = self._template.columns if relation is None else key(relation)
            if not columns or line.row.action in ("truncate", "message"):
                values = (_NONE,) * (len(columns) + 1)
            if values is None or None in values:
                keyless.append(line.position)
                continue
            if id(relation) not in fillers:
                fillers[id(relation)] = self._filler(batch, relation, columns)
            subject = fillers[id(relation)](values)
            if len(subject) > _LONGEST_SUBJECT:
                long.append(line.position)
            found.append((subject, line))
        if large:
            raise SinkRejected(
                f"a change is larger than {self._largest} bytes, which the stream takes", positions=large
            )
        if long:
            raise SinkRejected(
                f"a row's key makes a subject of more than {_LONGEST_SUBJECT} bytes",
                hint="leave the column out of subject=",
                positions=long,
            )
        if keyless:
            raise SinkRejected("a row has no key for the subject of its message", positions=keyless)
        return found

    def _filler(
        self, batch: Batch, relation: Relation | None, columns: Sequence[str]
    ) -> Callable[[Sequence[str | None]], str]:
        """What makes a subject of the values of some columns."""
        if relation is None:
            fill = self._template.filler(_NONE, "messages", (*columns, _NONE), (_NONE,))
        else:
            of_table = batch.key_columns(relation)
            fill = self._template.filler(_safe(relation.schema), _safe(relation.name), columns, of_table)
        return lambda values: fill([_safe(str(value)) for value in values])

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection, self._jetstream = self._connection, None, None
        if connection is not None:
            await connection.close()


def _id(subject: str, line: Line) -> dict[str, str]:
    """The header by which a stream knows a message. Two sinks may fill one: a change under two subjects is two."""
    return {"Nats-Msg-Id": f"{line.name}.{_digest(subject)}"}


def _safe(value: str) -> str:
    """A value as one word of a subject."""
    encoded = value.encode("utf-8", "surrogateescape")
    word = "".join(
        chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"_-") else f"={byte:02X}"
        for byte in encoded
    )
    return word or "="


def _unavailable(error: Exception) -> SinkUnavailable:
    """What it is to the caller. Texts of the server's are not told, nor is where it is."""
    if isinstance(error, AuthorizationError):
        return SinkUnavailable("NATS refuses the user or the password", hint="see servers= and options=")
    if isinstance(error, NoStreamResponseError):
        return SinkUnavailable("no stream takes the subject of a change", hint="nats stream edit --subjects=…")
    if isinstance(error, APIError) and (error.description or "").startswith("maximum "):
        return SinkUnavailable(
            "the stream is full, and refuses what is new", hint="nats stream edit: --max-bytes, --max-msgs, --discard"
        )
    if isinstance(error, APIError):
        return SinkUnavailable(f"JetStream refuses messages now (error {error.err_code})", hint="nats stream info")
    return SinkUnavailable(f"NATS cannot be reached or does not acknowledge ({type(error).__name__})")
