"""How one waits when threads do: what the synchronous twins use where the asynchronous ones use waits_async.py.

Written by hand, as that is: these two files are all in which the colours differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pgcdc.replication.libpq import conninfo, waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pgcdc.replication.generators import Connecting, Waiting

__all__ = ["attempts", "blocking", "connecting", "turn", "wait"]

T = TypeVar("T")


def wait(generator: Waiting[T], socket: int, seconds: float) -> T:
    """Drive a generator.

    Args:
        generator: One of generators.py.
        socket: What it waits for.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    return waiting.wait(generator, socket, seconds)


def connecting(generator: Connecting[T], seconds: float) -> T:
    """Drive a generator that makes a connection.

    Args:
        generator: It names the socket each time.
        seconds: How long one wait may last.

    Returns:
        What the generator returned.
    """
    return waiting.wait_conn(generator, seconds)


def attempts(parameters: Mapping[str, str | int | None]) -> list[dict[str, str | int | None]]:
    """Split the hosts of a DSN and look up their addresses.

    Args:
        parameters: What the DSN says.

    Returns:
        The same for each host.

    Raises:
        psycopg.Error: When no address was found.
    """
    return [dict(attempt) for attempt in conninfo.conninfo_attempts(dict(parameters))]


def blocking(call: Callable[[], None]) -> None:
    """Make a call that blocks.

    Args:
        call: The call.
    """
    call()


def turn() -> None:
    """Let others run, who here run by themselves."""
