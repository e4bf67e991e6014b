"""Changes as a test writes them down: `insert("orders", {"id": 1})`, alone or several in one transaction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec
from psycopg.postgres import types as _types

from pgcdc.errors import ConfigError
from pgcdc.tables import parse_table
from pgcdc.transforms.outbox import PREFIX, content_of

__all__ = [
    "Change",
    "Row",
    "Table",
    "Transaction",
    "delete",
    "emitted",
    "insert",
    "message",
    "transaction",
    "truncate",
    "type_of",
    "update",
]

Row: TypeAlias = Mapping[str, Any] | msgspec.Struct
"""Values by column; a msgspec struct stands for its fields. UNSET is a value that the server does not send."""

_TYPE: Final = re.compile(r"([^(\[]+?)\s*(?:\((\d+)(?:\s*,\s*(\d+))?\))?\s*((?:\[\])?)")
_OTHER_NAMES: Final = {"decimal": "numeric", "int": "int4", "character varying": "varchar", "character": "bpchar"}
_HEADER: Final = 4
"""What a type modifier of numeric and varchar has on top of the number. Source: server file `numeric.c`, VARHDRSZ."""


@dataclass(frozen=True)
class Table:
    """The shape of a table, where values alone do not say it, or when it changes.

    Attributes:
        name: `"orders"` (in the schema public) or `"sales.orders"`.
        columns: Each column's type, as PostgreSQL writes it: `{"id": "bigint", "total": "numeric(12,2)"}`. For a type
            of the user's own its OID.
        key: The primary key's columns; the first column when none is named.
        replica_identity: `"d"`: updates and deletes come with the old key; `"f"`: with the whole old row.
    """

    name: str
    columns: Mapping[str, str | int]
    key: tuple[str, ...] = ()
    replica_identity: Literal["d", "f"] = "d"

    @property
    def keys(self) -> tuple[str, ...]:
        """The primary key's columns."""
        return self.key or tuple(self.columns)[:1]


@dataclass(frozen=True)
class Change:
    """One change; made by `insert`, `update`, `delete`, `truncate` and `message`.

    Attributes:
        action: What happens.
        tables: Where; for a truncate there may be several.
        new: The row afterwards.
        old: The row before, or its key.
        prefix: Of a message.
        content: Of a message.
        transactional: Whether a message belongs to the transaction.
    """

    action: Literal["insert", "update", "delete", "truncate", "message"]
    tables: tuple[str | Table, ...] = ()
    new: Mapping[str, Any] | None = None
    old: Mapping[str, Any] | None = None
    prefix: str = ""
    content: bytes = b""
    transactional: bool = True


@dataclass(frozen=True)
class Transaction:
    """Changes that commit together.

    Attributes:
        changes: In their order.
        commit_lsn: Where the commit record is; None: behind the one before.
    """

    changes: tuple[Change, ...] = field(default=())
    commit_lsn: int | None = None


def insert(table: str | Table, new: Row) -> Change:
    """A new row.

    Args:
        table: Its table. By its name alone the types of the columns follow from the values, the key is the column `id`
            or else the first one, and a column that was not there before has been added.
        new: The row; a column that is left out is NULL.

    Returns:
        The change.
    """
    return Change("insert", (table,), new=_row(new))


def update(table: str | Table, new: Row, old: Row | None = None) -> Change:
    """A changed row.

    Args:
        table: Its table.
        new: The row afterwards; a column that is left out is NULL, one that is UNSET an unchanged TOAST value, which
            the server does not send.
        old: The row before; needed when the key changes, and under replica identity full.

    Returns:
        The change.
    """
    return Change("update", (table,), new=_row(new), old=None if old is None else _row(old))


def delete(table: str | Table, old: Row) -> Change:
    """A removed row.

    Args:
        table: Its table.
        old: The row before; without replica identity full its key is enough, and nothing else is sent.

    Returns:
        The change.
    """
    return Change("delete", (table,), old=_row(old))


def truncate(*tables: str | Table) -> Change:
    """Tables that are emptied by one TRUNCATE.

    Args:
        *tables: The tables; by its name alone only one that had a row before.

    Returns:
        The change.
    """
    return Change("truncate", tables)


def message(prefix: str, content: bytes | str, *, transactional: bool = True) -> Change:
    """What `pg_logical_emit_message` writes.

    Args:
        prefix: Its prefix.
        content: Its content.
        transactional: Whether it belongs to the transaction.

    Returns:
        The change.
    """
    raw = content.encode() if isinstance(content, str) else content
    return Change("message", prefix=prefix, content=raw, transactional=transactional)


def emitted(topic: str, payload: Any, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> Change:
    """What `pgcdc.emit` writes.

    Args:
        topic: See there, as what follows.
        payload: Likewise.
        key: Likewise.
        headers: Likewise.

    Returns:
        The change.
    """
    return message(PREFIX + topic, content_of(payload, key, headers))


def transaction(*changes: Change, commit_lsn: int | None = None) -> Transaction:
    """Changes that commit together; a change that is given alone is a transaction of its own.

    Args:
        *changes: In their order.
        commit_lsn: Where the commit record is; None: behind the one before.

    Returns:
        The transaction.
    """
    return Transaction(changes, commit_lsn)


def type_of(name: str | int) -> tuple[int, int]:
    """Find a type by its name.

    Args:
        name: As in `Table.columns`.

    Returns:
        The type's OID and the modifier.

    Raises:
        ConfigError: When it is none of PostgreSQL's own.
    """
    if isinstance(name, int):
        return name, -1
    found = _TYPE.fullmatch(name.strip().lower())
    info = None
    if found is not None:
        word = found[1].strip()
        info = _types.get(_OTHER_NAMES.get(word, word))
    if found is None or info is None:
        raise ConfigError(f"{name!r} is no type that is known here", hint="give its OID: SELECT 'name'::regtype::oid")
    modifier = -1
    if found[3] is not None:
        modifier = (int(found[2]) << 16 | int(found[3])) + _HEADER
    elif found[2] is not None:
        length = int(found[2])
        modifier = (length << 16 if info.name == "numeric" else length) + _HEADER
        if info.name in ("timestamp", "timestamptz", "time", "timetz", "bit", "varbit"):
            modifier = length
    return (info.array_oid if found[4] else info.oid), modifier


def _row(row: Row) -> Mapping[str, Any]:
    if isinstance(row, msgspec.Struct):
        return {name: getattr(row, name) for name in row.__struct_fields__}
    return dict(row)


def table_name(table: str | Table) -> tuple[str, str]:
    """Schema and name of a table.

    Args:
        table: The table.
    """
    return parse_table(table.name if isinstance(table, Table) else table)
