"""Transactions of a stream, each an iterator over its changes.

Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

from pgcdc.errors import ConfigError
from pgcdc.events import (
    Begin,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    Relation,
    StreamAbort,
    Truncate,
    Type,
    Update,
)
from pgcdc.replication import waits_async as waits

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from datetime import datetime

    from pgcdc.events import Event

__all__ = ["AsyncTransaction", "whole_transactions"]

TransactionChange: TypeAlias = "Insert | Update | Delete | Truncate | Message"
Events: TypeAlias = "Callable[[], AsyncGenerator[Event, None]]"


class AsyncTransaction:
    """One transaction: iterate its row changes, truncates and logical messages, once. Who left goes on with the rest.

    Args:
        xid: The transaction's id.
        commit_lsn: Where its commit record begins.
        commit_time: When it was committed; None of a message outside of transactions.
        events: Goes on with the stream, where it was left; what is after this transaction is left to others.

    Attributes:
        origin: Where it was made, if it was replicated to this server; None else. Known when it is iterated.
        end_lsn: What `confirm` says; None until it was iterated to its end.
    """

    def __init__(self, xid: int, commit_lsn: int, commit_time: datetime | None, events: Events) -> None:
        self.xid = xid
        self.commit_lsn = commit_lsn
        self.commit_time = commit_time
        self.origin: str | None = None
        self.end_lsn: int | None = None
        self._events = events

    def __repr__(self) -> str:
        return f"<AsyncTransaction xid={self.xid} commit_lsn={self.commit_lsn:X}>"

    def __aiter__(self) -> AsyncGenerator[TransactionChange, None]:
        """The changes, as they come."""
        return waits.lasting(self._changes)

    async def _changes(self) -> AsyncGenerator[TransactionChange, None]:
        if self.end_lsn is not None:
            return
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, Commit):
                    self.end_lsn = event.end_lsn
                    return
                if isinstance(event, Message) and not event.transactional:
                    self.end_lsn = event.lsn
                if isinstance(event, (Insert, Update, Delete, Truncate, Message)):
                    yield event
                elif isinstance(event, Origin):
                    self.origin = event.name


async def whole_transactions(events: Events) -> AsyncGenerator[AsyncTransaction, None]:
    """Cut events into transactions.

    Args:
        events: Goes on with the stream, where it was left.

    Yields:
        The transactions; each is passed over to its end before the next.

    Raises:
        ConfigError: When one comes that is not committed yet.
    """
    while True:
        async with aclosing(events()) as coming:
            async for event in coming:
                if isinstance(event, Begin):
                    transaction = AsyncTransaction(event.xid, event.final_lsn, event.commit_time, events)
                    break
                if isinstance(event, Message) and not event.transactional:
                    transaction = AsyncTransaction(0, event.lsn, None, _Only(event))
                    break
                if not _passed_over(event):
                    raise ConfigError(
                        f"a {type(event).__name__} is of a transaction that is not committed yet",
                        hint="start the stream with two_phase=True: then prepared transactions come when they are"
                        " committed",
                    )
            else:
                return
        yield transaction
        async for _ in transaction:
            pass


def _passed_over(event: Event) -> bool:
    """Whether an event before a transaction is of no matter.

    Relations and types are said for who decodes. A Stream Abort alone is of a transaction of which nothing was sent.
    What else is of a committed transaction is the rest of one that was left.
    """
    if isinstance(event, (Insert, Update, Delete, Truncate, Message)):
        return isinstance(event.commit_lsn, int)
    return isinstance(event, (Relation, Type, StreamAbort, Origin, Commit))


class _Only:
    """A stream of one event."""

    def __init__(self, event: Event) -> None:
        self._event = event

    async def __call__(self) -> AsyncGenerator[Event, None]:
        yield self._event
