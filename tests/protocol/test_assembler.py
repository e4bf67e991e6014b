"""The assembler: what streamed and prepared transactions come to is what protocol 1 says, event by event."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from pgcdc.errors import ConfigError, DecodeError, PositionError, SpillError, UnknownRelation
from pgcdc.events import Begin, Commit, Insert, Message, Origin, Relation, StreamAbort, Type
from pgcdc.lsn import Position
from pgcdc.protocol import Assembler, AssemblerStatistics, Batch, Decoder, RowFormat, TypeCatalog
from tests.protocol import wire
from tests.protocol.captures import STREAM_IDS, STREAMS, capture, reference
from tests.protocol.test_streams import ROW, STREAM, TABLE, WIDE, WIDE_ROW, streamed
from tests.reference import plain

Pairs = Iterable[tuple[int, bytes]]


def assembled(messages: Pairs, assembler: Assembler, at_a_time: int = 7) -> list[Any]:
    """All events that come out, without anything left over."""
    pairs = list(messages)
    events: list[Any] = []
    for start in range(0, len(pairs), at_a_time):
        some = pairs[start : start + at_a_time]
        for batch in assembler.read([message for _, message in some], [lsn for lsn, _ in some]):
            assert not batch.in_progress
            events += batch.events()
    return events


def said(events: Sequence[Any]) -> list[Any]:
    """What protocol 1 and the assembler must say alike.

    Not how often a Relation and a Type are said; nor that a transaction was empty, which 14 says and later versions do
    not; nor where a transaction from elsewhere was committed there, which a server that streams it does not say;
    nor that 18 gave up a large transaction that it had not streamed.
    """
    events = [event for event in events if not isinstance(event, Relation | Type | StreamAbort)]
    alike: list[Any] = []
    for event in events:
        if isinstance(event, Commit) and isinstance(alike[-1], Begin):
            alike.pop()
        elif isinstance(event, Origin):
            alike.append(msgspec.structs.replace(event, commit_lsn=0))
        else:
            alike.append(event)
    # Where a transaction began is where its first change is that was sent, which may be one that was rolled back.
    alike = [msgspec.structs.replace(event, lsn=UNSET) if isinstance(event, Begin) else event for event in alike]
    return [plain(event) for event in alike]


@pytest.mark.parametrize("max_memory", [0, 2000, 2**25])
@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_what_servers_sent_comes_to_what_protocol_1_says(version: int, manner: str, max_memory: int) -> None:
    """PostgreSQL 14 to 18 in every manner that each knows; with memory for nothing, for little, for all."""
    catalog = TypeCatalog()
    for event in reference(version, "plain"):
        if isinstance(event, Type) and not catalog.knows(event.oid):
            catalog.add(event.oid, event.name, enum=True)
    lsns, messages = zip(*capture(version, "plain"), strict=True)
    expected = said(Decoder("dict", catalog=catalog).decode_many(messages, lsns))
    assembler = Assembler(max_memory=max_memory, format=RowFormat("dict", catalog=catalog))
    events = assembled(capture(version, manner), assembler)
    assert said(events) == expected
    assert assembler.statistics() == AssemblerStatistics(0, 0, 0, 0)
    assert assembler.idle and assembler.hold_lsn is None
    ends = [event.end_lsn for event in events if isinstance(event, Commit)]
    assert assembler.confirmable_lsn >= ends[-1]


def test_the_stream_of_the_decoders_tests() -> None:
    """Pieces in turn with others, a sub-transaction rolled back, one prepared: with positions, without ids."""
    events = assembled(((0, message) for message in STREAM), Assembler())
    assert [type(event).__name__ for event in events] == [
        *("Begin", "Relation", "Insert", "Message", "Commit"),
        *("Begin", "Relation", "Insert", "Relation", "Insert", "Commit"),
        *("Begin", "Relation", "Insert", "Commit"),
    ]
    rows = [event for event in events if isinstance(event, Insert)]
    assert [row.position for row in rows] == [Position(900, 0), Position(1000, 0), Position(1000, 1), Position(1200, 0)]
    assert all(row.xid is UNSET for row in rows)
    assert isinstance(events[3], Message) and events[3].position is UNSET
    commits = [event for event in events if isinstance(event, Commit)]
    assert [commit.end_lsn for commit in commits] == [948, 1048, 1248]


def test_a_shape_that_others_were_told_is_told_again() -> None:
    """A stream that began before an ALTER TABLE comes out after it: who reads on gets each row in its own shape."""
    messages = [
        *streamed(7, TABLE, ROW),
        *(wire.begin(900), WIDE, WIDE_ROW, wire.commit(900)),
        wire.stream_commit(7, 1000, 1048),
        *(wire.begin(1100), WIDE_ROW, wire.commit(1100)),
    ]
    events = assembled(((0, message) for message in messages), Assembler(format=RowFormat("dict")), 1)
    rows = [event for event in events if isinstance(event, Insert)]
    assert [list(row.new) for row in rows] == [["id", "v", "w"], ["id", "v"], ["id", "v", "w"]]
    relations = [len(event.columns) for event in events if isinstance(event, Relation)]
    assert relations == [3, 2, 3]


def test_batches_are_made_as_they_are_asked_for_and_none_is_lost() -> None:
    """Who stops in the middle gets the rest with the next messages."""
    assembler = Assembler(max_memory=1000)
    row = wire.insert(1, ["1", "x" * 1000])
    pieces = streamed(7, TABLE, *[row] * 5000)
    first = next(
        batches := assembler.read([*pieces, wire.stream_commit(), wire.message("p", b"", transactional=False)])
    )
    assert 0 < first.changes_count < 2000 and first.nbytes < 2 * 2**20
    assert (assembler.idle, assembler.statistics().spilled_bytes > 0) == (False, True)
    rest = list(assembler.read([wire.begin(3000), TABLE, ROW, wire.commit(3000)]))
    events = [event for part in [first, *rest] for event in part]
    assert [type(event).__name__ for event in events if not isinstance(event, Insert | Relation)] == [
        *("Begin", "Commit", "Message", "Begin", "Commit")
    ]
    inserts = [event.index for event in events if isinstance(event, Insert)]
    assert inserts == [*range(5000), 0]
    assert list(batches) == []
    assert assembler.idle
    assert assembler.statistics() == AssemblerStatistics(0, 0, 0, 0)


def test_rows_come_in_the_format_that_was_given() -> None:
    """As with a BatchReader."""
    (batch,) = Assembler(format=RowFormat("tuple")).read([*streamed(7, TABLE, ROW), wire.stream_commit()])
    change: Any = batch.changes()[0]
    assert change.new == (1, "a")
    assert batch.to_json() == Batch.of([wire.begin(1000), TABLE, ROW, wire.commit()]).to_json()


def test_what_may_be_confirmed_stops_where_something_is_prepared() -> None:
    """Until its changes have come out; a server that is asked to go on behind it does not send them again (fact 17)."""
    assembler = Assembler(max_memory=0)
    prepared = [*streamed(7, TABLE, ROW), wire.prepare(1000, 1048, streamed=True)]
    assert list(assembler.read(prepared)) == []
    assert (assembler.hold_lsn, assembler.confirmable_lsn, assembler.idle) == (1000, 1000, False)
    (batch,) = assembler.read([wire.begin(1100), TABLE, ROW, wire.commit(1100, 1148)])
    assert (batch.end_lsn, assembler.confirmable_lsn) == (1000, 1000)
    (batch,) = assembler.read([wire.commit_prepared(2000, 2048)])
    assert (batch.end_lsn, assembler.confirmable_lsn, assembler.hold_lsn) == (2048, 2048, None)
    events: list[Any] = batch.events()
    assert (events[0].final_lsn, events[0].xid, events[-1].commit_lsn) == (2000, 7, 2000)
    assert list(assembler.read([wire.begin_prepare(), TABLE, ROW, wire.prepare(), wire.rollback_prepared()])) == []
    assert assembler.idle and assembler.confirmable_lsn == 2048


def test_a_stream_in_progress_holds_nothing() -> None:
    """Its commit comes later than all that can be confirmed now, and then it comes again whole."""
    assembler = Assembler()
    (batch,) = assembler.read([*streamed(7, TABLE, ROW), wire.begin(900), TABLE, ROW, wire.commit(900, 948)])
    assert (batch.end_lsn, assembler.hold_lsn, assembler.confirmable_lsn) == (948, None, 948)
    assert not assembler.idle
    assert assembler.statistics().streamed == 1
    assert list(assembler.read([wire.stream_abort()])) == []
    assert assembler.idle


def test_a_prepared_transaction_whose_changes_were_not_sent() -> None:
    """Its commit cannot be passed over; its rollback can, for nothing would have come of it (fault F15)."""
    assembler = Assembler()
    assert list(assembler.read([wire.rollback_prepared()])) == []
    with pytest.raises(
        PositionError, match=r"^Commit Prepared at 0/7D0: .* transaction 7 \(gid\) were not sent"
    ) as caught:
        list(assembler.read([wire.commit_prepared()], [2000]))
    assert caught.value.lsn == 2000
    assert "confirmed past its PREPARE TRANSACTION" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([wire.stream_start(first=False)], "the beginning of the streamed transaction 7 is missing"),
        ([wire.stream_commit()], "the beginning of the streamed transaction 7 is missing"),
        ([wire.prepare(streamed=True)], "the beginning of the streamed transaction 7 is missing"),
        ([wire.stream_start(), wire.begin()], "others are missing before it"),
        ([wire.begin(), wire.stream_start()], "others are missing before it"),
        ([ROW], "others are missing before it"),
        ([wire.commit()], "others are missing before it"),
        ([*streamed(7, TABLE, ROW), wire.stream_commit()[:-1]], "unexpected end of message in commit time at byte 22"),
    ],
)
def test_after_a_gap_it_does_not_go_on(messages: list[bytes], text: str) -> None:
    """What came out before is good; then there is the same error for ever, whatever comes."""
    assembler = Assembler()
    good = [wire.begin(100), TABLE, ROW, wire.commit(100)]
    batches = assembler.read([*good, *messages])
    assert [type(event).__name__ for event in next(batches)][:4] == ["Begin", "Relation", "Insert", "Commit"]
    for _ in range(2):
        with pytest.raises(DecodeError, match=text) as caught:
            next(batches)
        assert caught.value.raw == messages[-1]
    with pytest.raises(DecodeError, match=text):
        next(assembler.read(good))


def test_what_cannot_be_read_comes_out_as_an_error_in_its_place() -> None:
    """Rows and shapes that cannot be read take no transaction with them, and are not passed over."""
    broken = wire.in_stream(ROW, 7)[:-1]
    unknown = wire.in_stream(wire.insert(2, ["1"]), 7)
    messages = [
        wire.stream_start(),
        wire.in_stream(TABLE, 7),
        broken,
        unknown,
        wire.in_stream(ROW, 7),
        wire.stream_stop(),
    ]
    (batch,) = Assembler().read([*messages, wire.stream_commit()])
    events = batch.events()
    assert [type(event) for event in events] == [Begin, Relation, DecodeError, UnknownRelation, Insert, Commit]
    assert isinstance(events[2], DecodeError) and events[2].position == Position(1000, 0)
    assert isinstance(events[4], Insert) and events[4].index == 2


def test_no_more_than_max_spill_is_written() -> None:
    """The error names the transaction, what it takes and the option."""
    assembler = Assembler(max_memory=1000, max_spill=5000)
    rows = [wire.insert(1, [str(number), os.urandom(50).hex()]) for number in range(1000)]
    with pytest.raises(SpillError, match=r"^transaction 7 cannot be kept .* no more than 5000$") as caught:
        list(assembler.read(streamed(7, TABLE, *rows)))
    assert caught.value.xid == 7
    assert 3000 < caught.value.spilled_bytes <= 5000
    assert "max_spill" in (caught.value.hint or "")
    with pytest.raises(SpillError):
        list(assembler.read([wire.stream_commit()]))


def test_shapes_are_counted_and_have_their_limit() -> None:
    """They are in no file: the same ones count once, and too many are an error that names the option."""

    def told(oid: int) -> bytes:
        return wire.relation(oid, f"t{oid}", [(f"column_{number}", 25) for number in range(200)])

    assembler = Assembler(max_memory=4 * 2**20)
    same = [message for _ in range(500) for message in (told(1), told(2), wire.insert(1, ["x"] * 200))]
    list(assembler.read(streamed(7, *same)))
    assert 20_000 < assembler.statistics().memory_bytes <= 4 * 2**20
    limit = r"^transaction 8 cannot be kept .* shapes of tables and .* take \d+ bytes"
    with pytest.raises(SpillError, match=limit) as caught:
        list(assembler.read(streamed(8, *[told(oid) for oid in range(1, 1000)])))
    assert caught.value.xid == 8
    assert "max_memory" in (caught.value.hint or "")


FULL_DISK = """
import resource, sys
from pgcdc.protocol import Assembler
from pgcdc.errors import SpillError
from tests.protocol import wire
from tests.protocol.test_streams import TABLE, streamed
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
assembler = Assembler(max_memory=1000, spill_directory=sys.argv[1])
rows = [wire.insert(1, [str(number), "%032x" % (number * 2**70 // 7)]) for number in range(10000)]
try:
    list(assembler.read(streamed(7, TABLE, *rows)))
except SpillError as error:
    print(error, "|", error.hint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of the size of files there")
def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    """The operating system's word, the directory and what to do; nothing is left there."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(
        f"transaction 7 cannot be kept until it ends: a spill file in {tmp_path} cannot be written: File too large"
    )
    assert "spill_directory" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_in_the_directory(tmp_path: Path) -> None:
    """Not even while it is in use: who is killed leaves nothing behind."""
    assembler = Assembler(max_memory=0, spill_directory=tmp_path)
    list(assembler.read(streamed(7, TABLE, ROW)))
    assert assembler.statistics().spilled_bytes > 0
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="spill_directory"):
        Assembler(spill_directory=tmp_path / "missing")


def test_arguments_are_looked_at_before_anything_is_taken() -> None:
    """So a mistake does not leave half of a list behind."""
    with pytest.raises(ConfigError, match="spill_directory /nowhere/at/all is not a directory") as caught:
        Assembler(spill_directory="/nowhere/at/all")
    assert "leave spill_directory out" in (caught.value.hint or "")
    assembler = Assembler()
    with pytest.raises(ValueError, match="as long as messages"):
        assembler.read([wire.begin()], [])
    with pytest.raises(TypeError):
        assembler.read([wire.begin(), 1])  # type: ignore[list-item]
    assert assembler.idle
    assert list(assembler.read([])) == []
    (batch,) = assembler.read([bytearray(wire.begin()), memoryview(TABLE), ROW, wire.commit()])
    assert len(batch) == 4
