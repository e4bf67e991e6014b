"""The fixtures that all tests share: PostgreSQL 14 to 18, a fresh database for each test, an account of the skipped."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from psycopg import sql

from tests.servers.azure import AzureServer
from tests.servers.clickhouse import ClickHouseServer
from tests.servers.gcs import GcsServer
from tests.servers.kafka import KafkaServer
from tests.servers.leftovers import alive
from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer, remove_templates
from tests.servers.programs import VERSIONS, ServerUnavailable
from tests.servers.redis import RedisServer, valkey
from tests.servers.registry import RegistryServer
from tests.servers.s3 import S3Server
from tests.servers.search import ElasticsearchServer, OpenSearchServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

_SEGFAULT = "pgcdc/running"
_Server = TypeVar("_Server")


class Servers:
    """One server per version, started when a test first asks for it, stopped at the end of the session."""

    def __init__(self, versions: list[int], say: Callable[[str], None]) -> None:
        self.versions = versions
        self.say = say
        self.started: dict[int, PostgresServer] = {}
        self.unavailable: dict[int, ServerUnavailable] = {}
        self.origins: dict[int, str] = {}

    def get(self, version: int) -> PostgresServer:
        """The server of a version, running.

        Raises:
            ServerUnavailable: This machine cannot have it; asked for again it is known without another download.
        """
        if version in self.unavailable:
            raise self.unavailable[version]
        if version not in self.started:
            try:
                self.started[version] = PostgresServer(version, say=self.say, in_memory=True)
            except ServerUnavailable as error:
                self.unavailable[version] = error
                raise
            self.origins[version] = self.started[version].programs.origin
        server = self.started[version]
        server.start()
        return server

    def newest(self) -> PostgresServer:
        """The server of the newest version that this machine has."""
        for version in sorted(self.versions, reverse=True):
            with contextlib.suppress(ServerUnavailable):
                return self.get(version)
        raise self.unavailable[max(self.versions)]

    def close(self) -> None:
        """Stops and deletes all of them."""
        for server in self.started.values():
            server.destroy()
        remove_templates()


@dataclass(frozen=True)
class Database:
    """A database of its own for one test, dropped afterwards together with its slots."""

    server: PostgresServer
    name: str

    @property
    def dsn(self) -> str:
        """How to connect as superuser, through the Unix socket."""
        return self.server.dsn(self.name)

    def connect(self, **parameters: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """An autocommit connection of psycopg's; the parameters are libpq's (`user="reader"`)."""
        return self.server.connect(self.name, **parameters)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements on a connection of its own, each in its own transaction; returns the rows of the last one."""
        with self.connect() as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def _new_database(server: PostgresServer) -> Iterator[Database]:
    database = Database(server, f"test_{uuid.uuid4().hex[:12]}")
    with server.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database.name)))
    yield database
    server.start()  # a test about crashes may have left it stopped
    _drop_database(database)


def _drop_database(database: Database) -> None:
    """Drops a database with all that would keep it from being dropped: prepared transactions, sessions, slots."""
    prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
    with database.server.connect() as connection:
        if gids := connection.execute(prepared, (database.name,)).fetchall():
            with database.connect() as inside:  # where alone they can be ended
                for (gid,) in gids:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        # Waits for each session to be gone: a slot is free only when its walsender has ended.
        connection.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s",
            (database.name,),
            prepare=False,
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", (database.name,)
        )
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database.name)))


def _say(config: pytest.Config, line: str) -> None:
    """Shows a line at once, though pytest keeps what tests print."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            reporter.write_line(f"\n{line}")


def _strict(config: pytest.Config) -> bool:
    """Whether nothing may skip."""
    return bool(config.getoption("--all")) or os.environ.get("CI", "").lower() in {"1", "true"}


def _is_worker(config: pytest.Config) -> bool:
    """Whether this is one of several processes that share the tests (pytest-xdist)."""
    return hasattr(config, "workerinput")


_servers_key = pytest.StashKey[Servers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pgcdc")
    group.addoption(
        "--pg", default="", metavar="VERSIONS", help="PostgreSQL versions to test on, as in 16,18 (all of 14 to 18)"
    )
    group.addoption(
        "--all", action="store_true", help="nothing may skip: a missing server is an error (so it is with CI=true)"
    )
    group.addoption("--faults", action="store_true", help="the tests of faults take their time: more of everything")
    group.addoption("--soak", action="store_true", help="ten million rows where a hundred thousand do")


def pytest_configure(config: pytest.Config) -> None:
    asked = [int(version) for version in config.getoption("--pg").split(",") if version] or list(VERSIONS)
    if unknown := sorted(set(asked) - set(VERSIONS)):
        raise pytest.UsageError(f"--pg: there is no PostgreSQL {unknown[0]} here, only {', '.join(map(str, VERSIONS))}")
    config.stash[_servers_key] = Servers(asked, lambda line: _say(config, line))
    # A shell starts its background jobs with SIGINT ignored, and so would be whatever the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres" in metafunc.fixturenames:
        versions = metafunc.config.stash[_servers_key].versions
        # Of twins, which are one code (tools/twins.py), one meets all versions, the other the oldest and newest.
        twin = metafunc.module.__name__.endswith("_async")
        plain_sql = metafunc.definition.get_closest_marker("oldest_and_newest") is not None
        if (twin or plain_sql) and not metafunc.config.getoption("--faults"):
            versions = sorted({min(versions), max(versions)})
        metafunc.parametrize(
            "postgres", versions, indirect=True, ids=[f"pg{version}" for version in versions], scope="session"
        )


def _server_or_skip(config: pytest.Config, start: Callable[[], _Server]) -> _Server:
    try:
        return start()
    except ServerUnavailable as error:
        if _strict(config):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """What a test leaves behind of signal handlers would be found by another that has nothing to do with it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        after = signal.getsignal(number)
        signal.signal(number, handler)
        assert after is handler, f"{number.name} is still handled by {after}"


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """A running server; each test that asks for it runs on PostgreSQL 14, 15, 16, 17 and 18."""
    servers = request.config.stash[_servers_key]
    return _server_or_skip(request.config, lambda: servers.get(request.param))


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    """A fresh database, on each version."""
    postgres.start()
    yield from _new_database(postgres)


@pytest.fixture(scope="session")
def newest_postgres(request: pytest.FixtureRequest) -> PostgresServer:
    """A running server of the newest version only, for tests in which the version plays no part."""
    return _server_or_skip(request.config, request.config.stash[_servers_key].newest)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[KafkaServer]:
    """A running Kafka broker, the same for all tests; topics are the test's own to name."""
    server = _server_or_skip(request.config, lambda: KafkaServer(say=lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def registry(request: pytest.FixtureRequest) -> Iterator[RegistryServer]:
    """A running schema registry, the same for all tests; subjects are the test's own to name."""
    server = _server_or_skip(request.config, lambda: RegistryServer(say=lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """A running S3, the same for all tests; buckets are the test's own to name."""
    server = _server_or_skip(request.config, S3Server)
    with server:
        yield server


@pytest.fixture(scope="session")
def azure(request: pytest.FixtureRequest) -> Iterator[AzureServer]:
    """A running Azure Blob Storage, the same for all tests; containers are the test's own to name."""
    server = _server_or_skip(request.config, lambda: AzureServer(lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def gcs(request: pytest.FixtureRequest) -> Iterator[GcsServer]:
    """A running Google Cloud Storage, the same for all tests; buckets are the test's own to name."""
    server = _server_or_skip(request.config, lambda: GcsServer(lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def nats_server(request: pytest.FixtureRequest) -> Iterator[NatsServer]:
    """A running NATS with JetStream, the same for all tests; streams are the test's own to name."""
    server = _server_or_skip(request.config, lambda: NatsServer(lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running Redis, the same for all tests; keys are the test's own to name."""
    server = _server_or_skip(request.config, lambda: RedisServer(install=_strict(request.config)))
    with server:
        yield server


@pytest.fixture(scope="session")
def valkey_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running Valkey, likewise."""
    server = _server_or_skip(request.config, lambda: RedisServer(server=valkey()))
    with server:
        yield server


@pytest.fixture(scope="session")
def opensearch(request: pytest.FixtureRequest) -> Iterator[OpenSearchServer]:
    """A running OpenSearch server, the same for all tests; indexes are the test's own to name."""
    server = _server_or_skip(request.config, lambda: OpenSearchServer(say=lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture(scope="session")
def clickhouse(request: pytest.FixtureRequest) -> Iterator[ClickHouseServer]:
    """ClickHouse's engine behind HTTP, the same for all tests; databases are the test's own to make."""
    with _server_or_skip(request.config, ClickHouseServer) as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch(request: pytest.FixtureRequest) -> Iterator[ElasticsearchServer]:
    """A running Elasticsearch server, the same for all tests; indexes are the test's own to name."""
    server = _server_or_skip(request.config, lambda: ElasticsearchServer(say=lambda line: _say(request.config, line)))
    with server:
        yield server


@pytest.fixture
def newest_database(newest_postgres: PostgresServer) -> Iterator[Database]:
    """A fresh database on the newest version only."""
    newest_postgres.start()
    yield from _new_database(newest_postgres)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Notes that this run began: after a crash of native code, `--last-failed` would find nothing that failed."""
    cache: pytest.Cache | None = getattr(session.config, "cache", None)
    if cache is None or _is_worker(session.config):  # -p no:cacheprovider; the run as a whole is the other process's
        return
    crashed = cache.get(_SEGFAULT, 0)
    if crashed and not alive(crashed) and session.config.getoption("lf", default=False):
        cache.set(_SEGFAULT, 0)
        raise pytest.UsageError(
            "the run before was killed or crashed, so what it failed at is not known: run it all again"
        )
    cache.set(_SEGFAULT, os.getpid())


def pytest_sessionfinish(session: pytest.Session) -> None:
    servers = session.config.stash[_servers_key]
    servers.close()
    if _is_worker(session.config):
        session.config.workeroutput["origins"] = servers.origins  # type: ignore[attr-defined]
        return
    cache: pytest.Cache | None = getattr(session.config, "cache", None)
    if cache is not None:
        cache.set(_SEGFAULT, 0)
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and reporter.stats.get("skipped") and _strict(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Hears from a process of pytest-xdist which servers it used."""
    node.config.stash[_servers_key].origins.update(getattr(node, "workeroutput", {}).get("origins", {}))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Lists the servers that were used, and what was skipped and why."""
    for version, origin in sorted(config.stash[_servers_key].origins.items()):
        terminalreporter.write_line(f"PostgreSQL {version}: {origin}")
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped if report.longrepr)
    if reasons:
        terminalreporter.section("skipped, and nothing may skip here" if _strict(config) else "skipped")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} test{'s' if count > 1 else ''}: {reason}")
