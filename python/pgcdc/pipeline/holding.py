"""Which rows, or which key, a change is about, so that later changes of them can be held back behind it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pgcdc.errors import DecodeError
from pgcdc.events import Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.protocol import Batch
from pgcdc.tables import Table
from pgcdc.transforms.outbox import PREFIX, key_of

if TYPE_CHECKING:
    from pgcdc.pipeline.deadletter import DeadLetter

__all__ = ["EVERYTHING", "Held", "HeldBy", "Hold", "Seen", "describe", "holds_from_text", "holds_to_text"]

CHOSEN: Final = "key"
_NUMERIC: Final = 1700
_SAME_TEXT: Final = frozenset({19, 20, 21, 23, 25, 1043, 2950})
"""name, int8, int2, int4, text, varchar, uuid: a value keeps its text when its column gets another of these types."""


class Hold(NamedTuple):
    """What waits behind a change.

    Attributes:
        space: A table's OID; 0 for all tables; `"key"` for the columns that a consumer has chosen, whatever the table;
            the prefix of an event's logical message, for its topic, also where it comes from an outbox table.
        key: The key's values, as JSON; None for all rows of the table.
        form: Where the key's columns stand in the table, or what those are called that a consumer has chosen and which
            table they are of, and what types they have, as JSON: keys of a table that had two forms cannot be compared.
            Empty for an event.
    """

    space: int | str
    key: str | None
    form: str = ""


EVERYTHING: Final = Hold(0, None)


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


@dataclass(frozen=True)
class HeldBy:
    """What a consumer's changes are held by.

    Attributes:
        key: The columns that it has chosen; None: each table's key.
        outboxes: The columns with topic and key of its outbox tables.
        names: What tables are called, by OID.
    """

    key: Sequence[str] | None = None
    outboxes: Mapping[Table, tuple[str, str]] = field(default_factory=dict)
    names: Mapping[int, Table] = field(default_factory=dict)

    def of_tables(self, relations: Iterable[Relation]) -> tuple[Hold, ...]:
        """All rows of some tables.

        Args:
            relations: The tables.
        """
        if self.key is not None:
            return (Hold(CHOSEN, None, json.dumps([[name, ""] for name in self.key])),)
        # Which topics the rows of an outbox table have is not known.
        return tuple(
            EVERYTHING if (one.schema, one.name) in self.outboxes else Hold(one.oid, None) for one in relations
        )

    def keeps(self, letter: DeadLetter) -> bool:
        """Whether a letter holds what a change like it holds now: other options may have put it aside.

        Args:
            letter: The letter.
        """
        outboxes = {f"{schema}.{name}": columns for (schema, name), columns in self.outboxes.items()}
        for hold in holds_from_text(letter.holds):
            if hold.space == EVERYTHING.space:
                continue
            if hold.space == CHOSEN:
                if self.key is None or [one[0] for one in json.loads(hold.form or "[]")] != list(self.key):
                    return False
            elif isinstance(hold.space, str):
                if letter.table is not None and not any(
                    _is_of(letter, hold, columns) for columns in self._columns_of(letter.table, outboxes)
                ):
                    return False
            elif self.key is not None or letter.table in outboxes or self.names.get(hold.space) in self.outboxes:
                return False
        return True

    def _columns_of(self, table: str, outboxes: Mapping[str, tuple[str, str]]) -> Collection[tuple[str, str]]:
        """The columns of an outbox table; where none has that name any more, those of any: it has another one now."""
        if table in outboxes:
            return [outboxes[table]]
        return [] if table in map(".".join, self.names.values()) else list(outboxes.values())


class Held:
    """The rows that are held."""

    def __init__(self, holds: Iterable[Hold] = ()) -> None:
        self._keys: dict[int | str, dict[str | None, set[str]]] = {}
        self.add(holds)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def __len__(self) -> int:
        return sum(len(keys) for keys in self._keys.values())

    def add(self, holds: Iterable[Hold]) -> None:
        """Hold more rows.

        Args:
            holds: Which.
        """
        for hold in holds:
            self._keys.setdefault(hold.space, {}).setdefault(hold.key, set()).add(hold.form)

    def meets(self, holds: Iterable[Hold]) -> bool:
        """Whether any of these rows is held.

        Args:
            holds: Which.
        """
        if 0 in self._keys:
            return True
        for hold in holds:
            if hold.space == EVERYTHING.space:
                return bool(self._keys)
            keys = self._keys.get(hold.space)
            if keys and (
                hold.key is None
                or None in keys
                or hold.key in keys
                # Another key or type since: which row one of the others is cannot be told any more.
                or any(form != hold.form and _is_of_table(form, hold) for forms in keys.values() for form in forms)
            ):
                return True
        return False


def _is_of_table(form: str, hold: Hold) -> bool:
    """Whether a form is one that keys of the same table had. Of chosen columns several tables have keys."""
    return hold.space != CHOSEN or _table_of(form) in (None, _table_of(hold.form))


@functools.lru_cache(maxsize=256)
def _table_of(form: str) -> int | None:
    columns = json.loads(form or "[]")
    return columns[0][2] if columns and len(columns[0]) > 2 else None


def holds_to_text(holds: Iterable[Hold]) -> str:
    """Print holds for a store.

    Args:
        holds: What is held.
    """
    return json.dumps(list(holds))


def holds_from_text(text: str) -> list[Hold]:
    """Undo `holds_to_text`.

    Args:
        text: What it gave; empty for what nothing waits behind.
    """
    return [Hold(*one) for one in json.loads(text or "[]")]


def describe(batch: Batch, keys: Mapping[int, Sequence[str]] | None = None, by: HeldBy = HeldBy()) -> list[Seen]:
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
    return [_seen(batch, number, change, lines[number], keys or {}, by) for number, change in enumerate(changes)]


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
) -> Seen:
    values = None if line is None else line.decode()
    if line is None or isinstance(change, DecodeError):
        return _undecodable(batch.take({number}), change, values, by)
    digest = _digest(line)
    if isinstance(change, Message):
        key, holds = _of_event(change)
        return Seen(None, "message", key, values, holds, digest)
    if isinstance(change, Truncate):
        tables = ",".join(f"{relation.schema}.{relation.name}" for relation in change.relations)
        return Seen(tables, "truncate", None, values, by.of_tables(change.relations), digest)
    relation: Relation = change.relation
    columns = _key_columns(relation, primary_keys)
    row = json.loads(line, parse_float=str, parse_int=str)
    rows = [row[part] for part in ("new", "old") if part in row]
    keys = _keys(rows, columns)
    return Seen(
        f"{relation.schema}.{relation.name}",
        change.action,
        json.dumps(keys[0]) if keys else None,
        values,
        _holds_of(change, rows, keys, by),
        digest,
    )


def _keys(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: one[name] for name in columns} for one in rows if columns and all(name in one for name in columns)]


def _holds_of(
    change: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[Mapping[str, Any]], by: HeldBy
) -> tuple[Hold, ...]:
    relation: Relation = change.relation
    space: int | str = relation.oid
    if by.key is not None:
        space, keys = CHOSEN, _keys(rows, by.key)
    elif (columns := by.outboxes.get((relation.schema, relation.name))) is not None:
        if not isinstance(change, Insert):
            return ()  # no event
        event = _of_outbox(rows[0], columns)
        return by.of_tables([relation]) if event is None else event
    form = _form(relation, keys[0], chosen=by.key is not None) if keys else ""
    numerics = {column.name for column in relation.columns if column.type_oid == _NUMERIC}
    holds = dict.fromkeys(Hold(space, json.dumps(_comparable(key, numerics)), form) for key in keys)
    return tuple(holds) or by.of_tables([relation])


def _comparable(key: Mapping[str, Any], numerics: Set[str]) -> list[Any]:
    """A key's values: a numeric is the same number with fewer or more zeros behind its point."""
    return [
        value.rstrip("0").rstrip(".") if name in numerics and isinstance(value, str) and "." in value else value
        for name, value in key.items()
    ]


def _of_outbox(row: Mapping[str, Any], columns: tuple[str, str]) -> tuple[Hold, ...] | None:
    """What waits behind the event that a row of an outbox table is; None when it does not say its topic."""
    [event] = _keys([row], columns) or [{}]
    topic, key = (event.get(column) for column in columns)
    if not isinstance(topic, str):
        return None
    return () if key is None else (Hold(PREFIX + topic, json.dumps([key])),)


def _is_of(letter: DeadLetter, hold: Hold, columns: tuple[str, str]) -> bool:
    """Whether these are the columns of the outbox table from which a letter has what it holds."""
    row = json.loads(letter.values or "{}", parse_float=str, parse_int=str)
    return _of_outbox(row.get("new", {}), columns) == (hold,)


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
    except msgspec.MsgspecError:
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
