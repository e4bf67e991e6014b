"""A primary and its standby, each a server of its own."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Final

from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS: Final = {"hot_standby_feedback": "on", "wal_receiver_status_interval": "1", "wal_keep_size": "256MB"}


@contextlib.contextmanager
def primary_and_standby(version: int, *statements: str) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """The standby is made from a copy of the primary's files while it is stopped: pg_basebackup is not always there.

    Args:
        version: The major version of both.
        statements: Run on the primary before, in the database `postgres`.

    Yields:
        The primary and the standby, running.
    """
    with PostgresServer(version, _SETTINGS) as primary:
        with primary.connect() as connection:
            for statement in statements:
                connection.execute(statement)
        primary.stop()
        standby = PostgresServer(version, _SETTINGS)
        try:
            configuration = (standby.data / "postgresql.conf").read_text()
            shutil.rmtree(standby.data)
            shutil.copytree(primary.data, standby.data)
            (standby.data / "postgresql.conf").write_text(f"{configuration}primary_conninfo = '{primary.dsn()}'\n")
            (standby.data / "standby.signal").touch()
            standby._give_to_user(standby.data)
            primary.start()
            standby.start()
            yield primary, standby
        finally:
            standby.destroy()
