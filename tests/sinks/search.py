"""What the tests of search indexes share: reading an index apart from the sink, and a way to it that breaks."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from zlib import crc32

from pgcdc import Batch
from pgcdc.sinks import OpenSearch
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table
from pgcdc.testing.contracts import SinkContract
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pgcdc.sink import Sink
    from pgcdc.testing.changes import Change, Transaction


ORDERS = Table("orders", {"id": "bigint", "status": "text", "note": "text"}, key=("id",))


def order(id: int, status: str = "new", note: Any = None) -> dict[str, Any]:
    """A row of it."""
    return {"id": id, "status": status, "note": note}


def ask(url: str, method: str, path: str, body: Any = None) -> Any:
    """One request, with the answer's JSON; None for 404."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None


def documents(url: str, index: str) -> dict[str, dict[str, Any]]:
    """What a search in an index finds: columns by id."""
    if ask(url, "GET", f"/{index}/_settings") is None:
        return {}
    ask(url, "POST", f"/{index}/_refresh")
    found = ask(url, "POST", f"/{index}/_search", {"size": 10000})
    return {
        one["_id"]: {name: value for name, value in one["_source"].items() if not name.startswith("pgcdc_")}
        for one in found["hits"]["hits"]
    }


class SearchContract(SinkContract):
    """The contract of an index.

    Attributes:
        proxy: The way to the server.
        made: The class of the sink.
        keep_deleted: See there.
    """

    proxy: ClassVar[Proxy]
    made: ClassVar[type[OpenSearch]] = OpenSearch
    keep_deleted: ClassVar[float] = 3600.0
    url: ClassVar[str]
    whole = False
    without: ClassVar[dict[str, str]] = {"renamed": "a document has the names that it was written with"}
    refused: ClassVar[dict[str, Any]] = {
        "id": 9,
        "name": "longer than a term may be " * 2000,
        "amount": Decimal(1),
        "note": None,
    }

    def index(self, place: Path) -> str:
        return f"contract-{crc32(str(place).encode()):08x}-{place.name.lower().replace('_', '-')[-20:]}"

    def make_sink(self, place: Path) -> Sink:
        return self.made(
            f"http://127.0.0.1:{self.proxy.port}",
            index=self.index(place),
            fields={"name": {"type": "keyword"}},
            keep_deleted=self.keep_deleted,
        )

    def content(self, place: Path) -> Any:
        found = documents(self.url, self.index(place))
        # A column that was added is not in documents that were written before.
        columns = {name for row in found.values() for name in row}
        rows = {}
        for id, row in found.items():
            amounts = {name: Decimal(row[name]) for name in ("amount", "discount") if row.get(name) is not None}
            rows[int(id)] = dict.fromkeys(columns) | row | amounts
        return rows

    @contextlib.contextmanager
    def down(self, place: Path) -> Iterator[None]:
        self.proxy.refuse = True
        self.proxy.reset()
        try:
            yield
        finally:
            self.proxy.refuse = False

    @contextlib.contextmanager
    def busy(self, place: Path) -> Iterator[None]:
        self.proxy.hole = True
        try:
            yield
        finally:
            self.proxy.hole = False


def through_proxy(cls: type[SearchContract], url: str) -> Iterator[None]:
    """Give a class its way to the server."""
    cls.url = url
    with Proxy(int(url.rpartition(":")[2])) as proxy:
        cls.proxy = proxy
        yield


def batch_of(*changes: Change | Transaction) -> Batch:
    """The batch that a stream of these changes is."""
    messages = Capture.of(changes).messages
    return Batch.of([payload for _, payload in messages], [lsn for lsn, _ in messages])


@contextlib.asynccontextmanager
async def opened(sink: OpenSearch) -> AsyncIterator[OpenSearch]:
    """A sink, open for the length of a block."""
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()
