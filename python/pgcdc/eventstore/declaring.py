"""What is declared of a store: projections, reactors, the pipeline that runs them, and how long events stay."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from pgcdc.errors import ConfigError
from pgcdc.eventstore.projection import OnFailure, Projection
from pgcdc.eventstore.retention import Rule, rule

if TYPE_CHECKING:
    from pgcdc.eventstore.archives import Archive
    from pgcdc.eventstore.codec import Codec
    from pgcdc.eventstore.following import EventPipeline
    from pgcdc.eventstore.reacting import Reactor
    from pgcdc.eventstore.statements import Statements
    from pgcdc.pipeline.options import ConsumerOptions

__all__ = ["Declarations"]

Declared = TypeVar("Declared", bound=type)


class Declarations:
    """The projections, reactors and rules of retention of one store, by name."""

    _dsn: str
    _codec: Codec
    _statements: Statements

    def __init__(self, archive: Archive | None = None) -> None:
        self._archive = archive
        self._rules: dict[str, Rule] = {}
        self._projections: dict[str, Projection] = {}
        self._reactors: dict[str, Reactor] = {}

    def projection(
        self, name: str, *, version: int = 1, schema: str = "public", on_failure: OnFailure = "park"
    ) -> Callable[[Declared], Declared]:
        """Declare a projection: a class with tables (`Table`) and a method for each kind of event that it takes.

        `on_order_paid(self, event)` takes each `OrderPaid`, `on_order_paid(self, event, recorded)` also its envelope.
        The methods say what becomes of rows. They are called with each event once, in the order of commits, and what
        they have said is written in one transaction with the projection's place. There is a new instance for each
        batch: what is to be remembered belongs into the tables.

        Args:
            name: Its name: small letters, digits, underscores.
            version: The version of what it makes of events. Another version than the one that is live takes nothing
                until it was built beside it: `pgcdc events rebuild`.
            schema: The schema of its tables while they are live; made where it is missing.
            on_failure: What happens when a method raises or the database refuses a row. `"park"`: the projection stays
                where it is, everything else goes on, no WAL is held; the next start tries again from there.
                `"dead_letter"`: the event is skipped alone, and is a dead letter, which `pgcdc deadletter retry`
                applies later than others: for projections whose rows do not depend on the order. `"stop"`: the pipeline
                stops.

        Returns:
            A decorator that returns the class unchanged.

        Raises:
            ConfigError: When it cannot be.
        """

        def declare(owner: Declared) -> Declared:
            self._named(name)
            self._projections[name] = Projection(name, version, owner, self._codec, schema, on_failure)
            return owner

        return declare

    def reactor(self, name: str, /, **options: Unpack[ConsumerOptions]) -> Callable[[Declared], Declared]:
        """Declare a reactor: a class with a method for each event that has effects elsewhere.

        The methods are those of a projection, or coroutines. They are called at least once with each event that is
        appended after the reactor was first run, never in a rebuild. The event's id (`recorded.event_id`) and its place
        (`recorded.position`) are the same each time: they are what makes an effect happen once.

        Args:
            name: Its name.
            options: See `ConsumerOptions`. Where several events are handled at once, or held, the order that is kept is
                that of each stream.

        Returns:
            A decorator that returns the class unchanged.

        Raises:
            ConfigError: When it cannot be.
        """

        def declare(owner: Declared) -> Declared:
            from pgcdc.eventstore.reacting import Reactor

            self._named(name)
            self._reactors[name] = Reactor(name, owner, self._codec, options)
            return owner

        return declare

    def retention(self, stream_type: str, *, hot: str | timedelta, warm: str | timedelta | None = None) -> None:
        """Say how long the events of a stream type stay in the table; the others move to the archive, by `archive`.

        An event is hot until it is `hot` old, then warm, then cold. Hot ones stay. Warm ones leave when no event of
        their stream is hot: a stream that goes on is read from the table alone. Cold ones leave in any case. An event
        that was appended with a `retention_class` of its own is at least as cold as that says.

        Args:
            stream_type: The type; `"*"` for all those that have no rule of their own.
            hot: `"90 days"`; hours, weeks, months (of 30 days) and years (of 365 days), or a timedelta.
            warm: The same, also from when the event occurred. None: events are never cold by their age.

        Raises:
            ConfigError: When it cannot be.
        """
        self._rules[stream_type] = rule(stream_type, hot, warm)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of retention that are declared, in the order in which they were."""
        return tuple(self._rules.values())

    def _named(self, name: str) -> None:
        if name in self._projections or name in self._reactors or name == "commits":
            raise ConfigError(f"something of this store is named {name} already", hint="each has a name of its own")

    @property
    def projections(self) -> tuple[Projection, ...]:
        """The projections that are declared, in the order in which they were."""
        return tuple(self._projections.values())

    def pipeline(
        self,
        name: str | None = None,
        *,
        projections: Collection[str] | None = None,
        reactors: Collection[str] | None = None,
        rows: int = 1000,
        wait: float = 0.0,
        transactions: int = 100_000,
        max_transaction_bytes: int = 64 * 1024 * 1024,
        **options: Any,
    ) -> EventPipeline:
        """Make the pipeline that runs what is declared: `store.pipeline().run()`, or `pgcdc run module:pipeline`.

        It follows the table of events in the order of commits. Any sink or handler can be added for the table
        `SCHEMA.events`. One pipeline of a name runs at a time.

        Args:
            name: Its name, and that of its slot. Default: the store's schema.
            projections: Which ones; None: all.
            reactors: Which ones; None: all.
            rows: How many events a projection applies in one transaction, as far as those of the source are not larger.
            wait: How long it waits for more of them, in seconds. Under load batches become large by themselves: while
                one is written the next ones gather.
            transactions: So many events may have been appended in one transaction. A larger one stops the pipeline
                before it: nothing is lost, and it goes on when it is run with a larger number. It has to fit in memory.
            max_transaction_bytes: So many bytes of the stream it may take, likewise.
            options: As for `pgcdc.Pipeline`, but for tables, publication, positions and snapshot.

        Returns:
            A `pgcdc.Pipeline`.

        Raises:
            ConfigError: When something is not as it must be.
        """
        from pgcdc.eventstore.following import EventPipeline

        chosen = _chosen(self._projections, projections)
        reacting = _chosen(self._reactors, reactors)
        return EventPipeline(
            name or self._statements.schema,
            self._dsn,
            self._statements,
            chosen,
            reacting,
            rows=rows,
            wait=wait,
            archive=self._archive,
            transactions=transactions,
            max_transaction_bytes=max_transaction_bytes,
            **options,
        )


Named = TypeVar("Named")


def _chosen(known: dict[str, Named], names: Collection[str] | None) -> list[Named]:
    if names is None:
        return list(known.values())
    if lost := [name for name in names if name not in known]:
        raise ConfigError(f"nothing of this store is named {lost[0]}", hint=f"there is {', '.join(known) or 'nothing'}")
    return [known[name] for name in names]
