"""What a pipeline was told: names, tables, limits; checked once, then only read."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, get_args

from pgcdc.connection_string import Dsn, dsn_of
from pgcdc.errors import ConfigError
from pgcdc.pipeline.spooling import Place, SpoolOptions, check_spool, place_of
from pgcdc.pipeline.subscription import Subscription, Table, parse_table
from pgcdc.replication import Reconnect
from pgcdc.replication.stream_options import reconnecting

__all__ = ["BESIDE", "Settings", "SnapshotMode", "check_settings", "settings_beside", "spool_place"]

SnapshotMode: TypeAlias = Literal["initial", "never", "always", "only", "when_needed"]
"""When existing rows are copied: at the first start; never; at every start; only, with no stream afterwards; at the
first start and when the slot was lost or dropped."""

BESIDE: Final = "/"
"""Stands between a pipeline's name and a consumer's, in the name of what is stored of one with a slot of its own."""
_SLOT_NAME: Final = re.compile(r"[a-z0-9_]{1,63}")


@dataclass(frozen=True)
class Settings:
    """A pipeline's settings.

    Attributes:
        name: The pipeline's name: positions are stored under it.
        dsn: Where the source is.
        tables: The tables, schema and name.
        publication: The publication's name.
        slot: The slot's name.
        snapshot: When existing rows are copied.
        snapshot_connections: How many connections copy them, at most.
        show_progress: Whether to draw a bar meanwhile.
        max_rows_in_flight: For each consumer.
        max_bytes_in_flight: For each consumer.
        reconnect: How to get another connection when it was lost; None: not at all.
        spool: Where consumers have their spools; None: nowhere.
        confirm_spooled: Whether the slot may be confirmed past what is only in spools.
        standby: Whether to wait while another process has the pipeline.
        source: Where changes come from instead of the slot; None: from that.
        own_slots: The consumers that have slots of their own, beside this one.
    """

    name: str
    dsn: str = field(repr=False)  # it may have a password
    tables: tuple[Table, ...]
    publication: str
    slot: str
    snapshot: SnapshotMode
    snapshot_connections: int
    show_progress: bool
    max_rows_in_flight: int
    max_bytes_in_flight: int
    reconnect: Reconnect | None
    spool: SpoolOptions | None = None
    confirm_spooled: bool = False
    standby: bool = False
    source: str | None = field(default=None, repr=False)  # likewise
    own_slots: frozenset[str] = frozenset()


def check_settings(
    *,
    name: str,
    dsn: Dsn,
    tables: Collection[str | Table],
    publication: str | None,
    slot: str | None,
    snapshot: str,
    snapshot_connections: int,
    show_progress: bool,
    max_rows_in_flight: int,
    max_bytes_in_flight: int,
    reconnect: bool | Reconnect,
    spool: object = None,
    confirm_spooled: bool = False,
    standby: bool = False,
    source: str | None = None,
) -> Settings:
    """Check what was given to a pipeline, and fill in the names that were not.

    Args:
        name: See `Settings`, as all that follow.
        dsn: Likewise.
        tables: Names as `parse_table` reads them.
        publication: None: `pgcdc_` and the pipeline's name.
        slot: Likewise.
        snapshot: One of `SnapshotMode`.
        snapshot_connections: At least 1.
        show_progress: See `Settings`.
        max_rows_in_flight: At least 1.
        max_bytes_in_flight: At least 1.
        reconnect: True: with the pauses of a `Reconnect` of no arguments.
        spool: A directory, `SpoolOptions`, or None.
        confirm_spooled: See `Settings`.
        standby: Likewise.
        source: Likewise.

    Returns:
        The settings.

    Raises:
        ConfigError: When something is not as it must be.
    """
    if not name or not isinstance(name, str):
        raise ConfigError("a pipeline needs a name", hint='Pipeline("shop", dsn, tables=["orders"])')
    if BESIDE in name:
        raise ConfigError(
            f"{name!r} cannot be the name of a pipeline",
            hint=f"behind a {BESIDE!r} stands the name of a consumer with a slot of its own",
        )
    if isinstance(tables, str):
        raise ConfigError(f"tables of pipeline {name!r} must be a list", hint=f"write tables=[{tables!r}]")
    parsed = tuple(dict.fromkeys(parse_table(table) for table in tables))
    if snapshot not in get_args(SnapshotMode):
        raise ConfigError(
            f"snapshot={snapshot!r} does not exist", hint=f"it is one of {', '.join(map(repr, get_args(SnapshotMode)))}"
        )
    if snapshot_connections < 1:
        raise ConfigError("snapshot_connections must be at least 1")
    if max_rows_in_flight < 1 or max_bytes_in_flight < 1:
        raise ConfigError("the limits of what is in flight must be at least 1")
    spool_options = check_spool(f"pipeline {name!r}", spool)
    if confirm_spooled and spool_options is None:
        raise _confirms_nothing(f"pipeline {name!r}")
    slot = _check_slot_name(
        f"pgcdc_{name}" if slot is None else slot,
        "small letters, digits and underscores, at most 63; give one: Pipeline(…, slot=…)",
    )
    return Settings(
        name=name,
        dsn=dsn_of(dsn),
        tables=parsed,
        publication=f"pgcdc_{name}" if publication is None else publication,
        slot=slot,
        snapshot=snapshot,  # type: ignore[arg-type]
        snapshot_connections=snapshot_connections,
        show_progress=show_progress,
        max_rows_in_flight=max_rows_in_flight,
        max_bytes_in_flight=max_bytes_in_flight,
        reconnect=reconnecting(reconnect),
        spool=spool_options,
        confirm_spooled=bool(confirm_spooled),
        standby=bool(standby),
        source=source or None,
    )


def settings_beside(settings: Settings, consumer: str, tables: Collection[Table]) -> Settings:
    """What the pipeline of a consumer with its own slot is told.

    Args:
        settings: The pipeline's own.
        consumer: The consumer's name, which the names of the other pipeline and of its slot end with.
        tables: The consumer's tables; none for one that only gets messages.

    Returns:
        Settings. The publication is another one, too, unless the pipeline was given one, which has the tables.

    Raises:
        ConfigError: When the names give none that a slot can have.
    """
    given = settings.publication != f"pgcdc_{settings.name}"
    return replace(
        settings,
        name=f"{settings.name}{BESIDE}{consumer}",
        slot=_check_slot_name(
            f"{settings.slot}__{consumer}", "small letters, digits and underscores, at most 63: name the consumer so"
        ),
        publication=settings.publication if given else f"{settings.publication}__{consumer}",
        tables=tuple(table for table in settings.tables if table in tables) or settings.tables,
    )


def _check_slot_name(slot: str, hint: str) -> str:
    """Check the name of a slot.

    Args:
        slot: The name.
        hint: What is said of one that no slot can have.

    Returns:
        The name.

    Raises:
        ConfigError: When no slot can have it.
    """
    if not _SLOT_NAME.fullmatch(slot):
        raise ConfigError(f"{slot!r} cannot be the name of a replication slot", hint=hint, slot=slot)
    return slot


def spool_place(settings: Settings, subscription: Subscription) -> Place | None:
    """Where the spool of a consumer is.

    Args:
        settings: The pipeline's.
        subscription: The consumer.

    Returns:
        The place; None when it has no spool.

    Raises:
        ConfigError: When its spool is to be confirmed past, and it has none.
    """
    own, confirms = subscription.options.spool, subscription.options.confirm_spooled
    confirmed = settings.confirm_spooled if confirms is None else confirms
    place = place_of(subscription.name, settings.slot, own, settings.spool, confirms=confirmed)
    if place is None and confirms:
        raise _confirms_nothing(f"consumer {subscription.name!r}")
    return place


def _confirms_nothing(whose: str) -> ConfigError:
    return ConfigError(
        f"{whose} has no spool that the slot could be confirmed past", hint='spool="/var/lib/shop/spool"'
    )
