"""Batches as bytes and back, and the spool that keeps them in files: nothing is lost, and who has it is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgcdc.errors import ConfigError, DecodeError, SpoolError, SpoolFull, SpoolInUse
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, BatchReader, DebeziumEnvelope, RowFormat, Spool
from tests.golden.make import Captured, read_capture
from tests.protocol import wire
from tests.protocol.captures import ALL, GOLDEN, IDS, STREAM_IDS, STREAMS
from tests.reference import plain

ONE = wire.relation(1, "one", [("id", 23), ("v", 25)])
DEBEZIUM = DebeziumEnvelope("shop", db="db")


def read_stream(captured: Captured) -> Batch:
    """All of a capture as one batch."""
    return BatchReader().read([wire.xlogdata(message, lsn) for lsn, message in captured])


def transaction(number: int, *values: str) -> Batch:
    """A transaction of inserts that commits at so many thousands."""
    rows = [wire.insert(1, [str(number), value]) for value in values or ("a", "b")]
    messages = [ONE, wire.begin(number * 1000), *rows, wire.commit(number * 1000, number * 1000 + 48)]
    return Batch.of(messages, range(number * 1000 - len(messages), number * 1000))


def assert_same(one: Batch, other: Batch) -> None:
    """Two batches have as many messages, the same positions and relations, and the same lines of JSON."""
    assert (len(one), one.nbytes, one.end_lsn, one.in_progress) == (
        len(other),
        other.nbytes,
        other.end_lsn,
        other.in_progress,
    )
    assert (one.first_position, one.last_position) == (other.first_position, other.last_position)
    assert one.relations == other.relations
    for envelope in ("plain", DEBEZIUM):
        assert lines(one, envelope) == lines(other, envelope)


def append_all(spool: Spool, batches: list[Batch]) -> None:
    """Append batches; each says its number as its LSN."""
    for number, batch in enumerate(batches, 1):
        spool.append(batch, number)


def lines(batch: Batch, envelope: str | DebeziumEnvelope) -> bytes | str:
    """The changes as JSON, or why there is none."""
    try:
        return batch.to_json(envelope)  # type: ignore[arg-type]
    except DecodeError as error:
        return str(error)


@pytest.mark.parametrize(("version", "form"), ALL + STREAMS, ids=IDS + STREAM_IDS)
def test_a_capture_comes_back_from_its_bytes(version: int, form: str) -> None:
    batch = read_stream(read_capture(GOLDEN / f"pg{version}" / f"{form}.capture"))
    data = batch.to_bytes()
    again = Batch.from_bytes(data)
    assert_same(again, batch)
    format = RowFormat("dict")
    assert plain(again.events(format)) == plain(batch.events(format))
    assert again.to_bytes() == data
    assert len(data) < batch.nbytes * 2
    changes = [event for event in batch.changes() if not isinstance(event, DecodeError)]
    tables = {(relation.schema, relation.name) for relation in batch.relations[:2]}
    parts = [batch.select(), batch.select(tables), batch.select(actions=["delete", "truncate"])]
    for change in changes[:: max(1, len(changes) // 4)]:
        if isinstance(position := change.position, Position):
            parts += [batch.after(position), batch.up_to(position)]
    assert len(parts) > 3
    for part in parts:
        assert_same(Batch.from_bytes(part.to_bytes()), part)
    # What is cut down is small again.
    assert len(batch.select(tables, []).to_bytes()) == 16


def test_rows_are_given_as_the_reader_says() -> None:
    data = memoryview(transaction(1).to_bytes())
    change = Batch.from_bytes(data, RowFormat("dict")).changes()[0]
    assert getattr(change, "new", None) == {"id": 1, "v": "a"}


@pytest.mark.parametrize(
    ("data", "field", "offset"),
    [
        (b"", "signature of a batch", 0),
        (b"pgb\x02" + bytes(12), "version of a batch", 3),
        (b"pgb\x01\xff\xff\xff\xff" + bytes(8), "number of shapes", 4),
        (transaction(1).to_bytes()[:-1], "messages", 0),
        (transaction(1).to_bytes() + b"x", "messages", 0),
    ],
)
def test_what_is_no_batch_is_refused(data: bytes, field: str, offset: int) -> None:
    with pytest.raises(DecodeError, match=r"^these bytes are no batch: .* at byte \d+$") as caught:
        Batch.from_bytes(data)
    assert caught.value.field == field
    assert caught.value.offset == offset or field == "messages"
    assert caught.value.hint


def test_batches_come_back_after_the_process_ended(tmp_path: Path) -> None:
    """One process appends, and is killed; another one reads what was synced."""
    program = """
import os, sys
from pgcdc.protocol import Spool
from tests.protocol.test_spool import transaction
spool = Spool(sys.argv[1])
for number in range(1, 101):
    spool.append(transaction(number), number * 1000 + 48)
spool.sync()
print(spool.id, flush=True)
os.kill(os.getpid(), 9)
"""
    directory = tmp_path / "spool"
    run = [sys.executable, "-c", program, str(directory)]
    killed = subprocess.run(run, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -9, killed.stderr
    with Spool(directory, format=RowFormat("dict")) as spool:
        assert spool.id == killed.stdout.strip()
        assert len(spool.id) == 32
        assert (spool.pending, spool.through_lsn, spool.last_position) == (100, 100_048, Position(100_000, 1))
        for number in range(1, 101):
            read = spool.read()
            assert read is not None
            sequence, batch, through_lsn = read
            assert (sequence, through_lsn) == (number, number * 1000 + 48)
            assert_same(batch, transaction(number))
            assert batch.changes()[0].new == {"id": number, "v": "a"}  # type: ignore[union-attr]
            spool.release(sequence)
        assert spool.read() is None
        assert (spool.pending, spool.through_lsn, spool.last_sequence) == (0, 100_048, 100)
    assert (directory.stat().st_mode & 0o777, (directory / "spool").stat().st_mode & 0o777) == (0o700, 0o600)
    (directory / "spool").unlink()
    with pytest.raises(SpoolError, match="there are segments"):
        Spool(directory)


def test_an_empty_batch_says_how_far_the_wal_is_done(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        assert (spool.through_lsn, spool.last_position) == (0, None)
        spool.append(transaction(1), 1048)
        spool.append(Batch.of([]), 5000)
        assert (spool.through_lsn, spool.last_position) == (5000, Position(1000, 1))
        spool.sync()
    with Spool(tmp_path) as spool:
        assert (spool.through_lsn, spool.last_position) == (5000, Position(1000, 1))
        # The stream comes again from further back: what is in the spool already is left out.
        assert spool.last_position is not None
        again = Batch.concat([transaction(1), transaction(2)]).after(spool.last_position)
        assert again.first_position == Position(2000, 0)


def test_the_last_position_is_known_when_all_that_is_left_says_only_how_far_the_wal_is(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=100) as spool:
        spool.append(transaction(1), 1048)
        spool.release(spool.append(Batch.of([]), 5000))
        assert len(list(tmp_path.glob("*.segment"))) == 1
    with Spool(tmp_path) as spool:
        assert (spool.through_lsn, spool.last_position) == (5000, Position(1000, 1))


def test_no_more_is_taken_than_it_may_hold(tmp_path: Path) -> None:
    rows = [os.urandom(500).hex() for _ in range(2)]
    with Spool(tmp_path, max_bytes=20_000, segment_bytes=5_000) as spool:
        with pytest.raises(SpoolFull, match=r"takes \d+ bytes and may take no more than 20000$") as caught:
            append_all(spool, [transaction(number, *rows) for number in range(1, 100)])
        assert caught.value.hint
        kept = spool.pending
        assert 5 < kept == spool.through_lsn and 10_000 < spool.stored_bytes <= 20_000
        for _ in range(kept):
            read = spool.read()
            assert read is not None
            spool.release(read[0])
        assert spool.stored_bytes < 10_000
        assert spool.append(transaction(100, *rows)) == kept + 1
        large_batch = transaction(101, *(os.urandom(500).hex() for _ in range(80)))
        with pytest.raises(SpoolFull, match=r"more than the spool .* may take") as large:
            spool.append(large_batch)
        assert large.value.hint == "raise max_bytes"


def test_one_at_a_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(SpoolInUse, match=rf"^the spool in {re.escape(str(tmp_path))} belongs to another process$"):
        Spool(tmp_path)
    spool.close()
    spool.close()
    with pytest.raises(ValueError, match=r"^this spool is closed$"):
        spool.append(transaction(1))
    assert repr(spool) == f"<Spool in {tmp_path}>"
    Spool(tmp_path).close()
    with pytest.raises(ConfigError, match="segment_bytes"):
        Spool(tmp_path, max_bytes=10, segment_bytes=11)


def test_damage_is_named_with_file_and_offset(tmp_path: Path) -> None:
    with Spool(tmp_path) as spool:
        for number in range(1, 4):
            spool.append(transaction(number))
            spool.sync()
    (segment,) = tmp_path.glob("*.segment")
    data = bytearray(segment.read_bytes())
    data[120] ^= 1
    segment.write_bytes(data)
    with pytest.raises(
        SpoolError, match=rf"^{re.escape(str(segment))} does not hold what was written to it: at byte 36 "
    ) as caught:
        Spool(tmp_path)
    assert caught.value.hint


def test_one_thread_appends_while_another_one_reads(tmp_path: Path) -> None:
    with Spool(tmp_path, segment_bytes=50_000) as spool:

        def append() -> None:
            for number in range(1, 301):
                spool.append(transaction(number), number)
            spool.sync()

        thread = threading.Thread(target=append)
        thread.start()
        through = 0
        while through < 300:
            if (read := spool.read()) is not None:
                sequence, batch, through_lsn = read
                assert sequence == through_lsn == through + 1
                assert batch.last_position == Position(sequence * 1000, 1)
                through = through_lsn
                spool.release(sequence)
        thread.join()
        assert spool.pending == 0
