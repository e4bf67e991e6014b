"""What can be said of each change of a batch for its dead letter: its key, its values, and what waits behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.pipeline.holding import CHOSEN, EVERYTHING, HeldBy, Hold, exact, hold_of_event
from pgcdc.protocol import Batch
from pgcdc.protocol.json_columns import REFUSED, decode_columns
from pgcdc.transforms.outbox import PREFIX, key_of

__all__ = ["Described", "Seen", "describe"]

_BY_KEY: Final = HeldBy()
_NUMERIC: Final = 1700
_SAME_TEXT: Final = frozenset({19, 20, 21, 23, 25, 1043, 2950})
"""name, int8, int2, int4, text, varchar, uuid: a value keeps its text when its column gets another of these types."""


class Seen(NamedTuple):
    """What can be said of one change.

    Attributes:
        table: `schema.name`; several with commas for a truncate; None for a logical message and where it is not known.
        action: The change's action; `"unknown"` where that cannot be read.
        key: The key's values by name, as JSON.
        values: The change as a line of JSON.
        holds: What waits behind it when it fails.
        digest: Tells two changes of one position apart.
    """

    table: str | None
    action: str
    key: str | None
    values: str | None
    holds: tuple[Hold, ...]
    digest: str


class Described:
    """A batch, and what can be said of its changes, which is found out once, when somebody needs it.

    Args:
        batch: The batch.
        seen: What is known of each change already.
        numbers: Those of its changes among those of what it is a part of; None when it is all of that.
    """

    def __init__(self, batch: Batch, seen: Sequence[Seen] | None = None, numbers: Sequence[int] | None = None) -> None:
        self.batch = batch
        self.seen = seen
        self.numbers = range(batch.changes_count) if numbers is None else numbers

    def take(self, numbers: Collection[int]) -> Described:
        """Some of the changes, in order.

        Args:
            numbers: Which: the first has 0.
        """
        ordered = sorted(numbers)
        seen = None if self.seen is None else [self.seen[number] for number in ordered]
        return Described(self.batch.take(numbers), seen, [self.numbers[number] for number in ordered])


def describe(batch: Batch, keys: Mapping[int, Sequence[str]] | None = None, by: HeldBy = _BY_KEY) -> list[Seen]:
    """Look at each change of a batch.

    Args:
        batch: The batch.
        keys: The columns of primary keys, by the table's OID, for tables whose replica identity does not say them.
        by: What they are held by.

    Returns:
        One for each change, also for those that cannot be decoded.
    """
    changes = batch.changes()
    lines: list[bytes | None]
    try:
        lines = list(batch.to_json().split(b"\n")[:-1])
    except DecodeError:
        lines = [_line(batch.take({number})) for number in range(len(changes))]
    tables: dict[int, _Table] = {}  # those of a batch are few, and each change has the same object
    return [
        _seen(batch, number, change, lines[number], keys or {}, by, tables) for number, change in enumerate(changes)
    ]


def _line(one: Batch) -> bytes | None:
    try:
        return one.to_json().rstrip(b"\n")
    except DecodeError:
        return None


def _seen(
    batch: Batch,
    number: int,
    change: Any,
    line: bytes | None,
    primary_keys: Mapping[int, Sequence[str]],
    by: HeldBy,
    tables: dict[int, _Table],
) -> Seen:
    values = None if line is None else line.decode()
    if line is None or isinstance(change, DecodeError):
        return _undecodable(batch.take({number}), change, values, by)
    digest = _digest(line)
    if isinstance(change, Message):
        key, holds = _of_event(change)
        return Seen(None, "message", key, values, holds, digest)
    if isinstance(change, Truncate):
        names = ",".join(f"{relation.schema}.{relation.name}" for relation in change.relations)
        return Seen(names, "truncate", None, values, by.of_tables(change.relations), digest)
    table = tables.get(id(change.relation))
    if table is None:
        table = tables[id(change.relation)] = _Table(change.relation, primary_keys, by)
    rows = table.rows(line)
    keys = _keys(rows, table.columns)
    key = json.dumps(keys[0]) if keys else None
    return Seen(table.name, change.action, key, values, table.holds(change, rows, keys), digest)


def _keys(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: one[name] for name in columns} for one in rows if columns and all(name in one for name in columns)]


class _Table:
    """What is said of all changes of one shape of a table.

    Args:
        relation: The table.
        primary_keys: The columns of primary keys, by the table's OID.
        by: What its changes are held by.
    """

    def __init__(self, relation: Relation, primary_keys: Mapping[int, Sequence[str]], by: HeldBy) -> None:
        self.name = f"{relation.schema}.{relation.name}"
        self.columns = _key_columns(relation, primary_keys)
        self._relation = relation
        self._by = by
        self._outbox = None if by.key is not None else by.outboxes.get((relation.schema, relation.name))
        self._numerics = {column.name for column in relation.columns if column.type_oid == _NUMERIC}
        self._forms: dict[tuple[str, ...], str] = {}
        # Only these columns' values are read: rows can be long.
        names = dict.fromkeys((*self.columns, *(by.key or ()), *(self._outbox or ())))
        self._named = {f"c{place}": name for place, name in enumerate(names)}
        row = _row_type(self._named)
        line = msgspec.defstruct("Line", [("new", row | UnsetType, UNSET), ("old", row | UnsetType, UNSET)])
        self._decoder = msgspec.json.Decoder(line)

    def rows(self, line: bytes) -> list[dict[str, Any]]:
        """The rows of a change, the new one first: those of the columns that matter, as far as they were sent.

        Args:
            line: The change as JSON.
        """
        rows: tuple[Any, ...]
        try:
            decoded: Any = self._decoder.decode(line)
            rows = decoded.new, decoded.old
        except REFUSED:
            members = decode_columns(line)
            rows = tuple(decode_columns(members[name]) if name in members else UNSET for name in ("new", "old"))
        return [self._values(row) for row in rows if row is not UNSET]

    def _values(self, row: Any) -> dict[str, Any]:
        if isinstance(row, dict):
            return {name: exact(row[name]) for name in self._named.values() if name in row}
        return {
            name: exact(value) for field, name in self._named.items() if (value := getattr(row, field)) is not UNSET
        }

    def holds(
        self, change: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[Mapping[str, Any]]
    ) -> tuple[Hold, ...]:
        """What waits behind a change.

        Args:
            change: The change.
            rows: Its rows.
            keys: Their keys.
        """
        space: int | str = self._relation.oid
        if self._by.key is not None:
            space, keys = CHOSEN, _keys(rows, self._by.key)
        elif self._outbox is not None:
            if not isinstance(change, Insert):
                return ()  # no event
            event = hold_of_event(rows[0], self._outbox)
            return self._by.of_tables([self._relation]) if event is None else event
        form = self._form(tuple(keys[0])) if keys else ""
        holds = dict.fromkeys(Hold(space, json.dumps(_comparable(key, self._numerics)), form) for key in keys)
        return tuple(holds) or self._by.of_tables([self._relation])

    def _form(self, names: tuple[str, ...]) -> str:
        if names not in self._forms:
            self._forms[names] = _form(self._relation, names, chosen=self._by.key is not None)
        return self._forms[names]


def _row_type(named: Mapping[str, str]) -> Any:
    """What reads these columns of a row, each into its field, and passes over the others."""
    try:
        return msgspec.defstruct(
            "Row", [(field, msgspec.Raw | UnsetType, UNSET) for field in named], rename=dict(named)
        )
    except ValueError:  # a name with a quotation mark or a backslash cannot be that of a field
        return dict[str, msgspec.Raw]


def _comparable(key: Mapping[str, Any], numerics: Set[str]) -> list[Any]:
    """A key's values: a numeric is the same number with fewer or more zeros behind its point."""
    return [
        value.rstrip("0").rstrip(".") if name in numerics and isinstance(value, str) and "." in value else value
        for name, value in key.items()
    ]


def _form(relation: Relation, names: Iterable[str], *, chosen: bool) -> str:
    # A key's columns by where they stand: one that gets another name is the same. Those that a consumer has chosen it
    # has by name, and several tables have them. A type that prints a value otherwise makes another key of it.
    columns = {column.name: (place, column) for place, column in enumerate(relation.columns)}
    form: list[list[object]] = []
    for name in names:
        place, column = columns[name]
        # With its modifier: a numeric of fewer digits is another number.
        kind = "" if column.type_oid in _SAME_TEXT else f"{column.type_oid}.{column.type_modifier}"
        form.append([name, kind, relation.oid] if chosen else [place, kind])
    return json.dumps(form)


def _of_event(message: Message) -> tuple[str | None, tuple[Hold, ...]]:
    """The key of an emitted event, as JSON, and what waits behind it: nothing behind one without a key."""
    if not message.prefix.startswith(PREFIX):
        return None, ()
    try:
        key = key_of(message)
    except REFUSED:
        return None, (Hold(message.prefix, None),)
    return (None, ()) if key is None else (json.dumps({"key": key}), (Hold(message.prefix, json.dumps([key])),))


def _undecodable(one: Batch, change: Any, values: str | None, by: HeldBy) -> Seen:
    relations = one.relations
    raw = getattr(change, "raw", b"")
    kinds = {b"I": "insert", b"U": "update", b"D": "delete", b"T": "truncate", b"M": "message"}
    action = change.action if isinstance(change, Insert | Update | Delete) else kinds.get(raw[:1], "unknown")
    return Seen(
        ",".join(f"{relation.schema}.{relation.name}" for relation in relations) or getattr(change, "table", None),
        action,
        None,
        values,
        by.of_tables(relations) if relations else (EVERYTHING,),
        _digest(raw or one.to_bytes()),
    )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _key_columns(relation: Relation, primary_keys: Mapping[int, Sequence[str]]) -> Sequence[str]:
    """The columns that `keys.key_columns` has chosen for the order: the primary key, where each change says it."""
    # Under REPLICA IDENTITY FULL every column is flagged, and each update would have another key. Where there is no
    # primary key either, a row is known by all that is in it, and each change sends that of before.
    chosen = primary_keys.get(relation.oid, ())
    if relation.replica_identity in ("f", "n"):
        return chosen
    flagged = [column.name for column in relation.columns if column.is_key]
    return chosen if chosen and set(chosen) <= set(flagged) else flagged
