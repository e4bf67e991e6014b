"""Half of a surrogate pair, bytes that are not UTF-8, and deep JSON: they become dead letters, and end no pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
import pgcdc.sinks
from pgcdc import transforms
from pgcdc.pipeline import PostgresDeadLetters
from pgcdc.pipeline import run as run_module
from pgcdc.pipeline.describing import describe
from pgcdc.pipeline.holding import HeldBy, Hold
from pgcdc.protocol import json_members
from pgcdc.testing import Table, insert, message
from tests.pipeline.running import Running, running, until
from tests.pipeline.targets import Recorder
from tests.sinks.batches import batch_of

if TYPE_CHECKING:
    from tests.conftest import Database
    from tests.servers.postgres import PostgresServer
    from tests.servers.redis import RedisServer

_DEEP = "[" * 3000 + "]" * 3000
_HALF = '{"half": "\\ud83d", "whole": "\\ud83d\\ude00"}'


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are stored more often than once a second, so that the tests are short."""
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.05)


@pytest.mark.parametrize("policy", ["park", "hold"])
@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
@pytest.mark.parametrize("document", [_HALF, _DEEP], ids=["half", "deep"])
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_a_text_that_is_none_becomes_a_dead_letter(
    newest_postgres: PostgresServer, store: str, document: str, encoding: str, policy: Any
) -> None:
    """As any other row that a handler fails for: it is kept, shown, and delivered again; the others go on."""
    name = f"odd_text_{store}_{encoding}_{policy}_{len(document)}".lower()
    with newest_postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        dsn = newest_postgres.dsn(name)
        letters = PostgresDeadLetters(dsn) if store == "postgres" else None
        with psycopg.connect(dsn, autocommit=True, client_encoding="sql_ascii") as connection:
            connection.execute("CREATE TABLE orders (id text PRIMARY KEY, status text, note json)")
            pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"], dead_letters=letters)
            _fail_once(connection, pipeline, policy, document)
    finally:
        with newest_postgres.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _fail_once(connection: psycopg.Connection[Any], pipeline: pgcdc.Pipeline, policy: Any, document: str) -> None:
    is_ascii = connection.info.parameter_status("server_encoding") == "SQL_ASCII"
    odd = "caf\udce9" if is_ascii else "cafe"
    seen: list[tuple[str, str]] = []
    broken = True

    @pipeline.on("orders", on_failure=policy, retry=pgcdc.Retry(attempts=1))
    def handle(change: Any) -> None:
        if broken and change.new.note is not None:
            raise ValueError
        seen.append((change.new.id, change.new.status))

    with running(pipeline) as run:
        run.streaming()
        connection.execute("INSERT INTO orders VALUES ('1', 'a', NULL)")
        row = f"INSERT INTO orders VALUES ('{odd}', '{odd}', '{document}'), ('3', 'c', NULL)"
        connection.execute(row.encode("utf-8", "surrogateescape"))
        connection.execute("UPDATE orders SET status = 'd' WHERE id = '3'")
        until(lambda: seen == [("1", "a"), ("3", "c"), ("3", "d")], "the others")
        until(lambda: len(pipeline.dead_letters.list()) == 1, "the dead letter")
        [letter] = pipeline.dead_letters.list()
        assert letter.key is not None and json.loads(letter.key) == {"id": odd}
        values = json_members((pipeline.dead_letters.show(letter.id).values or "").encode())
        new = json_members(values["new"])
        assert new.pop("note") == document.encode()
        assert {name: json.loads(value) for name, value in new.items()} == {"id": odd, "status": odd}
        broken = False
        pipeline.dead_letters.retry(ids=[letter.id])
        until(lambda: seen[3:] == [(odd, odd)], "it is delivered again")
    pipeline.dead_letters.close()
    pipeline.destroy()


@pytest.mark.parametrize("copied", [True, False])
def test_a_key_that_a_target_cannot_have_is_a_dead_letter(
    newest_postgres: PostgresServer, redis_server: RedisServer, copied: bool
) -> None:
    """What cannot be encoded is a row's text, and no defect of the sink."""
    name = f"odd_keys_{copied}".lower()
    with newest_postgres.connect() as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    rows = "INSERT INTO orders VALUES ('1'), ('caf\udce9'), ('3')".encode("utf-8", "surrogateescape")
    try:
        dsn = newest_postgres.dsn(name)
        with psycopg.connect(dsn, autocommit=True, client_encoding="sql_ascii") as connection:
            connection.execute("CREATE TABLE orders (id text PRIMARY KEY)")
            if copied:
                connection.execute(rows)
            pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"])
            sink = pgcdc.sinks.Redis(redis_server.url, key=f"{name}:{{id}}")
            pipeline.add(sink, name="cache", on_failure="park", max_wait=0)
            with running(pipeline) as run:
                run.streaming()
                if not copied:
                    connection.execute(rows)
                until(lambda: len(pipeline.dead_letters.list()) == 1, "the dead letter")
                until(lambda: len(redis_server.client.keys(f"{name}:*")) == 2, "the others")
                [letter] = pipeline.dead_letters.list()
                assert letter.key is not None and json.loads(letter.key) == {"id": "caf\udce9"}
                assert "not UTF-8" in letter.error_text and "caf" not in letter.error_text
                pipeline.dead_letters.retry(ids=[letter.id])
                until(lambda: pipeline.dead_letters.list()[0].attempts > letter.attempts, "it is refused again")
                assert run.alive
            pipeline.dead_letters.close()
            pipeline.destroy()
    finally:
        with newest_postgres.connect() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.mark.parametrize(
    "content", [b"\xff", b'{"key":"\xe9"}\n{}', b'{"x":' + _DEEP.encode() + b"}\n{}", b'{"key":"\\ud83d"}\n{}']
)
def test_a_message_that_is_no_event_holds_its_topic(content: bytes) -> None:
    """Anybody may write one with the prefix of events, whatever is in it."""
    batch = batch_of([message("pgcdc.outbox:orders", content)])
    [one] = describe(batch, {}, HeldBy())
    assert (one.key, one.holds) == (None, (Hold("pgcdc.outbox:orders", None),))


@pytest.mark.parametrize("value", [_HALF, _DEEP], ids=["half", "deep"])
def test_a_chosen_key_of_json_holds_its_rows(value: str) -> None:
    table = Table("t", {"id": "bigint", "note": "json"}, key=("id",))
    changes = [insert(table, {"id": number, "note": note}) for number, note in ((1, value), (2, value), (3, "[]"))]
    first, same, other = describe(batch_of(changes), {}, HeldBy(key=("note",)))
    assert first.key == '{"id": "1"}'
    assert first.holds == same.holds != other.holds


@pytest.mark.parametrize("payload", [_HALF, _DEEP], ids=["half", "deep"])
def test_an_event_of_an_outbox_waits_over_a_restart(newest_database: Database, payload: str) -> None:
    """What it holds is read from its row, whatever else is in that."""
    database = newest_database
    database.execute("CREATE TABLE outbox (id int PRIMARY KEY, topic text, key text, payload json)")
    seen: list[str] = []

    def pipeline(*, broken: bool) -> pgcdc.Pipeline:
        made = pgcdc.Pipeline("shop", database.dsn, tables=["outbox"])
        events = transforms.outbox("outbox", topic="topic", key="key")

        @made.on("outbox", name="mail", on_failure="hold", retry=pgcdc.Retry(attempts=1), transform=[events])
        def mail(event: Any) -> None:
            if broken:
                raise ValueError
            seen.append(event.new.key)

        return made

    first = pipeline(broken=True)
    with running(first) as run:
        run.streaming()
        database.execute(f"INSERT INTO outbox VALUES (1, 'orders', 'k', '{payload}'), (2, 'orders', 'k', '{{}}')")
        until(lambda: len(first.dead_letters.list()) == 2, "the second waits for the first")
    first.dead_letters.close()
    second = pipeline(broken=False)
    with running(second) as run:
        run.streaming()
        database.execute("INSERT INTO outbox VALUES (3, 'orders', 'k', '{}')")
        until(lambda: len(second.dead_letters.list()) == 3, "the third, too")
        second.dead_letters.retry(ids=[second.dead_letters.list()[0].id])
        until(lambda: seen == ["k"] * 3, "all, in order")
    second.dead_letters.close()
    second.destroy()


def test_what_a_sink_cannot_write_in_ascii_is_its_own_defect(newest_database: Database) -> None:
    """A row is not refused for it: the pipeline stops, as for any other exception of a sink."""

    class Ascii(Recorder):
        def write(self, batch: pgcdc.Batch) -> None:
            "Zürich".encode("ascii")

    newest_database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    pipeline = pgcdc.Pipeline("shop", newest_database.dsn, tables=["orders"])
    pipeline.add(Ascii(), name="sink", on_failure="park")
    run = Running(pipeline)
    run.streaming()
    newest_database.execute("INSERT INTO orders VALUES (1)")
    ended = run.ended()
    assert isinstance(ended, pgcdc.SinkError) and "UnicodeEncodeError" in str(ended)
    assert not isinstance(ended, pgcdc.SinkRejected) and pipeline.dead_letters.list() == []
    pipeline.dead_letters.close()
