"""Columns left out, renamed, masked; tables renamed: done on the rows' bytes, without an object for any row."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Final, TypeAlias

import msgspec

from pgcdc.errors import ConfigError, SchemaError
from pgcdc.events import Relation
from pgcdc.protocol import Batch
from pgcdc.tables import Table, parse_table
from pgcdc.transforms.applying import Context, Shaped

__all__ = ["Columns", "drop", "hashed", "keep", "mask", "rename", "renamed_tables"]

Source: TypeAlias = int | tuple[int, str | Callable[[bytes], str] | None]
Planned: TypeAlias = tuple[Relation, list[Source]]

TEXT: Final = 25
"""The OID of the type text."""
SHORTEST_KEY: Final = 16
"""Bytes. What is shorter can be guessed, and with it every value that has few possible ones."""
MOST_PLANS: Final = 1024
"""So many shapes of tables are remembered by each transform; more than that and it begins anew."""


class Columns:
    """A transform of one table's columns.

    Args:
        table: The table, None for all.
        plan: What becomes of a relation of it.
    """

    def __init__(self, table: Table | None, plan: Callable[[Relation], Planned]) -> None:
        self._table = table
        self._plan = plan
        # By where the relation is; it is kept, so that no other can be there.
        self._known: dict[int, tuple[Relation, Planned | None]] = {}
        self._former: object = None

    def apply(self, batch: Batch, context: Context) -> Shaped:
        """See `Transform.apply`."""
        if self._former is not context.former or len(self._known) > MOST_PLANS:
            self._known.clear()
            self._former = context.former

        def planned(relation: Relation) -> Planned | None:
            known = self._known.get(id(relation))
            if known is None:
                is_it = self._table is None or self._table in context.names(relation.schema, relation.name)
                known = self._known[id(relation)] = relation, self._plan(relation) if is_it else None
            return known[1]

        return Shaped(batch.reshaped(planned, catalog=context.catalog))


def _number(relation: Relation, column: str, does: str) -> int:
    names = [one.name for one in relation.columns]
    if column in names:
        return names.index(column)
    table = f"{relation.schema}.{relation.name}"
    similar = get_close_matches(column, names, n=1)
    raise SchemaError(
        f"table {table} has no column {column!r}, which a transform {does}",
        hint=(f"did you mean {similar[0]!r}? " if similar else "")
        + "when it has another name now, what it holds would pass: change the transform and start again;"
        " if_exists=True where it may be missing",
        table=table,
    )


def _numbers(relation: Relation, columns: Sequence[str], does: str, if_exists: bool) -> dict[int, str]:
    there = {one.name for one in relation.columns}
    return {_number(relation, name, does): name for name in columns if not if_exists or name in there}


def _some(columns: Sequence[str], what: str) -> None:
    if not columns:
        raise ConfigError(f"{what} is given no column", hint=f'{what}("orders", "shipping_address")')


def drop(table: str | Table, *columns: str, if_exists: bool = False) -> Columns:
    """Leave columns out: in rows, JSON, Arrow and raw messages alike.

    Args:
        table: The table.
        *columns: The columns.
        if_exists: Whether one may be missing; by default the consumer stops then, because a column that was renamed
            would pass under its new name.

    Returns:
        The transform.
    """
    parsed = parse_table(table)
    _some(columns, "drop")

    def plan(relation: Relation) -> Planned:
        gone = _numbers(relation, columns, "leaves out", if_exists)
        left = [number for number in range(len(relation.columns)) if number not in gone]
        return _with(relation, [relation.columns[number] for number in left]), list(left)

    return Columns(parsed, plan)


def keep(table: str | Table, *columns: str) -> Columns:
    """Leave all other columns out; one that the table lacks is not missed.

    Args:
        table: The table.
        *columns: The columns; they stay in the table's order.

    Returns:
        The transform.
    """
    parsed = parse_table(table)
    _some(columns, "keep")
    wanted = frozenset(columns)

    def plan(relation: Relation) -> Planned:
        left = [number for number, column in enumerate(relation.columns) if column.name in wanted]
        return _with(relation, [relation.columns[number] for number in left]), list(left)

    return Columns(parsed, plan)


def rename(
    table: str | Table,
    *,
    to: str | Table | None = None,
    columns: Mapping[str, str] | None = None,
    if_exists: bool = False,
) -> Columns:
    """Give a table, and columns of it, other names.

    Args:
        table: The table.
        to: Its new name; None leaves it.
        columns: New names of columns by their old ones.
        if_exists: Whether a column may be missing.

    Returns:
        The transform.

    Raises:
        ConfigError: When nothing is renamed.
    """
    parsed = parse_table(table)
    new = None if to is None else parse_table(to)
    names = dict(columns or {})
    if new is None and not names:
        raise ConfigError("rename is given no new name", hint='rename("orders", to="purchases")')

    def plan(relation: Relation) -> Planned:
        numbers = _numbers(relation, list(names), "renames", if_exists)
        made = [
            msgspec.structs.replace(column, name=names[numbers[number]]) if number in numbers else column
            for number, column in enumerate(relation.columns)
        ]
        if len({column.name for column in made}) < len(made):
            table = f"{relation.schema}.{relation.name}"
            raise SchemaError(
                f"a transform gives two columns of table {table} the same name",
                hint="choose another new name, or drop the column that has it already",
                table=table,
            )
        return _with(relation, made, new), list(range(len(made)))

    return Columns(parsed, plan)


def renamed_tables(name: Callable[[Relation], str]) -> Columns:
    """Give every table another name, in its schema.

    Args:
        name: Gives the new name.

    Returns:
        The transform.
    """

    def plan(relation: Relation) -> Planned:
        return _with(relation, relation.columns, (relation.schema, name(relation))), list(range(len(relation.columns)))

    return Columns(None, plan)


def mask(table: str | Table, *columns: str, text: str | None = "***", if_exists: bool = False) -> Columns:
    """Put the same text in the place of every value of some columns, NULL included: nothing of it is left.

    Args:
        table: The table.
        *columns: The columns; their type is text then.
        text: The text. None: NULL; the columns keep their types.
        if_exists: Whether a column may be missing; see `drop`.

    Returns:
        The transform.
    """
    parsed = parse_table(table)
    _some(columns, "mask")

    def plan(relation: Relation) -> Planned:
        numbers = _numbers(relation, columns, "masks", if_exists)
        sources: list[Source] = [(at, text) if at in numbers else at for at in range(len(relation.columns))]
        return _with(relation, relation.columns if text is None else _texts(relation, numbers)), sources

    return Columns(parsed, plan)


def hashed(table: str | Table, *columns: str, key: bytes | str, if_exists: bool = False) -> Columns:
    """Put a keyed hash in the place of each value of some columns: equal values stay equal, and say nothing else.

    It is HMAC-SHA256, in 64 hexadecimal digits, of the value as PostgreSQL prints it, so it is the same for every table
    and can be made elsewhere; without the key it cannot be found by trying values. NULL stays NULL.

    Args:
        table: The table.
        *columns: The columns; their type is text then.
        key: The secret, of 16 bytes at least. Keep it as long as what was made with it is to be compared.
        if_exists: Whether a column may be missing; see `drop`.

    Returns:
        The transform.

    Raises:
        ConfigError: When the key is too short.
    """
    parsed = parse_table(table)
    _some(columns, "hashed")
    secret = key.encode() if isinstance(key, str) else bytes(key)
    if len(secret) < SHORTEST_KEY:
        raise ConfigError(
            f"the key of a hash has fewer than {SHORTEST_KEY} bytes: values could be found by trying",
            hint="make one: python -c 'import secrets; print(secrets.token_hex(32))'",
        )

    def digest(value: bytes) -> str:
        return hmac.digest(secret, value, "sha256").hex()

    def plan(relation: Relation) -> Planned:
        numbers = _numbers(relation, columns, "hashes", if_exists)
        sources: list[Source] = [(at, digest) if at in numbers else at for at in range(len(relation.columns))]
        return _with(relation, _texts(relation, numbers)), sources

    return Columns(parsed, plan)


def _texts(relation: Relation, numbers: Mapping[int, str]) -> list[msgspec.Struct]:
    return [
        msgspec.structs.replace(column, type_oid=TEXT, type_modifier=-1) if number in numbers else column
        for number, column in enumerate(relation.columns)
    ]


def _with(relation: Relation, columns: Sequence[object], table: Table | None = None) -> Relation:
    schema, name = table or (relation.schema, relation.name)
    return msgspec.structs.replace(relation, schema=schema, name=name, columns=list(columns))
