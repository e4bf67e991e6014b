"""What the contracts of sinks have in common: what a subclass says of its target, and which tests it has therefore."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from inspect import isawaitable
from pathlib import Path
from typing import Any, ClassVar, Final

from pgcdc.lsn import Position
from pgcdc.sink import Sink, TransactionalSink
from pgcdc.testing.changes import Change, Table, Transaction
from pgcdc.testing.contract_changes import applied

__all__ = ["ContractTarget", "called", "position_of"]

LONG: Final = "a value so long that PostgreSQL keeps it apart " * 200


class ContractTarget:
    """A target that keeps a copy of a table. A subclass has to have `make_sink` and `content`.

    Attributes:
        table: The table that changes are of.
        toast: A column whose value may be so long that an update does not send it again.
        added: A column that the table gets in the middle, and its type.
        refused: A row that the target never takes; the sink raises SinkRejected for it.
        without: Of the attributes that a test is there for, those whose test it does not have, and why: see `left_out`.
        optional: The tests that exist only where a subclass has something, each with the attributes that say so.
    """

    table: ClassVar[Table] = Table(
        "contract", {"id": "bigint", "name": "text", "amount": "numeric(12,2)", "note": "text"}, key=("id",)
    )
    toast: ClassVar[str | None] = "note"
    added: ClassVar[tuple[str, str] | None] = ("discount", "numeric(10,2)")
    refused: ClassVar[Mapping[str, Any] | None] = None
    without: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for test, attributes in cls._every_optional():
            if test not in cls.__dict__:
                defined = [base.__dict__[test] for base in cls.__mro__ if test in base.__dict__]
                ours = defined[-1]
                theirs = next((one for one in defined if one not in (None, ours)), ours)
                setattr(cls, test, theirs if all(map(cls._has, attributes)) else None)

    @classmethod
    def _every_optional(cls) -> Iterator[tuple[str, tuple[str, ...]]]:
        for base in cls.__mro__:
            yield from base.__dict__.get("optional", {}).items()

    @classmethod
    def _has(cls, attribute: str) -> bool:
        value = getattr(cls, attribute)
        if callable(value):  # a method that here is only described
            return value is not [base.__dict__[attribute] for base in cls.__mro__ if attribute in base.__dict__][-1]
        return value not in (None, False)

    @classmethod
    def left_out(cls) -> dict[str, str]:
        """Give the tests that do not exist for this sink, each with the reason that `without` has for it.

        Returns:
            Reasons by attribute; an empty one where none is given.
        """
        missing = (
            next((one for one in attributes if not cls._has(one)), attributes[-1])
            for test, attributes in cls._every_optional()
            if getattr(cls, test) is None
        )
        return {case: cls.without.get(case, "") for case in missing}

    def make_sink(self, place: Path) -> Sink:
        """Make the sink; for the same place again it is the same target after a restart.

        Args:
            place: A folder of its own for the target's files; or a name for it.

        Returns:
            The sink, not opened.
        """
        raise NotImplementedError

    def content(self, place: Path) -> Any:
        """Read from the target what it has, apart from the sink.

        Args:
            place: As `make_sink` had it.

        Returns:
            What `expected` gives: by default the rows by key, each a dict of all columns.
        """
        raise NotImplementedError

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> Any:
        """Say what the target should have.

        Args:
            rows: The table's rows by key.
            columns: The table's columns at the end.

        Returns:
            What is compared with `content`.
        """
        names = list(columns)
        return {key: {name: row.get(name) for name in names} for key, row in rows.items()}

    def row(self, key: int, variant: int) -> dict[str, Any]:
        """Make up a row.

        Args:
            key: Its key.
            variant: Rows of one key and several variants differ.

        Returns:
            Values by column.
        """
        return {
            "id": key,
            "name": f"name {variant}",
            "amount": Decimal(key * 10 + variant) + Decimal("0.25"),
            "note": LONG if key % 2 else None,
        }

    def added_value(self, key: int) -> Any:
        """A value for the column `added`.

        Args:
            key: The row's key.
        """
        return Decimal(key) + Decimal("0.50")

    def _moved(self, key: int, new: int, variant: int) -> dict[str, Any]:
        """The row of a key, under another one."""
        [name] = self.table.keys
        return self.row(key, variant) | {name: new}

    def _check(self, place: Path, changes: Iterable[Transaction | Change]) -> None:
        rows, columns = applied(changes)
        assert self.content(place) == self.expected(rows, columns)


async def position_of(sink: Sink) -> Position | None:
    """The position that a sink says it has; None for one that keeps none.

    Args:
        sink: The sink, open.
    """
    if not isinstance(sink, TransactionalSink):
        return None
    found: Any = sink.position()
    return await found if isawaitable(found) else found  # type: ignore[no-any-return]


async def called(method: Callable[..., Awaitable[Any] | Any], *arguments: Any) -> Any:
    """Call a method of a sink, which may be a coroutine.

    Args:
        method: The method.
        *arguments: What it gets.

    Returns:
        What it gives.
    """
    result = method(*arguments)
    return await result if isawaitable(result) else result
