"""What an append's metadata says beside the events: who, why, and what belongs together. It goes with the context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from pgcdc.eventstore.recorded import Recorded

__all__ = ["caused_by", "context", "current_metadata"]

_current: Final[ContextVar[Mapping[str, Any]]] = ContextVar("pgcdc.eventstore.metadata", default={})  # noqa: B039


@contextmanager
def context(
    *,
    actor: str | None = None,
    correlation_id: str | UUID | None = None,
    causation_id: str | UUID | None = None,
    **more: Any,
) -> Iterator[None]:
    """Give every append in the block this metadata, in this thread or task; blocks inside add to it.

    Args:
        actor: Who.
        correlation_id: What belongs together: a request, an order's whole way.
        causation_id: The event or command that this follows from.
        more: More of one's own; what JSON has.

    Yields:
        Nothing.
    """
    said = {"actor": actor, "correlation_id": correlation_id, "causation_id": causation_id}
    token = _current.set({**_current.get(), **{key: value for key, value in said.items() if value is not None}, **more})
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def caused_by(recorded: Recorded, *, actor: str | None = None, **more: Any) -> Iterator[None]:
    """The same for what follows from an event: its id is the cause, and its correlation goes on.

    Args:
        recorded: The event.
        actor: Who; without it that of the context.
        more: More of one's own.

    Yields:
        Nothing.
    """
    correlation = recorded.metadata.get("correlation_id") or recorded.event_id
    with context(actor=actor, correlation_id=correlation, causation_id=recorded.event_id, **more):
        yield


def current_metadata(given: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """The context's metadata, with what is given over it.

    Args:
        given: An append's own metadata.

    Returns:
        Both.
    """
    return {**_current.get(), **given} if given else _current.get()
