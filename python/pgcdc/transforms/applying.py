"""What a transform is to the pipeline: batch to batch, and of each change of the result, which one it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pgcdc.events import Delete, Insert, Message, Truncate, Update
from pgcdc.protocol import Batch, RowFormat, TypeCatalog
from pgcdc.tables import Table

__all__ = ["AnyChange", "Context", "Function", "Shaped", "Transform"]

AnyChange: TypeAlias = Insert[Any] | Update[Any] | Delete[Any] | Truncate | Message

Function: TypeAlias = Callable[[Any], Any]
"""A user's transform: a change to a change, None (it is left out), or a list of changes."""


class Context(NamedTuple):
    """What a transform may need to know of the stream.

    Attributes:
        format: How rows are given to functions: structs, with the types of the database.
        former: Former names of tables, each with the table's present name: rows that were written before a table was
            renamed come with the former one.
    """

    format: RowFormat
    former: frozenset[tuple[Table, Table]] = frozenset()

    @property
    def catalog(self) -> TypeCatalog:
        """The types of the database."""
        return self.format.catalog

    def names(self, schema: str, name: str) -> set[Table]:
        """What a table may be called by those who know it now.

        Args:
            schema: The schema that its rows come with.
            name: The name that its rows come with.

        Returns:
            That, and its present names.
        """
        return {(schema, name), *(now for then, now in self.former if then == (schema, name))}


class Shaped(NamedTuple):
    """What became of a batch.

    Attributes:
        batch: The changes that a consumer gets.
        origins: For each of them the number of the change, among those of the batch that it was made of, that it comes
            from; None where they are the same ones in the same order.
    """

    batch: Batch
    origins: Sequence[int] | None = None

    def then(self, transform: Transform, context: Context) -> Shaped:
        """Apply one more transform.

        Args:
            transform: The transform.
            context: What it may need to know.

        Returns:
            What it makes of it; the origins are still those in the first batch.
        """
        batch, origins = transform.apply(self.batch, context)
        if self.origins is None or origins is None:
            return Shaped(batch, self.origins if origins is None else origins)
        return Shaped(batch, [self.origins[number] for number in origins])


@runtime_checkable
class Transform(Protocol):
    """Something that makes another batch of a batch; the factories of `pgcdc.transforms` give them."""

    def apply(self, batch: Batch, context: Context) -> Shaped:
        """Transform a batch; the same batch always gives the same.

        Args:
            batch: Changes in order.
            context: What is known of the stream.

        Returns:
            The changes that take their place, in order.

        Raises:
            Exception: When a change cannot be transformed. Nothing is passed over: the consumer fails at that change.
        """
