"""Settings are pinned against whatever the role, the database or the DSN says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pgcdc
from pgcdc.replication.quoting import literal
from pgcdc.replication.session import Session
from pgcdc.replication.settings import PINNED

if TYPE_CHECKING:
    from tests.conftest import Database

HOSTILE = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "client_min_messages": "error",
    "statement_timeout": "1h",
    "lock_timeout": "1h",
    "idle_in_transaction_session_timeout": "1h",
    "idle_session_timeout": "1h",
    "row_security": "on",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
}


def test_every_setting_is_as_pinned(database: Database) -> None:
    for name, value in HOSTILE.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = {literal(value)}")
    database.execute(f"ALTER DATABASE {database.name} SET search_path = pg_temp")
    hostile_dsn = f"{database.dsn} client_encoding=LATIN1 options='-c extra_float_digits=0'"
    for replication in (True, False):
        with Session.connect(hostile_dsn, replication=replication) as session:
            for name, value, since in PINNED:
                if session.server_version >= since:
                    assert session.execute(f"SELECT pg_catalog.current_setting({literal(name)})") == [(value,)], name


def test_text_values_do_not_depend_on_the_database(database: Database) -> None:
    query = "SELECT '2026-11-20 10:00+00'::timestamptz, '\\x00ff'::bytea, '1 day 2 hours'::interval, 0.1::float8 + 0.2"
    with pgcdc.connect(database.dsn) as connection:
        before = connection.execute(query)
    for name, value in HOSTILE.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = {literal(value)}")
    with pgcdc.connect(database.dsn) as connection:
        assert connection.execute(query) == before
    assert before == [("2026-11-20 10:00:00+00", "\\x00ff", "1 day 02:00:00", "0.30000000000000004")]
