"""TLS with a certificate that is checked, SCRAM with channel binding, a service file: libpq has them for us."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from tests.conftest import Database
from tests.replication.reading import read_commits
from tests.replication.streams import ids, new_name
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "Gehe1m"
SETTINGS = {"ssl": "on", "ssl_cert_file": "'server.crt'", "ssl_key_file": "'server.key'"}


def make_certificate(path: Path, key: Path, subject: str) -> None:
    """One that signs itself, for 127.0.0.1."""
    asked = ["-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject]
    asked += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(["openssl", "req", *asked], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secure(newest_postgres: PostgresServer) -> Iterator[Database]:
    """A server that takes passwords by SCRAM through TLS, and nothing else, but from the Unix socket."""
    with PostgresServer(newest_postgres.version, {"password_encryption": "'scram-sha-256'"}) as server:
        make_certificate(server.data / "server.crt", server.data / "server.key", "/CN=localhost")
        owner = server.data.stat()
        for name in ("server.key", "server.crt"):
            (server.data / name).chmod(0o600)
            shutil.chown(server.data / name, owner.st_uid, owner.st_gid)
        (server.data / "pg_hba.conf").write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
        with (server.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
        server.restart()
        database = Database(server, "postgres")
        database.execute(
            f"CREATE ROLE reader LOGIN REPLICATION PASSWORD '{SECRET}'",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "CREATE PUBLICATION p FOR TABLE t",
        )
        yield database


def test_a_service_with_tls_and_scram(secure: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = shutil.copy(secure.server.data / "server.crt", tmp_path / "root.crt")
    (tmp_path / "services").write_text(
        f"[shop]\nhost=127.0.0.1\nport={secure.server.port}\nuser=reader\ndbname=postgres\n"
        f"sslmode=verify-full\nsslrootcert={certificate}\nchannel_binding=require\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pgcdc.connect("service=shop") as connection:
        slot = connection.create_slot(new_name()).name
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = "
        assert connection.execute(f"{encrypted} pg_backend_pid()") == [("t",)]
        with connection.stream(slot, ["p"], reconnect=True) as stream:
            secure.execute("INSERT INTO t VALUES (1)")
            assert ids(read_commits(stream, 1)) == [1]
            secure.execute(f"SELECT pg_terminate_backend({connection.backend_pid}, 10000)", "INSERT INTO t VALUES (2)")
            assert ids(read_commits(stream, 1)) == [2]
            assert stream.reconnects == 1
            assert secure.execute(f"{encrypted} {connection.backend_pid}") == [(True,)]
        connection.drop_slot(slot)


def test_a_wrong_password_is_said_without_it(secure: Database) -> None:
    dsn = f"host=127.0.0.1 port={secure.server.port} user=reader dbname=postgres password=wrong-{SECRET}"
    with pytest.raises(pgcdc.ConfigError, match="authentication failed") as caught:
        pgcdc.connect(dsn)
    assert caught.value.sqlstate == "28P01" and SECRET not in f"{caught.value} {caught.value.hint}"


def test_another_certificate_is_refused(secure: Database, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    make_certificate(other, tmp_path / "other.key", "/CN=other")
    dsn = f"host=127.0.0.1 port={secure.server.port} user=reader dbname=postgres sslmode=verify-full"
    with pytest.raises(pgcdc.Error, match="certificate verify failed"):
        pgcdc.connect(f"{dsn} sslrootcert={other} password={SECRET}")
