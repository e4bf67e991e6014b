"""The proxy does to a connection what it says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.servers.proxy import Proxy


@pytest.fixture
def server() -> Iterator[int]:
    """A server that says what it is told, back."""
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(1000):
                peer.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                threading.Thread(target=echo, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def client(proxy: Proxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
    made.sendall(b"hello")
    assert receive(made, 5) == b"hello"
    return made


def receive(peer: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer when the connection ended, in whatever way."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while len(data) < size and (more := peer.recv(size - len(data))):
            data += more
    return data


def test_it_passes_on(server: int) -> None:
    with Proxy(server) as proxy, client(proxy), client(proxy):
        assert proxy.open == 2


def test_close_and_reset(server: int) -> None:
    with Proxy(server) as proxy:
        with client(proxy) as one:
            proxy.close()
            assert one.recv(1) == b""
        with client(proxy) as two:
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                two.recv(1)
        assert proxy.open == 0


def test_half_close(server: int) -> None:
    with Proxy(server) as proxy, client(proxy) as one:
        proxy.half_close()
        assert one.recv(1) == b""
        one.sendall(b"x")
        assert proxy.open == 1


def test_a_hole(server: int) -> None:
    with Proxy(server) as proxy, client(proxy) as one:
        proxy.hole = True
        one.sendall(b"x")
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            one.recv(1)
        proxy.hole = False
        one.settimeout(10)
        assert one.recv(1) == b"x"


def test_a_cut_and_small_bites(server: int) -> None:
    with Proxy(server) as proxy, client(proxy) as one:
        proxy.bite = 1
        proxy.cut_after = 3
        one.sendall(b"12345")
        assert b"123".startswith(receive(one, 5))
        assert proxy.open == 0


def test_refused(server: int) -> None:
    with Proxy(server) as proxy:
        proxy.refuse = True
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as one:
            assert one.recv(1) == b""
