"""Functions that run once when a table has another shape, before the first change of it: who registered which."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from difflib import get_close_matches
from typing import TypeAlias, TypeVar

from pgcdc.errors import ConfigError
from pgcdc.events import Relation
from pgcdc.pipeline.subscription import Subscription, Table

__all__ = ["Migration", "Migrations", "Registered"]

Migration: TypeAlias = Callable[[Relation, Relation], Awaitable[None] | None]
"""Called with the old and the new shape."""
Registered = TypeVar("Registered", bound=Migration)


class Migrations:
    """The migrations of one pipeline."""

    def __init__(self) -> None:
        self._by_table: dict[tuple[Table, str | None], Migration] = {}

    def add(self, table: Table, consumer: str | None, migration: Migration) -> None:
        """Register one.

        Args:
            table: The table whose shape changes.
            consumer: Whose it is; None: the pipeline's.
            migration: The function.

        Raises:
            ConfigError: When it cannot be called, or there is one already.
        """
        whose = "the pipeline" if consumer is None else f"consumer {consumer!r}"
        name = ".".join(table)
        if not callable(migration):
            raise ConfigError(f"the migration of {whose} for table {name} cannot be called", table=name)
        if (table, consumer) in self._by_table:
            raise ConfigError(
                f"{whose} has two migrations for table {name}", hint="call both in one function", table=name
            )
        self._by_table[table, consumer] = migration

    def check(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Make sure that there is somebody to migrate.

        Args:
            subscriptions: The consumers by name.

        Raises:
            ConfigError: When a consumer does not exist, or does not get the table.
        """
        for table, consumer in self._by_table:
            name = ".".join(table)
            if consumer is None:
                if not any(table in one.tables for one in subscriptions.values()):
                    raise ConfigError(f"there is a migration for table {name}, which no consumer gets", table=name)
            elif consumer not in subscriptions:
                similar = get_close_matches(consumer, subscriptions, n=1)
                raise ConfigError(
                    f"there is a migration of consumer {consumer!r}, which is not registered",
                    hint=f"did you mean {similar[0]!r}?"
                    if similar
                    else f"the consumers are {', '.join(map(repr, subscriptions))}",
                    table=name,
                )
            elif table not in subscriptions[consumer].tables:
                raise ConfigError(
                    f"there is a migration of consumer {consumer!r} for table {name}, which it does not get", table=name
                )

    def split(self, consumers: Collection[str]) -> tuple[Migrations, dict[str, Migrations]]:
        """Tell those of some consumers from the rest.

        Args:
            consumers: Their names.

        Returns:
            The rest, with those of the pipeline; and those of each consumer.
        """
        rest, theirs = Migrations(), {name: Migrations() for name in consumers}
        for (table, consumer), migration in self._by_table.items():
            into = rest if consumer is None else theirs.get(consumer, rest)
            into._by_table[table, consumer] = migration
        return rest, theirs

    def of(self, table: Table, consumer: str | None) -> Migration | None:
        """The migration of a consumer, or of the pipeline, for a table.

        Args:
            table: The table, as the pipeline knows it.
            consumer: The consumer's name; None: the pipeline.
        """
        return self._by_table.get((table, consumer))
