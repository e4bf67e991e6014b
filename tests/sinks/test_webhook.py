"""The webhook: the contract of sinks against a receiver that skips what it has seen, and what is said to receivers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import pytest
from aiohttp import web

import pgcdc
from pgcdc.errors import ConfigError, SinkRejected, SinkUnavailable
from pgcdc.sinks import Webhook
from pgcdc.sinks.signature import sign
from pgcdc.sinks.webhook import InvalidSignature, verify
from pgcdc.testing import Table, insert, message, transaction, truncate, update
from pgcdc.testing.contracts import SinkContract
from tests.pipeline.running import running
from tests.sinks.batches import batch_of
from tests.sinks.receiver import SECRET, Receiver, Rows
from tests.sinks.workload import ORDERS, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from pgcdc.protocol import Batch
    from pgcdc.testing.changes import Change, Transaction
    from tests.conftest import Database

TABLE = Table("orders", {"id": "bigint", "status": "text"}, key=("id",))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class TestInBatches(SinkContract):
    """What the receiver has."""

    refused: ClassVar[Mapping[str, Any] | None] = {"id": 9, "name": "never", "amount": None, "note": None}
    named: ClassVar[bool] = False
    without: ClassVar[Mapping[str, str]] = {
        "renamed": "a request has the names of its time",
        "named": "one answer is for all changes of a request; with `single=True` it is for one",
    }
    options: ClassVar[dict[str, Any]] = {"secret": SECRET, "max_changes": 7}

    @pytest.fixture(autouse=True)
    def _at(self, receiver: Receiver) -> None:
        self._receiver = receiver
        receiver.answer = self._answer

    @staticmethod
    def _answer(changes: list[dict[str, Any]]) -> web.Response | None:
        never = any(change.get("new", {}).get("name") == "never" for change in changes)
        return web.Response(status=422) if never else None

    def make_sink(self, place: Path) -> Webhook:
        return Webhook(self._receiver.url + quote(str(place)).lstrip("/"), **self.options)

    def content(self, place: Path) -> dict[int, dict[str, str]]:
        rows = self._receiver.places.get(str(place).lstrip("/"), Rows()).rows
        return {
            key: {name: str(value) for name, value in row.items() if value is not None} for key, row in rows.items()
        }

    def expected(self, rows: Mapping[Any, Mapping[str, Any]], columns: Iterable[str]) -> dict[int, dict[str, str]]:
        names = list(columns)
        return {key: {name: str(row[name]) for name in names if row.get(name) is not None} for key, row in rows.items()}

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        """Connections are refused."""
        self._receiver.stop()
        try:
            yield
        finally:
            self._receiver.start()

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        """It answers when it is let go."""
        self._receiver.held.clear()
        try:
            yield
        finally:
            self._receiver.held.set()


class TestOneByOne(TestInBatches):
    """All but the refused one are taken, in any order but that of a key."""

    whole: ClassVar[bool] = False
    named: ClassVar[bool] = True
    without: ClassVar[Mapping[str, str]] = {"renamed": TestInBatches.without["renamed"]}
    options: ClassVar[dict[str, Any]] = {"secret": SECRET, "single": True, "concurrency": 4}


def send(sink: Webhook, *batches: Batch) -> None:
    """Write batches, as a pipeline does."""

    async def write() -> None:
        await sink.open()
        try:
            for batch in batches:
                await sink.write(batch)
        finally:
            await sink.close()

    asyncio.run(write())


def rows(count: int, of: Table = TABLE) -> Batch:
    return batch_of([transaction(*(insert(of, {"id": key, "status": "new"}) for key in range(count)))])


def test_what_a_request_says(receiver: Receiver) -> None:
    """Batches as arrays, with first and last position; one by one each with its own."""
    batch = batch_of(
        [
            transaction(insert(TABLE, {"id": 1, "status": "new"}), message("p", "c")),
            truncate(TABLE),
            update(TABLE, {"id": 2, "status": "é"}, old={"id": 1}),
        ]
    )
    send(Webhook(receiver.url + "a", max_changes=3, headers={"Authorization": "Bearer x"}), batch)
    (path, headers, changes), (_, other, rest) = receiver.requests
    assert (path, headers["Authorization"], headers["Content-Type"]) == ("/a", "Bearer x", "application/json")
    assert "Pgcdc-Signature" not in headers
    assert changes + rest == [json.loads(line) for line in batch.to_json().splitlines()]
    positions = [change["position"] for change in [*changes, *rest]]
    assert headers["Idempotency-Key"] == f"{positions[0]}-{positions[2]}"
    assert other["Idempotency-Key"] == f"{positions[3]}-{positions[3]}"
    receiver.requests.clear()
    send(Webhook(receiver.url, single=True), batch)
    assert [(headers["Idempotency-Key"], one["position"]) for _, headers, [one] in receiver.requests] == [
        (position, position) for position in positions
    ]


def test_copied_rows_have_keys_of_their_own(receiver: Receiver) -> None:
    """Though they have one position all together."""
    existing = [insert(TABLE, {"id": key, "status": "new"}) for key in range(5)]
    batch = batch_of([insert(TABLE, {"id": 9})], existing)
    for sink in (Webhook(receiver.url, single=True), Webhook(receiver.url, max_changes=2)):
        receiver.requests.clear()
        send(sink, batch)
        keys = [headers["Idempotency-Key"] for _, headers, _ in receiver.requests]
        assert len(keys) == len(set(keys))
        assert sum(len(changes) for *_, changes in receiver.requests) == 6
        again = list(receiver.requests)
        receiver.requests.clear()
        send(sink, batch)
        assert sorted(headers["Idempotency-Key"] for _, headers, _ in receiver.requests) == sorted(keys)
        assert len(again) == len(receiver.requests)


def test_several_at_once_and_each_key_in_order(receiver: Receiver) -> None:
    """As many as were asked for, and no more; a TRUNCATE waits for all, and all wait for it."""
    changes: list[Change | Transaction]
    changes = [transaction(*(insert(TABLE, {"id": key, "status": "0"}) for key in range(12)))]
    changes += [update(TABLE, {"id": key, "status": str(number)}) for number in (1, 2, 3) for key in range(12)]
    batch = batch_of([*changes, truncate(TABLE), insert(TABLE, {"id": 1, "status": "new"})])
    sink = Webhook(receiver.url, single=True, concurrency=4)
    receiver.held.clear()
    thread = threading.Thread(target=send, args=(sink, batch))
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while receiver.under_way < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        receiver.held.set()
        thread.join(30)
    assert receiver.most_under_way == 4
    came = [one for *_, [one] in receiver.requests]
    assert [one["action"] for one in came[-2:]] == ["truncate", "insert"]
    for key in range(12):
        assert [one["new"]["status"] for one in came[:-2] if one["new"]["id"] == key] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503, 302])
def test_answers_that_are_tried_again(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: web.Response(status=status)
    with pytest.raises(SinkUnavailable, match=f"127.0.0.1:{receiver.port} answers {status}"):
        send(Webhook(receiver.url + "?token=hidden"), rows(1))


def test_how_long_it_waits(receiver: Receiver) -> None:
    """Not before a Retry-After is over; and nothing else is sent meanwhile."""
    receiver.answer = lambda _: web.Response(status=429, headers={"Retry-After": "1"})
    sink = Webhook(receiver.url, max_changes=1)

    async def write() -> float:
        await sink.open()
        try:
            with pytest.raises(SinkUnavailable):
                await sink.write(rows(2))
            start = time.monotonic()
            receiver.answer = lambda _: None
            await sink.write(rows(2))
            return time.monotonic() - start
        finally:
            await sink.close()

    assert asyncio.run(write()) > 0.8
    assert len(receiver.requests) == 3


def test_a_receiver_that_limits_the_rate(receiver: Receiver) -> None:
    """What was taken is not sent again, and it is said whether something was."""
    answers = iter([None, None, 429, 429, None, 429, None, None])

    def answer(_: list[dict[str, Any]]) -> web.Response | None:
        status = next(answers)
        return None if status is None else web.Response(status=status)

    receiver.answer = answer
    sink = Webhook(receiver.url, max_changes=1)
    batch = rows(5)

    async def write() -> list[bool]:
        said = []
        await sink.open()
        try:
            for _ in range(3):
                with pytest.raises(SinkUnavailable) as raised:
                    await sink.write(batch)
                said.append(raised.value.partly)
            await sink.write(batch)
        finally:
            await sink.close()
        return said

    assert asyncio.run(write()) == [True, False, True]
    taken = [changes[0]["new"]["id"] for _, _, changes in receiver.requests]
    assert taken == [0, 1, 2, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_change_that_is_refused_is_named(receiver: Receiver, status: int) -> None:
    """One by one; of a batch nobody knows which it was. What was taken is not sent again with the rest."""

    def answer(changes: list[dict[str, Any]]) -> web.Response | None:
        return web.Response(status=status) if any(one["new"]["id"] in (2, 5) for one in changes) else None

    receiver.answer = answer
    sink = Webhook(receiver.url, single=True)
    batch = rows(8)

    async def write() -> None:
        await sink.open()
        try:
            with pytest.raises(SinkRejected, match=f"refused a change with {status}") as raised:
                await sink.write(batch)
            assert {index for _, index in raised.value.positions} == {2, 5}
            assert len(receiver.requests) == 8
            await sink.write(batch.take([0, 1, 3, 4, 6, 7]))
            assert len(receiver.requests) == 8
            await sink.write(batch.take([0, 1]))  # but what comes again later is
            assert len(receiver.requests) == 10
        finally:
            await sink.close()

    asyncio.run(write())
    with pytest.raises(SinkRejected, match=f"refused one of 8 changes with {status}") as raised:
        send(Webhook(receiver.url), batch)
    assert raised.value.positions == frozenset()


def test_what_comes_behind_a_refused_one_of_its_key_is_held_back(receiver: Receiver) -> None:
    receiver.answer = lambda changes: web.Response(status=400) if changes[0]["new"]["status"] == "bad" else None
    batch = batch_of(
        [
            insert(TABLE, {"id": 1, "status": "bad"}),
            insert(TABLE, {"id": 2, "status": "new"}),
            update(TABLE, {"id": 1, "status": "good"}),
        ]
    )
    with pytest.raises(SinkRejected) as raised:
        send(Webhook(receiver.url, single=True), batch)
    assert len(raised.value.positions) == 1
    assert [one["new"]["id"] for *_, [one] in receiver.requests] == [1, 2]


def test_no_answer(receiver: Receiver) -> None:
    """In time, or at all: neither the URL's secrets nor the row are in the error."""
    receiver.held.clear()
    sink = Webhook(f"http://user:hidden@127.0.0.1:{receiver.port}/?token=hidden", timeout=0.2)
    with pytest.raises(SinkUnavailable, match="does not answer") as raised:
        send(sink, rows(1))
    receiver.held.set()
    receiver.stop()
    with pytest.raises(SinkUnavailable, match="does not answer") as other:
        send(sink, rows(1))
    for error in (raised.value, other.value):
        assert "hidden" not in f"{error}{error.hint}{sink!r}"


def test_signatures() -> None:
    """Of this body, by one of the secrets, not long ago; anything else is refused."""
    body, now = b'[{"action":"insert"}]', 1_767_225_600
    signature = sign(body, ["new", "old"], now)
    for secret in ("new", "old"):
        verify(body, signature, secret, now=now + 299)
        verify(body, signature.replace(",", " , "), secret, now=now - 299)
    # As anybody would compute it: openssl dgst -sha256 -hmac secret
    assert sign(b"{}", ["secret"], 1) == "t=1,v1=" + DIGEST
    wrong: list[Callable[[], None]] = [
        lambda: verify(body + b" ", signature, "new", now=now),
        lambda: verify(body, signature, "other", now=now),
        lambda: verify(body, signature, "new", now=now + 301),
        lambda: verify(body, signature, "new", now=now - 301),
        lambda: verify(body, signature.replace(f"t={now}", f"t={now + 1}"), "new", now=now),
        lambda: verify(body, signature.replace("v1", "v0"), "new", now=now),
        lambda: verify(body, signature.replace("t=", "t=t="), "new", now=now),
        lambda: verify(body, signature + f",t={now}", "new", now=now),
        lambda: verify(body, "", "new", now=now),
        lambda: verify(body, "t=²,v1=é", "new", now=now),
        lambda: verify(body, f"t={'9' * 5000},v1=0", "new", now=now),
    ]
    for call in wrong:
        with pytest.raises(InvalidSignature):
            call()


DIGEST = "1122767b193110cfec322b6f199b599edbf608ed087f2d27afb0b97d99523908"


def test_a_wrong_secret_is_refused_by_the_receiver(receiver: Receiver) -> None:
    with pytest.raises(SinkRejected, match="400"):
        send(Webhook(receiver.url, secret="another"), rows(1))
    send(Webhook(receiver.url, secret=["another", SECRET]), rows(1))
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://x"},
        {"concurrency": 0},
        {"max_changes": 0},
        {"max_bytes": 0},
        {"secret": ""},
        {"secret": ["a", ""]},
        {"secret": []},
    ],
)
def test_what_is_wrong_is_said_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Webhook(**{"url": "http://localhost", **options})


@pytest.mark.parametrize("single", [False, True])
def test_the_whole_way(newest_database: Database, receiver: Receiver, single: bool) -> None:
    """Copied rows, random changes, a restart in the middle: what the receiver has is what SELECT gives."""
    database, chance = newest_database, random.Random(12)
    database.execute(*ORDERS)
    work(database, chance, 40)
    for _ in range(2):
        pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
        pipeline.add(Webhook(receiver.url + "orders", secret=SECRET, single=single), name="hook")
        with running(pipeline) as run:
            run.streaming()
            work(database, chance, 40)
            run.catch_up(database)
        work(database, chance, 40)
    database.execute("INSERT INTO orders SELECT g, 1, 'last', 1 FROM generate_series(100, 105) g")
    pipeline = pgcdc.Pipeline("shop", database.dsn, tables=["orders"])
    pipeline.add(Webhook(receiver.url + "orders", secret=SECRET, single=single), name="hook")
    with running(pipeline) as run:
        run.streaming()
        run.catch_up(database)
    names = ("id", "user_id", "note", "total")
    expected = {
        row[0]: dict(zip(names, row, strict=True))
        for row in database.execute("SELECT id, user_id, note, total::text FROM orders")
    }
    assert expected, "the workload leaves some"
    assert receiver.places["orders"].rows == expected
