"""A publication is renamed, dropped and made again, or loses a table for a while, under load (fault F6)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.events import Commit, Insert
from pgcdc.replication import Reconnect
from tests.faults.judge import SECONDS, Writers, make_tables
from tests.replication.streams import confirmed, ids, new_name
from tests.replication.test_stream_faults import read_for_ever

if TYPE_CHECKING:
    from pgcdc.replication import Stream
    from tests.conftest import Database

SOON = Reconnect(first=0.02, longest=0.2)
GONE = {
    "renamed": (["ALTER PUBLICATION p RENAME TO q"], ["ALTER PUBLICATION q RENAME TO p"]),
    "dropped": (["DROP PUBLICATION p"], ["CREATE PUBLICATION p FOR TABLE written"]),
}


@pytest.mark.parametrize("fault", GONE)
def test_a_publication_that_was_not_there(database: Database, fault: str, long: bool) -> None:
    """One error, also of the next stream and when it is back: what was written meanwhile is nowhere passed over."""
    make_tables(database)
    gone, back = GONE[fault]
    commits: list[int] = []
    ends = [0]
    came: dict[int, set[int]] = {}
    inside: dict[int, set[int]] = {}
    before: set[int] = set()
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
        with (
            Writers(database, 400 if long else 40) as writers,
            connection.stream(slot, ["p"], reconnect=SOON, confirm_idle=False) as stream,
        ):

            def read_on() -> None:
                deadline = time.monotonic() + SECONDS
                while time.monotonic() < deadline:
                    for event in stream.read(0.1).events(stream.format):
                        if isinstance(event, Insert):
                            inside.setdefault(event.new.batch, set()).add(event.new.id)
                        elif isinstance(event, Commit):
                            came.update(inside)
                            inside.clear()
                            commits.append(event.commit_lsn)
                            ends.append(event.end_lsn)
                            stream.confirm(event)
                            writers.seen()
                    if not before and len(came) >= 10:
                        # What can be seen now was committed before the publication goes.
                        before.update(row[0] for row in database.execute("SELECT batch FROM written"))
                        database.execute(*gone)

            with pytest.raises(pgcdc.PublicationNotFound) as caught:
                read_on()
            assert stream.reconnects == 0
        assert caught.value.publication == "p" and caught.value.slot == slot and caught.value.hint
        assert caught.value.sqlstate == ("55000" if connection.server_version >= 180000 else "42704")
        assert commits == sorted(set(commits)), "L2"
        written = {**writers.committed, **writers.unknown}
        # PostgreSQL 18 sends its warning at the change, and what is in the same read is not handed over any more.
        assert before <= came.keys() or caught.value.sqlstate == "55000", "L0, up to where it went"
        assert all(written[batch] == rows for batch, rows in came.items()), "L1, and each transaction whole"
        # A transaction that was open when the publication went may end in its midst, without its Commit.
        assert all(rows <= written[batch] for batch, rows in inside.items()) and len(inside) <= 1, "L1"
        assert confirmed(database, slot) <= ends[-1]

        database.execute(*back)
        with connection.stream(slot, ["p"]) as again, pytest.raises(pgcdc.PublicationNotFound) as caught:
            read_for_ever(again)
        assert "new slot" in (caught.value.hint or "")
        assert confirmed(database, slot) <= ends[-1]


def test_what_a_stream_cannot_notice(database: Database) -> None:
    """A table that was taken out for a while is missing without a word, and what is published is the server's business.

    A pipeline looks at the catalog for that reason. A publication that is put in another's place at once leaves no gap.
    """
    make_tables(database)
    with pgcdc.connect(database.dsn) as connection:
        slot = connection.create_slot(new_name()).name
        with connection.stream(slot, ["p"], reconnect=SOON) as stream:
            for number, statements in enumerate(
                (
                    [],
                    ["ALTER PUBLICATION p DROP TABLE written"],
                    ["ALTER PUBLICATION p ADD TABLE written"],
                    ["ALTER PUBLICATION p SET (publish = 'delete')"],
                    ["ALTER PUBLICATION p SET (publish = 'insert')"],
                )
            ):
                database.execute(*statements, f"INSERT INTO written VALUES ({number})")
            with database.connect() as writer:
                writer.execute("BEGIN; DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE written; COMMIT")
                writer.execute("INSERT INTO written VALUES (5)")
            assert read_until(stream, 5) == [0, 2, 4, 5]
            assert stream.reconnects == 0


def read_until(stream: Stream, last: int) -> list[int]:
    """The ids that come, up to one."""
    came: list[int] = []
    deadline = time.monotonic() + SECONDS
    while last not in came:
        assert time.monotonic() < deadline, f"only {came} came"
        came += ids(stream.read(0.1).events(stream.format))
    return came
