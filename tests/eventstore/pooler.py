"""A pooler of transactions that does not follow prepared statements, as PgBouncer was before 1.21."""

from __future__ import annotations

import queue
import socket
import struct
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STARTUP = 196_608
_SSL, _GSS = 80_877_103, 80_877_104
_CANCEL = 80_877_102


class Pooler:
    """Gives whoever begins a transaction the server's process that has been free for the longest.

    Args:
        path: The server's Unix socket.
        dbname: The database.
        size: How many processes of the server there are.
    """

    def __init__(self, path: str, dbname: str, size: int) -> None:
        self._free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self._servers = [socket.socket(socket.AF_UNIX) for _ in range(size)]
        self._greeting = b""
        for server in self._servers:
            server.connect(path)
            body = struct.pack("!I", _STARTUP) + b"\0".join([b"user", b"postgres", b"database", dbname.encode(), b"\0"])
            server.sendall(struct.pack("!I", len(body) + 4) + body)
            self._greeting = b"".join(_packed(*one) for one in _until_ready(server))
            self._free.put(server)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.dsn = f"host=127.0.0.1 port={self._listening.getsockname()[1]} dbname={dbname} user=postgres"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Lets go of all."""
        self._listening.close()
        for server in self._servers:
            server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(EOFError, OSError):
            while True:
                (length,) = struct.unpack("!I", _received(client, 4))
                (code,) = struct.unpack_from("!I", _received(client, length - 4))
                if code == _STARTUP:
                    break
                if code == _CANCEL:
                    return
                client.sendall(b"N")  # neither TLS nor GSS
            client.sendall(self._greeting)
            while (asked := _asked(client)) is not None:
                server = self._free.get()
                try:
                    self._transaction(client, server, asked)
                finally:
                    self._free.put(server)

    def _transaction(self, client: socket.socket, server: socket.socket, asked: bytes | None) -> None:
        while asked is not None:
            server.sendall(asked)
            answers = _until_ready(server)
            client.sendall(b"".join(_packed(*one) for one in answers))
            if answers[-1][1] == b"I":
                break
            asked = _asked(client)


def _asked(client: socket.socket) -> bytes | None:
    """What a client sends up to where it waits; None when it goes."""
    whole = b""
    while True:
        kind, body = _message(client)
        if kind == b"X":
            return None
        whole += _packed(kind, body)
        if kind in (b"S", b"Q"):
            return whole


def _until_ready(server: socket.socket) -> Sequence[tuple[bytes, bytes]]:
    found = [_message(server)]
    while found[-1][0] != b"Z":
        found.append(_message(server))
    return found


def _message(end: socket.socket) -> tuple[bytes, bytes]:
    kind = _received(end, 1)
    (length,) = struct.unpack("!I", _received(end, 4))
    return kind, _received(end, length - 4)


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _received(end: socket.socket, size: int) -> bytes:
    whole = b""
    while len(whole) < size:
        part = end.recv(size - len(whole))
        if not part:
            raise EOFError
        whole += part
    return whole
