"""What waits behind a change: rows of tables, keys, topics; which of them are held, and by what a consumer's are."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pgcdc.events import Relation
from pgcdc.protocol.json_columns import decode_columns, loads
from pgcdc.tables import Table
from pgcdc.transforms.outbox import PREFIX

if TYPE_CHECKING:
    import msgspec

    from pgcdc.pipeline.deadletter import DeadLetter

__all__ = [
    "CHOSEN",
    "EVERYTHING",
    "Held",
    "HeldBy",
    "Hold",
    "exact",
    "hold_of_event",
    "holds_from_text",
    "holds_to_text",
]

CHOSEN: Final = "key"
"""The space of keys that a consumer has chosen."""


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


def hold_of_event(row: Mapping[str, Any], columns: tuple[str, str]) -> tuple[Hold, ...] | None:
    """What waits behind the event that a row of an outbox table is.

    Args:
        row: The row's values by column, numbers as text.
        columns: Those with its topic and key.

    Returns:
        One hold, or none for an event without a key; None when it does not say its topic.
    """
    topic, key = (row.get(column) if all(one in row for one in columns) else None for column in columns)
    if not isinstance(topic, str):
        return None
    return () if key is None else (Hold(PREFIX + topic, json.dumps([key])),)


def exact(raw: msgspec.Raw) -> Any:
    """A value as the line has it: numbers by their digits, so that none is rounded.

    Args:
        raw: The value, JSON.
    """
    return loads(bytes(raw).decode(), parse_float=str, parse_int=str)


def _is_of(letter: DeadLetter, hold: Hold, columns: tuple[str, str]) -> bool:
    """Whether these are the columns of the outbox table from which a letter has what it holds."""
    new = decode_columns(decode_columns((letter.values or "{}").encode()).get("new", b"{}"))
    return hold_of_event({name: exact(new[name]) for name in columns if name in new}, columns) == (hold,)
