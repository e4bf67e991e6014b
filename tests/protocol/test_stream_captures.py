"""Streamed and prepared transactions as PostgreSQL 14 to 18 sent them: Rust = reference = what protocol 1 comes to.

The facts about streams that a decoder or an assembler relies on are here, each against every server that shows it.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from pgcdc.errors import DecodeError
from pgcdc.events import (
    Begin,
    BeginPrepare,
    Commit,
    CommitPrepared,
    Delete,
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
    Update,
)
from pgcdc.protocol import BatchReader, Decoder, TypeCatalog
from tests.golden.make import VERSIONS, manners
from tests.protocol import wire
from tests.protocol.captures import STREAM_IDS, STREAMS, capture, reference
from tests.reference import ReferenceDecoder, plain

CHANGES = (Insert, Update, Delete, Truncate, Message)


def decoded(version: int, manner: str) -> list[Any]:
    """All events of a capture by the Rust decoder, which is told what `mood` is when the server names it."""
    catalog = TypeCatalog()
    decoder = Decoder("dict", catalog=catalog)
    events = []
    for lsn, message in capture(version, manner):
        event = decoder.decode(message, lsn)
        if isinstance(event, Type) and not catalog.knows(event.oid):
            catalog.add(event.oid, event.name, enum=True)
        events.append(event)
    return events


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_rust_and_the_reference_agree_message_by_message(version: int, manner: str) -> None:
    """And a batch, in one piece or cut, gives the same."""
    captured = capture(version, manner)
    expected = [plain(event) for event in reference(version, manner)]
    assert "DecodeError" not in expected and "UnknownRelation" not in expected
    messages, lsns = [message for _, message in captured], [lsn for lsn, _ in captured]
    assert [plain(event) for event in Decoder("dict").decode_many(messages, lsns)] == expected
    frames = [wire.xlogdata(message, lsn) for lsn, message in captured]
    structs = [plain(event) for event in Decoder().decode_many(messages, lsns)]
    for size in (1, 7, len(frames)):
        reader = BatchReader()
        batches = [reader.read(frames[start : start + size]) for start in range(0, len(frames), size)]
        assert [plain(event) for batch in batches for event in batch.events()] == structs
        assert not reader.in_transaction


STREAMING: list[type] = [StreamStart, StreamStop, StreamCommit, StreamAbort]
TWO_PHASE: list[type] = [BeginPrepare, Prepare, CommitPrepared, RollbackPrepared]
KINDS: dict[str, list[type]] = {
    "plain": [],
    "streamed": STREAMING,
    "streamed-binary": STREAMING,
    "parallel": STREAMING,
    "prepared": [*STREAMING, StreamPrepare, *TWO_PHASE],
    "unasked": TWO_PHASE,
}


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_each_capture_has_the_kinds_that_it_is_for(version: int, manner: str) -> None:
    """In "unasked", a client that speaks protocol 1 gets prepared transactions (protocol fact 17)."""
    got = {type(event) for event in reference(version, manner)}
    new = {kind for kinds in KINDS.values() for kind in kinds}
    assert got & new == set(KINDS[manner])
    assert got >= {Begin, Commit, Origin, Relation, Type, Insert, Update, Delete, Truncate, Message}


def bare(event: Any) -> Any:
    """A change without what depends on the manner of sending."""
    unset = dict.fromkeys(("xid", "commit_lsn", "commit_time", "index"), UNSET)
    if not isinstance(event, Message):
        unset["lsn"] = UNSET
    return plain(msgspec.structs.replace(event, **unset))


def committed(events: list[Any]) -> list[tuple[int, Any, list[Any]]]:
    """The transactions that were committed, in the order of their commits: LSN, time, changes."""
    transactions: list[tuple[int, Any, list[Any]]] = []
    streams: dict[int, list[tuple[Any, Any]]] = {}
    prepared: dict[str, list[Any]] = {}
    open_: list[Any] = []
    stream = None
    for event in events:
        match event:
            case Begin() | BeginPrepare():
                open_ = []
            case Commit(commit_lsn=lsn, commit_time=time):
                transactions.append((lsn, time, open_))
            case Prepare(gid=gid):
                prepared[gid] = open_
            case CommitPrepared(commit_lsn=lsn, commit_time=time, gid=gid):
                transactions.append((lsn, time, prepared.pop(gid)))
            case RollbackPrepared(gid=gid):
                del prepared[gid]
            case StreamStart(xid=xid, first_segment=first):
                assert first == (xid not in streams)
                stream = streams.setdefault(xid, [])
            case StreamStop():
                stream = None
            case StreamAbort(xid=xid, subxid=subxid):
                kept = [] if xid == subxid else [pair for pair in streams[xid] if pair[0] != subxid]
                streams[xid] = kept
                if xid == subxid:
                    del streams[xid]
            case StreamCommit(xid=xid, commit_lsn=lsn, commit_time=time):
                transactions.append((lsn, time, [change for _, change in streams.pop(xid)]))
            case StreamPrepare(xid=xid, gid=gid):
                prepared[gid] = [change for _, change in streams.pop(xid)]
            case Message(transactional=False):
                assert stream is None
            case Insert() | Update() | Delete() | Truncate() | Message() if stream is not None:
                stream.append((event.xid, bare(event)))
            case Insert() | Update() | Delete() | Truncate() | Message():
                open_.append(bare(event))
    assert not streams and not prepared
    return [transaction for transaction in transactions if transaction[2]]


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_every_manner_comes_to_the_same_transactions(version: int, manner: str) -> None:
    """Sub-transactions that were rolled back taken out, prepared ones at their commit: what protocol 1 delivers."""
    expected = committed(decoded(version, "plain"))
    assert len(expected) > 15
    assert committed(decoded(version, manner)) == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_outside_transactions_come_the_same_way(version: int) -> None:
    """Never inside Begin and Commit or a stream (protocol fact 16; `committed` looks for that)."""
    found = set()
    for manner in manners(version):
        alone = [event for event in decoded(version, manner) if isinstance(event, Message) and not event.transactional]
        assert all(event.xid is UNSET and event.position is UNSET for event in alone)
        found.add(tuple((event.prefix, event.content, event.lsn) for event in alone))
    assert len(found) == 1
    assert [prefix for prefix, _, _ in found.pop()] == ["outside"]


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_where_a_message_came_from_is_no_position(version: int, manner: str) -> None:
    """0/0 for Relation and Type and for what an Origin follows; backwards at Begin and Stream Start (fact 1)."""
    captured = capture(version, manner)
    events = decoded(version, manner)
    backwards = set()
    highest = 0
    for number, ((lsn, _), event) in enumerate(zip(captured, events, strict=True)):
        following = events[number + 1] if number + 1 < len(events) else None
        expect_zero = isinstance(event, Relation | Type) or isinstance(following, Origin)
        assert (lsn == 0) == expect_zero, event
        if lsn:
            if lsn < highest:
                backwards.add(type(event))
            highest = max(highest, lsn)
    assert backwards & {Begin, StreamStart, BeginPrepare}
    ends = [event for event in events if isinstance(event, Commit | StreamCommit | CommitPrepared | Prepare)]
    assert [end.end_lsn for end in ends] == sorted(end.end_lsn for end in ends), "these do not go backwards (fact 2)"


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_a_streamed_origin_has_no_lsn(version: int, manner: str) -> None:
    """0/0 (protocol fact 18), and it stands without an xid behind the first Stream Start only."""
    events = decoded(version, manner)
    origins = [(type(events[number - 1]), event) for number, event in enumerate(events) if isinstance(event, Origin)]
    assert {event.name for _, event in origins} == {"elsewhere ✓"}
    for before, event in origins:
        if before is StreamStart:
            assert event.commit_lsn == 0
    assert 0x16_B374_D848 in {event.commit_lsn for _, event in origins}
    assert (StreamStart in {before for before, _ in origins}) == (StreamStart in KINDS[manner])


STREAMED = [(version, manner) for version, manner in STREAMS if StreamStart in KINDS[manner]]
STREAMED_IDS = [f"pg{version}-{manner}" for version, manner in STREAMED]


@pytest.mark.parametrize(("version", "manner"), STREAMED, ids=STREAMED_IDS)
def test_aborts_of_sub_transactions_come_innermost_first(version: int, manner: str) -> None:
    """One may name a sub-transaction without changes; where and when only with streaming=parallel (fact 15)."""
    events = decoded(version, manner)
    aborts = [event for event in events if isinstance(event, StreamAbort)]
    parallel = manner == "parallel"
    assert {event.abort_lsn is not UNSET for event in aborts} == {parallel}
    assert {event.abort_time is not UNSET for event in aborts} == {parallel}
    first = aborts[:2]
    assert first[0].xid == first[1].xid < first[1].subxid < first[0].subxid
    sent = {(event.xid) for event in events if isinstance(event, CHANGES) and isinstance(event.xid, int)}
    named = {event.subxid for event in aborts if event.subxid != event.xid}
    assert named - sent, "one of which no change was sent"
    top = {event.xid for event in events if isinstance(event, StreamStart)}
    assert sent - top, "changes carry the sub-transaction's id"
    assert named & sent or version >= 18, "one of which changes were sent"


@pytest.mark.parametrize(("version", "manner"), STREAMED, ids=STREAMED_IDS)
def test_every_stream_says_its_relations_again(version: int, manner: str) -> None:
    """At least once in each streamed transaction, again after a sub-transaction was rolled back (fact 5)."""
    told: set[tuple[int, int]] = set()
    xid = None
    repeated = 0
    for event in decoded(version, manner):
        match event:
            case StreamStart():
                xid = event.xid
            case StreamStop():
                xid = None
            case StreamAbort() as abort:
                told = {(top, oid) for top, oid in told if top != abort.xid}
            case Relation() if xid is not None:
                repeated += (xid, event.oid) in told
                told.add((xid, event.oid))
            case Insert() | Update() | Delete() if xid is not None:
                assert (xid, event.relation.oid) in told
    assert repeated, "a partitioned table's is sent again for each partition, an altered one's again"


@pytest.mark.parametrize(("version", "manner"), STREAMED, ids=STREAMED_IDS)
def test_empty_pieces_and_empty_prepared_transactions_are_sent(version: int, manner: str) -> None:
    """15 and up leave out empty transactions, but neither these (protocol fact 14)."""
    events = decoded(version, manner)
    pairs = Counter((type(one), type(other)) for one, other in pairwise(events))
    assert pairs[StreamStart, StreamStop] > 5
    assert (pairs[Begin, Commit] > 0) == (version == 14)
    assert (pairs[BeginPrepare, Prepare] > 0) == (manner == "prepared")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_schema_that_is_renamed(version: int) -> None:
    """14 and 15 do not send the Relation again, so rows go on under the old name (protocol fact 19)."""
    for manner in manners(version):
        events = decoded(version, manner)
        schemas = [event.schema for event in events if isinstance(event, Insert) and event.table == "shop"]
        assert schemas == (["moved", "moved"] if version < 16 else ["moved", "renamed"])


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_what_publications_make_of_rows(version: int, manner: str) -> None:
    """Partitions under their root (fact 8), a filter turns updates round, lists and generated columns (fact 9)."""
    events = decoded(version, manner)
    rows: dict[str, list[Any]] = {}
    for event in events:
        if isinstance(event, Insert | Update | Delete):
            rows.setdefault(event.table, []).append(event)
    names = {event.name for event in events if isinstance(event, Relation)}
    assert names >= {"measured", "measured_low", "measured_high"}
    assert not {"measured_low", "measured_high"} & set(rows)
    assert [type(row) for row in rows["measured"]] == [Insert, Insert, Delete, Insert]
    truncated = [[relation.name for relation in event.relations] for event in events if isinstance(event, Truncate)]
    assert truncated == [["measured"], ["whole", "by_index"]], "TRUNCATE of one partition is not published"
    filtered = [Insert, Insert, Delete] if version >= 15 else [Insert, Insert, Update, Update]
    assert [type(row) for row in rows["filtered"]] == filtered
    assert list(rows["listed"][0].new) == (["id", "small"] if version >= 15 else ["id", "small", "secret"])
    assert list(rows["generated"][0].new) == (["id", "a", "b"] if version >= 18 else ["id", "a"])
    assert rows["moods"][0].new == {"id": 1, "feeling": "ok"}
    assert rows["toasted"][1].new["big"] is UNSET, "unchanged and not sent (fact 7)"
    assert rows["whole"][2].old == {"a": 1, "b": "x"}
    assert rows["by_index"][1].old == {"a": 1, "b": UNSET}


@pytest.mark.parametrize(("version", "manner"), STREAMS, ids=STREAM_IDS)
def test_a_broken_message_spoils_no_other_without_a_word(version: int, manner: str) -> None:
    """A message changed or left out, and both decoders read the rest of the capture alike; errors are DecodeErrors."""
    luck = random.Random(f"{version} {manner}")
    captured = [message for _, message in capture(version, manner)]
    for _ in range(30):
        at = luck.randrange(len(captured))
        mutant = bytearray(captured[at])
        for _ in range(luck.choice((1, 1, 3))):
            place = luck.randrange(len(mutant)) if mutant else 0
            match luck.randrange(3):
                case 0 if mutant:
                    mutant[place] ^= 1 << luck.randrange(8)
                case 1 if mutant:
                    del mutant[place]
                case _:
                    mutant.insert(place, luck.randrange(256))
        messages = [*captured[:at], *([bytes(mutant)] if luck.random() < 0.8 else []), *captured[at + 1 :]]
        ours, theirs = Decoder("dict").decode_many(messages), ReferenceDecoder().decode_many(messages)
        for got, expected, message in zip(ours, theirs, messages, strict=True):
            if not isinstance(got, DecodeError) and not isinstance(expected, DecodeError):
                assert plain(got) == plain(expected), message
            else:
                assert isinstance(got, DecodeError) == isinstance(expected, DecodeError), message
