"""Slots as any role may see them: how far each is behind, in bytes and seconds, and what the server keeps for it.

Source: PostgreSQL manual, "pg_replication_slots"; "System Administration Functions", pg_ls_waldir.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
import psycopg

from pgcdc.connection_string import Dsn, parameters_of
from pgcdc.errors import ConnectionLost
from pgcdc.replication import SlotState
from pgcdc.replication.slot import state_of
from pgcdc.replication.slot_sql import ages_sql, states_sql, with_age

__all__ = ["reaching", "slots", "slots_of"]

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@contextlib.contextmanager
def reaching(dsn: Dsn, **patience: str) -> Iterator[_Connection]:
    """Connect for looking only.

    Args:
        dsn: Where to, as libpq understands it.
        **patience: Parameters of libpq's for what is not in it.

    Yields:
        The connection; it writes nothing.

    Raises:
        ConnectionLost: When the server cannot be reached, or goes away.
    """
    parameters: dict[str, Any] = {"connect_timeout": os.environ.get("PGCONNECT_TIMEOUT", "10"), **patience}
    try:
        with psycopg.connect(
            autocommit=True,
            fallback_application_name="pgcdc",
            **(parameters | parameters_of(dsn)),
        ) as connection:
            connection.execute("SET default_transaction_read_only = on")
            yield connection
    except psycopg.OperationalError as error:
        text = error.diag.message_primary or str(error).partition("\n")[0]
        # What libpq cannot read it quotes, and that may be a part of a password that was not escaped.
        quoted = "invalid" in text and not text.startswith("failed to resolve host")
        raise ConnectionLost(
            f"the server cannot be asked: {'its address is invalid' if quoted else text}",
            hint="the DSN has to lead to the database that is to be followed, and the role needs CONNECT on it",
            sqlstate=error.sqlstate,
        ) from (None if quoted else error)


def slots(dsn: Dsn = "") -> list[SlotState]:
    """Look at all slots of a server.

    Args:
        dsn: Any database of the server, as libpq understands it.

    Returns:
        The slots by name; `lag_seconds` is known where the role may look at the WAL's files (`pg_monitor`).

    Raises:
        ConnectionLost: When the server cannot be reached.
    """
    with reaching(dsn) as connection:
        return slots_of(connection)


def slots_of(connection: _Connection) -> list[SlotState]:
    """Look at all slots of a server.

    Args:
        connection: A connection to any of its databases.

    Returns:
        As `slots`.
    """
    rows = connection.execute(states_sql()).fetchall()
    slots = [state_of(msgspec.json.encode(row[0]).decode()) for row in rows]
    behind = [slot for slot in slots if slot.lag_bytes and slot.confirmed_flush_lsn is not None]
    ages: dict[str, float] = {}
    size = connection.execute("SELECT pg_size_bytes(current_setting('wal_segment_size'))").fetchone()
    segment = int(size[0]) if size else 1 << 24
    may = connection.execute("SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE')").fetchone()
    if behind and may and may[0]:
        ages = {name: float(age or 0) for name, age in connection.execute(ages_sql(behind, segment)).fetchall()}
    return [with_age(slot, ages, segment) for slot in slots]
