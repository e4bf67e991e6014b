# Made from transaction_async.py by ./dev lint --fix: change that file, not this one.
"""Transactions of a stream, each an iterator over its changes.

Source: PostgreSQL manual, "Logical Replication Message Formats".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from pgcdc.errors import ConfigError
from pgcdc.events import Begin, Commit, Delete, Insert, Message, Origin, Relation, Truncate, Type, Update

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pgcdc.events import Event

__all__ = ["Transaction", "whole_transactions"]

TransactionChange: TypeAlias = "Insert | Update | Delete | Truncate | Message"


class Transaction:
    """One transaction: iterate its row changes, truncates and logical messages, once.

    Args:
        xid: The transaction's id.
        commit_lsn: Where its commit record begins.
        commit_time: When it was committed; None of a message outside of transactions.
        events: The stream; what is after this transaction is left to others.

    Attributes:
        origin: Where it was made, if it was replicated to this server; None else. Known when it is iterated.
        end_lsn: What `confirm` says; None until it was iterated to its end.
    """

    def __init__(self, xid: int, commit_lsn: int, commit_time: datetime | None, events: Iterator[Event]) -> None:
        self.xid = xid
        self.commit_lsn = commit_lsn
        self.commit_time = commit_time
        self.origin: str | None = None
        self.end_lsn: int | None = None
        self._events = events

    def __repr__(self) -> str:
        return f"<Transaction xid={self.xid} commit_lsn={self.commit_lsn:X}>"

    def __iter__(self) -> Iterator[TransactionChange]:
        """The changes, as they come."""
        while self.end_lsn is None:
            event = next(self._events)
            if isinstance(event, Commit):
                self.end_lsn = event.end_lsn
            elif isinstance(event, Message) and not event.transactional:
                self.end_lsn = event.lsn
                yield event
            elif isinstance(event, (Insert, Update, Delete, Truncate, Message)):
                yield event
            elif isinstance(event, Origin):
                self.origin = event.name


def whole_transactions(events: Iterator[Event]) -> Iterator[Transaction]:
    """Cut events into transactions.

    Args:
        events: The stream.

    Yields:
        The transactions; each is passed over to its end before the next.

    Raises:
        ConfigError: When one comes that is not committed yet.
    """
    for event in events:
        if isinstance(event, (Relation, Type)):
            continue  # said for who decodes
        if isinstance(event, Begin):
            transaction = Transaction(event.xid, event.final_lsn, event.commit_time, events)
        elif isinstance(event, Message):
            transaction = Transaction(0, event.lsn, None, _only(event))
        else:
            raise ConfigError(
                f"a {type(event).__name__} is of a transaction that is not committed yet",
                hint="start the stream with two_phase=True: then prepared transactions come when they are committed",
            )
        yield transaction
        for _ in transaction:
            pass


def _only(event: Event) -> Iterator[Event]:
    yield event
