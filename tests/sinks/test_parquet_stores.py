"""Parquet files keep the contract of sinks on S3, Azure and GCS; each does what the manifest asks of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from pgcdc import PositionError
from pgcdc.errors import SinkUnavailable
from pgcdc.sinks import Parquet
from pgcdc.sinks.manifest import entry_path, read_manifest
from pgcdc.sinks.objects import RemoteObjects
from pgcdc.sinks.parquet import compact, current_state, files
from pgcdc.sinks.parquet_compaction import _clean
from pgcdc.testing import delete, insert, update
from tests.servers.buckets import STORES, Bucket, new_bucket
from tests.servers.proxy import Proxy
from tests.sinks.test_parquet import TABLE, ParquetContract, batch_of, by_key, row


class _OnAStore(ParquetContract):
    """Read by Polars."""

    store: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _server(self, request: pytest.FixtureRequest) -> Iterator[None]:
        self._timeout = "30s"
        self._bucket = new_bucket(self.store, request)
        with Proxy(self._bucket.port) as self._proxy:
            yield

    def _url(self, place: Path) -> str:
        return f"{self._bucket.url}/{'-'.join(place.parts[-2:])}"

    def make_sink(self, place: Path) -> Parquet:
        return Parquet(self._url(place), **self._bucket.options(self._proxy.port, timeout=self._timeout))

    def content(self, place: Path) -> dict[int, dict[str, Any]]:
        options = self._bucket.options()
        frame = current_state(self._url(place), "contract", **options, storage_options=self._bucket.reader)
        return {row["id"]: row for row in frame.to_dicts()}

    def test_waits_for_a_target_that_is_slow(self, tmp_path: Path) -> None:
        """It is noticed that nothing is answered; anywhere else nothing depends on how fast the server is."""
        self._timeout = "2s"
        self._held(tmp_path, self.busy)

    @contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """It takes no connections, and has closed those that it had."""
        self._proxy.refuse = True
        self._proxy.close()
        try:
            yield
        finally:
            self._proxy.refuse = False

    @contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """It does not answer."""
        self._proxy.hole = True
        try:
            yield
        finally:
            self._proxy.hole = False
            self._proxy.close()


class TestS3(_OnAStore):
    store = "s3"


class TestAzure(_OnAStore):
    store = "azure"


class TestGcs(_OnAStore):
    store = "gcs"


@pytest.fixture(params=list(STORES))
def bucket(request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket, of each store."""
    return new_bucket(request.param, request)


def test_objects(bucket: Bucket) -> None:
    """Large ones come in parts; those that must not exist are not written over; what is gone is no error."""
    objects = bucket.objects("x")
    with pytest.raises(SinkUnavailable, match="cannot be written"):
        Bucket(f"{bucket.url}-none", bucket.port, bucket.config, {}).objects("x").put("a/b", b"there is no bucket")
    large = random.Random(1).randbytes(12_000_000)
    assert objects.put("a/large", memoryview(large))
    assert objects.get("a/large") == large
    assert objects.put("a/b", b"1", create=True)
    assert not objects.put("a/b", b"2", create=True)
    assert not objects.put("a/b", large, create=True)
    assert objects.get("a/b") == b"1"
    assert [(one.path, one.size) for one in objects.list("a")] == [("a/b", 1), ("a/large", len(large))]
    assert [one.path for one in objects.list("a", "a/b")] == ["a/large"]
    assert [one.path for one in bucket.objects("").list("x")] == ["x/a/b", "x/a/large"]
    assert objects.put("a/b", b"3")
    assert objects.get("a/b") == b"3"
    objects.delete(["a/b", "a/none"])
    assert objects.get("a/b") is None
    assert [one.path for one in objects.list("a")] == ["a/large"]


def test_of_many_one_creates(bucket: Bucket) -> None:
    """Whoever writes at the same moment: one of them has written, and it is theirs that is there."""
    for number in range(5):
        begin, said = threading.Barrier(6), dict[int, bool]()

        def write(who: int, number: int = number, begin: threading.Barrier = begin, said: Any = said) -> None:
            objects = bucket.objects("x")
            begin.wait()
            said[who] = objects.put(entry_path(number), str(who).encode(), create=True)

        threads = [threading.Thread(target=write, args=(who,)) for who in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [first] = [who for who, written in said.items() if written]
        assert len(said) == 6
        assert bucket.objects("x").get(entry_path(number)) == str(first).encode()


def test_a_crash_and_another_writer(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without an entry count for nobody, a second writer goes on, and what is put together is read the same."""
    url, options = f"{bucket.url}/lake", bucket.options()
    objects = bucket.objects("lake")
    changes = [insert(TABLE, row(1)), insert(TABLE, row(2)), update(TABLE, row(1, "b")), delete(TABLE, row(2))]
    one, two, three = batch_of(*changes, insert(TABLE, row(3)), insert(TABLE, row(4))).pieces(2)
    first = Parquet(url, **options)
    first.open()
    first.write(one)
    put = RemoteObjects.put

    def crash(self: RemoteObjects, path: str, data: bytes, *, create: bool = False) -> bool:
        if create:
            raise SinkUnavailable("cut")
        return put(self, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteObjects, "put", crash)
        with pytest.raises(SinkUnavailable, match="cut"):
            first.write(two)
    assert len(files(url, "orders", **options)) == 1
    assert len(objects.list("data")) == 2
    second = Parquet(url, **options)
    second.open()
    assert second.position() == one.last_position
    second.write(two)
    with pytest.raises(PositionError, match="another process writes"):
        first.write(two)
    assert compact(url, **options)[:2] == (2, 1)
    second.write(three)
    assert _clean(objects, -1).files == 3  # of the crash, and the two that were put together
    named = read_manifest(objects).files
    assert [found.path for found in objects.list("data")] == sorted(named)
    state = current_state(url, "orders", **options, storage_options=bucket.reader)
    assert by_key(state.to_dicts()) == {1: row(1, "b"), 3: row(3), 4: row(4)}
    tables = [pyarrow.parquet.read_table(pyarrow.BufferReader(objects.get(path))) for path in named]
    assert sorted(key for table in tables for key in table.column("id").to_pylist()) == [1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("cut_by", ["close", "reset"])
def test_an_answer_is_lost(bucket: Bucket, cut_by: Literal["close", "reset"]) -> None:
    """Wherever in the answers to a write the connection ends: each change is there once."""
    url, cuts = f"{bucket.url}/lake", 0
    with Proxy(bucket.port) as proxy:
        proxy.cut_by = cut_by
        sink = Parquet(url, **bucket.options(proxy.port))
        sink.open()
        pieces = batch_of(*(insert(TABLE, row(key)) for key in range(12))).pieces(1)
        for number, piece in enumerate(pieces):
            proxy.cut_after = 1 + number * 120  # the answer to a file is some hundred bytes long, that to an entry, too
            written = False
            while not written:
                with suppress(SinkUnavailable):
                    sink.write(piece)
                    written = True
            cuts += proxy.cut_after is None
            proxy.cut_after = None
    assert cuts > 3
    objects = bucket.objects("lake")
    tables = [
        pyarrow.parquet.read_table(pyarrow.BufferReader(objects.get(file.path)))
        for file in read_manifest(objects).files.values()
    ]
    assert sorted(key for table in tables for key in table.column("id").to_pylist()) == list(range(12))


class _Translated(Proxy):
    """Says 412 where the server says 409."""

    def _send(self, target: Any) -> bool:
        if target in self._clients and target in self._left:
            self._left[target] = self._left[target].replace(b"HTTP/1.1 409 ", b"HTTP/1.1 412 ")
        return super()._send(target)


def test_azure_says_that_there_is_one_in_two_ways(request: pytest.FixtureRequest) -> None:
    """Azure itself answers 412 where Azurite answers 409; before obstore 0.12 that was not told as what exists."""
    bucket = new_bucket("azure", request)
    with _Translated(bucket.port) as proxy:
        objects = bucket.objects("x", proxy.port)
        assert objects.put("a", b"1", create=True)
        assert not objects.put("a", b"2", create=True)
        assert objects.get("a") == b"1"
