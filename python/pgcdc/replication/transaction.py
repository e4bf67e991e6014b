# Made from transaction_async.py by ./dev lint --fix: change that file, not this one.
"""Transactions of a stream, each an iterator over its changes.

Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

from contextlib import closing
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
from pgcdc.replication import waits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import datetime

    from pgcdc.events import Event

__all__ = ["Transaction", "whole_transactions"]

TransactionChange: TypeAlias = "Insert | Update | Delete | Truncate | Message"
Events: TypeAlias = "Callable[[], Generator[Event, None]]"


class Transaction:
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
        return f"<Transaction xid={self.xid} commit_lsn={self.commit_lsn:X}>"

    def __iter__(self) -> Generator[TransactionChange, None]:
        """The changes, as they come."""
        return waits.lasting(self._changes)

    def _changes(self) -> Generator[TransactionChange, None]:
        if self.end_lsn is not None:
            return
        with closing(self._events()) as events:
            for event in events:
                if isinstance(event, Commit):
                    self.end_lsn = event.end_lsn
                    return
                if isinstance(event, Message) and not event.transactional:
                    self.end_lsn = event.lsn
                if isinstance(event, (Insert, Update, Delete, Truncate, Message)):
                    yield event
                elif isinstance(event, Origin):
                    self.origin = event.name


def whole_transactions(events: Events) -> Generator[Transaction, None]:
    """Cut events into transactions.

    Args:
        events: Goes on with the stream, where it was left.

    Yields:
        The transactions; each is passed over to its end before the next.

    Raises:
        ConfigError: When one comes that is not committed yet.
    """
    while True:
        with closing(events()) as coming:
            for event in coming:
                if isinstance(event, Begin):
                    transaction = Transaction(event.xid, event.final_lsn, event.commit_time, events)
                    break
                if isinstance(event, Message) and not event.transactional:
                    transaction = Transaction(0, event.lsn, None, _Only(event))
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
        for _ in transaction:
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

    def __call__(self) -> Generator[Event, None]:
        yield self._event
