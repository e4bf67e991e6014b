"""A store that was restored from a dump: its order of commits is another server's until it is adopted.

The dump is played: what is in the tables is moved into the future of the server, as it would be on a younger one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.eventstore import adopt, archive, plan_adopt, rebuild
from tests.eventstore.revenue import RIGHT, Sold, faults, revenue, right_revenue
from tests.eventstore.revenue import store_of as store_in
from tests.eventstore.test_archive import LATER
from tests.eventstore.test_archive_and_others import assert_journal, right, store_of
from tests.eventstore.test_projections import caught_up, write
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Database

RESTORED = (
    "SET pgcdc.maintenance = on",
    "SELECT pg_drop_replication_slot(slot) FROM es.epochs WHERE slot IS NOT NULL",
    "UPDATE es.events SET xid = (xid::text::bigint + 1000000000)::text::xid8",
    "UPDATE es.commits SET xid = (xid::text::bigint + 1000000000)::text::xid8, commit_lsn = commit_lsn + 1000000000000",
    "UPDATE es.epochs SET commit_lsn = commit_lsn + 1000000000000, noted_lsn = noted_lsn + 1000000000000, snapshot ="
    " format('%s:%s:', pg_snapshot_xmin(snapshot)::text::bigint + 1000000000,"
    " pg_snapshot_xmax(snapshot)::text::bigint + 1000000000)::pg_snapshot",
    "UPDATE es.projections SET commit_lsn = commit_lsn + 1000000000000, passed_lsn = passed_lsn + 1000000000000",
    "UPDATE es.archive_segments SET max_lsn = max_lsn + 1000000000000",
)


def test_what_was_restored_is_refused_until_it_is_adopted(database: Database, tmp_path: Path) -> None:
    with store_of(database, tmp_path) as store:
        write(store, 1, 20)
        assert not plan_adopt(store).is_foreign
        with running(store.pipeline()):
            caught_up(store)
            write(store, 2, 20)  # behind the beginning of the slot
            caught_up(store)
            rebuild(store, "revenue")
        store.retention("*", hot="0 hours", warm=timedelta(0))
        assert archive(store, now=LATER, segment_events=30).done
        write(store, 3, 5)
        with running(store.pipeline()):
            caught_up(store)
        with pytest.raises(pgcdc.ConfigError, match="is that of this server"):
            adopt(store)
        events = [one for some in store.replay() for one in some]

        with database.connect() as connection:
            for statement in RESTORED:
                connection.execute(statement)
        finding = store.check()[6]
        assert (finding.number, finding.status) == (7, "failed")
        assert "restored from a dump" in finding.found
        with pytest.raises(pgcdc.ConfigError, match="restored from a dump") as raised:
            store.pipeline().run()
        assert raised.value.hint is not None and "pgcdc events adopt" in raised.value.hint
        assert str(plan_adopt(store)).splitlines()[-2:] == [
            "  generations that are not live are dropped: es_revenue_1",
            "  these projections stay as they are until they are rebuilt: journal, revenue",
        ]
        done = adopt(store)
        assert done.events == database.execute("SELECT count(*) FROM es.events")[0][0] > 0
        assert done.segments > 0
        assert [one for some in store.replay() for one in some] == events
        with running(store.pipeline()):
            until(lambda: bool(database.execute("SELECT 1 FROM es.epochs")), "an epoch", pause=0.1)
            write(store, 4, 10)
            for name in ("revenue", "journal"):
                rebuild(store, name)
            write(store, 5, 10)
            caught_up(store)
        assert revenue(database) == right(store)
        assert_journal(database, store)
        assert store.check()[6].status == "ok"
        assert archive(store, now=LATER).done
        store.append("till-1", [Sold("toys", 1)])


def test_a_copy_in_the_same_server_gets_a_slot_of_its_own(newest_database: Database) -> None:
    """The hints lead there; whatever is tried on the way, the original keeps its slot, and misses nothing."""
    original = newest_database
    with store_in(original) as store:
        write(store, 1, 20)
        with running(store.pipeline()):
            caught_up(store)
            write(store, 2, 10)
            caught_up(store)
    name = f"{original.name}_copy"
    original.execute(f'CREATE DATABASE "{name}" TEMPLATE "{original.name}"')
    copy = type(original)(original.server, name)
    try:
        with store_in(copy) as store:
            write(store, 3, 10)
            with pytest.raises(pgcdc.ConfigError, match=f"is a copy of that of the database {original.name}") as raised:
                store.pipeline().run()
            assert raised.value.hint is not None
            assert "pgcdc events adopt" in raised.value.hint
            assert "store.pipeline(slot='pgcdc_es_2')" in raised.value.hint
            finding = store.check()[6]
            assert (finding.number, finding.status) == (7, "failed")
            assert finding.hint is not None and "pgcdc events adopt" in finding.hint
            assert adopt(store).copied_from == original.name
            store.pipeline().destroy()
            with pytest.raises(pgcdc.ConfigError, match="has database"):
                store.pipeline().run()
            with running(store.pipeline(slot="pgcdc_es_2")):
                caught_up(store)
                write(store, 4, 10)
                caught_up(store)
                rebuild(store, "revenue")
                write(store, 5, 10)
                caught_up(store)
            assert revenue(copy) == right_revenue(copy)
            assert faults(copy) == RIGHT
            assert store.check()[6].status == "ok"
            store.pipeline(slot="pgcdc_es_2").destroy()
        with store_in(original) as store, running(store.pipeline()):
            write(store, 6, 10)
            caught_up(store)
            assert revenue(original) == right_revenue(original)
            assert faults(original) == RIGHT
    finally:
        original.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
