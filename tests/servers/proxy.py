"""A TCP proxy between a client and a server that breaks what goes through it, in the ways in which networks do.

It listens on a port of its own and connects to the server for each client. What it does to a connection can be changed
while it is open; a connection that was made before a change has it, too.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final, Literal

from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Proxy"]

_READ: Final = 65536


class Proxy:
    """A proxy in front of a server on 127.0.0.1, for the length of a `with` block.

    Args:
        port: The server's port.

    Attributes:
        port: The proxy's.
        hole: Whether nothing goes through any more, though connections stay open and new ones are taken.
        refuse: Whether new connections are ended at once.
        bite: At most so many bytes at a time go to the client; None for as they come.
        cut_after: After so many bytes more to the client, connections are ended in the middle; None for never.
        cut_by: How, for which there is a method of this name.
    """

    def __init__(self, port: int) -> None:
        self.hole = False
        self.refuse = False
        self.bite: int | None = None
        self.cut_after: int | None = None
        self.cut_by: Literal["close", "reset", "half_close"] = "close"
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._left: dict[socket.socket, bytes] = {}
        self._clients: set[socket.socket] = set()
        self._lock = threading.RLock()  # a cut ends connections while data is passed on
        self._stopping = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping = True
        self._thread.join()
        self._listener.close()
        self._selector.close()

    def dsn(self, dsn: str) -> str:
        """The same DSN, through the proxy."""
        parameters: dict[str, Any] = dict(conninfo_to_dict(dsn))
        return make_conninfo(**{**parameters, "host": "127.0.0.1", "port": self.port})

    @property
    def open(self) -> int:
        """How many clients are connected."""
        with self._lock:
            return len(self._clients)

    def close(self) -> None:
        """End all connections as a program does that closes them: FIN to both sides."""
        self._end(reset=False)

    def reset(self) -> None:
        """End all connections with RST, as a host does that has forgotten them."""
        self._end(reset=True)

    def half_close(self) -> None:
        """Say to the clients that nothing more will come; what they send still reaches the server."""
        with self._lock:
            for client in self._clients:
                self._left.pop(client, None)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                self._stop_reading(self._pairs[client])

    def _run(self) -> None:
        while not self._stopping:
            moved = False
            for key, _ in self._selector.select(0.01):
                with self._lock:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj in self._pairs and not self.hole:
                        moved |= self._pass(key.fileobj)
            with self._lock:
                for target in [] if self.hole else list(self._left):
                    moved |= self._send(target)
            if not moved:
                threading.Event().wait(0.002)  # there is something to read for which there is no room, or a hole
        self.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self.refuse:
            client.close()
            return
        server = socket.socket()
        try:
            server.connect(self._server)
        except OSError:
            server.close()
            client.close()
            return
        self._pairs[client], self._pairs[server] = server, client
        self._clients.add(client)
        for side in (client, server):
            side.setblocking(False)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(side, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> bool:
        """Take what one side has said, for the other; called with the lock, so nothing here waits."""
        target = self._pairs[source]
        if target in self._left:
            return False
        try:
            data = source.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._forget(source)
            return True
        self._left[target] = data
        return self._send(target)

    def _send(self, target: socket.socket) -> bool:
        """Hand on what there is room for."""
        if target not in self._left:
            return False
        data = self._left.pop(target)
        limits = [len(data)]
        if to_client := target in self._clients:
            limits += [limit for limit in (self.bite, self.cut_after) if limit is not None]
        try:
            sent = target.send(data[: min(limits)])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._forget(target)
            return True
        if data[sent:]:
            self._left[target] = data[sent:]
        if to_client and self.cut_after is not None:
            self.cut_after -= sent
            if self.cut_after <= 0:
                self.cut_after = None
                getattr(self, self.cut_by)()
        return sent > 0

    def _end(self, *, reset: bool) -> None:
        with self._lock:
            for client in list(self._clients):
                if reset:
                    for side in (client, self._pairs[client]):
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._forget(client)

    def _forget(self, side: socket.socket) -> None:
        for one in (side, self._pairs[side]):
            self._stop_reading(one)
            one.close()
            self._pairs.pop(one)
            self._left.pop(one, None)
            self._clients.discard(one)

    def _stop_reading(self, side: socket.socket) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(side)
