"""A session: errors by SQLSTATE, time-outs, Ctrl-C, and that it can be used again after each."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import pgcdc
import pgcdc.replication.session as session_module
from pgcdc.replication.session import Session, StatementTimeout
from tests.replication.reading import until
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database


@pytest.fixture(params=[True, False], ids=["walsender", "plain"])
def session(database: Database, request: pytest.FixtureRequest) -> Iterator[Session]:
    with Session.connect(database.dsn, replication=request.param) as session:
        yield session


def test_rows_are_text(session: Session) -> None:
    assert session.execute("SELECT 1, NULL, 'ä', true") == [("1", None, "ä", "t")]
    assert session.execute("SELECT generate_series(1, 3)") == [("1",), ("2",), ("3",)]
    assert session.execute("CREATE TEMP TABLE t (id int)") == []


def test_several_statements_give_the_rows_of_the_last_that_has_any(session: Session) -> None:
    assert session.execute("SELECT 1; SELECT 2; SET lock_timeout = 0") == [("2",)]


def test_an_error_leaves_the_session_usable(session: Session) -> None:
    with pytest.raises(pgcdc.ConfigError) as caught:
        session.execute("SELECT * FROM nowhere")
    assert caught.value.sqlstate == "42P01"
    assert "nowhere" in str(caught.value)
    assert session.execute("SELECT 1") == [("1",)]


def test_an_error_holds_no_value(session: Session) -> None:
    with pytest.raises(pgcdc.ReplicationError) as caught:
        session.execute("SELECT 'my secret'::int")
    assert caught.value.sqlstate == "22P02"
    assert "my secret" not in f"{caught.value} {caught.value.hint}"


def test_a_timeout_cancels(session: Session) -> None:
    began = time.monotonic()
    with pytest.raises(StatementTimeout, match=r"did not end within 0\.2 s"):
        session.execute("SELECT pg_sleep(60)", timeout=0.2)
    assert time.monotonic() - began < 5
    assert session.execute("SELECT 1") == [("1",)]


@pytest.mark.timeout(60, method="thread")
def test_a_cancel_that_nobody_answers_ends(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits without the interpreter's lock: the proxy that swallows it is a thread of this process."""
    monkeypatch.setattr(session_module, "_CANCEL_SECONDS", 0.5)
    with (
        Proxy(newest_database.server.port) as proxy,
        Session.connect(proxy.dsn(newest_database.dsn), replication=False) as session,
    ):
        proxy.hole = True
        with pytest.raises(StatementTimeout, match=r"did not end within 0\.2 s"):
            session.execute("SELECT pg_sleep(60)", timeout=0.2)
        assert session.closed


def test_ctrl_c_comes_out_at_once_and_cancels(session: Session, database: Database) -> None:
    pid = session.pgconn.backend_pid

    def interrupt() -> None:
        until(lambda: database.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    began = time.monotonic()
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        session.execute("SELECT pg_sleep(60)")
    thread.join()
    assert time.monotonic() - began < 10
    assert session.execute("SELECT 1") == [("1",)]


def test_a_terminated_session(session: Session, database: Database) -> None:
    database.execute(f"SELECT pg_terminate_backend({session.pgconn.backend_pid}, 10000)")
    with pytest.raises(pgcdc.ConnectionLost) as caught:
        session.execute("SELECT 1")
    assert caught.value.sqlstate in ("57P01", None)
    assert session.closed
    with pytest.raises(pgcdc.ConnectionLost, match="closed before"):
        session.execute("SELECT 1")
    session.close()


def test_terminated_in_the_middle(session: Session, database: Database) -> None:
    pid = session.pgconn.backend_pid

    def terminate() -> None:
        until(lambda: database.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"))
        database.execute(f"SELECT pg_terminate_backend({pid})")

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(pgcdc.ConnectionLost) as caught:
        session.execute("SELECT pg_sleep(60)")
    thread.join()
    assert caught.value.sqlstate == "57P01"


def test_notices_are_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "pgcdc.replication"):
        session.execute("DO $$BEGIN RAISE WARNING 'watch out'; RAISE NOTICE 'chatter'; END$$")
    assert caplog.messages == ["the server says: watch out (SQLSTATE 01000)"]
