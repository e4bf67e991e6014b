"""What a pipeline is made of, as values for those who look at it: names, tables, consumers and their policies."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal

import msgspec

from pgcdc.pipeline.options import OnFailure
from pgcdc.pipeline.settings import Settings, SnapshotMode, settings_beside
from pgcdc.pipeline.subscription import HandlerSubscription, SinkSubscription, Subscription, Table
from pgcdc.schema.change import ChangeKind
from pgcdc.schema.policy import PolicyWord
from pgcdc.sink import TransactionalSink

if TYPE_CHECKING:
    from pgcdc.pipeline.migrations import Migrations

__all__ = ["ConsumerOutline", "PipelineOutline", "outline"]


class ConsumerOutline(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer.

    Attributes:
        name: Its name.
        kind: Whether it is a function or a sink.
        target: The function's name, or the sink's class.
        tables: Its tables, as `schema.name`.
        on_failure: What becomes of a change that it cannot be given.
        on_schema_change: What it does, by kind of change.
        migrations: The tables for which it, or the pipeline, has a migration.
        keeps_position: Whether its sink stores the position together with the data.
        confirms_spool: Whether the slot may be confirmed past what is only in its spool.
        slot: The name of the slot that it gets its changes from: the pipeline's, or its own.
        publication: The name of the publication, likewise.
    """

    name: str
    kind: Literal["handler", "sink"]
    target: str
    tables: list[str]
    on_failure: OnFailure
    on_schema_change: dict[ChangeKind, PolicyWord]
    migrations: list[str]
    keeps_position: bool
    confirms_spool: bool
    slot: str
    publication: str


class PipelineOutline(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline.

    Attributes:
        name: Its name.
        slot: The name of its slot.
        publication: The name of its publication.
        tables: Its tables, as `schema.name`.
        snapshot: When existing rows are copied.
        positions: The class of the store of positions.
        durable: Whether positions outlive the process.
        from_kafka: Whether its changes come from Kafka, and not from its slot.
        consumers: Its consumers, in the order in which they were registered.
    """

    name: str
    slot: str
    publication: str
    tables: list[str]
    snapshot: SnapshotMode
    positions: str
    durable: bool
    from_kafka: bool
    consumers: list[ConsumerOutline]

    @property
    def own_slots(self) -> list[ConsumerOutline]:
        """The consumers that have slots of their own."""
        return [one for one in self.consumers if one.slot != self.slot]

    @property
    def slots(self) -> list[str]:
        """The names of all slots that it has: its own, unless each of its consumers has one, and theirs."""
        return list(dict.fromkeys(one.slot for one in self.consumers)) or [self.slot]


def outline(
    settings: Settings,
    subscriptions: Collection[Subscription],
    migrations: Migrations,
    positions: type[object],
    *,
    durable: bool,
) -> PipelineOutline:
    """Describe a pipeline.

    Args:
        settings: Its settings.
        subscriptions: Its consumers.
        migrations: Its migrations.
        positions: The class of its store of positions.
        durable: Whether that is durable.

    Returns:
        Values; nothing secret is among them.
    """
    return PipelineOutline(
        name=settings.name,
        slot=settings.slot,
        publication=settings.publication,
        tables=[".".join(table) for table in settings.tables],
        snapshot=settings.snapshot,
        positions=positions.__name__,
        durable=durable,
        from_kafka=settings.source is not None,
        consumers=[_consumer(one, migrations, settings) for one in subscriptions],
    )


def _consumer(one: Subscription, migrations: Migrations, settings: Settings) -> ConsumerOutline:
    sink = one.sink if isinstance(one, SinkSubscription) else None
    target = type(sink) if sink is not None else one.handler if isinstance(one, HandlerSubscription) else type(one)
    confirms = one.options.confirm_spooled
    its = settings_beside(settings, one.name, one.tables) if one.options.own_slot else settings
    return ConsumerOutline(
        name=one.name,
        kind="handler" if sink is None else "sink",
        target=getattr(target, "__qualname__", type(target).__qualname__),
        tables=sorted(map(_text, one.tables)),
        on_failure=one.options.on_failure,
        on_schema_change=dict(one.options.on_schema_change),
        migrations=sorted(
            _text(table) for table in one.tables if migrations.of(table, one.name) or migrations.of(table, None)
        ),
        keeps_position=isinstance(sink, TransactionalSink),
        confirms_spool=settings.confirm_spooled if confirms is None else confirms,
        slot=its.slot,
        publication=its.publication,
    )


def _text(table: Table) -> str:
    return ".".join(table)
