"""What a plain INSERT may not say of a row, and what no program could read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgcdc
from pgcdc.eventstore import Append, EventStore, rebuild
from tests.eventstore.contract import CREATED, PAID
from tests.eventstore.revenue import RIGHT, Sold, faults, revenue, right_revenue, store_of
from tests.eventstore.test_migrating import make_until
from tests.eventstore.test_projections import caught_up
from tests.pipeline.running import running

if TYPE_CHECKING:
    from tests.conftest import Database

ROW = (
    "INSERT INTO es.events (stream_id, stream_type, event_type, payload, sequence{columns}) VALUES"
    " ('till-8', 'till', 'Sold', '{payload}', {sequence}{values})"
)


def row(sequence: int, columns: str = "", values: str = "", payload: str = '{"category": "a", "amount": 10}') -> str:
    return ROW.format(sequence=sequence, columns=columns, values=values, payload=payload)


def test_rows_that_were_those_of_another_store(database: Database) -> None:
    """Brought along whole, with their ids and transactions: live and rebuilt they are what they are here."""
    with store_of(database) as store:
        store.append("till-1", [Sold("a", 1)])
        with running(store.pipeline()):
            caught_up(store)
            [(xid,)] = database.execute("SELECT xid::text FROM es.events")
            database.execute(
                row(1, ", id, xid", f", 9000000000, '{xid}'"), row(2, ", id, xid", f", 8000000000, '{xid}'")
            )
            store.append("till-8", [Sold("a", 3)])
            database.execute(row(4, ", xid", ", '1'"))
            caught_up(store)
            live = revenue(database)
            assert live == right_revenue(database)
            for name in ("revenue", "journal"):
                assert rebuild(store, name).done == 5
            assert revenue(database) == live
            assert faults(database) == RIGHT
        assert [finding.status for finding in store.check(deep=True)] == ["ok"] * 8
        assert [one.sequence for some in store.replay() for one in some if one.stream_id == "till-8"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("columns", "values", "payload", "why"),
    [
        ("", "", "null", "payload"),
        ("", "", "[1]", "payload"),
        ("", "", '"a"', "payload"),
        (", metadata", ", '[]'", "{}", "metadata"),
        (", occurred_at", ", 'infinity'", "{}", "occurred_at"),
        (", occurred_at", ", '-infinity'", "{}", "occurred_at"),
        (", occurred_at", ", '4000-01-01 BC'", "{}", "occurred_at"),
        (", occurred_at", ", '12000-01-01'", "{}", "occurred_at"),
    ],
)
def test_what_nobody_could_read_is_refused(
    newest_database: Database, columns: str, values: str, payload: str, why: str
) -> None:
    with store_of(newest_database) as store:
        with pytest.raises(psycopg.errors.CheckViolation, match=f"events_{why[:7]}"):
            newest_database.execute(row(1, columns, values, payload))
        # In the store's words, where it is the store that is refused.
        with pytest.raises(pgcdc.InvalidEvent, match=why), store._doing("till-8") as connection:
            connection.execute(row(1, columns, values, payload).encode())
        assert list(store.replay()) == []


BROKEN = {
    "events_event_version_check": ("event_version", "0"),
    "events_metadata_object": ("metadata", "'[1]'"),
    "events_occurred_finite": ("occurred_at", "'infinity'"),
    "events_payload_object": ("payload", "'7'"),
    "events_payload_size": ("payload", """jsonb_build_object('a', repeat(md5('x'), 9000) COLLATE "C")"""),
    "events_retention_class_check": ("retention_class", "'frozen'"),
    "events_sequence_check": ("sequence", "-1"),
}
"""Each rule of an event's row, by the name of its constraint, with a column and a value that breaks it."""


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("rule", BROKEN)
def test_the_rules_of_a_row(database: Database, rule: str) -> None:
    """For a plain INSERT, also of what is copied as a replica, and for what is set right under pgcdc.maintenance."""
    column, value = BROKEN[rule]
    columns = {
        "stream_id": "'till-8'",
        "stream_type": "'till'",
        "event_type": "'Sold'",
        "payload": "'{}'",
        "sequence": "1",
    }
    with store_of(database) as store:
        store.append("till-1", [Sold("a", 1)])
        given = columns | {column: value}
        if rule == "events_payload_size":
            database.execute("ALTER TABLE es.events ALTER COLUMN payload SET STORAGE EXTERNAL")
        insert = f"INSERT INTO es.events ({', '.join(given)}) VALUES ({', '.join(given.values())})"
        for before in ("", "SET session_replication_role = replica; "):
            with pytest.raises(psycopg.errors.CheckViolation) as raised:
                database.execute(before + insert)
            assert raised.value.diag.constraint_name == rule
            assert (raised.value.diag.schema_name, raised.value.diag.table_name) == ("es", "events")
            with pytest.raises(psycopg.errors.CheckViolation) as raised:
                database.execute(
                    f"BEGIN; {before}SET LOCAL pgcdc.maintenance = on;"
                    f" UPDATE es.events SET {column} = {value} WHERE stream_id = 'till-1'; COMMIT"
                )
            assert raised.value.diag.constraint_name == rule
        assert [one.event for one in store.read("till-1")] == [Sold("a", 1)]
        assert store.read("till-8") == []


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize(
    ("item", "metadata", "rule"),
    [
        ('"v": 0, "p": {}', "{}", "events_event_version_check"),
        ('"v": 1, "p": []', "{}", "events_payload_object"),
        ('"v": 1, "p": {}', "[]", "events_metadata_object"),
        ('"v": 1, "p": {}, "m": []', "{}", "events_metadata_object"),
        ('"v": 1, "p": {}, "at": "infinity"', "{}", "events_occurred_finite"),
        ('"v": 1, "p": {}, "r": "frozen"', "{}", "events_retention_class_check"),
    ],
)
@pytest.mark.parametrize("expected", [-2, -1, 0, 1])
def test_the_rules_of_the_function(database: Database, item: str, metadata: str, rule: str, expected: int) -> None:
    """Called by another program: the second of two events breaks one, and neither is there."""
    with store_of(database) as store:
        store.append("till-1", [Sold("a", 1)])
        stream = "till-2" if expected == 0 else "till-1"
        good = '{"t": "Sold", "v": 1, "p": {"category": "a", "amount": 1}}'
        given = f'[{good}, {{"t": "Sold", {item}}}]'
        call = f"SELECT * FROM es.append('{stream}', NULL, {expected}, '{given}', '{metadata}')"
        with pytest.raises(psycopg.errors.CheckViolation) as raised:
            database.execute(call)
        assert raised.value.diag.constraint_name == rule
        assert database.execute("SELECT stream_id, version FROM es.streams") == [("till-1", 1)]
        assert database.execute(call.replace(item, '"v": 1, "p": {}').replace(f"'{metadata}')", "'{}')"))[0][0] == "ok"


@pytest.mark.oldest_and_newest
def test_the_rules_of_a_stream(database: Database) -> None:
    with store_of(database) as store:
        store.append("till-1", [Sold("a", 1)])
        for statement, rule in (
            ("INSERT INTO es.streams VALUES ('till-2', 'till', -1)", "streams_version_check"),
            (
                "INSERT INTO es.streams (stream_id, stream_type, version, state) VALUES ('a', 'a', 0, 'shut')",
                "streams_state",
            ),
            ("UPDATE es.streams SET state = 'shut'", "streams_state_check"),
        ):
            with pytest.raises(psycopg.errors.CheckViolation) as raised:
                database.execute(statement)
            assert (raised.value.diag.constraint_name or "").startswith(rule)
            assert raised.value.diag.table_name == "streams"
        # A version that no append can have made: nothing is numbered from there.
        database.execute("UPDATE es.streams SET version = -5")
        for expected in ("any", "exists"):
            with pytest.raises(pgcdc.ConcurrencyConflict):
                store.append("till-1", [Sold("a", 1)], expected=expected)
        for sequence in (-4, 0, 2):
            with pytest.raises(psycopg.Error):
                database.execute(row(sequence).replace("till-8", "till-1"))
        database.execute("UPDATE es.streams SET version = 1, state = 'closed'")
        with pytest.raises(pgcdc.EventStoreError, match="closed"):
            store.append("till-1", [Sold("a", 1)])


def test_rows_that_are_there_already_stay(newest_database: Database) -> None:
    """From before the seventh migration, which had the first rules of payloads."""
    with EventStore(newest_database.dsn) as store:
        make_until(store, newest_database, 6)
        newest_database.execute(row(1, payload="[1]"))
        assert store.init().steps[0].what == "migration 7: rows"
        with pytest.raises(psycopg.errors.CheckViolation):
            newest_database.execute(row(2, payload="[1]"))
        newest_database.execute(row(2))
        assert store.append("till-8", [PAID]) == 3


def test_a_role_that_may_no_more_than_it_has_to(newest_database: Database) -> None:
    """What the hint says is enough, for appends and for plain INSERTs."""
    role = f"writer_{newest_database.name}"
    with EventStore(newest_database.dsn) as store:
        store.init()
    newest_database.execute(f"CREATE ROLE {role} LOGIN")
    try:
        with EventStore(f"{newest_database.dsn} user={role}") as writer:
            with pytest.raises(pgcdc.ConfigError) as refused:
                writer.append("order-1", [CREATED])
            assert refused.value.hint is not None
            newest_database.execute(*refused.value.hint.replace("…", role).strip(";").split("; "))
            assert writer.append("order-1", [CREATED]) == 1
            assert writer.insert("order-1", [PAID], after=1) == 2
            assert writer.insert("order-2", [CREATED], after=0) == 1
            assert writer.append("order-2", [PAID], expected=1) == 2
    finally:
        newest_database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_role_goes_on_where_functions_are_nobodys(newest_database: Database) -> None:
    """What the ninth migration makes it calls with its own rights."""
    role = f"writer_{newest_database.name}"
    newest_database.execute(
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC", f"CREATE ROLE {role} LOGIN"
    )
    try:
        with EventStore(newest_database.dsn) as store:
            make_until(store, newest_database, 8)
            newest_database.execute(
                f"GRANT USAGE ON SCHEMA es TO {role}",
                f"GRANT SELECT, INSERT ON es.events TO {role}",
                f"GRANT SELECT, INSERT, UPDATE ON es.streams TO {role}",
                f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA es TO {role}",
                f"GRANT EXECUTE ON FUNCTION es.append TO {role}",
            )
            with EventStore(f"{newest_database.dsn} user={role}") as writer:
                assert writer.append("order-1", [CREATED]) == 1
                store.init()
                assert writer.append("order-1", [PAID], expected=1) == 2
                assert writer.append("order-2", [CREATED], expected="none") == 1
                assert writer.insert("order-2", [PAID], after=1) == 2
    finally:
        newest_database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_events_that_leave_sooner(newest_database: Database) -> None:
    """Appended as warm or cold, by whichever way; what there is not, is refused."""
    with EventStore(newest_database.dsn) as store:
        store.init()
        store.append("order-1", [CREATED], retention_class="cold", event_ids=["00000000-0000-0000-0000-000000000001"])
        store.append("order-1", [PAID], expected=1)
        store.append("order-1", [PAID], expected=2, retention_class="warm")
        store.append_many([Append(stream="order-2", events=[CREATED, PAID], retention_class="warm")])
        store.insert("order-3", [CREATED], after=0, retention_class="cold")
        wrong: Any = "frozen"
        with pytest.raises(pgcdc.ConfigError, match="no retention_class 'frozen'"):
            store.append("order-1", [PAID], retention_class=wrong)
    assert newest_database.execute("SELECT retention_class FROM es.events ORDER BY stream_id, sequence") == [
        ("cold",),
        ("hot",),
        ("warm",),
        ("warm",),
        ("warm",),
        ("cold",),
    ]


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("sequence", [1, 5])
def test_a_row_that_a_trigger_writes(database: Database, sequence: int) -> None:
    """Somebody's trigger on the events, which writes to another stream, also while `append` runs."""
    with EventStore(database.dsn) as store:
        store.init()
        database.execute(
            "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.stream_type <> 'till' THEN"
            f" {row(sequence)}; END IF; RETURN NULL; END $$",
            "CREATE TRIGGER follow AFTER INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION follow()",
        )
        if sequence == 1:
            store.append("order-1", [CREATED])
            assert database.execute("SELECT version FROM es.streams WHERE stream_id = 'till-8'") == [(1,)]
            assert store.append("till-8", [PAID, PAID], expected=1) == 3
        else:
            with pytest.raises(pgcdc.EventStoreError, match="hole"):
                store.append("order-1", [CREATED])
            database.execute("DROP TRIGGER follow ON es.events")  # which what `check` tries would meet, too
        assert store.check(deep=True)[0].status == "ok"


@pytest.mark.oldest_and_newest
def test_append_out_of_a_trigger(database: Database) -> None:
    """What `append` writes there has advanced its stream already."""
    with EventStore(database.dsn) as store:
        store.init()
        event = '[{"t": "created", "v": 1, "p": {}}, {"t": "created", "v": 1, "p": {}}]'
        database.execute(
            "CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.stream_type <> 'till' THEN"
            f" PERFORM es.append('till-8', 'till', -1, '{event}', '{{}}'); END IF; RETURN NULL; END $$",
            "CREATE TRIGGER follow AFTER INSERT ON es.events FOR EACH ROW EXECUTE FUNCTION follow()",
        )
        for count in (1, 2):
            store.append("order-1", [CREATED], expected=count - 1)
            assert [one.sequence for one in store.read("till-8")] == list(range(1, 2 * count + 1))
        assert store.check(deep=True)[0].status == "ok"
