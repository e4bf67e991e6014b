"""The slot loses its WAL while a stream reads from it (fault F5); when it is dropped: see test_reconnect."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.replication import Reconnect
from tests.faults.judge import make_tables, until
from tests.replication.streams import new_name
from tests.replication.test_stream_faults import read_for_ever

if TYPE_CHECKING:
    from tests.conftest import Database


def test_the_slot_loses_its_wal(database: Database) -> None:
    """The server ends the stream for it; what the next attempt finds is said at once, and nothing is made again."""
    make_tables(database)
    lossy = database.server.settings(max_slot_wal_keep_size="1MB", wal_keep_size="0")
    with lossy, pgcdc.connect(database.dsn) as connection, database.connect() as observer:
        slot = connection.create_slot(new_name()).name
        status = f"SELECT wal_status = 'lost' FROM pg_replication_slots WHERE slot_name = '{slot}'"
        with connection.stream(slot, ["p"], reconnect=Reconnect(first=0.02, longest=0.2)) as stream:

            def lost() -> bool:
                observer.execute("INSERT INTO written SELECT coalesce(max(id), 0) + 1 FROM written")
                observer.execute("SELECT pg_switch_wal()")
                observer.execute("CHECKPOINT")
                return observer.execute(status).fetchone() == (True,)

            until(lost, 60)
            began = time.monotonic()
            with pytest.raises(pgcdc.SlotLost) as caught:
                read_for_ever(stream)
            assert time.monotonic() - began < 15
            assert caught.value.slot == slot and caught.value.sqlstate == "55000"
            assert "new snapshot" in (caught.value.hint or "")
            assert stream.reconnects == 0
        again = connection.slot(slot)
        assert again is not None and again.lost, "it is as it was: not dropped, not made again"
