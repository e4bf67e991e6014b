"""The error that a run ends with: named by consumer, table and position, never by a value.

Here is the one place that decides what becomes of a change that cannot be delivered: it ends the run, and nothing is
confirmed past it. A dead-letter store takes its place between `describe` and the raise.
"""

from __future__ import annotations

from typing import Any

from pgcdc.errors import DecodeError, Error, SchemaError, SinkError, SinkRejected
from pgcdc.events import Message, Truncate
from pgcdc.lsn import Position, format_lsn
from pgcdc.protocol import Batch
from pgcdc.transforms.applying import AnyChange

__all__ = ["forget", "of_handler", "of_sink"]

_HINT = "nothing was confirmed past it: it comes again at the next start, so put the cause right first"


def of_handler(consumer: str, change: AnyChange | DecodeError, cause: Exception, *, shaping: bool = False) -> Error:
    """Build the error for a handler that raised, or for a change that could not be decoded for it.

    Args:
        consumer: The consumer's name.
        change: The change, or what stands in its place.
        cause: What was raised.
        shaping: Whether it was a filter or transform of any consumer.

    Returns:
        The DecodeError with the consumer named, else a SinkRejected; its cause is what was raised.
    """
    if isinstance(change, DecodeError):
        return _undecodable(consumer, change)
    position = change.position
    place = f" at {_place(Position(*position))}" if isinstance(position, tuple) else ""
    table, what = _what(change)
    who = "a filter or transform of consumer" if shaping else "handler"
    # What a transform of ours says names columns, and no values; what a handler says is not ours.
    why = f": {cause}" if shaping and isinstance(cause, SchemaError) else ""
    error = SinkRejected(
        f"{who} {consumer!r} raised {type(cause).__name__} on {what}{place}{why}",
        hint=_hint(cause),
        table=table,
        lsn=position[0] if isinstance(position, tuple) else None,
    )
    error.__cause__ = cause
    return error


def of_sink(consumer: str, batch: Batch | None, cause: Exception, did: str = "cannot be opened") -> Error:
    """Build the error for a sink that raised.

    Args:
        consumer: The consumer's name.
        batch: What it was given; None when it was opened or closed.
        cause: What it raised.
        did: What it did when it was given nothing.

    Returns:
        The same kind of error with the consumer named; a SinkError for what is no error of pgcdc.
    """
    if isinstance(cause, DecodeError):
        return _undecodable(consumer, cause)
    if isinstance(cause, Error) and not isinstance(cause, SinkError):
        cause.add_note(f"consumer {consumer!r}")
        return cause
    first, last = (None, None) if batch is None else (batch.first_position, batch.last_position)
    tables = [] if batch is None else sorted({f"{relation.schema}.{relation.name}" for relation in batch.relations})
    if batch is not None:
        did = f"did not take {batch.changes_count} changes of {', '.join(tables)}"
    if first is not None and last is not None:
        did += f" ({_place(first)} to {_place(last)})"
    # The text of a sink's own error is written to be shown; that of any other exception can hold values of rows.
    why = str(cause) if isinstance(cause, Error) else f"it raised {type(cause).__name__}"
    error = (SinkRejected if isinstance(cause, SinkRejected) else SinkError)(
        f"sink {consumer!r} {did}: {why}",
        hint=_hint(cause),
        table=tables[0] if len(tables) == 1 else None,
        lsn=None if first is None else first.commit_lsn,
    )
    error.__cause__ = cause
    return error


def _undecodable(consumer: str, cause: DecodeError) -> DecodeError:
    place = f" at {_place(Position(*cause.position))}" if cause.position is not None else ""
    error = type(cause)(
        f"consumer {consumer!r} cannot be given a change{place}: {cause}",
        reason=cause.reason,
        field=cause.field,
        offset=cause.offset,
        raw=cause.raw,
        position=cause.position,
        hint=_hint(cause),
        table=cause.table,
        lsn=cause.lsn,
    )
    error.__cause__ = cause
    return error


def _hint(cause: Exception) -> str:
    own: Any = getattr(cause, "hint", None)
    return f"{own}; {_HINT}" if own else _HINT


def _place(position: Position) -> str:
    if position.index < 0:
        return f"{format_lsn(position.commit_lsn)}, initial copy"
    return f"{format_lsn(position.commit_lsn)}, change {position.index}"


def _what(change: AnyChange) -> tuple[str | None, str]:
    if isinstance(change, Message):
        return None, "a message"
    if isinstance(change, Truncate):
        tables = ", ".join(f"{relation.schema}.{relation.name}" for relation in change.relations)
        return tables, f"a truncate of {tables}"
    table = f"{change.schema}.{change.table}"
    return table, f"{'an' if change.action[0] in 'iu' else 'a'} {change.action} of {table}"


def forget(error: BaseException) -> None:
    """Let go of the frames that an error went through, and those behind it, when it is over.

    They know the batch, and the error. Where one of them keeps the error, all of it would stay until the cyclic garbage
    collector comes, which counts objects and not the bytes of batches.

    Args:
        error: What nobody is told of any more.
    """
    seen: set[int] = set()
    left: list[object] = [error]
    while left:
        one = left.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        left += [one.__cause__, one.__context__, getattr(one, "cause", None), getattr(one, "failed", None)]
        left += one.exceptions if isinstance(one, BaseExceptionGroup) else ()
