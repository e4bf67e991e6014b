"""What a batch makes of the rows of one table: for each key the last state, and where the rest of it is to be found.

For targets that keep the state of a table under a guard of positions. Rows stay JSON as it came from the wire; only one
that lacks unchanged TOAST values is taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from pgcdc.errors import SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import JsonRow
from pgcdc.protocol.json_columns import Columns, decode_columns, encode_columns

__all__ = ["Key", "KnownRow", "RowState", "TableStates"]

Key: TypeAlias = tuple[str | None, ...]
"""The values of a key, as PostgreSQL prints them."""
Sources: TypeAlias = tuple[tuple[Key, Position], ...]
_FIRST: Final = Position(0, SNAPSHOT_INDEX)


class RowState:
    """What becomes of one row.

    Attributes:
        key: Its key.
        position: The change that this is the result of.
        version: What the target compares.
        body: The columns that are known, a JSON object.
        missing: The columns that are not known yet.
        sources: The keys that the row has had since they were written, each with the position from which on.
        gone: Whether the row is gone; `body` has what is to be kept for one that comes from it then.
        left: The rows that have gone from here in this batch and were not sent whole, each as it is to be kept: where
            they are now may be written after this.
        done: Whether it is written, or nothing is to be: what is there is not older.
    """

    __slots__ = ("body", "done", "gone", "key", "left", "missing", "position", "sources", "version")

    def __init__(
        self,
        key: Key,
        position: Position,
        version: int,
        body: bytes = b"{}",
        *,
        missing: tuple[str, ...] = (),
        sources: Sources = (),
        gone: bool = False,
    ) -> None:
        self.key = key
        self.position = position
        self.version = version
        self.body = body
        self.missing = missing
        self.sources = sources
        self.gone = gone
        self.left: tuple[RowState, ...] = ()
        self.done = False

    @property
    def keeps(self) -> bool:
        """Whether it has, or will have, columns of a row that has gone from here."""
        return self.gone and (self.missing != () or len(self.body) > len(b"{}"))

    def fill(self, columns: Columns) -> None:
        """Put in what was missing, as far as it is there.

        Args:
            columns: Those of the row that has it.
        """
        there = {name: columns[name] for name in self.missing if name in columns}
        if there:
            self.body = encode_columns({**decode_columns(self.body), **there})
            self.missing = tuple(name for name in self.missing if name not in there)


class KnownRow(msgspec.Struct):
    """A row as the target has it, or had it.

    Attributes:
        position: Of the change that wrote it.
        columns: What it has.
    """

    position: Position
    columns: Columns


class TableStates:
    """The changes of one batch to the rows of one table.

    Args:
        name: What the table is called in the target.
        version: What the target compares, of a change's position; may raise SinkRejected.

    Attributes:
        rows: What becomes of each, by key.
        emptied: The position of the last TRUNCATE: what is older is to go.
        copied: Whether there are rows of an initial copy among them.
        streamed: Whether there are others.
    """

    def __init__(self, name: str, version: Callable[[Position], int]) -> None:
        self.name = name
        self.rows: dict[Key, RowState] = {}
        self.emptied: Position | None = None
        self.copied = False
        self.streamed = False
        self._version = version

    def apply(self, row: JsonRow, position: Position) -> None:
        """Take the next change.

        Args:
            row: The change, of this table.
            position: Its position.

        Raises:
            SinkRejected: When the row's key is not known, or its position has no version.
        """
        version = self._version(position)
        if position.index == SNAPSHOT_INDEX:
            self.copied = True
        else:
            self.streamed = True
        if row.action == "truncate":
            self.emptied = position
            self.rows = {key: RowState(key, position, version, gone=True) for key in self.rows}
            return
        if row.key is None:
            relation = row.relation
            assert relation is not None
            raise SinkRejected(
                f"a row of {relation.schema}.{relation.name} has no key that it could be known by",
                hint="give the table a primary key or a replica identity, or say which columns it is known by: key=",
                table=f"{relation.schema}.{relation.name}",
                positions=[position],
            )
        if row.new is None:
            self._replace(RowState(row.key, position, version, gone=True))
        else:
            self._put(row, row.key, row.new, position, version)

    def skip_below(self, floor: Position) -> None:
        """Leave out what is from before a TRUNCATE that the target has had already.

        Args:
            floor: The position of that.
        """
        for state in self.rows.values():
            state.done = state.done or state.position < floor

    def _replace(self, state: RowState) -> None:
        before = self.rows.get(state.key)
        if before is not None:
            state.left = (*before.left, before) if before.keeps else before.left
        self.rows[state.key] = state

    def _put(self, row: JsonRow, key: Key, body: bytes, position: Position, version: int) -> None:
        former = key if row.old_key is None else row.old_key
        state = RowState(key, position, version, body)
        sources: Sources = ()
        if row.unsent:
            state.missing = row.unsent
            before = self.rows.get(former)
            if before is None:
                sources = ((former, _FIRST),)
            elif not before.gone:
                # What this batch knows of the row; the rest is where that has it from.
                state.fill(decode_columns(before.body))
                sources = before.sources if state.missing else ()
            state.sources = (*sources, (key, position)) if sources and former != key else sources
        if former != key:
            kept = b"{}"
            if row.unsent:
                columns = decode_columns(state.body)
                kept = encode_columns({name: columns[name] for name in row.unsent if name in columns})
            self._replace(RowState(former, position, version, kept, missing=state.missing, sources=sources, gone=True))
        self._replace(state)

    def unresolved(self) -> list[RowState]:
        """The rows that lack something, and what is to be kept of rows that have gone and lacks something."""
        every = (of for state in self.rows.values() if not state.done for of in (state, *state.left))
        return [state for state in every if state.missing and state.sources]

    def wanted(self) -> list[Key]:
        """The keys of the rows that `resolve` needs, each once."""
        keys = ((*(key for key, _ in one.sources), one.key) for one in self.unresolved())
        return list(dict.fromkeys(key for of in keys for key in of))

    def resolve(self, found: Mapping[Key, Sequence[KnownRow]]) -> None:
        """Complete rows with what the target has. Of those that it has as new, or newer, nothing is to be written.

        A row is to be found in the last of its places that the target has it in: there its state is from the time
        that it was there, up to the change that took it to the next place, which may be kept. The target has had none
        of the changes that come after that in any of the later places, or it would have the row there.

        Args:
            found: What it has under the `wanted` keys: the row, also one that is gone, what is kept of one that has
                gone, or several versions of it.

        Raises:
            SinkRejected: When what a row needs has been there and is not any more.
        """
        lost: list[Position] = []
        for state in self.unresolved():
            if not state.gone and any(one.position >= state.position for one in found.get(state.key, ())):
                state.done = True
                continue
            is_over, is_found = False, state.gone
            end = state.position
            for key, since in reversed(state.sources):
                sources = found.get(key, ())
                known = max((one for one in sources if since <= one.position <= end), key=_position, default=None)
                if known is not None:
                    state.fill(known.columns)
                    is_found = True
                is_over = is_over or any(one.position > end for one in sources)
                end = since
            if is_over and not is_found:
                lost.append(state.position)
        if lost:
            raise SinkRejected(
                f"{self.name} does not have any more what an update did not send again",
                hint="another row has had the place of that row since; copy the table anew",
                positions=lost,
            )


def _position(known: KnownRow) -> Position:
    return known.position
