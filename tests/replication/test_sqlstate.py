"""Every SQLSTATE that matters becomes the exception that says what to do next, in any language of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.replication.session import Session
from pgcdc.replication.sqlstate import Doing, connect_error
from tests.replication.streams import new_name, statements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Database


@pytest.fixture(scope="module")
def session(newest_postgres: object) -> Iterator[Session]:
    with Session.connect(newest_postgres.dsn(), replication=False) as session:  # type: ignore[attr-defined]
        yield session


@pytest.mark.parametrize(
    ("sqlstate", "kind", "expected"),
    [
        ("55006", "slot", pgcdc.SlotInUse),
        ("42704", "slot", pgcdc.SlotNotFound),
        ("42704", "stream", pgcdc.PublicationNotFound),
        ("42704", "statement", pgcdc.ReplicationError),
        ("58P01", "stream", pgcdc.SlotLost),
        ("42501", "statement", pgcdc.ConfigError),
        ("42501", "slot", pgcdc.ConfigError),
        ("53300", "slot", pgcdc.ConnectionLost),
        ("53400", "slot", pgcdc.ConfigError),
        ("42710", "slot", pgcdc.ConfigError),
        ("42602", "slot", pgcdc.ConfigError),
        ("42P01", "statement", pgcdc.ConfigError),
        ("3F000", "statement", pgcdc.ConfigError),
        ("0A000", "stream", pgcdc.ConfigError),
        ("28000", "statement", pgcdc.ConfigError),
        ("3D000", "statement", pgcdc.ConfigError),
        ("08006", "stream", pgcdc.ConnectionLost),
        ("57P01", "stream", pgcdc.ConnectionLost),
        ("57P02", "stream", pgcdc.ConnectionLost),
        ("57P03", "stream", pgcdc.ConnectionLost),
        ("57014", "statement", pgcdc.ReplicationError),
        ("42883", "stream", pgcdc.ReplicationError),
        ("22P05", "stream", pgcdc.ReplicationError),
        ("22021", "stream", pgcdc.ReplicationError),
        ("XX000", "stream", pgcdc.ReplicationError),
    ],
)
def test_the_kind_of_error(session: Session, sqlstate: str, kind: str, expected: type[pgcdc.Error]) -> None:
    statement = f"DO $$BEGIN RAISE EXCEPTION 'said in any language' USING ERRCODE = '{sqlstate}'; END$$"
    doing = Doing("doing it", kind=kind, slot="s", publications=("p",))  # type: ignore[arg-type]
    with pytest.raises(pgcdc.Error) as caught:
        session.execute(statement, doing=doing)
    assert type(caught.value) is expected
    assert str(caught.value) == f"doing it failed: said in any language (SQLSTATE {sqlstate})"
    assert (caught.value.sqlstate, caught.value.slot, caught.value.publication) == (sqlstate, "s", "p")
    if sqlstate not in ("57014", "XX000", "28000", "3D000", "0A000") and (sqlstate, kind) != ("42704", "statement"):
        assert caught.value.hint


def test_the_servers_own_hint_is_kept(session: Session) -> None:
    with pytest.raises(pgcdc.Error) as caught:
        session.execute("DO $$BEGIN RAISE EXCEPTION 'x' USING HINT = 'try y'; END$$")
    assert caught.value.hint == "try y"


def test_what_was_granted_too_little(newest_database: Database) -> None:
    doing = Doing("copying", table='sch.ta"ble')
    with Session.connect(newest_database.dsn, replication=False) as session, pytest.raises(pgcdc.ConfigError) as caught:
        session.execute("DO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END$$", doing=doing)
    assert 'GRANT SELECT ON "sch"."ta""ble" TO "' in (caught.value.hint or "")


def test_a_schema_with_a_full_stop(newest_database: Database) -> None:
    doing = Doing("copying", table="a.b.c", schema="a.b")
    with Session.connect(newest_database.dsn, replication=False) as session, pytest.raises(pgcdc.ConfigError) as caught:
        session.execute("DO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END$$", doing=doing)
    ((role,),) = newest_database.execute("SELECT pg_catalog.quote_ident(current_user)")
    role = f'"{role}"'
    assert statements(caught.value) == [
        f'GRANT USAGE ON SCHEMA "a.b" TO {role};',
        f'GRANT SELECT ON "a.b"."c" TO {role};',
        f"ALTER ROLE {role} BYPASSRLS;",
    ]


def test_the_right_to_make_a_publication(newest_database: Database) -> None:
    role = f'{new_name("r")}"'
    quoted = '"' + role.replace('"', '""') + '"'
    newest_database.execute(f"CREATE ROLE {quoted} LOGIN")
    try:
        with Session.connect(newest_database.server.dsn(newest_database.name, user=role), replication=False) as session:
            doing = Doing("making it", publications=("p",))
            with pytest.raises(pgcdc.ConfigError) as caught:
                session.execute("CREATE PUBLICATION p", doing=doing)
            newest_database.execute(*statements(caught.value))
            session.execute("CREATE PUBLICATION p", doing=doing)
    finally:
        newest_database.execute(f"DROP OWNED BY {quoted}", f"DROP ROLE {quoted}")


@pytest.mark.parametrize(
    ("said", "expected", "sqlstate"),
    [
        ('FATAL:  password authentication failed for user "u"', pgcdc.ConfigError, "28P01"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4"', pgcdc.ConfigError, "28000"),
        ('FATAL:  role "u" does not exist', pgcdc.ConfigError, "28000"),
        ('FATAL:  database "d" does not exist', pgcdc.ConfigError, "3D000"),
        ("FATAL:  must be superuser or replication role to start walsender", pgcdc.ConfigError, "42501"),
        ("FATAL:  permission denied to start WAL sender", pgcdc.ConfigError, "42501"),
        ("FATAL:  sorry, too many clients already", pgcdc.ConnectionLost, "53300"),
        ("FATAL:  the database system is starting up", pgcdc.ConnectionLost, "57P03"),
        ("could not translate host name", pgcdc.ConnectionLost, None),
    ],
)
def test_failures_to_connect(said: str, expected: type[pgcdc.Error], sqlstate: str | None) -> None:
    error = connect_error('database "d" at h:5432', f"{said}\n", needs_password=False)
    assert type(error) is expected
    assert error.sqlstate == sqlstate
    assert error.hint
    assert "\n" not in str(error)


def test_a_certificate_that_is_not_there() -> None:
    """It is known before the server is asked."""
    said = 'root certificate file "/nonexistent/.postgresql/root.crt" does not exist'
    error = connect_error("a server", said, needs_password=False)
    assert error.hint == "say sslrootcert=FILE, or sslrootcert=system for what this machine trusts"


def test_a_password_that_was_not_given() -> None:
    error = connect_error("h:5432", "fe_sendauth: no password supplied", needs_password=True)
    assert isinstance(error, pgcdc.ConfigError)
    assert "PGPASSWORD" in (error.hint or "")
