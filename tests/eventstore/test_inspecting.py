"""Numbers and the checklist: a store that is in order, and one thing after the other that is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

import pgcdc
from pgcdc.eventstore import EventStore, Every, inspecting
from tests.eventstore.contract import CREATED, PAID, Counted
from tests.eventstore.revenue import lose_the_slot, store_of
from tests.eventstore.test_projections import caught_up, write
from tests.eventstore.test_snapshots import Sum
from tests.pipeline.running import running
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgcdc.eventstore import Finding
    from tests.conftest import Database


@pytest.fixture
def store(newest_database: Database) -> Iterator[EventStore]:
    with EventStore(newest_database.dsn) as store:
        store.init()
        yield store


def _status(findings: list[Finding]) -> dict[int, str]:
    return {finding.number: finding.status for finding in findings if finding.status != "ok"}


def _maintain(database: Database, statement: str) -> None:
    with database.connect() as connection, connection.transaction():
        connection.execute("SET LOCAL pgcdc.maintenance = on")
        connection.execute(statement)


def test_in_order(database: Database) -> None:
    with EventStore(database.dsn) as store:
        store.init()
        assert _status(store.check()) == {3: "nothing", 6: "nothing", 7: "nothing"}
        store.append("order-1", [CREATED, PAID])
        findings = store.check(deep=True)
        assert [finding.number for finding in findings] == list(range(1, 9))
        assert _status(findings) == {3: "nothing", 7: "nothing"}, "what there are no projections for yet"
        assert len(list(store.replay())) == 1, "what was tried is gone"
        assert database.execute("SELECT stream_id, version FROM es.streams") == [("order-1", 2)]
        stats = store.stats()
        assert (stats.streams, stats.events, stats.types[0].stream_type, stats.types[0].longest) == (1, 2, "order", 2)


@pytest.mark.parametrize(
    "broken",
    [
        "DELETE FROM es.events WHERE sequence = 1",
        "DELETE FROM es.events WHERE sequence = 2",
        "DELETE FROM es.streams WHERE stream_id = 'order-1'",
        "UPDATE es.events SET sequence = 5 WHERE sequence = 1 AND stream_id = 'order-1'",
        "UPDATE es.events SET stream_type = 'other' WHERE sequence = 1 AND stream_id = 'order-1'",
        "UPDATE es.streams SET version = 7 WHERE stream_id = 'order-1'",
    ],
)
def test_a_hole(newest_database: Database, store: EventStore, broken: str) -> None:
    for stream in ("order-1", "order-2"):
        store.append(stream, [CREATED, PAID])
    _maintain(newest_database, broken)
    for deep in (False, True):
        assert _status(store.check(deep=deep))[1] == "failed"


@pytest.mark.parametrize("where", ["TRUE", "stream_id = 'order-1'"])
def test_streams_without_events(newest_database: Database, store: EventStore, where: str) -> None:
    """Nothing is left of them among the last events: all streams have to be looked at."""
    for stream in ("order-1", "order-2"):
        store.append(stream, [CREATED, PAID])
    _maintain(newest_database, f"DELETE FROM es.events WHERE {where}")
    assert _status(store.check(deep=True))[1] == "failed"
    _maintain(newest_database, f"UPDATE es.streams SET state = 'deleted' WHERE {where}")
    assert 1 not in _status(store.check(deep=True)), "somebody has deleted them, and says so"


@pytest.mark.parametrize(
    "broken",
    [
        "payload = '[]'",
        "metadata = '[]'",
        "event_version = 0",
        "retention_class = 'icy'",
        "occurred_at = 'infinity'",
        "sequence = 0",
    ],
)
def test_an_event_that_breaks_a_rule(newest_database: Database, store: EventStore, broken: str) -> None:
    store.append("order-1", [CREATED, PAID])
    newest_database.execute(
        "ALTER TABLE es.events DISABLE TRIGGER ALL", f"UPDATE es.events SET {broken} WHERE sequence = 1"
    )
    newest_database.execute(
        "ALTER TABLE es.events ENABLE TRIGGER append_only",
        "ALTER TABLE es.events ENABLE TRIGGER advance_stream",
        "ALTER TABLE es.events ENABLE ALWAYS TRIGGER keep_rules",
        "ALTER TABLE es.events ENABLE REPLICA TRIGGER keep_rules_of_copies",
    )
    for deep in (False, True):
        assert store.check(deep=deep)[7].status == "failed"
    if "version" in broken:
        with pytest.raises(pgcdc.InvalidEvent, match="version 0"):
            store.read("order-1")


def test_a_stream_of_no_known_state(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED, PAID])
    newest_database.execute(
        "ALTER TABLE es.streams DISABLE TRIGGER keep_rules",
        "UPDATE es.streams SET state = 'odd'",
        "ALTER TABLE es.streams ENABLE ALWAYS TRIGGER keep_rules",
    )
    assert store.check(deep=True)[7].status == "failed"


def test_ids_that_are_behind(newest_database: Database, store: EventStore) -> None:
    """As where the rows were copied, or came by logical replication, which sends no sequences."""
    store.append("order-1", [CREATED, PAID])
    newest_database.execute("SELECT setval('es.events_id_seq', 1, false)")
    finding = store.check()[1]
    assert finding.status == "failed" and finding.hint
    newest_database.execute(finding.hint.partition(": ")[2])
    assert store.check()[1].status == "ok"


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        (
            [
                "CREATE FUNCTION known() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.event_type LIKE 'pgcdc.%'"
                " THEN RAISE EXCEPTION 'the type % is not known', NEW.event_type; END IF; RETURN NEW; END $$",
                "CREATE TRIGGER only_known BEFORE INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION known()",
            ],
            "SQLSTATE P0001, triggers of your own: only_known",
        ),
        (
            [
                "CREATE FUNCTION known() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.stream_type LIKE 'pgcdc.%'"
                " THEN RAISE EXCEPTION 'no such type' USING ERRCODE = 'ZZ001'; END IF; RETURN NEW; END $$",
                "CREATE TRIGGER known BEFORE INSERT ON es.streams FOR EACH ROW EXECUTE FUNCTION known()",
            ],
            "SQLSTATE ZZ001, triggers of your own: known",
        ),
        (
            ["ALTER TABLE es.events ADD CONSTRAINT known_type CHECK (event_type <> 'pgcdc.check')"],
            "SQLSTATE 23514, constraint known_type",
        ),
        (
            ["CREATE UNIQUE INDEX once ON es.events ((event_type LIKE 'pgcdc.%')) WHERE stream_id LIKE 'pgcdc.%'"],
            "SQLSTATE 23505, constraint once",
        ),
        (
            ["ALTER TABLE es.events ADD COLUMN actor text NOT NULL GENERATED ALWAYS AS (metadata ->> 'actor') STORED"],
            "SQLSTATE 23502",
        ),
    ],
)
def test_what_a_users_own_trigger_or_check_refuses_is_not_tried(
    newest_database: Database, store: EventStore, statements: list[str], name: str
) -> None:
    store.append("order-1", [CREATED, PAID], metadata={"actor": "anna"})
    newest_database.execute(*statements)
    if "once" in name:  # as for somebody else's event of this kind
        store.append("pgcdc.check-0", [CREATED])
        newest_database.execute("ALTER TABLE es.events DISABLE TRIGGER append_only")
        newest_database.execute("UPDATE es.events SET event_type = 'pgcdc.check' WHERE stream_id LIKE 'pgcdc.%'")
        newest_database.execute("ALTER TABLE es.events ENABLE TRIGGER append_only")
    findings = store.check(deep=True)
    assert [finding.number for finding in findings] == list(range(1, 9)), "the others are looked at"
    assert _status(findings) == {2: "nothing", 3: "nothing", 7: "nothing"}
    assert "was not tried, because" in findings[1].found and findings[1].found.endswith(f"({name})")
    assert len(store.read("order-1")) == 2


def test_a_store_that_takes_nothing(newest_database: Database, store: EventStore) -> None:
    newest_database.execute(
        "CREATE OR REPLACE FUNCTION es.broken_rule(event_version integer, payload jsonb, metadata jsonb, occurred_at"
        " timestamptz, sequence bigint, retention_class text) RETURNS text LANGUAGE sql"
        " AS $$ SELECT 'events_payload_object' $$"
    )
    finding = store.check()[1]
    assert finding.status == "failed" and "nothing can be appended" in finding.found


def test_a_column_that_no_append_writes(newest_database: Database, store: EventStore) -> None:
    newest_database.execute("ALTER TABLE es.events ADD COLUMN tenant text NOT NULL")
    finding = store.check()[1]
    assert finding.status == "failed" and "nothing can be appended" in finding.found
    assert finding.hint and "tenant" in finding.hint


@pytest.mark.parametrize("function", ["refuse_change()", "keep_rules()", "refuse_row(rule text)"])
def test_functions_that_do_nothing(newest_database: Database, store: EventStore, function: str) -> None:
    kind, what = ("text", "rule") if "rule " in function else ("trigger", "NEW")
    newest_database.execute(
        f"CREATE OR REPLACE FUNCTION es.{function} RETURNS {kind} LANGUAGE plpgsql AS 'BEGIN RETURN {what}; END'"
    )
    assert store.check()[7].status == "failed"


@pytest.mark.parametrize(
    "statement",
    [
        "DROP PUBLICATION es_events",
        "ALTER PUBLICATION es_events DROP TABLE es.events",
        "ALTER PUBLICATION es_events SET (publish = 'update')",
    ],
)
def test_nobody_is_sent_an_event(newest_database: Database, store: EventStore, statement: str) -> None:
    newest_database.execute(statement)
    finding = store.check()[6]
    assert finding.status == "failed" and finding.hint
    if finding.hint.startswith("ALTER"):
        newest_database.execute(finding.hint)
    else:
        store.init()
    assert store.check()[6].status == "nothing"


def test_no_unique_index(newest_database: Database, store: EventStore) -> None:
    newest_database.execute("DROP INDEX es.events_stream_sequence")
    findings = store.check()
    assert (findings[0].status, findings[1].status) == ("failed", "failed")
    assert findings[0].hint is not None
    newest_database.execute(findings[0].hint)
    assert not {1, 2} & set(_status(store.check()))


@pytest.mark.parametrize(
    "disabled",
    [
        "events DISABLE TRIGGER append_only",
        "events DISABLE TRIGGER keep_rules",
        "events ENABLE TRIGGER keep_rules_of_copies",  # runs for each append then, and not for copies
        "streams DISABLE TRIGGER keep_rules",
        "events DISABLE TRIGGER ALL",
    ],
)
def test_triggers_that_are_disabled(newest_database: Database, store: EventStore, disabled: str) -> None:
    newest_database.execute(f"ALTER TABLE es.{disabled}")
    findings = store.check()
    assert findings[7].status == "failed"
    assert findings[7].hint is not None
    newest_database.execute(*findings[7].hint.split("\n"))
    assert store.check()[7].status == "ok"


def test_snapshots_that_do_not_pay(
    newest_database: Database, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "PAYS_MILLISECONDS", 60_000.0)  # however slow the machine is
    store.append("count-1", [Counted(0, number) for number in range(500)])
    with EventStore(newest_database.dsn, snapshots={Sum: Every(5)}) as other:
        other.load("count-1", Sum)
    assert _status(store.check())[4] == "warning"
    stats = store.stats()
    assert (stats.types[0].snapshots, stats.types[0].snapshots_pay) == (1, False)
    monkeypatch.setattr(inspecting, "PAYS_MILLISECONDS", 0.0)
    assert store.stats().types[0].snapshots_pay
    assert 4 not in _status(store.check())


def test_a_stream_that_is_archived_is_no_measure(newest_database: Database, store: EventStore) -> None:
    """What a question takes is not taken for what an event takes."""
    store.append("count-1", [Counted(0, number) for number in range(500)])
    with EventStore(newest_database.dsn, snapshots={Sum: Every(5)}) as other:
        other.load("count-1", Sum)
    assert store.stats().microseconds_per_event > 0
    _maintain(newest_database, "DELETE FROM es.events WHERE sequence < 500")
    _maintain(newest_database, "UPDATE es.streams SET archived_through = 499, version = 20000000")
    stats = store.stats()
    assert (stats.microseconds_per_event, stats.types[0].snapshots_pay) == (0.0, False)
    assert "not measured" in str(stats) and "snapshots pay" not in str(stats)
    assert _status(store.check())[4] == "nothing"


def test_large_payloads(newest_database: Database, store: EventStore) -> None:
    newest_database.execute("ALTER TABLE es.events ALTER payload SET STORAGE EXTERNAL")
    with EventStore(newest_database.dsn) as other:
        from examples.order import OrderShipped

        other.append("order-1", [OrderShipped("x" * 100_000)])
    assert _status(store.check())[5] == "warning"
    newest_database.execute("ALTER TABLE es.events DROP CONSTRAINT events_payload_size")
    assert _status(store.check())[5] == "failed"
    store.init(max_payload_bytes=262_144)
    assert _status(store.check())[5] == "warning"


def test_old_events(newest_database: Database, store: EventStore) -> None:
    store.append("order-1", [CREATED])
    _maintain(newest_database, "UPDATE es.events SET occurred_at = now() - interval '2 years'")
    assert _status(store.check())[6] == "warning"
    _maintain(newest_database, "UPDATE es.events SET retention_class = 'cold'")
    assert 6 not in _status(store.check())


def test_who_reads_only(newest_database: Database, store: EventStore) -> None:
    role = f"reader_{newest_database.name}"
    newest_database.execute(f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA es TO {role}")
    newest_database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA es TO {role}")
    try:
        with EventStore(f"{newest_database.dsn} user={role}") as reader:
            assert _status(reader.check())[2] == "nothing"
    finally:
        newest_database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_parked_projection(newest_database: Database, store: EventStore) -> None:
    newest_database.execute(
        "INSERT INTO es.projections (name, generation, version, status, tables_schema, tables)"
        " VALUES ('revenue', 1, 1, 'live', 'public', '{}'), ('journal', 1, 1, 'live', 'public', '{}')"
    )
    assert _status(store.check()) == {6: "nothing", 7: "warning"}
    newest_database.execute("UPDATE es.projections SET error = 'ValueError at event 3' WHERE name = 'journal'")
    assert _status(store.check())[3] == "warning"
    assert "1 of 2 are parked: journal (ValueError at event 3)" in "\n".join(map(str, store.check()))


def test_what_projections_were_given_is_compared(newest_database: Database) -> None:
    """With what there is up to their places: from before the slot and of the stream, not what nobody has noted yet."""
    with store_of(newest_database) as store:
        write(store, 1, 20)
        with running(store.pipeline()):
            caught_up(store)
            write(store, 2, 20)
            caught_up(store)
        write(store, 3, 5)
        found = store.check(deep=True)[2]
        assert (found.status, "events before it" in found.found) == ("ok", False), "what no pipeline has noted"
        newest_database.execute("UPDATE es.projections SET events = events + 1 WHERE name = 'journal'")
        found = store.check(deep=True)[2]
        [(given,)] = newest_database.execute("SELECT events FROM es.projections WHERE name = 'journal'")
        assert (found.status, found.found) == ("failed", f"journal was given {given} events of {given - 1}")
        newest_database.execute("UPDATE es.projections SET events = events - 1 WHERE name = 'journal'")
        assert store.check(deep=True)[2].status == "ok"
        _maintain(newest_database, "DELETE FROM es.events WHERE id = 30")
        assert store.check(deep=True)[2].status == "failed"
        newest_database.execute("UPDATE es.projections SET commit_lsn = commit_lsn + 1000000000 WHERE name = 'journal'")
        found = store.check()[2]
        assert found.status == "failed"
        assert "where journal is, the WAL of this server has never been" in found.found


def test_a_slot_that_is_gone(newest_database: Database) -> None:
    with store_of(newest_database) as store:
        write(store, 1, 3)
        with running(store.pipeline()):
            caught_up(store)
        assert _status(store.check()) == {}
        lose_the_slot(newest_database)
        found = store.check()[6]
        assert found.status == "failed"
        assert found.hint == "no event is lost: call pipeline.destroy() once, then run it again"
        assert "the slot pgcdc_es does not exist any more" in found.found
        store.pipeline().destroy()
        assert _status(store.check()) == {7: "warning"}, "nobody follows it"
        with running(store.pipeline()):
            caught_up(store)
            assert _status(store.check()) == {}


def test_a_server_without_logical_decoding(newest_database: Database) -> None:
    with (
        PostgresServer(newest_database.server.version, {"wal_level": "replica"}) as server,
        EventStore(server.dsn("postgres")) as store,
    ):
        store.init()
        found = store.check()[6]
        assert found.status == "failed"
        assert "wal_level is replica" in found.found


def test_a_transaction_is_not_left_open(newest_database: Database, store: EventStore) -> None:
    store.check()
    with psycopg.connect(newest_database.dsn) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        assert connection.execute(query).fetchone() == (0,)
