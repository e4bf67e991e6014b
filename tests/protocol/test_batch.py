"""CopyData frames to batches: positions, what may be confirmed, filters that read headers only, keepalives.

Over 400 lines, because a batch has many readers and each of its promises has a test of its own.
"""

from __future__ import annotations

import gc
import re
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from itertools import pairwise
from typing import Any

import pytest

from pgcdc.errors import ConfigError, DecodeError, UnknownRelation
from pgcdc.events import Commit, Insert, Message, Relation, Truncate
from pgcdc.lsn import Position
from pgcdc.protocol import (
    Batch,
    BatchReader,
    Decoder,
    Frames,
    RowFormat,
    SchemaVersions,
    TypeCatalog,
    encode_status_update,
)
from tests.protocol import wire
from tests.protocol.captures import ALL, IDS, capture
from tests.reference import plain

INT4, TEXT = 23, 25
ONE = wire.relation(1, "one", [("id", INT4), ("v", TEXT)])
TWO = wire.relation(2, "two", [("id", INT4)], schema="other")


def frames(*messages: bytes) -> list[bytes]:
    """XLogData around messages, at 100, 101 and so on."""
    return [wire.xlogdata(message, 100 + number) for number, message in enumerate(messages)]


def transaction(commit_lsn: int, *changes: bytes) -> list[bytes]:
    """Frames of a whole transaction that ends at commit_lsn + 48."""
    return frames(wire.begin(commit_lsn), *changes, wire.commit(commit_lsn, commit_lsn + 48))


def read(*messages: bytes) -> Batch:
    """A batch of these messages by a fresh reader."""
    return BatchReader().read(frames(*messages))


STREAM = [
    ONE,
    TWO,
    wire.begin(1000),
    wire.insert(1, ["1", "a"]),
    wire.insert(2, ["1"]),
    wire.update(1, ["1", "b"]),
    wire.message("p", b"content"),
    wire.truncate([1, 2]),
    wire.commit(1000, 1048),
    wire.begin(2000),
    wire.delete(2, ["1"]),
    wire.message("p", b"", transactional=False),
    wire.commit(2000, 2048),
]


def positions(batch: Batch) -> list[Any]:
    """The positions of a batch's changes."""
    changes: list[Any] = batch.changes()
    return [change.position for change in changes]


def test_a_batch_says_what_is_in_it() -> None:
    """Counts, bytes, first and last position, what may be confirmed, the relations in order of use."""
    batch = read(*STREAM)
    assert len(batch) == len(STREAM)
    assert batch.nbytes == sum(map(len, STREAM))
    assert batch.changes_count == 7
    assert batch.first_position == Position(1000, 0)
    assert batch.last_position == Position(2000, 0)
    assert isinstance(batch.last_position, Position)
    assert batch.end_lsn == 2048
    assert [relation.name for relation in batch.relations] == ["one", "two"]
    assert positions(batch) == [*(Position(1000, index) for index in range(5)), Position(2000, 0), _unset()]


def _unset() -> Any:
    import msgspec

    return msgspec.UNSET


def test_a_batch_says_where_its_last_message_outside_of_transactions_ends() -> None:
    """One within a transaction is durable with that; one that is cut off says nothing."""
    alone = [wire.message("p", b"", lsn=lsn, transactional=False) for lsn in (500, 700)]
    within = wire.message("p", b"", lsn=950, transactional=True)
    assert read(*alone).message_lsn == 700
    assert read(*alone, within).message_lsn == 700
    assert read(*alone, *STREAM, within).message_lsn == 900, "the one that is in it"
    assert read(*STREAM[:6]).message_lsn is None
    assert read(within).message_lsn is None
    assert read(alone[0], alone[1][:-1]).message_lsn == 500


def test_an_empty_batch() -> None:
    """Of keepalives, or of nothing."""
    for batch in (BatchReader().read([]), BatchReader().read([wire.keepalive(5)])):
        assert (len(batch), batch.nbytes, batch.changes_count) == (0, 0, 0)
        assert (batch.first_position, batch.last_position, batch.end_lsn) == (None, None, None)
        assert (batch.events(), batch.changes(), batch.relations) == ([], [], [])
        assert list(batch) == []


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_a_batch_gives_what_the_decoder_gives(version: int, form: str) -> None:
    """Whatever way the frames are cut into batches, and in every kind of rows."""
    captured = capture(version, form)
    for rows in ("struct", "dict", "tuple"):
        decoder = Decoder(rows)
        expected = [plain(decoder.decode(message, lsn)) for lsn, message in captured]
        for size in (1, 7, len(captured)):
            reader = BatchReader()
            format = RowFormat(rows)
            got = []
            for start in range(0, len(captured), size):
                part = [wire.xlogdata(message, lsn) for lsn, message in captured[start : start + size]]
                got += [plain(event) for event in reader.read(part).events(format)]
            assert got == expected


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_batches_put_together_are_the_batch_that_was_cut(version: int, form: str) -> None:
    """Also when each half is filtered: positions, relations and what may be confirmed are kept."""
    messages = [message for _, message in capture(version, form)]
    whole = read(*messages)
    reader = BatchReader()
    all_frames = frames(*messages)
    halves = [reader.read(all_frames[:25]), reader.read(all_frames[25:])]
    together = Batch.concat(halves)
    assert [plain(event) for event in together.events()] == [plain(event) for event in whole.events()]
    assert (together.first_position, together.last_position) == (whole.first_position, whole.last_position)
    assert (together.end_lsn, together.nbytes) == (whole.end_lsn, whole.nbytes)
    inserts = Batch.concat(half.select(None, ["insert"]) for half in halves)
    assert positions(inserts) == positions(whole.select(None, ["insert"]))
    assert len(Batch.concat([])) == 0


@pytest.mark.parametrize(
    "broken",
    [b"", b"X", wire.begin(3000)[:-1], wire.commit(1000, 1048) + b"\0", ONE[:-2], b"Y\0", wire.truncate([1])[:-1]],
    ids=["empty", "unknown kind", "Begin", "Commit", "Relation", "Type", "Truncate"],
)
def test_no_filter_hides_what_cannot_be_read(broken: bytes) -> None:
    """A consumer of one table must not go past a message that may have been about it."""
    batch = read(*STREAM, broken)
    for filtered in (
        batch.select({("public", "one")}, ["delete"]),
        batch.select(),
        Batch.concat([batch]).select(set(), []),
    ):
        assert [change.raw for change in filtered.changes() if isinstance(change, DecodeError)] == [broken]


def test_a_batch_keeps_the_format_of_its_reader() -> None:
    """Whoever does not say how rows are given gets them as the stream gives them, whatever was cut and joined."""
    catalog = TypeCatalog()
    catalog.add(70000, "mood", enum=True)
    relation = wire.relation(1, "one", [("id", INT4), ("m", 70000)])
    reader = BatchReader(RowFormat("dict", catalog=catalog))
    batch = reader.read(frames(relation, wire.begin(1000), wire.insert(1, [struct.pack(">i", 7), b"glad"])))
    for same in (batch, batch.select(), batch.after((0, 0)), Batch.concat([batch.select(), batch.select()])):
        change: Any = same.changes()[0]
        assert change.new == {"id": 7, "m": "glad"}
        assert b'"m":"glad"' in same.to_json()
    change = batch.changes(RowFormat("tuple"))[0]
    assert change.new == (7, b"glad")


def test_events_are_made_once_for_a_format_and_shared() -> None:
    """Two sinks that want the same get the same objects; another format is made beside it."""
    batch = read(*STREAM)
    assert batch.events()[3] is batch.events()[3]
    assert batch.changes()[0] is batch.events()[3]
    assert next(iter(batch)).__class__ is Relation
    format = RowFormat("dict")
    first: Any = batch.events(format)[3]
    assert first.new == {"id": 1, "v": "a"}
    assert batch.events(format)[3] is first


def test_batches_put_together_share_what_their_parts_have_made() -> None:
    """Who is behind and takes several at once does not have rows made again that another has had by then."""
    reader = BatchReader()
    parts = [reader.read(frames(*STREAM[:5])), reader.read(frames(*STREAM[5:9])), reader.read(frames(*STREAM[9:]))]
    dicts = RowFormat("dict")
    made: list[Any] = [*parts[0].changes(), *parts[2].select([("other", "two")]).changes()]
    of_the_second: list[Any] = parts[1].changes(dicts)
    together = Batch.concat(parts)
    got: list[Any] = together.changes()
    assert [plain(change) for change in got] == [plain(change) for part in parts for change in part.changes()]
    assert [got[0], got[1], got[5]] == made[:3]
    assert all(one is other for one, other in zip([got[0], got[1], got[5]], made, strict=False))
    as_dicts: list[Any] = together.changes(dicts)
    assert all(one is other for one, other in zip(as_dicts[2:5], of_the_second, strict=True))
    assert [plain(change) for change in as_dicts] == [plain(change) for part in parts for change in part.changes(dicts)]


def test_lines_are_written_once_and_shared() -> None:
    """Those of a part are others, and so are those for another catalog or envelope."""
    batch = read(*STREAM)
    lines = batch.to_json()
    assert batch.to_json() is lines
    assert batch.select([("public", "one")]).to_json() == b"".join(
        line for line in lines.splitlines(keepends=True) if b'"table":"one"' in line or b'"name":"one"' in line
    )
    assert batch.to_json("debezium") != lines
    assert batch.to_json(catalog=TypeCatalog()) == lines
    assert batch.to_json("plain") is lines
    assert batch.with_primary_keys({1: ["id"]}).to_json() is lines


def test_what_is_like_another_batch_is_taken_at_once() -> None:
    """The same as by several calls, where the relations are the same objects in the same order."""
    relations = [wire.relation(number, name, [("id", 23)]) for number, name in ((1, "one"), (2, "two"))]

    def transaction(lsn: int, *changes: bytes, reader: BatchReader = BatchReader()) -> Batch:  # noqa: B008
        return reader.read(frames(wire.begin(lsn), *relations, *changes, wire.commit(lsn, lsn + 8)))

    row, other = wire.insert(1, ["1"]), wire.insert(2, ["2"])
    message = wire.message("prefix", b"content")
    usual = transaction(100, row, other)
    known, versions = tuple(usual.relations), SchemaVersions({1: [((0, -1), 3)], 2: [((0, -1), 4)]})
    for changes in ((row, other), (row, wire.delete(1, ["1"]), other, row), (row, message, other)):
        batch = transaction(200, *changes)
        assert batch.is_of(known)
        got = batch.rows_of(known, versions, 4)
        expected = batch.with_versions(versions).select(actions=["insert", "update", "delete", "truncate"])
        assert got is not None
        assert got.changes() == expected.changes()
        assert got.versions is not None
        assert got.to_bytes() == expected.to_bytes()
        assert got.span == (got.first_position, got.last_position)
        assert batch.rows_of(known, versions, batch.changes_count - 1) is None
    for others in ([other, row], [row], [other], [], [message]):
        batch = transaction(300, *others)
        assert not batch.is_of(known)
        assert batch.rows_of(known, versions, 9) is None
    assert transaction(300).span is None
    altered = BatchReader()
    relations[1] = wire.relation(2, "two", [("id", 23), ("more", 25)])
    assert not transaction(400, row, wire.insert(2, ["2", None]), reader=altered).is_of(known)
    prepared = BatchReader().read(frames(wire.begin_prepare(500, 508), *relations[:1], row, wire.prepare(500, 508)))
    assert prepared.is_of(known[:1]) and prepared.rows_of(known[:1], versions, 9) is None
    truncated = transaction(600, row, other, wire.truncate([1, 2]))
    assert truncated.is_of(tuple(truncated.relations))
    keys = {1: ("id",)}
    assert usual.primary_keys is None
    keyed = usual.with_primary_keys(keys)
    assert keyed.primary_keys is keys
    assert (kept := keyed.rows_of(known, versions, 9)) is not None and kept.primary_keys is keys


def test_lines_that_many_ask_for_at_once_are_the_same() -> None:
    batch = Batch.concat([read(*STREAM)] * 500)
    with ThreadPoolExecutor(4) as threads:
        begin = threading.Barrier(4)

        def ask(_: int) -> bytes:
            begin.wait()
            return batch.to_json()

        first, *others = threads.map(ask, range(4))
    assert all(one is first for one in others)


def test_a_relation_in_the_place_of_another_is_not_taken_for_it() -> None:
    """Formats know relations by where they are in memory: more come and go than a format remembers."""
    format = RowFormat("dict")
    for number in range(10_000):
        name = f"c{number % 7}"
        batch = Batch.of([wire.relation(1, "t", [(name, TEXT)]), wire.insert(1, ["x"]), wire.truncate([1, 1])])
        relation, insert, truncate = batch.events(format)
        assert isinstance(relation, Relation) and isinstance(insert, Insert) and isinstance(truncate, Truncate)
        assert insert.new == {name: "x"}
        assert relation.columns[0].name == name
        assert truncate.relations == [relation, relation]


def test_changes_are_row_changes_truncates_and_messages() -> None:
    """Nothing else, in stream order, transactional or not."""
    names = [type(change).__name__ for change in read(*STREAM).changes()]
    assert names == ["Insert", "Insert", "Update", "Message", "Truncate", "Delete", "Message"]


def test_a_change_without_its_relation_stands_as_error_in_its_place() -> None:
    """The good ones before and after are there, with their own numbers."""
    batch = read(ONE, wire.begin(1000), wire.insert(1, ["1", "a"]), wire.insert(9, []), wire.insert(1, ["2", "b"]))
    first, bad, last = batch.changes()
    assert isinstance(first, Insert) and isinstance(last, Insert)
    assert isinstance(bad, UnknownRelation)
    assert bad.position == (1000, 1)
    assert last.position == (1000, 2)


def test_a_change_that_cannot_be_decoded_is_found_when_the_rows_are_made() -> None:
    """The batch itself is whole: a sink that wants bytes can still have them."""
    batch = read(ONE, wire.begin(1000), wire.insert(1, ["x", "a"]), wire.insert(1, ["2", "b"]), b"?what")
    assert batch.changes_count >= 2
    events = batch.events()
    assert [type(event).__name__ for event in events][2:] == ["InvalidValue", "Insert", "DecodeError"]
    assert isinstance(events[2], DecodeError)
    assert events[2].raw == wire.insert(1, ["x", "a"])


def test_select_by_table_and_action() -> None:
    """Positions stay those of the stream, before any filter (correctness rule 1)."""
    batch = read(*STREAM)
    one = batch.select(tables=[("public", "one")])
    assert [type(change).__name__ for change in one.changes()] == ["Insert", "Update", "Truncate"]
    assert positions(one) == [Position(1000, 0), Position(1000, 2), Position(1000, 4)]
    assert (one.first_position, one.last_position) == (Position(1000, 0), Position(1000, 4))
    assert one.changes_count == 3
    assert 0 < one.nbytes < batch.nbytes
    two = batch.select(tables={("other", "two")}, actions={"insert", "delete"})
    assert positions(two) == [Position(1000, 1), Position(2000, 0)]
    messages = batch.select(actions=["message"]).changes()
    assert [type(change) for change in messages] == [Message, Message]
    assert len(batch.select(tables=[("public", "two")]).changes()) == 0, "another schema is another table"
    assert len(batch.select(tables=[]).changes()) == 0
    assert len(batch.select().changes()) == 7
    assert len(batch.select(actions=[]).changes()) == 0
    with pytest.raises(ConfigError):
        batch.select(actions=["upsert"])


def test_select_of_a_truncate_keeps_it_for_any_of_its_tables() -> None:
    """TRUNCATE one, other.two concerns both."""
    for table in (("public", "one"), ("other", "two")):
        (change,) = read(*STREAM).select(tables=[table], actions=["truncate"]).changes()
        assert isinstance(change, Truncate)
        assert change.position == Position(1000, 4)


def test_a_selection_knows_its_relations_and_its_end() -> None:
    """So that a sink of one table can be told how far the WAL is done for it."""
    batch = read(*STREAM)
    assert [relation.name for relation in batch.select(tables=[("other", "two")], actions=["delete"]).relations] == [
        "two"
    ]


def test_takes_changes_by_their_places() -> None:
    batch = read(*STREAM, wire.insert(1, ["9"])[:-1])
    changes = batch.changes()
    assert len(changes) == 8 and isinstance(changes[7], DecodeError)
    for numbers in (set(), {0}, {7}, {1, 3, 7}, {2, 99}, set(range(8))):
        taken = batch.take(numbers)
        assert [str(one) for one in taken.changes()] == [str(changes[number]) for number in sorted(numbers - {99})]
        assert len(taken) == taken.changes_count == len(numbers - {99}), "no other messages"
    assert str(batch.take({1, 3}).take({1}).changes()[0]) == str(changes[3])


def test_after_a_position() -> None:
    """At or below it is left out: a consumer that resumes inside a transaction sees each change once."""
    batch = read(*STREAM)
    everything = [position for position in positions(batch) if isinstance(position, Position)]
    for cut, position in enumerate(everything):
        rest = [left for left in positions(batch.after(position)) if isinstance(left, Position)]
        assert rest == everything[cut + 1 :]
        assert [left for left in positions(batch.up_to(position)) if isinstance(left, Position)] == everything[
            : cut + 1
        ]
    assert positions(batch.after((0, 0))) == positions(batch)
    for commit_lsn in (0, 1000, 1001, 2**63):
        for index in (-1, 0, 3):
            cut_here = (commit_lsn, index)
            assert len(batch.after(cut_here)) + len(batch.up_to(cut_here)) == len(batch), "each message is on one side"
    assert [left for left in positions(batch.after((2**63, 0))) if isinstance(left, Position)] == []
    late = batch.after((1000, 4))
    assert not [event for event in late.events() if isinstance(event, Commit) and event.commit_lsn < 1000]


def test_a_snapshot_row_comes_before_the_first_change_at_the_same_lsn() -> None:
    """(consistent_point, -1) < (consistent_point, 0): correctness rule 3."""
    batch = read(ONE, wire.begin(1000), wire.insert(1, ["1", "a"]))
    assert positions(batch.after((1000, -1))) == [Position(1000, 0)]
    assert positions(batch.after((1000, 0))) == []


def test_a_transaction_goes_on_in_the_next_batch() -> None:
    """The reader keeps the relations, the transaction and the number between calls, whatever the cut."""
    everything = frames(*STREAM)
    whole = positions(read(*STREAM))
    for cut in range(len(everything) + 1):
        reader = BatchReader()
        first, second = reader.read(everything[:cut]), reader.read(everything[cut:])
        assert positions(first) + positions(second) == whole
        # What was made first is not touched by what came later, and lives without the reader.
        del reader
        assert positions(first) == whole[: first.changes_count]


def test_a_batch_keeps_the_relation_of_its_time() -> None:
    """An ALTER TABLE between two rows of one batch: each row has its own shape."""
    wide = wire.relation(1, "one", [("id", INT4), ("v", TEXT), ("w", INT4)])
    batch = read(ONE, wire.begin(1000), wire.insert(1, ["1", "a"]), wide, wire.insert(1, ["2", "b", "3"]))
    before, after = batch.changes()
    assert isinstance(before, Insert) and isinstance(after, Insert)
    assert len(before.relation.columns) == 2
    assert after.new.w == 3
    assert len(batch.relations) == 2
    again = read(ONE, wire.begin(1000), wire.insert(1, ["1", "a"]), ONE, wire.insert(1, ["2", "b"]))
    assert len(again.relations) == 1, "a repeated Relation is no new shape"


def test_the_end_of_the_last_commit_is_what_may_be_confirmed() -> None:
    """Not the transaction that is still open."""
    reader = BatchReader()
    reader.read(frames(ONE))
    whole = transaction(1000, wire.insert(1, ["1", "a"]))
    batch = reader.read([*whole, *transaction(2000, wire.insert(1, ["2", "b"]))[:-1]])
    assert batch.end_lsn == 1048
    assert reader.in_transaction
    assert reader.idle_lsn == 1048
    tail = reader.read(transaction(2000)[-1:])
    assert tail.end_lsn == 2048
    assert (reader.in_transaction, reader.idle_lsn) == (False, 2048)


def test_keepalives_count_only_outside_a_transaction() -> None:
    """Protocol fact 2; what was received is another thing, it may be ahead."""
    reader = BatchReader()
    assert (reader.received_lsn, reader.idle_lsn, reader.in_transaction) == (0, 0, False)
    reader.read([wire.keepalive(500)])
    assert (reader.received_lsn, reader.idle_lsn) == (500, 500)
    reader.read(frames(ONE, wire.begin(1000)))
    reader.read([wire.keepalive(5000)])
    assert reader.in_transaction
    assert (reader.received_lsn, reader.idle_lsn) == (5000, 500)
    reader.read(transaction(1000)[-1:])
    assert reader.idle_lsn == 1048, "the keepalive inside the transaction does not count afterwards"
    reader.read([wire.keepalive(900)])
    assert reader.idle_lsn == 1048, "never backwards"
    reader.read([wire.keepalive(6000)])
    assert (reader.received_lsn, reader.idle_lsn) == (6000, 6000)


def test_a_message_outside_a_transaction_does_not_open_one() -> None:
    """A logical message that is not transactional stands alone (protocol fact 16)."""
    reader = BatchReader()
    reader.read(frames(wire.message("p", b"", transactional=False)))
    assert not reader.in_transaction


def test_what_was_received_is_the_highest_of_all_frames() -> None:
    """wal_start goes backwards at Begin and is 0 for Relation (protocol fact 1)."""
    reader = BatchReader()
    reader.read([wire.xlogdata(wire.begin(), 700), wire.xlogdata(ONE, 0), wire.xlogdata(wire.commit(400, 448), 300)])
    assert reader.received_lsn == 700


def test_a_keepalive_that_asks_for_a_reply() -> None:
    """Told once."""
    reader = BatchReader()
    assert not reader.take_reply_request()
    reader.read([wire.keepalive(1, reply=True), wire.keepalive(2)])
    assert reader.take_reply_request()
    assert not reader.take_reply_request()


@pytest.mark.parametrize("frame", [wire.xlogdata(b"", 1), wire.xlogdata(wire.begin(), 1), wire.keepalive(1)])
def test_every_frame_cut_short_is_refused(frame: bytes) -> None:
    """The header of XLogData is 25 bytes, a keepalive is 18; what is inside is the message's affair."""
    header = 25 if frame[:1] == b"w" else len(frame)
    for cut in range(header):
        with pytest.raises(DecodeError) as caught:
            BatchReader().read([frame[:cut]])
        assert caught.value.reason and caught.value.field
    if frame[:1] == b"k":
        with pytest.raises(DecodeError):
            BatchReader().read([frame + b"\0"])


def test_a_frame_of_another_kind_is_refused() -> None:
    """And the reader can be used again."""
    reader = BatchReader()
    for frame in (b"x" + bytes(40), b"", b"d"):
        with pytest.raises(DecodeError):
            reader.read([frame])
    assert len(reader.read(frames(ONE))) == 1


def test_the_lsn_of_an_event_is_its_frames() -> None:
    """wal_start, as XLogData said."""
    batch = read(ONE, wire.begin(1000), wire.insert(1, ["1", "a"]))
    assert [getattr(event, "lsn", None) for event in batch] == [None, 101, 102]


def test_frames_may_be_memoryviews() -> None:
    """libpq's buffer is freed after the call: a batch keeps nothing of it."""
    buffer = bytearray(wire.xlogdata(ONE))
    batch = BatchReader().read([memoryview(buffer)])
    buffer[:] = bytes(len(buffer))
    assert isinstance(batch.events()[0], Relation)


def test_a_truncation_at_the_start_of_a_copy() -> None:
    """For targets that must be emptied first."""
    relation = Decoder().decode(ONE)
    assert isinstance(relation, Relation)
    (change,) = Batch.truncation([relation], 77).changes()
    assert isinstance(change, Truncate)
    assert change.relations == [relation]
    assert change.position == Position(77, -1)


def test_status_update() -> None:
    """34 bytes, four of them LSNs and a clock in UTC."""
    before = wire.microseconds(_now())
    message = encode_status_update(1, 2**63, 2**64 - 1, True)
    kind, written, flushed, applied, clock, reply = struct.unpack(">cQQQqB", message)
    assert (kind, written, flushed, applied, reply) == (b"r", 1, 2**63, 2**64 - 1, 1)
    assert before <= clock <= wire.microseconds(_now())
    assert encode_status_update(1, 2, 3)[-1] == 0
    assert len(message) == 34
    with pytest.raises((OverflowError, ValueError)):
        encode_status_update(-1, 0, 0)


def _now() -> Any:
    from datetime import datetime

    return datetime.now(UTC)


def test_positions_of_all_captures_rise_over_batches() -> None:
    """first ≤ last within a batch, and the next batch begins above."""
    for version, form in ALL:
        reader = BatchReader()
        captured = capture(version, form)
        batches = [
            reader.read([wire.xlogdata(message, lsn) for lsn, message in captured[start : start + 9]])
            for start in range(0, len(captured), 9)
        ]
        filled = [batch for batch in batches if batch.first_position and batch.last_position]
        for batch in filled:
            assert batch.first_position <= batch.last_position  # type: ignore[operator]
        for before, after in pairwise(filled):
            assert before.last_position < after.first_position  # type: ignore[operator]


def test_dropping_batches_gives_their_memory_back() -> None:
    """No cycle keeps events alive."""
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(50):
            read(*STREAM).events()
        assert len(gc.get_objects()) - before < 2000
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.parametrize(("version", "form"), ALL, ids=IDS)
def test_frames_in_one_piece_of_memory_are_read_as_a_list_is(version: int, form: str) -> None:
    listed = [wire.xlogdata(message, lsn) for lsn, message in capture(version, form)]
    listed[len(listed) // 2 :] = [wire.keepalive(1 << 40, reply=True), *listed[len(listed) // 2 :]]
    pieces = Frames()
    for frame in listed:
        pieces.append(frame)
    assert list(pieces) == listed
    assert [pieces[number] for number in range(len(pieces))] == listed
    assert pieces.nbytes == sum(map(len, listed))
    assert list(zip(*reversed(pieces.messages()), strict=True)) == list(capture(version, form))
    with pytest.raises(IndexError):
        pieces[len(listed)]
    one, other = BatchReader(), BatchReader()
    assert repr(one.read(pieces).events()) == repr(other.read(listed).events())
    assert (one.received_lsn, one.idle_lsn) == (other.received_lsn, other.idle_lsn)
    assert one.take_reply_request()


def test_a_bad_frame_among_pieces_is_told_as_in_a_list() -> None:
    for bad in (b"", b"x", b"w1234"):
        pieces = Frames()
        pieces.append(bad)
        with pytest.raises(DecodeError) as one:
            BatchReader().read(pieces)
        with pytest.raises(DecodeError) as other:
            BatchReader().read([bad])
        assert str(one.value) == str(other.value)
        with pytest.raises(DecodeError, match=re.escape(str(other.value))):
            pieces.messages()


def test_alike_shapes_become_one() -> None:
    """Of what was kept one by one; the last changes have the first shape again, and others lie in between."""
    narrow, wide = wire.relation(1, "t", [("id", 23)]), wire.relation(1, "t", [("id", 23), ("n", 23)])
    other = wire.relation(2, "o", [("id", 23)])
    rows: list[tuple[Any, list[Any]]] = [
        (narrow, ["1"]),
        (narrow, ["2"]),
        (other, ["3"]),
        (wide, ["4", "5"]),
        (narrow, ["6"]),
        (narrow, ["7"]),
    ]
    whole = Batch.of(
        [
            wire.begin(100),
            *(part for shape, row in rows for part in (shape, wire.insert(2 if shape is other else 1, row))),
            wire.commit(100, 108),
        ]
    ).select()
    pieces = [Batch.from_bytes(whole.take([number]).to_bytes()) for number in range(whole.changes_count)]
    apart, alike = Batch.concat(pieces), Batch.concat(pieces, alike=True)
    assert [at for at, *_ in apart.shape_runs()] == [0, 1, 2, 3, 4, 5]
    assert [at for at, *_ in alike.shape_runs()] == [at for at, *_ in whole.shape_runs()] == [0, 2, 3, 4]
    assert (len(apart.relations), len(whole.relations), len(alike.relations)) == (6, 4, 3)
    assert alike.changes() == apart.changes() == whole.changes()
    assert alike.to_json() == apart.to_json() == whole.to_json()
    again = Batch.from_bytes(alike.to_bytes())
    assert again.changes() == whole.changes() and len(again.relations) == 3
    truncated = Batch.truncation(whole.relations[:2], 200)
    both = Batch.concat([*pieces, Batch.from_bytes(truncated.to_bytes())], alike=True)
    assert both.changes()[-1].relations == truncated.changes()[0].relations  # type: ignore[union-attr]
