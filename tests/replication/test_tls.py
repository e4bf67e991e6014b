"""TLS with a certificate that is checked, SCRAM with channel binding, a service file: libpq has them for us."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.observe.role import role_sql
from pgcdc.testing import FaultySink
from tests.conftest import Database
from tests.pipeline.running import running, until
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


def test_a_whole_pipeline_with_the_role_that_the_doctor_writes(secure: Database, tmp_path: Path) -> None:
    """The copy, the stream, positions, dead letters, who watches it: all connections are encrypted."""
    pytest.importorskip("starlette")
    pytest.importorskip("prometheus_client")
    from pgcdc.console.observation import Observer
    from pgcdc.console.subject import Subject
    from pgcdc.observe import serving
    from tests.observe.answers import ready, samples, value

    certificate = shutil.copy(secure.server.data / "server.crt", tmp_path / "root.crt")
    dsn = (
        f"host=127.0.0.1 port={secure.server.port} user=follower dbname=postgres password={SECRET}"
        f" sslmode=verify-full sslrootcert={certificate} channel_binding=require"
    )
    secure.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)", "INSERT INTO orders VALUES (1, 'new')")
    secure.execute(role_sql("follower", "postgres", [("public", "orders")], "pgcdc_shop"))
    secure.execute(f"ALTER ROLE follower PASSWORD '{SECRET}'")
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"])
    pipeline.add(FaultySink(reject=lambda change: change.new.status == "bad"), name="picky", on_failure="park")
    with serving(pipeline, 0) as endpoint, running(pipeline) as run:
        run.streaming()
        secure.execute("INSERT INTO orders VALUES (2, 'bad'), (3, 'good')")
        run.catch_up(secure)
        ready(endpoint)
        until(lambda: len(pipeline.dead_letters.list()) == 1, "a dead letter", pause=0.05)
        until(lambda: value(samples(endpoint), "pgcdc_slot_active", slot="pgcdc_shop") == 1.0, "it is seen", pause=0.05)
        observer = Observer(Subject(dsn, pipeline=pipeline))
        seen = observer.observe()
        assert seen.error is None and seen.letters == 1
        encrypted = secure.execute(
            "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'follower'"
        )
        observer.close()
        assert len(encrypted) >= 4 and {ssl for ssl, _ in encrypted} == {True}
    assert pipeline.dead_letters.list()[0].table == "public.orders"
    pipeline.dead_letters.close()


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
