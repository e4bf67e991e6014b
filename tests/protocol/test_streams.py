"""Streamed and prepared transactions (protocols 2 to 4): fields, the relations in force, what may be confirmed.

A little over 400 lines: every message of three protocol versions, each with what it must not do to the others.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from pgcdc.errors import DecodeError, UnknownRelation
from pgcdc.events import (
    BeginPrepare,
    CommitPrepared,
    Insert,
    Message,
    Origin,
    Prepare,
    Relation,
    RollbackPrepared,
    StreamAbort,
    StreamCommit,
    StreamPrepare,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
)
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, BatchReader, Decoder
from tests.protocol import wire
from tests.reference import ReferenceDecoder, plain

INT4, TEXT = 23, 25
TABLE = wire.relation(1, "t", [("id", INT4), ("v", TEXT)])
WIDE = wire.relation(1, "t", [("id", INT4), ("v", TEXT), ("w", INT4)])
ROW = wire.insert(1, ["1", "a"])
WIDE_ROW = wire.insert(1, ["1", "a", "2"])


def streamed(xid: int, *messages: bytes, sub: int | None = None, first: bool = True) -> list[bytes]:
    """A piece of a streamed transaction; its messages carry the sub-transaction's id, if there is one."""
    inside = [wire.in_stream(message, sub or xid) for message in messages]
    return [wire.stream_start(xid, first=first), *inside, wire.stream_stop()]


def decoded(*messages: bytes) -> list[Any]:
    """Events of a fresh decoder, and the same of the reference."""
    events = Decoder("dict").decode_many(messages)
    assert [plain(event) for event in events] == [plain(event) for event in ReferenceDecoder().decode_many([*messages])]
    return events


def test_the_fields_of_each_kind() -> None:
    """Names and order as in the manual, numbers at the ends of their ranges."""
    now, top, xid = wire.COMMITTED, 2**64 - 1, 2**32 - 1
    expected = {
        wire.stream_start(xid): StreamStart(xid, True, 5),
        wire.stream_start(8, first=False): StreamStart(8, False, 5),
        wire.stream_stop(): StreamStop(5),
        wire.stream_commit(xid, top - 1, top): StreamCommit(xid, 0, top - 1, top, now, 5),
        wire.stream_abort(8, 9): StreamAbort(8, 9, lsn=5),
        wire.stream_abort(8, 9, top): StreamAbort(8, 9, top, now, 5),
        wire.begin_prepare(1, top, xid, "gïd"): BeginPrepare(1, top, now, xid, "gïd", 5),
        wire.prepare(1, top, xid, "gïd"): Prepare(0, 1, top, now, xid, "gïd", 5),
        wire.prepare(1, top, xid, "gïd", streamed=True): StreamPrepare(0, 1, top, now, xid, "gïd", 5),
        wire.commit_prepared(1, top, xid, "gïd"): CommitPrepared(0, 1, top, now, xid, "gïd", 5),
        wire.rollback_prepared(1, top, xid, ""): RollbackPrepared(
            0, 1, top, now, now + timedelta(microseconds=1), xid, "", 5
        ),
    }
    for message, event in expected.items():
        assert plain(Decoder().decode(message, 5)) == plain(event) == plain(ReferenceDecoder().decode(message, 5))
    abort: Any = Decoder().decode(wire.stream_abort())
    assert abort.abort_lsn is UNSET and abort.abort_time is UNSET and abort.lsn is UNSET


@pytest.mark.parametrize("length", [10, 12, 16, 17, 20, 24])
def test_a_stream_abort_has_where_and_when_or_neither(length: int) -> None:
    """The length says which (protocol fact 15): what is between is cut short."""
    with pytest.raises(DecodeError):
        Decoder().decode(wire.stream_abort(7, 7, 1)[:length])


def test_changes_in_a_stream_carry_the_sub_transaction_and_no_place() -> None:
    """Seven kinds have an xid before their fields, Origin has not (facts 15, 18); outside they have none again."""
    changes = [
        TABLE,
        ROW,
        wire.update(1, ["1", "b"], ["1", "a"]),
        wire.delete(1, ["1", None]),
        wire.truncate([1], 3),
        wire.message("p", b"content"),
        wire.type_(16400, "s", "n"),
    ]
    inside = [wire.in_stream(change, 9) for change in changes]
    events = decoded(wire.stream_start(7), wire.origin(0, "o"), *inside, wire.stream_stop(), TABLE, ROW)
    assert [type(event).__name__ for event in events] == [
        *(
            "StreamStart",
            "Origin",
            "Relation",
            "Insert",
            "Update",
            "Delete",
            "Truncate",
            "Message",
            "Type",
            "StreamStop",
        ),
        *("Relation", "Insert"),
    ]
    assert events[1] == Origin(0, "o")
    assert events[8] == Type(16400, "s", "n")
    for event in events[3:8]:
        assert event.xid == 9
        assert (event.commit_lsn, event.commit_time, event.index, event.position) == (UNSET,) * 4
    assert events[3].new == {"id": 1, "v": "a"}
    assert (events[6].cascade, events[6].restart_identity) == (True, True)
    assert events[7] == Message(True, 900, "p", b"content", 9)
    assert events[11].xid is UNSET


def test_changes_of_a_prepared_transaction_have_no_place() -> None:
    """It may be rolled back yet; after it, transactions have their places again."""
    events = decoded(
        wire.begin_prepare(),
        TABLE,
        ROW,
        wire.message("p", b""),
        wire.prepare(),
        wire.begin(3000),
        ROW,
        wire.commit(3000),
        wire.commit_prepared(),
    )
    for event in (events[2], events[3]):
        assert (event.xid, event.commit_lsn, event.commit_time, event.index, event.position) == (UNSET,) * 5
    assert events[6].position == Position(3000, 0)


def test_a_stream_says_all_its_relations_itself() -> None:
    """What others were told does not count in it, nor the other way round, as the server keeps its book."""
    events = decoded(TABLE, *streamed(7, ROW), ROW, *streamed(7, WIDE, WIDE_ROW, first=False), ROW)
    assert isinstance(events[2], UnknownRelation)
    assert events[2].offset == 5
    assert isinstance(events[4], Insert)
    assert events[7].new == {"id": 1, "v": "a", "w": 2}
    assert events[9].new == {"id": 1, "v": "a"}


def test_streams_do_not_know_each_others_relations() -> None:
    """Two transactions in turn, one of which has altered the table."""
    events = decoded(
        *streamed(7, TABLE, ROW),
        *streamed(8, WIDE, WIDE_ROW),
        *streamed(7, ROW, first=False),
        *streamed(8, WIDE_ROW, first=False),
        *streamed(9, ROW),
    )
    rows = [event for event in events if isinstance(event, Insert)]
    assert [len(row.new) for row in rows] == [2, 3, 2, 3]
    assert [type(event) for event in events if isinstance(event, DecodeError)] == [UnknownRelation]


def test_the_relations_of_a_stream_are_everybodys_after_its_commit() -> None:
    """The server does not send them again then."""
    events = decoded(TABLE, *streamed(7, WIDE, WIDE_ROW), wire.stream_commit(), wire.begin(2000), WIDE_ROW)
    assert events[-1].new == {"id": 1, "v": "a", "w": 2}
    assert events[-1].position == Position(2000, 0)


@pytest.mark.parametrize("end", [wire.stream_abort(), wire.prepare(streamed=True)], ids=["aborted", "prepared"])
def test_the_relations_of_a_stream_that_did_not_commit_are_forgotten(end: bytes) -> None:
    """An ALTER TABLE that was rolled back was never there (correctness rule 17); a prepared one is told again."""
    events = decoded(TABLE, *streamed(7, WIDE, WIDE_ROW), end, ROW, wire.commit_prepared(), ROW)
    assert events[5] == Decoder().decode(end)
    assert [len(event.new) for event in (events[6], events[8])] == [2, 2]


def test_a_sub_transaction_that_is_rolled_back_takes_the_relations_of_its_stream() -> None:
    """The server sends them again, in the shape that they have then."""
    events = decoded(
        *streamed(7, TABLE, ROW),
        *streamed(7, WIDE, WIDE_ROW, sub=8, first=False),
        wire.stream_abort(7, 8),
        *streamed(7, ROW, first=False),
        *streamed(7, TABLE, ROW, first=False),
        wire.stream_commit(),
        ROW,
    )
    unknown = [number for number, event in enumerate(events) if isinstance(event, UnknownRelation)]
    assert unknown == [10]
    assert events[14].new == events[17].new == {"id": 1, "v": "a"}


def test_an_abort_of_another_transaction_takes_nothing() -> None:
    """Only its own; also when it is one that this decoder has not seen."""
    events = decoded(
        *streamed(7, TABLE), wire.stream_abort(9, 9), wire.stream_abort(9, 7), *streamed(7, ROW, first=False)
    )
    assert isinstance(events[-2], Insert)


def test_a_commit_does_not_bring_back_an_older_shape() -> None:
    """A publication may change what it sends of a table while a stream is in progress: the later word counts."""
    events = decoded(
        *streamed(7, TABLE, ROW), wire.begin(900), WIDE, WIDE_ROW, wire.commit(900), wire.stream_commit(7), WIDE_ROW
    )
    assert events[-1].new == {"id": 1, "v": "a", "w": 2}
    events = decoded(TABLE, *streamed(7, WIDE), *streamed(8, TABLE), wire.stream_commit(8), wire.stream_commit(7), ROW)
    assert events[-1].new == {"id": 1, "v": "a"}


def test_a_relation_said_again_in_a_stream_is_the_same_object() -> None:
    """So that rows keep their class, and a table that did not change is known as such (protocol fact 5)."""
    decoder = Decoder()
    first = decoder.decode(TABLE)
    events: list[Any] = decoder.decode_many([*streamed(7, TABLE, ROW), wire.stream_commit(), TABLE])
    assert events[1] is first and events[-1] is first
    assert events[2].relation is first


@pytest.mark.parametrize(
    "broken",
    [
        wire.stream_start()[:-1],
        wire.stream_start()[:-1] + b"\x02",
        wire.stream_stop() + b"\x00",
        wire.stream_commit()[:-1],
        wire.begin_prepare()[:-1],
        wire.prepare()[:-1],
        wire.in_stream(TABLE, 7)[:-1],
    ],
    ids=["Start cut", "Start 2", "Stop", "Commit", "Begin Prepare", "Prepare", "Relation"],
)
def test_after_an_error_the_decoder_is_where_the_good_message_would_have_left_it(broken: bytes) -> None:
    """The kind alone says where a stream begins and ends, so one bad message spoils no other."""
    decoder = Decoder("dict")
    whole = {
        b"S": [broken, wire.in_stream(TABLE, 7), wire.in_stream(ROW, 7), wire.stream_stop()],
        b"E": [wire.stream_start(), wire.in_stream(TABLE, 7), wire.in_stream(ROW, 7), broken],
        b"c": [*streamed(7, TABLE, ROW), broken],
        b"b": [broken, TABLE, ROW, wire.prepare()],
        b"P": [wire.begin_prepare(), TABLE, ROW, broken],
        b"R": [wire.stream_start(), broken, wire.in_stream(TABLE, 7), wire.in_stream(ROW, 7), wire.stream_stop()],
    }[broken[:1]]
    events: list[Any] = decoder.decode_many([*whole, wire.begin(5000), TABLE, ROW, wire.commit(5000)])
    errors = [event for event in events if isinstance(event, DecodeError)]
    assert [error.raw for error in errors] == [broken]
    assert errors[0].position is None
    rows = [event for event in events if isinstance(event, Insert)]
    assert [row.position for row in rows] == [UNSET, Position(5000, 0)]
    # What a stream without a name was told is not kept.
    assert isinstance(decoder.decode_many([*streamed(0, ROW)])[1], UnknownRelation)


STREAM = [
    *streamed(7, TABLE, ROW),
    wire.begin(900),
    WIDE,
    WIDE_ROW,
    wire.message("p", b"", transactional=False),
    wire.commit(900, 948),
    *streamed(7, wire.truncate([1]), wire.message("p", b"x"), sub=8, first=False),
    wire.stream_abort(7, 8),
    *streamed(7, TABLE, ROW, first=False),
    wire.stream_commit(7, 1000, 1048),
    wire.begin_prepare(1100, 1148),
    TABLE,
    ROW,
    wire.prepare(1100, 1148),
    wire.commit_prepared(1200, 1248),
]
CHANGES: list[type] = [Insert, Insert, Message, Truncate, Message, Insert, Insert]


@given(st.lists(st.sampled_from([*range(len(STREAM)), *range(1000, 1008)]), max_size=40))
def test_any_order_of_such_messages_reads_as_the_reference_has_it(order: list[int]) -> None:
    """Pieces without beginning, ends without pieces: both decoders say the same, message by message."""
    ends = [wire.stream_abort(7, 7), wire.stream_abort(7, 8, 5), wire.stream_start(8), wire.stream_start(7)]
    ends += [wire.stream_commit(8), wire.prepare(xid=8, streamed=True), wire.stream_stop(), wire.rollback_prepared()]
    messages = [STREAM[number] if number < 1000 else ends[number - 1000] for number in order]
    got, expected = Decoder("dict").decode_many(messages), ReferenceDecoder().decode_many(messages)
    for ours, theirs, message in zip(got, expected, messages, strict=True):
        # A row read with or without the id of a transaction may be another row, but then it is so for both.
        if not (isinstance(ours, DecodeError) and isinstance(theirs, DecodeError)):
            assert plain(ours) == plain(theirs), message


def read(*messages: bytes, reader: BatchReader | None = None) -> Batch:
    """A batch of these messages."""
    return (reader or BatchReader()).read([wire.xlogdata(message, 100 + n) for n, message in enumerate(messages)])


def test_a_batch_of_streams_gives_what_the_decoder_gives() -> None:
    """However it was cut, put together and filtered."""
    expected = [plain(event) for event in Decoder().decode_many(STREAM, [100 + n for n in range(len(STREAM))])]
    batch = read(*STREAM)
    assert batch.in_progress
    assert [plain(event) for event in batch.events()] == expected
    assert [plain(event) for event in Batch.concat([batch, read()]).events()] == expected
    assert [type(change) for change in batch.changes()] == CHANGES
    assert [type(change) for change in batch.select({("public", "t")}).changes()] == [
        kind for kind in CHANGES if kind is not Message
    ]
    for cut in range(len(STREAM)):
        reader = BatchReader()
        parts = [read(*STREAM[:cut], reader=reader), read(*STREAM[cut:], reader=reader)]
        assert [type(event) for part in parts for event in part.events()] == [type(event) for event in batch.events()]
        assert not [event for part in parts for event in part.events() if isinstance(event, DecodeError)]


def test_what_has_no_place_yet_is_after_every_position() -> None:
    """Nobody knows where it will be; the change of a transaction that committed before the position is left out."""
    left = read(*STREAM).after((10**6, 0)).changes()
    assert [type(change) for change in left] == [Insert, Truncate, Message, Insert, Insert]


def test_a_batch_says_whether_something_in_it_is_in_progress() -> None:
    """Each kind alone does; ordinary transactions do not, nor does what only begins with such a letter."""
    ordinary = [TABLE, wire.begin(900), ROW, wire.message("p", b""), wire.origin(1, "o"), wire.commit(900)]
    assert not read(*ordinary).in_progress
    for message in (
        wire.stream_start(),
        wire.stream_stop(),
        wire.stream_commit(),
        wire.begin_prepare(),
        wire.prepare(),
        wire.prepare(streamed=True),
        wire.commit_prepared(),
        wire.rollback_prepared(),
    ):
        assert read(*ordinary, message).in_progress
        assert not read(*ordinary, message + b"\x00").in_progress
    # PostgreSQL 18 sends it to clients that stream nothing, too.
    assert not read(*ordinary, wire.stream_abort()).in_progress


def test_what_ends_a_transaction_says_what_may_be_confirmed() -> None:
    """Once what came before is durable, a prepared transaction's changes included (protocol facts 2, 17)."""
    for message, end in (
        (wire.stream_commit(7, 1000, 1048), 1048),
        (wire.prepare(1000, 1049), 1049),
        (wire.prepare(1000, 1050, streamed=True), 1050),
        (wire.commit_prepared(1000, 1051), 1051),
        (wire.rollback_prepared(1000, 1052), 1052),
        (wire.stream_abort(7, 7, 1000), None),
        (wire.stream_stop(), None),
        (wire.begin_prepare(1000, 1048), None),
    ):
        assert read(message).end_lsn == end


def test_a_keepalive_counts_only_while_no_stream_is_in_flight() -> None:
    """Between its pieces, too; a sub-transaction's end is not the whole one's."""
    reader = BatchReader()
    began = len(streamed(7, TABLE, ROW)) - 1
    inside = []
    for message in streamed(7, TABLE, ROW):
        read(message, reader=reader)
        reader.read([wire.keepalive(500)])
        inside.append(reader.in_transaction)
    assert inside == [True] * began + [False]
    reader.read([wire.keepalive(600)])
    read(wire.stream_abort(7, 8), reader=reader)
    reader.read([wire.keepalive(700)])
    assert reader.idle_lsn == 0
    read(wire.begin(800), wire.commit(800, 848), reader=reader)
    assert reader.idle_lsn == 848, "a commit is a safe place: what has not committed comes again whole"
    read(wire.stream_abort(7, 7), reader=reader)
    assert reader.idle_lsn == 848
    reader.read([wire.keepalive(900)])
    assert reader.idle_lsn == 900
    read(*streamed(8, TABLE), wire.stream_commit(8, 1000, 1048), reader=reader)
    assert reader.idle_lsn == 1048


@pytest.mark.parametrize("in_a_stream", [False, True])
@pytest.mark.parametrize(
    "end", [wire.commit_prepared(2000, 2048), wire.rollback_prepared(1048, 2048)], ids=["committed", "rolled back"]
)
def test_nothing_is_confirmed_past_a_transaction_that_is_prepared(in_a_stream: bool, end: bytes) -> None:
    """A server that is asked to go on behind it sends its end and not its changes (correctness rule 19)."""
    reader = BatchReader()
    reader.read([wire.keepalive(500)])
    if in_a_stream:
        messages = [*streamed(7, TABLE, ROW), wire.prepare(1000, 1048, streamed=True)]
    else:
        messages = [wire.begin_prepare(1000, 1048), TABLE, ROW, wire.prepare(1000, 1048)]
    read(*messages, reader=reader)
    assert not reader.in_transaction
    assert reader.idle_lsn == 1000
    reader.read([wire.keepalive(1500)])
    read(wire.begin(1700), ROW, wire.commit(1700, 1748), reader=reader)
    assert reader.idle_lsn == 1000
    assert reader.received_lsn == 1748
    # Another is prepared, and the first one ends: now the other holds it.
    read(wire.begin_prepare(1800, 1848, 9, "other"), wire.prepare(1800, 1848, 9, "other"), end, reader=reader)
    assert reader.idle_lsn == 1800
    read(wire.commit_prepared(2100, 2148, 9, "other"), reader=reader)
    assert reader.idle_lsn == 2148
    assert isinstance(Decoder().decode(TABLE), Relation)
