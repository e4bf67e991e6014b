"""What is seen of a real server of each version, and that looking goes on when its connection was ended."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("starlette")

import pgcdc
from pgcdc.console import Console, Serving
from pgcdc.console.observation import Observer
from pgcdc.console.pages import letters
from pgcdc.console.subject import Subject
from pgcdc.console.troubles import troubles_of
from pgcdc.console.watch import numbers_of
from pgcdc.observe.facts import Asked, gather
from pgcdc.observe.overview import overview_of
from pgcdc.observe.slots import reaching
from pgcdc.testing import FaultySink
from tests.observe.answers import ask
from tests.pipeline.running import running, until
from tests.pipeline.shop import ORDERS
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from tests.conftest import Database


def streams(pipeline: pgcdc.Pipeline, consumer: str) -> bool:
    """Whether a consumer's own slot is streamed from."""
    own = pipeline.statistics().own_slots.get(consumer)
    return own is not None and own.phase == "streaming"


def test_consumers_with_slots_of_their_own(newest_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored of them stands under another name; with the pipeline and without it they are its consumers."""
    database = newest_database
    database.execute(ORDERS)
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"], snapshot="never")
    pipeline.add(
        FaultySink(reject=lambda change: change.new.status == "bad"), name="a", own_slot=True, on_failure="park"
    )
    pipeline.add(FaultySink(), name="b")
    with running(pipeline) as run:
        run.streaming()
        until(lambda: streams(pipeline, "a"), "its stream has begun")
        database.execute("INSERT INTO orders VALUES (1, 'bad'), (2, 'good'), (3, 'bad')")
        until(lambda: len(pipeline.dead_letters.list()) == 2, "dead letters")
        run.catch_up(database)
    monkeypatch.setattr(letters, "_MOST", 1)
    for subject in (Subject(database.dsn, pipeline=pipeline), Subject(database.dsn)):
        observer = Observer(subject)
        seen = observer.observe()
        observer.close()
        assert {(one.pipeline, one.name) for one in seen.consumers} == {("shop", "a"), ("shop", "b")}
        found = seen.consumer("shop", "a")
        assert found is not None and found.slot == "pgcdc_shop__a"
        assert found.stored_at is not None and found.behind is not None
        assert (found.letters.failed, seen.letters) == (2, 2)
        with Serving(Console(subject), "127.0.0.1", 0) as serving:
            url = serving.url.rstrip("/")
            for page, word in {
                "/schema": b"Version 1",
                "/deadletters?consumer=a&pipeline=shop": b"consumer=a&amp;pipeline=shop&amp;page=2",
                "/deadletters?consumer=a&pipeline=shop&page=2": b"SinkRejected",
                "/stream?id=%00": b"",
                "/streams?q=%00": b"",
            }.items():
                answer = ask(url, page)
                assert answer.status == (409 if "%00" in page else 200) and word in answer.body, page
            for page in ("/slot?name=none", "/consumer?pipeline=shop&name=none", "/deadletter?id=999"):
                answer = ask(url, page)
                assert answer.status == 404 and b"No such" in answer.body, page
    pipeline.dead_letters.close()
    stored = gather(database.dsn, Asked(pipeline="shop")).store
    assert (stored["positions"], stored["dead_letters"]) == (2, 2), "the doctor knows them, too"
    with reaching(database.dsn) as connection:
        shown = overview_of(connection).consumers
    assert shown is not None
    assert {(one.pipeline, one.consumer, one.failed_letters) for one in shown} == {("shop", "a", 2), ("shop", "b", 0)}
    # Letters whose consumer has stored nothing are letters, too; and a slot is gone, or elsewhere.
    database.execute(
        "DELETE FROM pgcdc.positions WHERE consumer = 'a'", "SELECT pg_drop_replication_slot('pgcdc_shop')"
    )
    observer = Observer(Subject(database.dsn))
    seen = observer.observe()
    observer.close()
    assert seen.letters == 2
    assert "Slot pgcdc_shop of consumer b of shop is not on this server." in [one.what for one in troubles_of(seen)]


def test_a_server_that_does_not_answer(newest_database: Database) -> None:
    """Pages say so and wait no more; the console ends nevertheless."""
    with Proxy(newest_database.server.port) as proxy:
        console = Console(Subject(proxy.dsn(newest_database.dsn)), every=0.05)
        serving = Serving(console, "127.0.0.1", 0)
        with serving:
            url = serving.url.rstrip("/")
            assert b"has not answered" not in ask(url, "/").body
            proxy.hole = True
            console.watch._within = 0.2
            until(lambda: b"The server has not answered for" in ask(url, "/").body, "it is said", pause=0.05)
            for page in ("/tables", "/schema", "/deadletters", "/streams"):
                answer = ask(url, page)
                assert answer.status == 409 and b"has not answered" in answer.body
            ending = threading.Thread(target=serving.stop)
            ending.start()
            ending.join(30)
            assert not ending.is_alive()
            assert looking(), "the look is still under way"
    until(lambda: not looking(), "it has ended with its connection")


def looking() -> list[threading.Thread]:
    """The threads that look at a server."""
    return [one for one in threading.enumerate() if one.name == "pgcdc-console-look"]


def test_a_server_of_each_version(database: Database) -> None:
    slot = f"left_{database.name}"
    database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    observer = Observer(Subject(database.dsn))
    try:
        seen = observer.observe()
        assert (seen.error, seen.database, seen.is_standby, seen.consumers) == (None, database.name, False, [])
        assert seen.server.startswith(str(database.server.version))
        assert seen.unknown == [], "tables that are not there are no secret"
        found = seen.slot(slot)
        assert found is not None and not found.active and not found.lost
        assert numbers_of(seen)[f"slot/{slot}/held"] >= 0
        [trouble] = [one for one in troubles_of(seen) if slot in one.what]
        assert trouble.grave == "warning" and "drop it when nobody does" in trouble.then
        assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcdc'") == [(0,)]

        database.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pgcdc'"
        )
        seen = observer.observe()
        assert seen.error is not None and seen.error.startswith("the server cannot be asked")
        assert [one.grave for one in troubles_of(seen)] == ["critical"]
        assert observer.observe().slot(slot) is not None, "the next look has another connection"
    finally:
        observer.close()
