"""Appends that wait for a connection go together: in one round trip, and in one transaction.

A store of which all connections are in use has threads that wait for one. Whoever gets it takes along what else waits,
as a server does that writes the commits of several to the disk at once. Each is a statement that writes its row, or
writes none because the stream is not as expected, so that none of them decides on another; when the server refuses
one, or it would have to wait for somebody else's lock, all is undone, and each is sent by itself.

Written by hand beside grouping_async.py.

Source: PostgreSQL manual, "libpq: Pipeline Mode"; "Frontend/Backend Protocol", "Pipelining".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg
from psycopg import generators, pq

from pgcdc.eventstore import calling
from pgcdc.eventstore import connections as connections_module
from pgcdc.eventstore.connections import Connections, OwnConnection
from pgcdc.eventstore.waiters import PATIENCE, SMALL, Group, Waiter

__all__ = ["does_one"]

_ERRORS: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED)


def does_one(connections: Connections, query: str, values: Sequence[calling.Value]) -> bool:
    """Run a statement that writes one row, or none, in a transaction of its own or in one with others like it.

    It takes and gives back a connection without a block around it, which alone would take a sixth of the time.

    Args:
        connections: Those of the store.
        query: With %s for each value.
        values: The values.

    Returns:
        Whether it has written it.
    """
    texts = calling.texts_of(values)
    connection = connections.take_if_free()
    if (connection is None or connections.waiters) and sum([len(text) for text in texts if text]) <= SMALL:
        mine = Waiter(query, texts)
        if connection is None:
            _wait(connections, mine)
        else:
            _lead(connections, connection, mine)
        if mine.error is not None:
            raise mine.error
        if mine.rows is not None:
            return mine.rows == 1
        connection = None
    if connection is None:
        connection = connections.take()
    try:
        return calling.asked(connection, query, texts).command_tuples == 1
    finally:
        connections.give(connection)


def _wait(connections: Connections, mine: Waiter) -> None:
    """Wait until somebody has sent it, or there is a connection to send it, and whatever else waits."""
    connections.waiters.add(mine)
    try:
        while not mine.is_over:
            # Looked for once it is in line: whoever gives a connection back wakes who is in line by then.
            if mine.group is None and (connection := connections.take_if_free()) is not None:
                _lead(connections, connection, mine)
            elif not mine.wait(connections_module.LOOK_AFTER):
                connections.find_lost()
                if mine.group is not None and not mine.group.is_under_way():
                    mine.end(None, _interrupted())
    finally:
        mine.end(None)  # nobody sends what has left
        if connections.waiters:
            connections.wake_one()


def _lead(connections: Connections, connection: OwnConnection, mine: Waiter) -> None:
    """Send what waits, and tell each what has become of it; afterwards the connection is given back."""
    group = Group()
    try:
        connections.waiters.gather(group, mine)
        if group:
            _send(connection, group)
    except psycopg.Error as error:
        connection.close()
        for one in group:
            one.end(None, error)
    except BaseException:
        connection.close()
        for one in group:
            one.end(None, _interrupted())
        raise
    finally:
        group.sender = None
        connections.give(connection)


def _send(connection: OwnConnection, group: Group) -> None:
    """What waits, as one transaction; of what the server has undone each is told that it was not done."""
    pgconn = connection.pgconn
    try:
        names = {query: calling.prepared(connection, query) for query in {PATIENCE, *(one.query for one in group)}}
    except psycopg.Error:
        if connection.closed:
            raise
        for one in group:
            one.end(None)
        return
    pgconn.enter_pipeline_mode()
    if len(group) > 1:
        pgconn.send_query_prepared(names[PATIENCE], None)
    for one in group:
        pgconn.send_query_prepared(names[one.query], one.texts)
    pgconn.pipeline_sync()
    results = _results(connection)
    pgconn.exit_pipeline_mode()
    if len(group) > 1:
        del results[0]
    if any(result.status in _ERRORS for result in results):
        if any(result.error_field(pq.DiagnosticField.SQLSTATE) == b"26000" for result in results):
            connection.prepared.clear()  # as in calling.asked
        for one in group:
            one.end(None)
        return
    for one, result in zip(group, results, strict=True):
        one.end(result.command_tuples)


def _results(connection: OwnConnection) -> list[pq.abc.PGresult]:
    """Those of all that was sent, when the server has said that the transaction is over."""
    pgconn = connection.pgconn
    if pgconn.flush():
        connection.wait(generators.send(pgconn))
    results: list[pq.abc.PGresult] = []
    while True:
        if pgconn.is_busy():
            calling.receive(connection)
            continue
        result = pgconn.get_result()
        if result is None:
            if pgconn.status != pq.ConnStatus.OK:
                raise psycopg.OperationalError(pgconn.get_error_message())
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


def _interrupted() -> psycopg.OperationalError:
    return psycopg.OperationalError("the thread that sent it together with others was interrupted")
