"""Slots: made, found, refused, held up, dropped; a failure leaves nothing behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.replication import slots
from pgcdc.replication.session import Session
from tests.replication.reading import until
from tests.replication.streams import new_name

if TYPE_CHECKING:
    from pgcdc.replication import Connection, Slot
    from tests.conftest import Database


def exists(database: Database, name: str) -> bool:
    return bool(database.execute(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}'"))


def test_create_look_drop(connection: Connection, database: Database) -> None:
    slot = connection.create_slot(name := new_name())
    assert (slot.name, slot.created, slot.snapshot_name) == (name, True, None)
    state = connection.slot(name)
    assert state is not None
    assert (state.name, state.plugin, state.database) == (name, "pgoutput", database.name)
    assert state.confirmed_flush_lsn == slot.consistent_point
    assert state.restart_lsn is not None and state.restart_lsn <= slot.consistent_point
    assert state.wal_status == "reserved"
    assert not (state.temporary or state.active or state.two_phase or state.failover or state.lost)
    connection.drop_slot(name)
    assert connection.slot(name) is None


def test_if_not_exists(connection: Connection) -> None:
    first = connection.create_slot(name := new_name(), if_not_exists=True)
    again = connection.create_slot(name, if_not_exists=True, export_snapshot=True)
    assert first.created and not again.created
    assert again.consistent_point == first.consistent_point
    assert again.snapshot_name is None


def test_one_that_exists(connection: Connection) -> None:
    connection.create_slot(name := new_name())
    with pytest.raises(pgcdc.ConfigError) as caught:
        connection.create_slot(name)
    assert caught.value.sqlstate == "42710"
    assert caught.value.slot == name
    assert f"pg_drop_replication_slot('{name}')" in (caught.value.hint or "")


def test_an_exported_snapshot_can_be_imported(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    slot = connection.create_slot(new_name(), export_snapshot=True)
    database.execute("INSERT INTO t VALUES (2)")
    with database.connect() as reader:
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SET TRANSACTION SNAPSHOT '{slot.snapshot_name}'")
        assert reader.execute("SELECT id FROM t").fetchall() == [(1,)]
        reader.execute("ROLLBACK")


def test_a_temporary_slot_goes_with_its_connection(connection: Connection, database: Database) -> None:
    with pgcdc.connect(database.dsn) as other:
        other.create_slot(name := new_name(), temporary=True)
        state = connection.slot(name)
        assert state is not None and state.temporary
    until(lambda: connection.slot(name) is None)


def test_failover(connection: Connection) -> None:
    name = new_name()
    if connection.server_version < 170000:
        with pytest.raises(pgcdc.ConfigError, match="failover slots need PostgreSQL 17"):
            connection.create_slot(name, failover=True)
    else:
        connection.create_slot(name, failover=True)
        state = connection.slot(name)
        assert state is not None and state.failover


def test_two_phase(connection: Connection) -> None:
    name = new_name()
    if connection.server_version < 150000:
        with pytest.raises(pgcdc.ConfigError, match="needs PostgreSQL 15"):
            connection.create_slot(name, two_phase=True)
    else:
        connection.create_slot(name, two_phase=True)
        state = connection.slot(name)
        assert state is not None and state.two_phase


@pytest.mark.parametrize("name", ["", "Upper", "with-dash", "ümlaut", "a" * 64, 'x"; DROP', "pg slot"])
def test_a_name_that_cannot_be(connection: Connection, name: str) -> None:
    with pytest.raises(pgcdc.ConfigError, match="cannot be the name"):
        connection.create_slot(name)


def test_a_slot_that_is_not_there(connection: Connection) -> None:
    with pytest.raises(pgcdc.SlotNotFound) as caught:
        connection.drop_slot("not_there")
    assert caught.value.sqlstate == "42704"
    assert 'create_slot("not_there")' in (caught.value.hint or "")
    assert "SELECT slot_name FROM pg_replication_slots;" in (caught.value.hint or "")
    connection.drop_slot("not_there", if_exists=True)
    assert connection.slot('any"thing; goes') is None


def test_a_slot_in_use_is_not_dropped(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)", "CREATE PUBLICATION p FOR TABLE t")
    connection.create_slot(name := new_name())
    with pgcdc.connect(database.dsn) as other, other.stream(name, ["p"]):
        with pytest.raises(pgcdc.SlotInUse) as caught:
            connection.drop_slot(name)
        assert caught.value.slot == name
        assert re.search(r"process \d+", caught.value.hint or "")
        state = connection.slot(name)
        assert state is not None and state.active and state.active_pid
    connection.drop_slot(name)


def test_a_slot_with_another_plugin_or_database(connection: Connection, database: Database) -> None:
    name = new_name()
    database.execute(f"SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')")
    with pytest.raises(pgcdc.ConfigError, match="plugin test_decoding"):
        connection.create_slot(name, if_not_exists=True)
    with pytest.raises(pgcdc.ConfigError, match="plugin test_decoding"):
        connection.stream(name, ["p"])
    elsewhere = connection.create_slot(new_name()).name
    with (
        pgcdc.connect(database.server.dsn()) as other,
        pytest.raises(pgcdc.ConfigError, match='belongs to database "test_'),
    ):
        other.create_slot(elsewhere, if_not_exists=True)
    physical = new_name()
    database.execute(f"SELECT pg_create_physical_replication_slot('{physical}')")
    try:
        with pytest.raises(pgcdc.ConfigError, match="physical"):
            connection.stream(physical, ["p"])
    finally:
        connection.drop_slot(physical)


def test_a_writer_holds_it_up(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)")
    name = new_name()
    with database.connect() as writer:
        pid = writer.info.backend_pid
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(pgcdc.ReplicationError, match=rf"did not end within 0\.5 s: .*process {pid}") as caught:
            connection.create_slot(name, timeout=0.5, export_snapshot=True)
        assert "INSERT" not in f"{caught.value} {caught.value.hint}"
        assert f"pg_terminate_backend({pid})" in (caught.value.hint or "")
        assert not exists(database, name)
        writer.execute("COMMIT")
    assert connection.create_slot(name).created, "the connection takes commands again"


def test_what_it_waits_for_is_said_early(
    connection: Connection, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute("CREATE TABLE t (id int)")
    name = new_name()
    made: list[Slot] = []
    with caplog.at_level(logging.WARNING, "pgcdc.replication"), database.connect() as writer:
        pid = writer.info.backend_pid
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        thread = threading.Thread(target=lambda: made.append(connection.create_slot(name, export_snapshot=True)))
        thread.start()
        try:
            until(lambda: caplog.messages)
            assert not made
        finally:
            writer.execute("COMMIT")
            thread.join()
    assert made[0].created and made[0].snapshot_name
    (said,) = caplog.messages
    assert re.match(rf"creating slot {name} takes long: .*process {pid} \(open for \d+ s\)", said)
    assert "INSERT" not in said


def test_nothing_is_said_of_what_has_ended_when_it_is_looked_at(
    connection: Connection, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE t (id int)")
    asked: list[slots._Holders] = []
    of = slots._Holders.of

    def after_they_ended(session: Session) -> slots._Holders:
        writer.execute("COMMIT")
        until(lambda: of(session).gone)
        asked.append(of(session))
        return asked[-1]

    monkeypatch.setattr(slots._Holders, "of", after_they_ended)
    with caplog.at_level(logging.WARNING, "pgcdc.replication"), database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        assert connection.create_slot(new_name()).created
    assert [holders.gone for holders in asked] == [True]
    assert caplog.messages == []


def test_a_prepared_transaction_holds_it_up(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)")
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")
        writer.execute("PREPARE TRANSACTION 'for''gotten'")
    with pytest.raises(pgcdc.ReplicationError, match=r'prepared transaction "for\'gotten"') as caught:
        connection.create_slot(new_name(), timeout=0.5)
    assert "ROLLBACK PREPARED 'for''gotten';" in (caught.value.hint or "")


def test_ctrl_c_while_it_waits_leaves_no_slot(connection: Connection, database: Database) -> None:
    database.execute("CREATE TABLE t (id int)")
    name = new_name()
    with database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (1)")

        def interrupt() -> None:
            until(lambda: database.execute("SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            connection.create_slot(name)
        thread.join()
        writer.execute("ROLLBACK")
    assert connection.slot(name) is None


def test_a_lost_slot(postgres_lossy: Database) -> None:
    postgres_lossy.execute("CREATE TABLE IF NOT EXISTS t (id int)", "CREATE PUBLICATION p FOR TABLE t")
    with pgcdc.connect(postgres_lossy.dsn) as connection:
        connection.create_slot(name := new_name())

        def lost() -> bool:
            postgres_lossy.execute("INSERT INTO t VALUES (1)", "SELECT pg_switch_wal()", "CHECKPOINT")
            state = connection.slot(name)
            return state is not None and state.lost

        until(lost, 60)
        with pytest.raises(pgcdc.SlotLost, match="given up the WAL") as caught:
            connection.stream(name, ["p"])
        assert caught.value.slot == name
        assert "new snapshot" in (caught.value.hint or "")
        with pytest.raises(pgcdc.SlotLost):
            pgcdc.replication.check_server(connection, slot=name)
        for use in (
            lambda: connection.advance_slot(name, 0),
            lambda: connection.copy_slot(name, new_name()),
            lambda: connection.plan_slots(create=[name]),
        ):
            with pytest.raises(pgcdc.SlotLost):
                use()
        plan = connection.plan_slots(drop=[name], create=[name])
        assert plan.warnings == (), "there is nothing left to lose"
        connection.apply(plan)
        again = connection.slot(name)
        assert again is not None and not again.lost
        connection.drop_slot(name)
