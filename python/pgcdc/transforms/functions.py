"""Python functions as transforms: rows are decoded for them, and what they return is written as rows again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError
from pgcdc.events import Column, Delete, Insert, Message, Relation, Truncate, Update
from pgcdc.protocol import Batch
from pgcdc.tables import Table, parse_table
from pgcdc.transforms import encoding
from pgcdc.transforms.applying import AnyChange, Context, Function, Shaped
from pgcdc.transforms.columns import Columns, renamed_tables

__all__ = ["Functions", "enrich", "fuse", "route", "where"]

Item = int | tuple[int, str, Any, Any, Any]


class Functions:
    """Functions that are called with each change, one after the other; the rows are written again once.

    Args:
        functions: Each makes of a change a change, None or a list of changes.
        table: Only changes of this table; None for all.
        only_filters: Whether each returns what it was given, or None.
    """

    def __init__(
        self, functions: Sequence[Function], *, table: Table | None = None, only_filters: bool = False
    ) -> None:
        self.functions = tuple(functions)
        self.only_filters = only_filters
        self.table = table
        self._relations: dict[tuple[Any, ...], Relation] = {}
        # The types of columns that functions have made: NULL does not say which it is.
        self._types: dict[tuple[str, str, str], int] = {}

    def apply(self, batch: Batch, context: Context) -> Shaped:
        """See `Transform.apply`."""
        items: list[Item] = []
        functions = [_in_context(one, context) for one in self.functions]
        for number, change in enumerate(batch.changes(context.format)):
            if isinstance(change, DecodeError):
                raise change  # nobody could say what of it is to be left out
            if self.table is not None and not self._is_of_table(change, context):
                items.append(number)
            else:
                items.extend(self._item(number, change, made) for made in _made(functions, change))
        kept = [item for item in items if isinstance(item, int)]
        if len(kept) == len(items) and len(set(kept)) == len(kept):
            return Shaped(batch) if len(kept) == batch.changes_count else Shaped(batch.take(kept), kept)
        origins = [item if isinstance(item, int) else item[0] for item in items]
        return Shaped(batch.rewritten(items), origins)

    def _is_of_table(self, change: AnyChange, context: Context) -> bool:
        relation = getattr(change, "relation", None)
        return relation is not None and self.table in context.names(relation.schema, relation.name)

    def _item(self, number: int, change: AnyChange, made: AnyChange) -> Item:
        if made is change:
            return number
        if isinstance(made, Message):
            return number, "message", made.prefix, made.content, None
        if isinstance(made, Truncate):
            return number, "truncate", made.relations, made.cascade, made.restart_identity
        if not isinstance(made, Insert | Update | Delete):
            raise TypeError(f"a transform returned a {type(made).__name__}, which is no change")
        new, old = _Row.of(made, change, "new"), _Row.of(made, change, "old")
        main = old if new is None else new
        if main is None:
            raise TypeError(f"a transform returned an {type(made).__name__} without a row")
        source = getattr(change, "relation", None)
        columns = [self._column(made.relation, name, new, old) for name in main.values]
        relation = self._relation(made.relation, columns)
        return (
            number,
            made.action,
            relation,
            None if new is None else new.cells(columns, source),
            None if old is None else old.cells(columns, source, beside=new),
        )

    def _column(self, relation: Relation, name: str, new: _Row | None, old: _Row | None) -> Column:
        """A column of the row that was made, of the type that its values have."""
        key = (relation.schema, relation.name, name)
        rows = [row for row in (new, old) if row is not None]
        declared = next((column for column in relation.columns if column.name == name), None)
        known = self._types.get(key)
        values = [row.values.get(name, UNSET) for row in rows]
        replaced = [
            (value, row.before.get(name))
            for row, value in zip(rows, values, strict=True)
            if not (value is None or value is UNSET or row.is_copied(name))
        ]
        if (
            known is None
            and declared is not None
            and all(encoding.fits(value, declared.type_oid, before) for value, before in replaced)
        ):
            return declared
        if known is None or not all(encoding.fits(value, known, None) for value, _ in replaced):
            types = {encoding.type_of(value) for value in values if value is not None and value is not UNSET}
            if not types:
                return declared or Column(name=name, type_oid=known or encoding.TEXT, type_modifier=-1, is_key=False)
            known = types.pop() if len(types) == 1 else encoding.TEXT
            self._types[key] = known
        return Column(name=name, type_oid=known, type_modifier=-1, is_key=declared is not None and declared.is_key)

    def _relation(self, relation: Relation, columns: list[Column]) -> Relation:
        key = (
            relation.oid,
            relation.schema,
            relation.name,
            relation.replica_identity,
            *((column.name, column.type_oid, column.type_modifier, column.is_key) for column in columns),
        )
        known = self._relations.get(key)
        if known is None:
            if len(self._relations) > 1024:
                self._relations.clear()
            known = self._relations[key] = msgspec.structs.replace(relation, columns=columns)
        return known


def _in_context(function: Function, context: Context) -> Function:
    """A function of ours that goes by a table's name is told what that was."""
    told: Callable[[Context], Function] | None = getattr(function, "in_context", None)
    return function if told is None else told(context)


def _made(functions: Iterable[Function], change: AnyChange) -> Iterable[AnyChange]:
    made: list[AnyChange] = [change]
    for function in functions:
        following: list[AnyChange] = []
        for one in made:
            result = function(one)
            if isinstance(result, list | tuple):
                following.extend(result)
            elif result is not None:
                following.append(result)
        made = following
    return made


class _Row:
    """A row that a function returned, beside the one that it was given."""

    def __init__(self, values: dict[str, Any], before: Mapping[str, Any], numbers: Mapping[str, int]) -> None:
        self.values = values
        self.before = before
        self._numbers = numbers

    @classmethod
    def of(cls, made: Insert[Any] | Update[Any] | Delete[Any], change: AnyChange, which: str) -> _Row | None:
        """The new or the old row of a change that was made; None when it has none."""
        row = getattr(made, which)
        if row is UNSET:
            return None
        source: Relation | None = getattr(change, "relation", None)
        given = getattr(change, which, UNSET)
        if source is None or given is UNSET:
            return cls(_named(row, made.relation, None), {}, {})
        numbers = {column.name: number for number, column in enumerate(source.columns)}
        return cls(_named(row, source, type(given)), _named(given, source, type(given)), numbers)

    def is_copied(self, name: str) -> bool:
        """Whether the value is the one that was there."""
        return name in self._numbers and name in self.before and self.values.get(name, UNSET) is self.before[name]

    def cells(self, columns: Sequence[Column], source: Relation | None, beside: _Row | None = None) -> tuple[Any, ...]:
        cells: list[Any] = []
        for column in columns:
            name = column.name
            value = self.values.get(name, UNSET)
            if beside is not None and beside.values.get(name) is UNSET and not beside.is_copied(name):
                value = UNSET  # what was taken out of the new row would come back from the old one
            if self.is_copied(name) and source is not None and value is not UNSET:
                number = self._numbers[name]
                if source.columns[number].type_oid == column.type_oid:
                    cells.append(number)
                    continue
            cells.append(value if value is None or value is UNSET else encoding.cell(value, column.type_oid))
        return tuple(cells)


def _named(row: Any, relation: Relation, own: type | None) -> dict[str, Any]:
    """A row's values by column."""
    if isinstance(row, dict):
        return dict(row)
    if isinstance(row, msgspec.Struct):
        if type(row) is own and len(row.__struct_fields__) == len(relation.columns):
            # Made for this relation: a field for each column, whose name a field cannot always have.
            values = (getattr(row, field) for field in row.__struct_fields__)
            return {column.name: value for column, value in zip(relation.columns, values, strict=True)}
        return {
            name: getattr(row, field)
            for field, name in zip(row.__struct_fields__, row.__struct_encode_fields__, strict=True)
        }
    raise TypeError(f"a transform returned a row of the class {type(row).__name__}: give a struct or a dict")


def fuse(transforms: Iterable[Any]) -> list[Any]:
    """Put filters into what follows them, so that rows are decoded once for all.

    Args:
        transforms: Transforms, and functions of changes.

    Returns:
        Transforms.

    Raises:
        ConfigError: When something is neither.
    """
    fused: list[Any] = []
    for one in transforms:
        if not hasattr(one, "apply"):
            if not callable(one):
                raise ConfigError(
                    f"a {type(one).__name__} is no transform",
                    hint="give what a function of pgcdc.transforms returns, or a function of a change",
                )
            one = Functions([one])
        last = fused[-1] if fused else None
        if (
            isinstance(one, Functions)
            and isinstance(last, Functions)
            and last.only_filters
            and one.table is last.table is None
        ):
            fused[-1] = Functions([*last.functions, *one.functions], only_filters=one.only_filters)
        else:
            fused.append(one)
    return fused


def where(predicate: Callable[[Any], object]) -> Functions:
    """Let only some changes through.

    Args:
        predicate: Called with each change of a row; those for which it is false are left out. A truncate, which has no
            row, and a message pass.

    Returns:
        The transform.
    """

    def passes(change: AnyChange) -> AnyChange | None:
        return change if isinstance(change, Truncate | Message) or predicate(change) else None

    return Functions([passes], only_filters=True)


def route(to: str | Callable[[Any], str | None]) -> Columns | Functions:
    """Send changes elsewhere: to another topic, index or table, which sinks take from the table's name.

    Args:
        to: The name, or a function that gives it for a change of a row; None leaves the change where it is.

    Returns:
        The transform.
    """
    if isinstance(to, str):
        name = to
        return renamed_tables(lambda _relation: name)
    choose = to

    def routed(change: AnyChange) -> AnyChange:
        if isinstance(change, Truncate | Message):
            return change
        chosen = choose(change)
        if chosen is None or chosen == change.table:
            return change
        relation = msgspec.structs.replace(change.relation, name=chosen)
        return msgspec.structs.replace(change, relation=relation)

    return Functions([routed])


def enrich(table: str | Table, function: Callable[[Any], Mapping[str, Any]], columns: Mapping[str, type]) -> Functions:
    """Add columns to a table's new rows.

    Args:
        table: The table.
        function: Called with each insert and update; returns values by column. Deletes have the columns unset.
        columns: The columns, each with the class of its values: what type it has does not depend on the values then.

    Returns:
        The transform.

    Raises:
        ConfigError: When no column holds values of such a class.
    """
    parsed = parse_table(table)
    try:
        types = {name: encoding.type_of_class(kind) for name, kind in columns.items()}
    except TypeError as error:
        raise ConfigError(f"enrich: {error}", hint='enrich("orders", f, {"vat": Decimal})') from None

    def enriched(change: AnyChange) -> AnyChange:
        if isinstance(change, Truncate | Message):
            return change
        relation = change.relation
        there = {column.name for column in relation.columns}
        added = [
            Column(name=name, type_oid=type_oid, type_modifier=-1, is_key=False)
            for name, type_oid in types.items()
            if name not in there
        ]
        relation = msgspec.structs.replace(relation, columns=[*relation.columns, *added])
        if isinstance(change, Delete):
            row = _named(change.old, change.relation, type(change.old)) | dict.fromkeys(types, UNSET)
            return msgspec.structs.replace(change, relation=relation, old=row)
        values = dict(function(change))
        unknown = sorted(values.keys() - types.keys())
        if unknown:
            raise TypeError(f"enrich was not told of column {unknown[0]!r}")
        row = _named(change.new, change.relation, type(change.new)) | dict.fromkeys(types, None) | values
        return msgspec.structs.replace(change, relation=relation, new=row)

    return Functions([enriched], table=parsed)
