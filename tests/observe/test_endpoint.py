"""What a pipeline's process answers to those who watch it, while a real one runs, hangs, waits and ends.

Over 400 lines because each thing that can be wrong is brought about with a real pipeline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import pytest

import pgcdc
from pgcdc import ConfigError
from pgcdc.eventstore import Recorded
from pgcdc.observe import Limits, Observation, exporting, serving
from pgcdc.observe.endpoint import AT_ONCE, Answer, Endpoint, parse_listen
from pgcdc.observe.monitor import Monitor
from pgcdc.observe.server_watch import ServerWatch
from pgcdc.testing import FaultySink
from tests.eventstore.revenue import Closed, Journal, Revenue, store_of
from tests.observe.answers import ask, ready, samples, unready, value
from tests.pipeline.running import Running, running, until
from tests.pipeline.shop import ORDERS, shop
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Database


def active(endpoint: Endpoint, slot: str) -> bool:
    """Whether the server has said that a process streams from a slot."""
    return samples(endpoint).get(("pgcdc_slot_active", frozenset({("slot", slot)}))) == 1.0


EAGER = Limits(late=0.5, stalled=0.5, stuck=60)


def test_a_pipeline_is_watched_from_its_beginning_to_its_end(database: Database) -> None:
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'new')")
    pipeline = shop(database)
    with serving(pipeline, 0) as endpoint:
        assert endpoint.address.host == "127.0.0.1"
        assert (ask(endpoint, "/readyz").status, ask(endpoint, "/readyz").kinds) == (503, {"stopped"})
        assert ask(endpoint, "/healthz").json == {"healthy": True, "reasons": []}, "it has not begun"
        with running(pipeline) as run:
            run.streaming()
            database.execute("INSERT INTO orders SELECT g, 'more' FROM generate_series(2, 11) g")
            run.catch_up(database)
            ready(endpoint)
            assert ask(endpoint, "/readyz").json == {"ready": True, "reasons": []}
            assert ask(endpoint, "/healthz").status == 200

            def statistics() -> Observation:
                return msgspec.json.decode(ask(endpoint, "/statistics").body, type=Observation)

            until(lambda: active(endpoint, "pgcdc_shop"), "the slot is seen")
            seen = statistics()
            assert seen.ready and seen.well and seen.server is not None
            until(lambda: pipeline.statistics().source.confirmed_lsn > 0, "something is confirmed")
            assert seen.statistics.consumers["sink"].delivered == 11
            assert [(slot.name, slot.active) for slot in seen.server.slots] == [("pgcdc_shop", True)]
            assert seen.server.wal_lsn > 0 and abs(seen.server.clock_ahead) < 1.0, "it is this machine's clock"

            found = samples(endpoint)
            assert value(found, "pgcdc_ready") == value(found, "pgcdc_healthy") == 1.0
            assert value(found, "pgcdc_consumer_delivered_changes_total", consumer="sink") == 11.0
            assert value(found, "pgcdc_consumer_lag_seconds", consumer="sink") < 60.0
            assert value(found, "pgcdc_phase", slot="pgcdc_shop", phase="streaming") == 1.0
            assert value(found, "pgcdc_phase", slot="pgcdc_shop", phase="standby") == 0.0
            assert value(found, "pgcdc_consumer_state", consumer="sink", state="running") == 1.0
            assert value(found, "pgcdc_slot_active", slot="pgcdc_shop") == 1.0
            assert value(found, "pgcdc_slot_lost", slot="pgcdc_shop") == 0.0
            assert value(found, "pgcdc_slot_retained_bytes", slot="pgcdc_shop") > 0
            assert value(found, "pgcdc_server_wal_bytes_total") > 0
            assert value(found, "pgcdc_wal_confirmed_bytes_total", slot="pgcdc_shop") > 0
            assert sum(value for (name, _), value in found.items() if name == "pgcdc_not_ready") == 0.0
            plain = samples(endpoint, accept="text/plain")
            assert value(plain, "pgcdc_consumer_delivered_changes_total", consumer="sink") == 11.0, "the older format"
        assert unready(endpoint, "stopped").status == 503
        assert (ask(endpoint, "/healthz").status, ask(endpoint, "/healthz").kinds) == (503, {"stopped"})
        assert value(samples(endpoint), "pgcdc_healthy") == 0.0


def test_only_what_is_there_is_answered(newest_database: Database) -> None:
    with serving(shop(newest_database), "localhost:0") as endpoint:
        assert ask(endpoint, "/").status == 404 and b"/metrics" in ask(endpoint, "/").body
        assert ask(endpoint, "/metrics?name[]=up").status == 200
        head = ask(endpoint, "/healthz", method="HEAD")
        assert (head.status, head.body) == (200, b"") and int(head.headers["Content-Length"]) > 10
        assert ask(endpoint, "/metrics", method="POST").status == 501
        assert ask(endpoint, "/healthz").headers["Server"].strip() == "pgcdc"
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{endpoint.address.port}: "):
            serving(shop(newest_database), endpoint.address.port).__enter__()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (9440, ("127.0.0.1", 9440)),
        ("9440", ("127.0.0.1", 9440)),
        ("0.0.0.0:9440", ("0.0.0.0", 9440)),
        ("[::1]:9440", ("::1", 9440)),
        ("metrics.internal:0", ("metrics.internal", 0)),
    ],
)
def test_where_to_listen(text: str | int, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "localhost", ":9440", "localhost:", "1:70000", "localhost:http", "-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is not where to listen"):
        parse_listen(text)


def test_a_target_that_is_away_is_said(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    retry = pgcdc.Retry(first=0.01, longest=0.01, breaker_after=3, breaker_pause=60.0)
    pipeline.add(FaultySink(unavailable=range(1, 1000)), name="away", retry=retry)
    pipeline.add(FaultySink(), name="here")
    with serving(pipeline, 0, redact=str.upper) as endpoint, running(pipeline):
        ready(endpoint)
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        answer = unready(endpoint, "breaker_open")
        [reason] = answer.json["reasons"]
        assert (answer.status, reason["consumer"]) == (503, "away")
        assert "leaves its target alone for another" in reason["text"]
        found = samples(endpoint)
        assert value(found, "pgcdc_not_ready", reason="breaker_open") == 1.0
        assert value(found, "pgcdc_consumer_breaker_open", consumer="away") == 1.0
        assert value(found, "pgcdc_consumer_breaker_open", consumer="here") == 0.0
        assert value(found, "pgcdc_consumer_failed_attempts", consumer="away") == 3.0
        assert ask(endpoint, "/healthz").status == 200, "a new process would not help"
        error = ask(endpoint, "/statistics").json["statistics"]["consumers"]["away"]["last_error"]
        assert error and error == error.upper() and error in reason["text"], "what others have worded is gone through"


def test_dead_letters_and_held_keys_are_counted(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(FaultySink(reject=lambda change: change.new.status == "bad"), name="picky", on_failure="hold")
    with serving(pipeline, 0) as endpoint, running(pipeline) as run:
        run.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'bad'), (2, 'good')")
        run.catch_up(database)
        until(lambda: value(samples(endpoint), "pgcdc_dead_letters", consumer="picky") == 1.0, "it is counted")
        assert value(samples(endpoint), "pgcdc_held_keys", consumer="picky") == 1.0
        assert ask(endpoint, "/readyz").status == 200, "the others go on; there is an alert for this"


def test_a_consumer_that_is_late(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    gate = threading.Event()
    gate.set()
    sink = FaultySink(gate=gate)
    pipeline = shop(database, sink)
    with serving(pipeline, 0, limits=EAGER) as endpoint, running(pipeline) as run:
        try:
            run.streaming()
            ready(endpoint)
            gate.clear()
            database.execute("INSERT INTO orders VALUES (1, 'new')")
            [reason] = [one for one in unready(endpoint, "late").json["reasons"] if one["kind"] == "late"]
            assert reason["text"].startswith("consumer 'sink' is ") and reason["text"].endswith(" late, more than 0")
            found = samples(endpoint)
            assert value(found, "pgcdc_consumer_lag_seconds", consumer="sink") > 0.5
            assert value(found, "pgcdc_consumer_lag_bytes", consumer="sink") > 0
            assert value(found, "pgcdc_consumer_queued_changes", consumer="sink") == 1.0
        finally:
            gate.set()
        ready(endpoint)


def test_a_standby_is_well_and_not_ready(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    second = shop(database, standby=True)
    with running(shop(database)) as first, serving(second, 0) as endpoint:
        first.streaming()
        with running(second):
            unready(endpoint, "standby")
            assert ask(endpoint, "/readyz").kinds == {"standby"}
            assert ask(endpoint, "/healthz").status == 200
            found = samples(endpoint)
            assert value(found, "pgcdc_phase", slot="pgcdc_shop", phase="standby") == 1.0
            assert value(found, "pgcdc_slot_active", slot="pgcdc_shop") == 1.0, "the other process streams"
            first.stop()
            ready(endpoint)


def test_a_stream_that_brings_nothing_is_stalled(newest_database: Database) -> None:
    """The connection stands, and nothing comes: only the server itself can say that there is more."""
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database)
    monitor = Monitor(pipeline, limits=EAGER, watch=ServerWatch(database.dsn, fresh=0.05))

    def kinds() -> set[str]:
        return {reason.kind for reason in monitor.observe().reasons}

    with running(pipeline) as run:
        run.streaming()
        until(lambda: kinds() == set(), "it is ready", pause=0.05)
        [(walsender,)] = database.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'pgcdc_shop'")
        os.kill(walsender, signal.SIGSTOP)
        try:
            database.execute("INSERT INTO orders VALUES (1, 'new')")
            until(lambda: "stalled" in kinds(), "it is seen", pause=0.05)
        finally:
            os.kill(walsender, signal.SIGCONT)
        until(lambda: kinds() == set(), "all has come", pause=0.05)


def test_a_quiet_server_is_no_stalled_stream(database: Database) -> None:
    """Its WAL goes on without anything for us; keepalives say so."""
    database.execute(ORDERS, "CREATE TABLE elsewhere (id int)")
    pipeline = shop(database)
    monitor = Monitor(pipeline, limits=EAGER, watch=ServerWatch(database.dsn, fresh=0.0))
    with running(pipeline) as run:
        run.streaming()
        until(lambda: monitor.observe().ready, "it is ready", pause=0.05)
        for _ in range(3):
            database.execute("INSERT INTO elsewhere SELECT generate_series(1, 100)", "CHECKPOINT")
            wanted = monitor.observe().server
            assert wanted is not None
            until(
                lambda lsn=wanted.wal_lsn: pipeline.statistics().source.received_lsn >= lsn,  # type: ignore[misc]
                "the server says that there was nothing",
                pause=0.05,
            )
        until(lambda: monitor.observe().ready, "it is still", pause=0.05)
        assert (monitor.observe().statistics.consumers["sink"].lag_seconds or 0.0) == 0.0


def test_an_event_loop_that_does_not_turn(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    blocked = threading.Event()
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])

    @pipeline.on("orders")
    async def block(change: object) -> None:
        del change
        blocked.wait(60)

    with serving(pipeline, 0, limits=Limits(stuck=1.5)) as endpoint, running(pipeline) as run:
        run.streaming()
        until(lambda: ask(endpoint, "/healthz").status == 200, "it turns", pause=0.1)
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        try:
            until(lambda: "loop_stuck" in ask(endpoint, "/healthz").kinds, "it is seen", pause=0.1)
            assert "loop_stuck" in ask(endpoint, "/readyz").kinds
        finally:
            blocked.set()
        until(lambda: ask(endpoint, "/healthz").status == 200, "it turns again", pause=0.1)


def test_how_much_more_wal_until_a_slot_is_lost(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS, "CREATE TABLE elsewhere (id int)")
    database.execute(f"SELECT pg_create_logical_replication_slot('left_{database.name}', 'pgoutput')")
    with database.server.settings(max_slot_wal_keep_size="10GB"):
        watch = ServerWatch(database.dsn, fresh=0.0)
        assert watch.look() is not None
        watch._written[0] = (watch._written[0][0] - 10.0, watch._written[0][1])  # as if that had been 10 s ago
        database.execute("INSERT INTO elsewhere SELECT generate_series(1, 100000)")
        look = watch.look()
        assert look is not None and look.wal_bytes_per_second is not None
        assert 10_000 < look.wal_bytes_per_second < 10_000_000
        with exporting(database.dsn, 0) as endpoint:
            found = samples(endpoint)
            name = f"left_{database.name}"
            assert value(found, "pgcdc_server_up") == 1.0
            assert value(found, "pgcdc_slot_active", slot=name) == 0.0
            assert value(found, "pgcdc_slot_retained_bytes", slot=name) > 1_000_000
            assert value(found, "pgcdc_slot_safe_wal_bytes", slot=name) > 9_000_000_000
            inactive = ("pgcdc_slot_inactive_seconds", frozenset({("slot", name)}))
            assert (inactive in found) == (database.server.version >= 17)
            assert ask(endpoint, "/readyz").status == 200


def test_a_server_that_does_not_answer_is_not_waited_for(newest_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections, and says nothing
        port = listener.getsockname()[1]
        watch = ServerWatch(f"host=127.0.0.1 port={port} dbname=shop", within=0.05)
        assert watch.look() is None
        asking = watch._asking
        assert asking is not None and asking.is_alive()
        assert watch.look() is None and watch._asking is asking, "it is not asked twice at once"
    asking.join(30)
    assert not asking.is_alive()
    assert watch.look() is None, "nobody listens any more"


def test_a_look_gets_old(newest_database: Database) -> None:
    with Proxy(newest_database.server.port) as proxy:
        watch = ServerWatch(proxy.dsn(newest_database.dsn), fresh=0.0, within=5.0, stale=3600.0)
        first = watch.look()
        assert first is not None
        proxy.refuse = True
        assert watch.look() == first, "what is known is said, with its age"
        watch._stale = 0.0
        assert watch.look() is None


def test_no_more_is_answered_at_once_than_there_are_threads_for() -> None:
    gate, came = threading.Event(), threading.Semaphore(0)

    def slow(_: str) -> Answer:
        came.release()
        gate.wait(60)
        return Answer(HTTPStatus.OK, "text/plain", b"done")

    with Endpoint(0, {"/slow": slow}) as endpoint, contextlib.ExitStack() as stack:
        stack.callback(gate.set)
        answered: list[int] = []
        threads = [
            threading.Thread(target=lambda: answered.append(ask(endpoint, "/slow").status)) for _ in range(AT_ONCE)
        ]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert came.acquire(timeout=30)
        answer = b""
        with socket.create_connection(endpoint.address, timeout=30) as one_more, contextlib.suppress(ConnectionError):
            one_more.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
            answer = one_more.recv(100)  # it is not kept waiting
        assert answer == b""
        gate.set()
        for thread in threads:
            thread.join(30)
        assert answered == [200] * AT_ONCE


def test_a_defect_is_answered_as_one(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: str) -> Answer:
        raise LookupError("a secret")

    pages: dict[str, Callable[[str], Answer]] = {"/broken": broken}
    with Endpoint(0, pages) as endpoint:
        answer = ask(endpoint, "/broken")
    assert answer.status == 500 and b"secret" not in answer.body and b"LookupError" in answer.body
    assert "/broken could not be answered" in caplog.text


def test_a_run_that_ends_with_an_error(newest_database: Database) -> None:
    database = newest_database
    database.execute(ORDERS)
    pipeline = shop(database, FaultySink(fail_at=1))
    with serving(pipeline, 0) as endpoint:
        run = Running(pipeline)
        run.streaming()
        database.execute("INSERT INTO orders VALUES (1, 'new')")
        assert isinstance(run.ended(), pgcdc.Error)
        assert ask(endpoint, "/healthz").kinds == {"stopped"}
        assert "consumer_failed" in ask(endpoint, "/readyz").kinds


def test_a_consumer_with_a_slot_of_its_own(newest_database: Database) -> None:
    """Its stream is judged by itself, and its slot is looked at, too."""
    database = newest_database
    database.execute(ORDERS)
    gate = threading.Event()
    pipeline = shop(database, snapshot="never")
    pipeline.add(FaultySink(gate=gate), name="alone", own_slot=True)
    with serving(pipeline, 0, limits=EAGER) as endpoint, running(pipeline) as run:
        try:
            run.streaming()
            until(lambda: "alone" in pipeline.statistics().own_slots, "it has begun")
            ready(endpoint)
            database.execute("INSERT INTO orders VALUES (1, 'new')")
            late = [one for one in unready(endpoint, "late").json["reasons"] if one["kind"] == "late"]
            assert [one["consumer"] for one in late] == ["alone"]
            found = samples(endpoint)
            for slot in ("pgcdc_shop", "pgcdc_shop__alone"):
                assert value(found, "pgcdc_phase", slot=slot, phase="streaming") == 1.0
                # The server is asked once a second at most.
                until(lambda slot=slot: active(endpoint, slot), "it is seen that it is streamed from")  # type: ignore[misc]
        finally:
            gate.set()
        ready(endpoint)


def test_a_projection_that_is_parked(newest_database: Database) -> None:
    """Its writes return and it takes no event: it is not ready, its lag grows, until it is mended."""

    class Failing(Revenue):
        def on_closed(self, event: Closed, recorded: Recorded) -> None:
            raise ValueError("secret value")

    def lag(endpoint: Endpoint) -> float:
        return value(samples(endpoint), "pgcdc_consumer_lag_seconds", consumer="revenue")

    with store_of(newest_database, ("revenue", Failing), ("journal", Journal)) as store:
        pipeline = store.pipeline()
        with serving(pipeline, 0) as endpoint, running(pipeline):
            ready(endpoint)
            assert value(samples(endpoint), "pgcdc_consumer_parked", consumer="revenue") == 0.0
            store.append("till-1", [Closed()])
            [reason] = [one for one in unready(endpoint, "parked").json["reasons"] if one["kind"] == "parked"]
            assert reason["consumer"] == "revenue"
            assert reason["text"].endswith("is parked: ValueError at event 1 of the stream till-1, Closed")
            store.wait("journal", store.lsn(), timeout=60)
            found = samples(endpoint)
            assert value(found, "pgcdc_consumer_parked", consumer="revenue") == 1.0
            assert value(found, "pgcdc_consumer_parked", consumer="journal") == 0.0
            first = lag(endpoint)
            until(lambda: lag(endpoint) > first, "its lag grows", pause=0.05)
            pipeline.stop()
    with store_of(newest_database) as mended:
        pipeline = mended.pipeline()
        with serving(pipeline, 0) as endpoint, running(pipeline):
            ready(endpoint)
            assert value(samples(endpoint), "pgcdc_consumer_parked", consumer="revenue") == 0.0
