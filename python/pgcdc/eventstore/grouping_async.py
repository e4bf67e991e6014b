"""Appends that wait for a connection go together, as in grouping.py: in one round trip, and in one transaction.

A task of its own sends them, so that whoever stops waiting (a cancellation, a timeout) stops nobody else.

Written by hand beside grouping.py.

Source: PostgreSQL manual, "WITH Queries" (Data-Modifying Statements in WITH).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg

from pgcdc.eventstore.connections_async import AsyncConnections, Waiting
from pgcdc.eventstore.statements import Statements
from pgcdc.eventstore.waiters import MOST, Value, another, array_of, is_small

__all__ = ["append_one"]


async def append_one(connections: AsyncConnections, statements: Statements, values: Sequence[Value]) -> bool:
    """Append one event behind a version, in a transaction of its own or in one with others like it.

    Args:
        connections: Those of the store.
        statements: Of the store.
        values: Those of `Statements.append_one`.

    Returns:
        Whether the stream was as expected, and the event is written.
    """
    if connections.are_in_use() and is_small(values):
        mine = Waiting(values, asyncio.get_running_loop().create_future())
        connections.waiting.append(mine)
        _see_to_it(connections, statements)
        is_done = await mine.is_done
        if is_done is not None:
            return is_done
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    async with connections.use() as connection:
        written = await connection.execute(statements.append_one, texts)
        return written.rowcount == 1


def _see_to_it(connections: AsyncConnections, statements: Statements) -> None:
    """Have a task wait for a connection as long as somebody waits."""
    if connections.sender is None and any(not one.is_done.done() for one in connections.waiting):
        task = connections.sender = asyncio.create_task(_lead(connections, statements))
        connections.tasks.add(task)
        task.add_done_callback(partial(_is_over, connections, statements))


def _is_over(connections: AsyncConnections, statements: Statements, task: asyncio.Task[None]) -> None:
    """What is left to do for a task that was perhaps cancelled before it began."""
    connections.tasks.discard(task)
    if connections.sender is task:
        connections.sender = None
        _see_to_it(connections, statements)


async def _lead(connections: AsyncConnections, statements: Statements) -> None:
    """Send what waits, when there is a connection, and tell each what has become of it."""
    group: list[Waiting] | None = None
    try:
        async with connections.use() as connection:
            group = _gather(connections, statements)
            await _send(connection, statements, group)
    except psycopg.Error as error:
        group = _gather(connections, statements) if group is None else group
        for one in group:
            if not one.is_done.done():
                one.is_done.set_exception(another(error))
    except Exception:
        if group is None:  # no connection can be made as it is asked for, of which each is told by itself
            for one in _gather(connections, statements):
                if not one.is_done.done():
                    one.is_done.set_result(None)
    finally:
        for one in group or ():
            if not one.is_done.done():
                one.is_done.set_exception(psycopg.OperationalError("what sent it together with others was interrupted"))


def _gather(connections: AsyncConnections, statements: Statements) -> list[Waiting]:
    """Take those that go together; who comes from now on goes with another task."""
    group: list[Waiting] = []
    while connections.waiting and len(group) < MOST:
        one = connections.waiting.popleft()
        if not one.is_done.done():  # nobody waits for it any more
            group.append(one)
    connections.sender = None
    _see_to_it(connections, statements)
    return group


async def _send(connection: psycopg.AsyncConnection[Any], statements: Statements, group: list[Waiting]) -> None:
    """Send what waits as one statement, and tell each whether it was done."""
    done: set[int] | None = None
    try:
        if len(group) > 1:
            arrays = [array_of(column).decode() for column in zip(*(one.values for one in group), strict=True)]
            answer = await connection.execute(statements.append_each, arrays)
            done = {number for (number,) in await answer.fetchall()}
    except psycopg.Error:
        # Where the server has said that the transaction is over, it has undone all of it.
        if connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            raise
    for number, one in enumerate(group, 1):
        if not one.is_done.done():
            one.is_done.set_result(None if done is None else number in done)
