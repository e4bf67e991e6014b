"""Appends that wait for a connection go together: in one round trip, and in one transaction.

A store of which all connections are in use has threads that wait for one. Whoever gets it takes along what else waits,
as a server does that writes the commits of several to the disk at once. Each is a statement that writes its row, or
writes none because the stream is not as expected, so that none of them decides on another; when the server refuses
one, or it would have to wait for somebody else's lock, all is undone, and each is sent by itself.

Written by hand beside grouping_async.py.

Source: PostgreSQL manual, "WITH Queries" (Data-Modifying Statements in WITH); "Client Connection Defaults",
`lock_timeout`.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from pgcdc.eventstore import calling
from pgcdc.eventstore import connections as connections_module
from pgcdc.eventstore.connections import Connections, OwnConnection
from pgcdc.eventstore.statements import Statements
from pgcdc.eventstore.waiters import Group, Value, Waiter, another, array_of, is_small

__all__ = ["append_one"]


def append_one(connections: Connections, statements: Statements, values: Sequence[Value]) -> bool:
    """Append one event behind a version, in a transaction of its own or in one with others like it.

    It takes and gives back a connection without a block around it, which alone would take a sixth of the time.

    Args:
        connections: Those of the store.
        statements: Of the store.
        values: Those of `Statements.append_one`.

    Returns:
        Whether the stream was as expected, and the event is written.
    """
    connection = connections.take_if_free()
    if (connection is None or connections.waiters) and is_small(values):
        mine = Waiter(values)
        if connection is None:
            _wait(connections, statements, mine)
        else:
            _lead(connections, connection, statements, mine)
        if mine.error is not None:
            raise mine.error
        if mine.is_done is not None:
            return mine.is_done
        connection = None
    if connection is None:
        connection = connections.take()
    try:
        return calling.asked(connection, statements.append_one, calling.texts_of(values)).command_tuples == 1
    finally:
        connections.give(connection)


def _wait(connections: Connections, statements: Statements, mine: Waiter) -> None:
    """Wait until somebody has sent it, or there is a connection to send it, and whatever else waits."""
    connections.waiters.add(mine)
    try:
        while not mine.is_over:
            # Looked for once it is in line: whoever gives a connection back wakes who is in line by then.
            if mine.group is None and (connection := _free(connections, mine)) is not None:
                _lead(connections, connection, statements, mine)
            elif not mine.wait(connections_module.LOOK_AFTER):
                connections.find_lost()
                if mine.group is not None and not mine.group.is_under_way():
                    mine.end(None, _interrupted())
    finally:
        mine.end(None)  # nobody sends what has left
        if connections.waiters:
            connections.wake_one()


def _free(connections: Connections, mine: Waiter) -> OwnConnection | None:
    """A connection that is to be had, while nobody has sent it."""
    try:
        return connections.take_if_free()
    except psycopg.Error:
        if mine.group is None:
            raise
        return None  # somebody has sent it meanwhile, and tells how that went


def _lead(connections: Connections, connection: OwnConnection, statements: Statements, mine: Waiter) -> None:
    """Send what waits, and tell each what has become of it; afterwards the connection is given back."""
    group = Group()
    try:
        connections.waiters.gather(group, mine)
        if len(group) == 1:
            group[0].end(None)  # by itself
        elif group:
            _send(connection, statements, group)
    except psycopg.Error as error:
        # Where the server has said that the transaction is over, it has undone all of it.
        is_known = connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
        for one in group:
            one.end(None, None if is_known else another(error))
    except BaseException:
        connection.close()
        for one in group:
            one.end(None, _interrupted())
        raise
    finally:
        group.sender = None
        group.clear()  # each of them has it
        connections.give(connection)


def _send(connection: OwnConnection, statements: Statements, group: Group) -> None:
    """Send what waits as one statement, and tell each whether it was done."""
    arrays: list[bytes | None] = [array_of(column) for column in zip(*(one.values for one in group), strict=True)]
    result = calling.asked(connection, statements.append_each, arrays)
    done = {result.get_value(row, 0) for row in range(result.ntuples)}
    for number, one in enumerate(group, 1):
        one.end(b"%d" % number in done)


def _interrupted() -> psycopg.OperationalError:
    return psycopg.OperationalError("the thread that sent it together with others was interrupted")
