"""Snapshots of a folded state: when one is worth it, and for which shape of the state it is good.

They are off until somebody has measured that they pay; `pgcdc events stats` says so.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from pgcdc.errors import ConfigError

__all__ = ["Budget", "Every", "Shape", "SnapshotPolicy", "shape_of"]

State = TypeVar("State")
_encoder: Final = msgspec.msgpack.Encoder()


class Every(msgspec.Struct, frozen=True):
    """A snapshot whenever so many events had to be folded.

    Attributes:
        events: How many, at least 1.
    """

    events: int

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.events < 1:
            raise ConfigError("a snapshot follows at least one event", hint="Every(100)")

    def is_due(self, events: int, _seconds: float) -> bool:
        """Whether to take one.

        Args:
            events: How many events were folded.

        Returns:
            Whether.
        """
        return events >= self.events


class Budget(msgspec.Struct, frozen=True):
    """A snapshot whenever reading and folding took longer than it may.

    Attributes:
        milliseconds: What it may take.
    """

    milliseconds: float

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if not self.milliseconds > 0:
            raise ConfigError("a budget is more than nothing", hint="Budget(milliseconds=20)")

    def is_due(self, events: int, seconds: float) -> bool:
        """Whether to take one.

        Args:
            events: How many events were folded.
            seconds: How long it took.

        Returns:
            Whether.
        """
        return events > 0 and seconds * 1000 > self.milliseconds


SnapshotPolicy = Every | Budget


class Shape(Generic[State]):
    """A state's class as snapshots know it.

    Attributes:
        projector: The class's name.
        schema_hash: A hash of its fields and their types, and of its `snapshot_version`, which it may have for when its
            shape stays and its meaning changes.
    """

    def __init__(self, state: type[State]) -> None:
        try:
            schema = msgspec.json.schema(state)
            self._decode = msgspec.msgpack.Decoder(state).decode
        except (TypeError, RuntimeError) as error:
            raise ConfigError(
                f"no snapshot can be taken of {state.__qualname__}: {type(error).__name__}",
                hint="let it be a msgspec.Struct or a dataclass whose fields are annotated with what msgspec knows",
            ) from error
        self.projector = f"{state.__module__}.{state.__qualname__}"
        described = msgspec.json.encode([schema, getattr(state, "snapshot_version", 1)], order="deterministic")
        self.schema_hash = hashlib.sha256(described).hexdigest()

    def encode(self, state: State) -> bytes:
        """The state as bytes.

        Args:
            state: The state.

        Returns:
            MessagePack.
        """
        return _encoder.encode(state)

    def decode(self, stored: bytes) -> State | Literal[False]:
        """The state again.

        Args:
            stored: The bytes.

        Returns:
            The state, or False when they are not one: then the events are read instead.
        """
        try:
            return self._decode(stored)
        except msgspec.MsgspecError:
            return False


def shape_of(known: dict[type, Shape[Any]], state: type[State]) -> Shape[State]:
    """What snapshots know of a class, found at its first use.

    Args:
        known: Where it is kept.
        state: The class.

    Returns:
        The shape.

    Raises:
        ConfigError: When none can be taken of it.
    """
    shape = known.get(state)
    if shape is None:
        shape = known[state] = Shape(state)
    return shape
