"""What may be said of any consumer, handler or sink, beside what it gets: the names, their meaning, and the checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from os import PathLike
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from pgcdc.errors import ConfigError
from pgcdc.pipeline.retry import Retry
from pgcdc.pipeline.spooling import SpoolOptions, check_spool
from pgcdc.schema import ChangeKind, Policy, PolicyWord, check_policy
from pgcdc.tables import Table, parse_table
from pgcdc.transforms import Transform
from pgcdc.transforms.applying import Function
from pgcdc.transforms.functions import fuse
from pgcdc.transforms.outbox import PREFIX, Events, outbox

__all__ = ["ConsumerOptions", "OnFailure", "Options", "check_options"]

OnFailure: TypeAlias = Literal["stop", "park", "hold"]

_RETRY = Retry()

AnyTransform: TypeAlias = Transform | Function
MOST_CONCURRENT = 256
"""So many changes may one consumer handle at once, at most: each takes a thread where the handler blocks."""
LARGEST_TRANSACTION = 100_000
"""So many changes a transaction may have that is taken whole, where no number was said."""


class ConsumerOptions(TypedDict, total=False):
    """The keyword arguments that `Pipeline.on` and `Pipeline.add` have in common.

    Attributes:
        name: The consumer's name, which its stored position belongs to.
        snapshot: `"never"`: no part in the initial copy; changes from the slot's beginning on, or from now on where the
            pipeline runs already.
        where: A function of a change of a row: those for which it is false are left out.
        columns: The columns that it gets, by table, or a list of names where it has one table; others are in no form of
            what it is given.
        transform: What becomes of changes before the consumer sees them, in this order: what the functions of
            `pgcdc.transforms` return, and functions of a change that return a change, None or a list of changes.
        messages: The prefixes of logical messages (`pg_logical_emit_message`) that it gets, beside its tables: those
            that belong to a transaction.
        topics: The topics of events of `pgcdc.emit` that it gets, as inserts into the tables `outbox.TOPIC`; see
            `pgcdc.transforms.outbox`.
        max_rows: So many changes are given to it at once, at most.
        max_bytes: So many bytes of raw messages, likewise; one change may be larger.
        max_wait: So many seconds more rows are waited for while there are fewer than `max_rows`.
        transactions: For sinks: no write ends within a transaction, which waits for its last change; True for those of
            up to 100,000 changes, or a number. A larger one stops the consumer. `max_rows` and `max_bytes` are then
            limits for whole transactions: one alone may be larger.
        max_transaction_bytes: So many bytes of raw messages such a transaction has at most; 64 MiB where it is not
            said.
        concurrency: So many changes (of a sink: parts of a batch) are under way at once; those of one key never.
        key: The columns of the key that order is kept for, with `concurrency` and with `on_failure="hold"`; by default
            each table's primary key.
        on_schema_change: What it does when one of its tables has another shape: `"follow"`, `"warn"` (and go on) or
            `"stop"`, for all kinds of changes, or for some: `"add"`, `"drop"`, `"rename"`, `"retype"` (of columns),
            `"key"` (other columns in the replica identity), `"rename_table"`. Default: follow, but stop when the table
            has another name.
        retry: What is tried again, and how. Default: only SinkUnavailable, without end.
        on_failure: What becomes of a change that is refused, that the handler raises on, or that cannot be decoded.
            `"stop"` (default): the pipeline stops there. `"park"`: it is a dead letter, and the rest goes on.
            `"hold"`: likewise, and later changes of the same row, chosen key or event's key wait behind it: for targets
            that do not compare positions, because a retry would bring an old value back.
        max_dead_letters: So many dead letters the consumer may have, those that wait included; then it stops.
        spool: A directory of its own for what waits for it and does not fit into memory; False: it has none, though
            the pipeline's consumers do.
        confirm_spooled: Whether the slot may be confirmed past what is only in its spool; the pipeline's, when it is
            not given.
        own_slot: Whether it has a slot of its own, which costs the server one more walsender: then it never waits for
            the others, nor they for it. It is a pipeline by itself, `PIPELINE/CONSUMER`, that is run, stopped and
            destroyed with this one.
    """

    name: str | None
    snapshot: Literal["never"] | None
    where: Callable[[Any], object] | None
    columns: Mapping[str, Collection[str]] | Collection[str] | None
    transform: AnyTransform | Collection[AnyTransform]
    messages: Collection[str]
    topics: Collection[str]
    max_rows: int | None
    max_bytes: int | None
    max_wait: float
    transactions: bool | int
    max_transaction_bytes: int
    concurrency: int
    key: Collection[str] | None
    on_schema_change: PolicyWord | Mapping[ChangeKind, PolicyWord] | None
    retry: Retry
    on_failure: OnFailure
    max_dead_letters: int
    spool: str | PathLike[str] | SpoolOptions | Literal[False] | None
    confirm_spooled: bool | None
    own_slot: bool


@dataclass(frozen=True)
class Options:
    """The same, checked; the name has become the subscription's.

    Attributes:
        snapshot: See `ConsumerOptions`, as for all that follow.
        where: Likewise.
        columns: Names by table.
        transforms: What `transform` says, in order, as transforms.
        messages: Likewise, with those that topics have.
        max_rows: Likewise.
        max_bytes: Likewise.
        max_wait: Likewise.
        transactions: How many changes the largest one has that is taken whole; 0: they come in parts.
        max_transaction_bytes: How many bytes of raw messages it has.
        concurrency: Likewise.
        key: Likewise.
        on_schema_change: A word for each kind.
        retry: Likewise.
        on_failure: Likewise.
        max_dead_letters: Likewise.
        outboxes: The columns with topic and key of the outbox tables that transforms make events of.
        spool: Likewise.
        confirm_spooled: Likewise.
        own_slot: Likewise.
    """

    snapshot: Literal["never"] | None = None
    where: Callable[[Any], object] | None = None
    columns: Mapping[Table, tuple[str, ...]] = field(default_factory=dict)
    transforms: tuple[Transform, ...] = ()
    messages: frozenset[str] = frozenset()
    max_rows: int | None = None
    max_bytes: int | None = None
    max_wait: float = 0.0
    transactions: int = 0
    max_transaction_bytes: int = 64 * 1024 * 1024
    concurrency: int = 1
    key: tuple[str, ...] | None = None
    on_schema_change: Policy = field(default_factory=lambda: check_policy("", None))
    retry: Retry = _RETRY
    on_failure: OnFailure = "stop"
    max_dead_letters: int = 1000
    outboxes: Mapping[Table, tuple[str, str]] = field(default_factory=dict)
    spool: SpoolOptions | Literal[False] | None = None
    confirm_spooled: bool | None = None
    own_slot: bool = False


def check_options(consumer: str, given: Mapping[str, object], tables: Collection[Table] = ()) -> Options:
    """Check what was said of a consumer.

    Args:
        consumer: Its name, for the error.
        given: What was said, by name.
        tables: Its tables.

    Returns:
        The options, with defaults for what was not said.

    Raises:
        ConfigError: When an option does not exist, or has a value that does not.
    """
    known = ConsumerOptions.__annotations__
    for option in given:
        if option not in known:
            similar = get_close_matches(option, known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"the options are {', '.join(known)}"
            raise ConfigError(f"consumer {consumer!r} has no option {option!r}", hint=hint)
    snapshot = given.get("snapshot")
    if snapshot not in (None, "never"):
        raise ConfigError(f"snapshot={snapshot!r} does not exist for one consumer", hint='only "never" does')
    where = given.get("where")
    if where is not None and not callable(where):
        raise ConfigError(f"where= of consumer {consumer!r} is not a function", hint="where=lambda change: …")
    max_wait = given.get("max_wait", 0.0)
    if isinstance(max_wait, bool) or not isinstance(max_wait, int | float) or not 0 <= max_wait <= 3600:
        raise ConfigError(f"max_wait of consumer {consumer!r} is no number of seconds from 0 to 3600")
    key = _names(consumer, "key", given.get("key"))
    concurrency = _count(consumer, "concurrency", given.get("concurrency", 1)) or 1
    if concurrency > MOST_CONCURRENT:
        raise ConfigError(f"concurrency of consumer {consumer!r} is {MOST_CONCURRENT} at most")
    holds = given.get("on_failure") == "hold"
    if key is not None and (not key or (concurrency == 1 and not holds)):
        raise ConfigError(
            f"key= of consumer {consumer!r} says what concurrency keeps in order, and what on_failure='hold' holds",
            hint='concurrency=4, key=["user_id"]; one change after another is in order anyway',
        )
    transactions = given.get("transactions", False)
    if isinstance(transactions, bool):
        transactions = LARGEST_TRANSACTION if transactions else 0
    else:
        transactions = _count(consumer, "transactions", transactions) or 0
    if transactions and concurrency > 1:
        raise ConfigError(
            f"consumer {consumer!r} cannot have transactions whole and in parts at once",
            hint="leave concurrency or transactions out",
        )
    topics = _names(consumer, "topics", given.get("topics")) or ()
    messages = _names(consumer, "messages", given.get("messages")) or ()
    transforms = _transforms(consumer, given.get("transform", ()))
    retry = given.get("retry", _RETRY)
    if not isinstance(retry, Retry):
        raise ConfigError(f"retry of consumer {consumer!r} is no pgcdc.Retry", hint="retry=pgcdc.Retry(attempts=5)")
    on_failure = given.get("on_failure", Options.on_failure)
    if on_failure not in get_args(OnFailure):
        raise ConfigError(
            f"on_failure={on_failure!r} of consumer {consumer!r} does not exist",
            hint=f"it is one of {', '.join(map(repr, get_args(OnFailure)))}",
        )
    spool = given.get("spool")
    confirm_spooled = given.get("confirm_spooled")
    if confirm_spooled not in (None, True, False):
        raise ConfigError(f"confirm_spooled of consumer {consumer!r} is neither True nor False")
    own_slot = given.get("own_slot", False)
    if not isinstance(own_slot, bool):
        raise ConfigError(
            f"own_slot of consumer {consumer!r} is neither True nor False",
            hint="the slot's name is the pipeline's slot's with the consumer's: pgcdc_shop__search",
        )
    return Options(
        snapshot="never" if snapshot == "never" else None,
        where=where,
        columns=_columns(consumer, given.get("columns"), tables),
        transforms=(outbox(), *transforms) if topics else transforms,
        messages=frozenset((*messages, *(PREFIX + topic for topic in topics))),
        max_rows=_count(consumer, "max_rows", given.get("max_rows")),
        max_bytes=_count(consumer, "max_bytes", given.get("max_bytes")),
        max_wait=float(max_wait),
        transactions=transactions,
        max_transaction_bytes=_count(consumer, "max_transaction_bytes", given.get("max_transaction_bytes"))
        or Options.max_transaction_bytes,
        concurrency=concurrency,
        key=key,
        on_schema_change=check_policy(consumer, given.get("on_schema_change")),
        retry=retry,
        on_failure=on_failure,  # type: ignore[arg-type]
        max_dead_letters=_count(consumer, "max_dead_letters", given.get("max_dead_letters"))
        or Options.max_dead_letters,
        outboxes=_outboxes(consumer, transforms, holds=holds, orders=concurrency > 1 and key is None),
        spool=False if spool is False else check_spool(f"consumer {consumer!r}", spool),
        confirm_spooled=None if confirm_spooled is None else bool(confirm_spooled),
        own_slot=own_slot,
    )


def _count(consumer: str, option: str, value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{option} of consumer {consumer!r} must be a whole number of at least 1")
    return value


def _names(consumer: str, option: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection) or not all(isinstance(one, str) for one in value):
        raise ConfigError(f"{option} of consumer {consumer!r} must be a list of names")
    return tuple(dict.fromkeys(value))


def _columns(consumer: str, value: object, tables: Collection[Table]) -> dict[Table, tuple[str, ...]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        if len(tables) != 1:
            raise ConfigError(
                f"columns= of consumer {consumer!r} does not say of which table they are",
                hint='columns={"orders": ["id", "status"]}',
            )
        value = dict.fromkeys(tables, value)
    chosen = {}
    for table, names in value.items():
        parsed = parse_table(table)
        if parsed not in tables:
            raise ConfigError(
                f"columns= of consumer {consumer!r} names table {'.'.join(parsed)!r}, which it does not get",
                table=".".join(parsed),
            )
        chosen[parsed] = _names(consumer, "columns", names) or ()
        if not chosen[parsed]:
            raise ConfigError(f"columns= of consumer {consumer!r} leaves nothing of table {'.'.join(parsed)!r}")
    return chosen


def _outboxes(
    consumer: str, transforms: Collection[Transform], *, holds: bool, orders: bool
) -> dict[Table, tuple[str, str]]:
    found: dict[Table, tuple[str, str]] = {}
    as_sent = True
    for one in transforms:
        # What stands before it among the same functions only filters.
        for events in [each for each in getattr(one, "functions", ()) if isinstance(each, Events)]:
            if events.table is None:
                continue
            if (holds or orders) and not as_sent:
                what = "hold events" if holds else "keep events in order"
                raise ConfigError(
                    f"consumer {consumer!r} cannot {what} by their key behind a transform of its outbox table",
                    hint="put transforms.outbox(…) first; filters may stand before it",
                    table=".".join(events.table),
                )
            if orders and found and events.table not in found:
                raise ConfigError(
                    f"consumer {consumer!r} cannot keep events of several outbox tables in order by topic and key,"
                    " several at once",
                    hint="leave concurrency= out, have a consumer for each, or give key= with columns that all of them"
                    " have",
                    table=".".join(events.table),
                )
            found[events.table] = (events.topic, events.key)
        as_sent = as_sent and (getattr(one, "only_filters", False) or _is_events(one))
    return found


def _is_events(transform: Transform) -> bool:
    return any(isinstance(each, Events) for each in getattr(transform, "functions", ()))


def _transforms(consumer: str, value: object) -> tuple[Transform, ...]:
    given = value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(fuse(given))
    except ConfigError as error:
        error.add_note(f"consumer {consumer!r}")
        raise
