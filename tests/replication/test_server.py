"""What a server lacks is found out before anything is made on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.replication import check_server
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from tests.conftest import Database


def test_a_good_server(database: Database) -> None:
    with pgcdc.connect(database.dsn) as connection:
        check_server(connection, slot=new_name(), need_new_slot=True)
        connection.create_slot(name := new_name())
        check_server(connection, slot=name)


def test_wal_level(postgres_replica: Database) -> None:
    with pgcdc.connect(postgres_replica.dsn) as connection:
        with pytest.raises(pgcdc.ConfigError, match="wal_level is replica") as caught:
            check_server(connection, slot="shop", need_new_slot=True)
        assert "ALTER SYSTEM SET wal_level = logical" in (caught.value.hint or "")
        with pytest.raises(pgcdc.ConfigError) as caught:
            connection.create_slot("shop")
        assert caught.value.sqlstate == "55000"
        assert "ALTER SYSTEM SET wal_level = logical" in (caught.value.hint or "")
        assert connection.execute("SELECT count(*) FROM pg_replication_slots") == [("0",)]


def test_no_free_slot(postgres_small: Database) -> None:
    with pgcdc.connect(postgres_small.dsn) as connection:
        connection.create_slot("only_one")
        try:
            check_server(connection, slot="only_one")
            with pytest.raises(pgcdc.ConfigError, match="all 1 replication slots") as caught:
                check_server(connection, slot="another", need_new_slot=True)
            assert "pg_drop_replication_slot('only_one')" in (caught.value.hint or "")
            with pytest.raises(pgcdc.ConfigError) as caught:
                connection.create_slot("another")
            assert caught.value.sqlstate == "53400"
            assert "pg_drop_replication_slot('only_one')" in (caught.value.hint or "")
        finally:
            connection.drop_slot("only_one")


def test_a_slot_that_is_not_ours(database: Database) -> None:
    name = new_name()
    database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')")
    with pgcdc.connect(database.dsn) as connection:
        with pytest.raises(pgcdc.ConfigError, match="test_decoding"):
            check_server(connection, slot=name)
        with pytest.raises(pgcdc.ConfigError, match="cannot be the name"):
            check_server(connection, slot="Not A Slot")
