"""The struct classes that rows become: one made for each relation, or the user's own."""

from __future__ import annotations

import functools
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, get_origin

import msgspec
from msgspec import NODEFAULT, UNSET

from pgcdc.errors import ConfigError
from pgcdc.events import Relation

__all__ = ["checked_types", "composite_class", "row_plan"]


StructPlan: TypeAlias = tuple[type[msgspec.Struct], list[int], tuple[str, ...] | None]


def checked_types(types: Mapping[str, Any]) -> dict[str, type[msgspec.Struct]]:
    """The user's row classes, copied and checked.

    Args:
        types: Struct classes by `"schema.table"` or `"table"`; generic ones with or without their parameters.

    Returns:
        The same as a dict, of a generic class with parameters the class itself, which makes the rows.

    Raises:
        ConfigError: When it is no mapping, or something in it is not a msgspec struct class.
    """
    if not isinstance(types, Mapping):
        raise ConfigError("types= is not a mapping from tables to classes", hint='say it as {"orders": Order}')
    checked: dict[str, type[msgspec.Struct]] = {}
    for table, own in types.items():
        origin: Any = get_origin(own)
        row = own if origin is None else origin
        if not (isinstance(row, type) and issubclass(row, msgspec.Struct)):
            raise ConfigError(
                f"the row type given for table {table} is not a msgspec.Struct class",
                table=table,
                hint='inherit from msgspec.Struct, or ask for rows="dict" or rows="tuple" without types',
            )
        checked[table] = row
    return checked


def row_plan(relation: Relation, types: Mapping[str, type[msgspec.Struct]] | None) -> StructPlan:
    """How the rows of a relation become structs.

    Args:
        relation: The relation.
        types: The user's classes by `"schema.table"` or `"table"`.

    Returns:
        The user's class for this table, or a new one with a field for each column; the number of the column for each
        argument; and the arguments' names, or None to pass all by position.

    Raises:
        ConfigError: When a field without a default has no column.
    """
    own = None
    if types:
        own = types.get(f"{relation.schema}.{relation.name}") or types.get(relation.name)
    if own is None:
        return _made_class(relation), list(range(len(relation.columns))), None
    return own, *_fields(own, relation)


@functools.lru_cache(maxsize=1024)
def composite_class(name: str, attributes: tuple[str, ...]) -> type[msgspec.Struct]:
    """The struct class that values of a composite type become; the same one for the same names.

    Args:
        name: The type's name.
        attributes: The names of its attributes.

    Returns:
        A class with a field for each attribute.
    """
    return _struct(name, attributes, f"A value of the composite type {name}.")


def _made_class(relation: Relation) -> type[msgspec.Struct]:
    columns = [column.name for column in relation.columns]
    return _struct(relation.name, columns, f"A row of {relation.schema}.{relation.name}.")


def _struct(name: str, columns: Iterable[str], what: str) -> type[msgspec.Struct]:
    fields, encodings = _Names(), _Names()
    names: dict[str, str] = {}
    for column in columns:
        # msgspec writes names into JSON as they are, so it refuses those that would have to be escaped or that are not
        # UTF-8 (surrogates stand for the bytes of a database in SQL_ASCII).
        encoded = re.sub(r'[\\"\x00-\x1f\ud800-\udfff]', "_", column)
        names[fields.free(_field_name(column))] = encodings.free(encoded)
    return msgspec.defstruct(
        _field_name(name),
        [(field, Any, UNSET) for field in names],
        rename={field: name for field, name in names.items() if field != name},
        frozen=True,
        gc=False,
        module="pgcdc.rows",
        namespace={"__doc__": what.encode(errors="replace").decode()},
    )


def _field_name(name: str) -> str:
    field = re.sub(r"\W", "_", name)
    if not field.isidentifier() or field.startswith("__"):
        field = "c_" + field.lstrip("_")
    if keyword.iskeyword(field):
        field += "_"
    return field


class _Names:
    """Names that are given once: `a`, then `a_`, `a_2`, `a_3`. In time that grows with their number and no faster."""

    def __init__(self) -> None:
        self._given: set[str] = set()
        self._next: dict[str, int] = {}

    def free(self, name: str) -> str:
        """The name, with an underscore and a number behind it where it is taken."""
        free, number = name, self._next.get(name, 1)
        while free in self._given:
            free = f"{name}_{number}" if number > 1 else f"{name}_"
            if free.startswith("__"):  # which is private to a class
                free = f"c{free}"
            number += 1
        self._next[name] = number
        self._given.add(free)
        return free


def _fields(row: type[msgspec.Struct], relation: Relation) -> tuple[list[int], tuple[str, ...] | None]:
    numbers = {column.name: number for number, column in enumerate(relation.columns)}
    columns, names = [], []
    # Not by msgspec.structs.fields, which looks up the annotations: what they name may be there for type checkers only.
    fields, defaults = row.__struct_fields__, row.__struct_defaults__
    required = [NODEFAULT] * (len(fields) - len(defaults))
    for field, encoded, default in zip(fields, row.__struct_encode_fields__, (*required, *defaults), strict=True):
        number = numbers.get(encoded)
        if number is not None:
            columns.append(number)
            names.append(field)
        elif default is NODEFAULT:
            table = f"{relation.schema}.{relation.name}"
            raise ConfigError(
                f"row type {row.__name__} has a required field {field}, but table {table} has no such column",
                table=table,
                hint="give the field a default, or publish the column",
            )
    # __match_args__ leaves out the keyword-only fields.
    by_position = len(columns) == len(fields) == len(row.__match_args__)
    return columns, None if by_position else tuple(names)
