"""A broker whose coordinator refuses to say what groups have stored, as one that has just moved; or that goes away."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Final

from tests.servers.kafka import KafkaServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "DESCRIBE_CONFIGS",
    "LIST_OFFSETS",
    "OFFSET_COMMIT",
    "OFFSET_FETCH",
    "SASL_HANDSHAKE",
    "SYNC_GROUP",
    "Coordinator",
    "coordinator",
]

LOADS: Final = 14
"""COORDINATOR_LOAD_IN_PROGRESS"""
MOVED: Final = 16
"""NOT_COORDINATOR"""
LIST_OFFSETS: Final = 2
OFFSET_COMMIT: Final = 8
OFFSET_FETCH: Final = 9
SYNC_GROUP: Final = 14
SASL_HANDSHAKE: Final = 17
DESCRIBE_CONFIGS: Final = 32
_API_VERSIONS: Final = 18
_PLAIN: Final = {OFFSET_FETCH: 5, LIST_OFFSETS: 5}
"""The last versions that are no flexible ones, so that their answers are easily made."""
_UNKNOWN: Final = struct.pack(">h", 3)
"""UNKNOWN_TOPIC_OR_PART"""


class Coordinator:
    """What goes to a broker and comes from there, with other answers to OffsetFetch.

    Attributes:
        port: Where clients find it.
        refusal: The error that these have; 0 for the broker's own answers.
        refusals: Errors of single partitions in them, by topic and number.
        refused: How many were refused.
        unknown: The request (of DescribeConfigs and ListOffsets) whose answers say that there is no such topic.
        swallows: The request that is not answered.
        leaves: The request that it goes away with, and takes no connections any more until that is None: before it has
            answered, or with SyncGroup, which gives partitions to a member, behind the answer.
    """

    def __init__(self) -> None:
        self.refusal = 0
        self.refusals: dict[tuple[str, int], int] = {}
        self.refused = 0
        self.unknown: int | None = None
        self.swallows: int | None = None
        self.leaves: int | None = None
        self._is_away = False
        self._broker = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def start(self, broker: int) -> None:
        """Take connections to a broker.

        Args:
            broker: Its port.
        """
        self._broker = broker
        threading.Thread(target=self._accept, name="coordinator", daemon=True).start()

    def settle(self) -> None:
        """Refuse nothing any more."""
        self.refusal, self.refusals, self.refused, self.unknown, self.leaves = 0, {}, 0, None, None

    def close(self) -> None:
        """End all connections, and take none any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a thread that accepts would keep it open
        self._listener.close()
        self._end_all()

    def _end_all(self) -> None:
        for one in list(self._open):
            _end(one)

    def _leave(self) -> None:
        self._is_away = True
        self._end_all()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._is_away = self._is_away and self.leaves is not None
                if self._is_away:
                    _end(client)
                    continue
                self._open.append(client)
                with contextlib.suppress(OSError):
                    broker = socket.create_connection(("127.0.0.1", self._broker))
                    self._open.append(broker)
                    kinds: dict[int, tuple[int, int]] = {}
                    for passes in (self._ask, self._answer):
                        arguments = (client, broker, kinds)
                        threading.Thread(target=passes, args=arguments, name="coordinator", daemon=True).start()

    def _ask(self, client: socket.socket, broker: socket.socket, kinds: dict[int, tuple[int, int]]) -> None:
        with contextlib.suppress(OSError):
            while (message := _read(client)) is not None:
                api, version, correlation = struct.unpack_from(">hhi", message)
                kinds[correlation] = api, version
                if api == self.leaves != SYNC_GROUP:
                    self._leave()
                if api != self.swallows:
                    broker.sendall(struct.pack(">i", len(message)) + message)
        _end(broker)

    def _answer(self, client: socket.socket, broker: socket.socket, kinds: dict[int, tuple[int, int]]) -> None:
        with contextlib.suppress(OSError):
            while (message := _read(broker)) is not None:
                [correlation] = struct.unpack_from(">i", message)
                api, version = kinds.pop(correlation)
                if api == _API_VERSIONS:
                    _say_less(message, version)
                elif api == self.unknown:
                    _know_no_topic(message, api)
                elif api == OFFSET_FETCH and self.refusals:
                    self.refused += _refuse(message, version, self.refusals)
                elif api == OFFSET_FETCH and self.refusal:
                    throttle = struct.pack(">i", 0) if version >= 3 else b""
                    message = bytearray(
                        struct.pack(">i", correlation) + throttle + struct.pack(">ih", 0, self.refusal)  # no topics
                    )
                    self.refused += 1
                client.sendall(struct.pack(">i", len(message)) + message)
                if api == self.leaves == SYNC_GROUP:
                    self._leave()
        _end(client)


def _say_less(message: bytearray, version: int) -> None:
    """Have a broker's answer to ApiVersions say that it knows requests up to `_PLAIN` only."""
    flexible = version >= 3
    at = 6  # behind correlation and error; then the count: a varint of one more, or four bytes
    if flexible:
        count, shift = 0, 0
        while True:
            count |= (message[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not message[at - 1] & 128:
                break
        count -= 1
    else:
        [count] = struct.unpack_from(">i", message, at)
        at += 4
    for _ in range(count):
        api, _lowest, highest = struct.unpack_from(">hhh", message, at)
        struct.pack_into(">h", message, at + 4, min(highest, _PLAIN.get(api, highest)))
        at += 7 if flexible else 6  # a flexible one has an empty set of tagged fields behind it


def _know_no_topic(message: bytearray, api: int) -> None:
    """Have an answer about one topic, and one of its partitions, say that there is none."""
    at = 12  # behind correlation, throttle time and the number of topics
    if api == LIST_OFFSETS:
        [length] = struct.unpack_from(">h", message, at)
        at += 2 + length + 8  # behind the name, the number of partitions, and that of this one
    message[at : at + 2] = _UNKNOWN


def _refuse(message: bytearray, version: int, refusals: Mapping[tuple[str, int], int]) -> int:
    """Have an answer to OffsetFetch say errors of partitions; how many it said."""
    at, refused = 8 if version >= 3 else 4, 0

    def number(format: str) -> int:
        nonlocal at
        [found] = struct.unpack_from(format, message, at)
        at += struct.calcsize(format)
        return int(found)

    for _ in range(number(">i")):
        length = number(">h")
        topic = message[at : at + length].decode()
        at += length
        for _ in range(number(">i")):
            error = refusals.get((topic, number(">i")), 0)
            if error:
                struct.pack_into(">q", message, at, -1)
            at += 12 if version >= 5 else 8  # the offset, and the epoch of the leader
            length = max(0, number(">h"))
            if error:
                struct.pack_into(">h", message, at - 2, 0)
                del message[at : at + length]
                length = 0
            at += length
            if error:
                struct.pack_into(">h", message, at, error)
                refused += 1
            at += 2
    return refused


def _read(side: socket.socket) -> bytearray | None:
    head = _exactly(side, 4)
    return None if head is None else _exactly(side, struct.unpack(">i", head)[0])


def _exactly(side: socket.socket, count: int) -> bytearray | None:
    data = bytearray()
    while len(data) < count:
        more = side.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


def _end(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RDWR)
    side.close()


@contextlib.contextmanager
def coordinator() -> Iterator[tuple[Coordinator, KafkaServer]]:
    """A broker of its own, which clients reach through it only."""
    between = Coordinator()
    with contextlib.closing(between):
        advertised = f"PLAINTEXT://127.0.0.1:{between.port}"
        with KafkaServer({"advertised.listeners": advertised}) as server:
            between.start(server.port)
            server.start()
            yield between, server
