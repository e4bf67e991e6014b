"""A batch as one JSON line for each change, each with a name by which a target knows it again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgcdc.errors import SinkRejected
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, JsonRow

__all__ = ["Line", "digest", "lines", "positions"]


@dataclass(frozen=True)
class Line:
    """One change.

    Attributes:
        body: What `Batch.to_json` writes of it, without the line feed.
        position: Its position.
        name: The position as text. Copied rows have one position all together, and so have several changes that a
            transform made of one: theirs has a digest of the body behind it.
        row: The same change, with its key; the first table of a truncate.
    """

    body: bytes
    position: Position
    name: str
    row: JsonRow


def lines(batch: Batch, key: Callable[[Relation], Sequence[str]] | None = None) -> list[Line]:
    """Write the changes of a batch.

    Args:
        batch: The batch.
        key: See `Batch.json_rows`.

    Raises:
        SinkRejected: When a change has no position.
    """
    bodies = batch.to_json().split(b"\n")[:-1]
    rows = _rows(batch, key)
    places = [_position(row) for row in rows]
    times = Counter(places)
    found = []
    for body, position, row in zip(bodies, places, rows, strict=True):
        plain = position.index >= 0 and times[position] == 1
        found.append(Line(body, position, str(position) if plain else f"{position}-{digest(body)}", row))
    return found


def positions(batch: Batch) -> list[Position]:
    """The position of each change.

    Args:
        batch: The batch.

    Raises:
        SinkRejected: When a change has none.
    """
    return [_position(row) for row in _rows(batch, lambda _: ())]


def _position(row: JsonRow) -> Position:
    position = row.position
    if position is None:
        raise SinkRejected("a change has no position, so that nobody could know it again")
    return position


def _rows(batch: Batch, key: Callable[[Relation], Sequence[str]] | None) -> list[JsonRow]:
    first: dict[int, JsonRow] = {}
    for row in batch.json_rows(key):
        first.setdefault(row.number, row)
    return list(first.values())


def digest(body: bytes) -> str:
    """Some digits that say which body it is.

    Args:
        body: The body.
    """
    return hashlib.sha256(body).hexdigest()[:32]
