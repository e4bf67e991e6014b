"""NATS JetStream: the contract of sinks on a real server, ids and subjects, and the whole way from PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

import pgcdc
from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.sinks import Nats
from pgcdc.testing import Table, delete, insert, message, transaction, truncate, update
from pgcdc.testing.contracts import SinkContract
from tests.pipeline.running import running
from tests.sinks.batches import batch_of
from tests.sinks.receiver import Rows
from tests.sinks.workload import ORDERS, work

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pgcdc.protocol import Batch
    from tests.conftest import Database
    from tests.servers.nats import NatsServer

TABLE = Table("orders", {"id": "bigint", "status": "text"}, key=("id",))


async def _read(url: str, stream: str) -> list[tuple[str, str, dict[str, Any]]]:
    connection = await nats.connect(url, allow_reconnect=False)
    try:
        jetstream = connection.jetstream(timeout=30)
        try:
            state = (await jetstream.stream_info(stream)).state
        except nats.js.errors.NotFoundError:
            return []
        found = []
        for sequence in range(state.first_seq, state.last_seq + 1) if state.messages else ():
            one = await jetstream.get_msg(stream, sequence)
            assert one.data is not None
            found.append((str(one.subject), (one.headers or {})["Nats-Msg-Id"], json.loads(one.data)))
        return found
    finally:
        await connection.close()


def read(server: NatsServer, stream: str) -> list[tuple[str, str, dict[str, Any]]]:
    """The messages of a stream: subject, id, change."""
    with ThreadPoolExecutor(1) as thread:  # also where a loop runs already
        return thread.submit(lambda: asyncio.run(_read(server.url, stream))).result(60)


def rows_of(found: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[Any, dict[str, Any]]:
    """What the changes make of a table, in the order of the stream; and none of them is there twice."""
    rows, names = Rows(), []
    for _, name, change in found:
        names.append(name)
        rows.apply(change)
    assert len(names) == len(set(names))
    return rows.rows


def name_of(place: Path) -> str:
    return "s" + hashlib.sha256(str(place).encode()).hexdigest()[:16]


class TestNats(SinkContract):
    """The rows that the stream's messages make."""

    refused: ClassVar[Mapping[str, Any] | None] = {"id": 9, "name": "x" * (1 << 20), "amount": None, "note": None}
    without: ClassVar[Mapping[str, str]] = {"renamed": "a message has the names of its time"}

    @pytest.fixture(autouse=True)
    def _on_server(self, nats_server: NatsServer) -> None:
        self._server = nats_server

    def make_sink(self, place: Path) -> Nats:
        name = name_of(place)
        return Nats(self._server.url, stream=name, subject=name + ".{table}", timeout=5)

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        rows = rows_of(read(self._server, name_of(place)))
        return {
            key: {name: str(value) for name, value in row.items() if value is not None} for key, row in rows.items()
        }

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        names = list(columns)
        return {key: {name: str(row[name]) for name in names if row.get(name) is not None} for key, row in rows.items()}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """The server is stopped; its streams are there when it is started again."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    def busy(self, place: Path) -> AbstractContextManager[None]:
        """The process is stopped, and goes on."""
        return self._server.paused()


def send(sink: Nats, *batches: Batch) -> None:
    """Write batches, as a pipeline does."""

    async def write() -> None:
        await sink.open()
        try:
            for batch in batches:
                await sink.write(batch)
        finally:
            await sink.close()

    asyncio.run(write())


def test_ids_and_subjects(nats_server: NatsServer, tmp_path: Path) -> None:
    """An id is the position; copied rows have ids of their own; what came before under a subject is left out."""
    name = name_of(tmp_path)
    odd = Table("a.b *", {"id": "text", "status": "text"}, key=("id",))
    batch = batch_of(
        [
            transaction(insert(TABLE, {"id": 3}), message("p", "c")),
            insert(odd, {"id": "x.y> é"}),
            insert(odd, {"id": ""}),
            update(TABLE, {"id": 4}, old={"id": 3}),
            delete(TABLE, {"id": 4}),
            truncate(TABLE),
        ],
        existing=[insert(TABLE, {"id": 1}), insert(TABLE, {"id": 2})],
    )
    sink = Nats([nats_server.url], stream=name, subject=name + ".{schema}.{table}.{key}")
    send(sink, batch, batch)
    send(sink, batch)
    found = read(nats_server, name)
    assert [subject.removeprefix(name) for subject, *_ in found] == [
        ".public.orders.1",
        ".public.orders.2",
        ".public.orders.3",
        "._.messages._",
        ".a.b=20=2A.x=2Ey=3E=20=C3=A9",
        ".a.b=20=2A.=",
        ".public.orders.4",
        ".public.orders.4",
        ".public.orders._",
    ]
    assert [change for *_, change in found] == [json.loads(line) for line in batch.to_json().splitlines()]
    for _, at, change in found[2:]:
        assert at.rpartition(".")[0] == change["position"]
    assert len({at for _, at, _ in found}) == 9
    send(Nats(nats_server.url, stream=name, subject=name + ".again.{table}.{key}"), batch)
    assert len(read(nats_server, name)) == 18


def test_a_stream_that_is_there_stays_as_it_is(nats_server: NatsServer, tmp_path: Path) -> None:
    """Also its largest message; and one without a window knows nothing again after it."""
    name = name_of(tmp_path)

    async def make() -> None:
        connection = await nats.connect(nats_server.url)
        await connection.jetstream().add_stream(name=name, subjects=[name + ".>"], max_msg_size=3000)
        await connection.close()

    asyncio.run(make())
    sink = Nats(nats_server.url, stream=name, subject=name + ".{table}")
    changes = [insert(TABLE, {"id": 1, "status": "x" * 4000}), insert(TABLE, {"id": 2, "status": "x"})]
    with pytest.raises(SinkRejected, match="larger than 1976 bytes") as raised:
        send(sink, batch_of([transaction(*changes)]))
    assert {index for _, index in raised.value.positions} == {0}
    assert read(nats_server, name) == []


def test_a_row_without_a_key(nats_server: NatsServer, tmp_path: Path) -> None:
    name = name_of(tmp_path)
    heap = Table("heap", {"a": "bigint"}, replica_identity="f")
    with pytest.raises(SinkRejected, match="no key for the subject") as raised:
        send(
            Nats(nats_server.url, stream=name, subject=name + ".{a}"),
            batch_of([insert(heap, {"a": 1}), insert(heap, {"a": None})]),
        )
    assert len(raised.value.positions) == 1


def test_a_key_that_makes_too_long_a_subject(nats_server: NatsServer, tmp_path: Path) -> None:
    """The server would end the connection, each time. The longest that goes is written."""
    name, table = name_of(tmp_path), Table("t", {"a": "text"}, key=("a",))
    sink = Nats(nats_server.url, stream=name, subject=name + ".{a}")
    longest = "x" * (3900 - len(name) - 1)
    with pytest.raises(SinkRejected, match="a subject of more than 3900 bytes") as raised:
        send(sink, batch_of([transaction(insert(table, {"a": longest}), insert(table, {"a": longest + "x"}))]))
    assert {index for _, index in raised.value.positions} == {1}
    send(sink, batch_of([insert(table, {"a": longest})]))
    assert [change["new"]["a"] for _, _, change in read(nats_server, name)] == [longest]


def test_a_stream_that_does_not_take_the_subject(nats_server: NatsServer, tmp_path: Path) -> None:
    """Somebody has to do something, and then it goes on."""
    name = name_of(tmp_path)
    send(Nats(nats_server.url, stream=name, subject=name + ".one"))
    with pytest.raises(SinkUnavailable):
        send(
            Nats(nats_server.url, stream=name, subject=name + ".other", timeout=5), batch_of([insert(TABLE, {"id": 1})])
        )


def test_a_stream_that_is_full(nats_server: NatsServer, tmp_path: Path) -> None:
    """It says so, and what follows a message that it refuses waits: rows are in order when there is room again."""
    name = name_of(tmp_path)
    values = ("a" * 3000, "b" * 4000, "c", "d" * 3000, "e", "f" * 4000, "g" * 4000)
    whole = batch_of([insert(TABLE, {"id": 1, "status": value}) for value in values])
    follow = whole.take(range(1, 5))

    async def work() -> None:
        connection = await nats.connect(nats_server.url)
        jetstream = connection.jetstream()
        config = StreamConfig(name=name, subjects=[f"{name}.>"], max_bytes=6000, discard=DiscardPolicy.NEW)
        await jetstream.add_stream(config)
        sink = Nats(nats_server.url, stream=name, subject=name + ".{table}.{id}", timeout=10)
        await sink.open()
        await sink.write(whole.take([0]))
        for _ in range(2):
            with pytest.raises(SinkUnavailable, match="the stream is full, and refuses what is new"):
                await sink.write(follow)
        await jetstream.update_stream(config.evolve(max_bytes=60_000))
        await sink.write(follow)
        sink._refuses = False  # somebody else has filled it, after it was asked
        await jetstream.update_stream(config.evolve(max_bytes=17_000))
        with pytest.raises(SinkUnavailable, match="the stream is full, and refuses what is new"):
            await sink.write(whole.take([5, 6]))
        await sink.close()
        await connection.close()

    asyncio.run(work())
    got = [line["new"]["status"][0] for _, _, line in read(nats_server, name)]
    assert got == ["a", "b", "c", "d", "e", "f"]


def test_no_server(nats_server: NatsServer) -> None:
    """What the error says has no password in it."""
    nobody = Nats("nats://user:hidden@127.0.0.1:1", timeout=1)
    with pytest.raises(SinkUnavailable, match="cannot be reached") as raised:
        send(nobody)
    assert "hidden" not in f"{raised.value}{raised.value.hint}{nobody!r}"


@pytest.mark.parametrize(
    "options",
    [
        {"stream": "a.b"},
        {"stream": ""},
        {"subject": "a b"},
        {"subject": "a.*"},
        {"subject": "a..b"},
        {"subject": "{a}{b}"},
        {"subject": "a.>"},
        {"window": 0},
        {"replicas": 0},
    ],
)
def test_what_is_wrong_is_said_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Nats("nats://localhost", **options)


def test_the_whole_way(newest_database: Database, nats_server: NatsServer, tmp_path: Path) -> None:
    """Copied rows, random changes, a restart in the middle: the stream makes what SELECT gives."""
    database, chance, name = newest_database, random.Random(12), name_of(tmp_path)
    database.execute(*ORDERS)
    work(database, chance, 40)
    for last in (False, True):
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        pipeline.add(Nats(nats_server.url, stream=name, subject=name + ".{table}.{id}"), name="nats")
        with running(pipeline) as run:
            run.streaming()
            work(database, chance, 40)
            if last:
                database.execute("INSERT INTO orders SELECT g, 1, 'last', 1 FROM generate_series(100, 105) g")
            run.catch_up(database)
        if not last:
            work(database, chance, 40)
    names = ("id", "user_id", "note", "total")
    expected = {
        row[0]: dict(zip(names, row, strict=True))
        for row in database.execute("SELECT id, user_id, note, total::text FROM orders")
    }
    assert expected, "the workload leaves some"
    assert rows_of(read(nats_server, name)) == expected
