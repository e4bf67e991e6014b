"""Appends that wait for a connection go together, as in grouping.py: in one round trip, and in one transaction.

A task of its own sends them, so that whoever stops waiting (a cancellation, a timeout) stops nobody else.

Written by hand beside grouping.py.

Source: PostgreSQL manual, "libpq: Pipeline Mode"; "Frontend/Backend Protocol", "Pipelining".
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg

from pgcdc.eventstore.calling_async import Value
from pgcdc.eventstore.connections_async import AsyncConnections, Waiting
from pgcdc.eventstore.waiters import MOST, PATIENCE, SMALL

__all__ = ["does_one"]


async def does_one(connections: AsyncConnections, query: str, values: Sequence[Value]) -> bool:
    """Run a statement that writes one row, or none, in a transaction of its own or in one with others like it.

    Args:
        connections: Those of the store.
        query: With %s for each value.
        values: The values.

    Returns:
        Whether it has written it.
    """
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    if connections.are_in_use() and sum(len(value) for value in values if not isinstance(value, int | None)) <= SMALL:
        mine = Waiting(query, texts, asyncio.get_running_loop().create_future())
        connections.waiting.append(mine)
        _see_to_it(connections)
        rows = await mine.rows
        if rows is not None:
            return rows == 1
    async with connections.use() as connection:
        written = await connection.execute(query, texts)
        return written.rowcount == 1


def _see_to_it(connections: AsyncConnections) -> None:
    """Have a task wait for a connection as long as somebody waits."""
    if connections.waiting and not connections.is_seen_to:
        connections.is_seen_to = True
        task = asyncio.create_task(_lead(connections))
        connections.tasks.add(task)
        task.add_done_callback(connections.tasks.discard)


async def _lead(connections: AsyncConnections) -> None:
    """Send what waits, when there is a connection, and tell each what has become of it."""
    group: list[Waiting] | None = None
    try:
        async with connections.use() as connection:
            group = _gather(connections)
            if group:
                await _send(connection, group)
    except psycopg.Error as error:
        group = _gather(connections) if group is None else group
        for one in group:
            if not one.rows.done():
                one.rows.set_exception(error)
    finally:  # a task is cancelled when its loop ends
        for one in _gather(connections) if group is None else group:
            one.rows.cancel()


def _gather(connections: AsyncConnections) -> list[Waiting]:
    """Take those that go together; who comes from now on goes with another task."""
    group: list[Waiting] = []
    while connections.waiting and len(group) < MOST:
        one = connections.waiting.popleft()
        if not one.rows.done():  # nobody waits for it any more
            group.append(one)
    connections.is_seen_to = False
    _see_to_it(connections)
    return group


async def _send(connection: psycopg.AsyncConnection[Any], group: list[Waiting]) -> None:
    """What waits, as one transaction; of what the server has undone each is told that it was not done."""
    try:
        async with connection.pipeline(), connection.transaction():
            if len(group) > 1:
                await connection.execute(PATIENCE)
            written = [await connection.execute(one.query, one.texts) for one in group]
    except psycopg.Error:
        if connection.closed or connection.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            raise
        for one in group:
            if not one.rows.done():
                one.rows.set_result(None)
        return
    for one, cursor in zip(group, written, strict=True):
        if not one.rows.done():
            one.rows.set_result(cursor.rowcount)
