"""Documents of a search index, one for each row: OpenSearch and Elasticsearch, by `_bulk`."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import msgspec

from pgcdc.errors import ConfigError, SinkError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.protocol import Batch
from pgcdc.sinks.http_service import HttpService, quoted
from pgcdc.sinks.row_states import Key, KnownRow, RowState, TableStates
from pgcdc.sinks.search_documents import Found, action, document, document_id, document_version
from pgcdc.sinks.search_indexes import PURGE_EVERY, TEMPORARY, Indexes
from pgcdc.sinks.search_mapping import DELETED, POSITION

__all__ = ["Elasticsearch", "OpenSearch"]

_Row: TypeAlias = tuple[str, RowState]
_WEEK: Final = 7 * 24 * 3600.0
_PAGE: Final = 2000
_GET_AT_ONCE: Final = 200
_BUSY: Final = frozenset(("cluster_block_exception", "unavailable_shards_exception", "es_rejected_execution_exception"))
_FIELD: Final = re.compile(r"field \[([^\[\]]{1,200})\]")


class _Cause(msgspec.Struct):
    type: str = ""
    reason: str = ""


class _Result(msgspec.Struct):
    status: int = 0
    error: _Cause | None = None


class _Bulk(msgspec.Struct):
    items: list[dict[str, _Result]] = []


class _Errors(msgspec.Struct):
    errors: bool = True


class _Documents(msgspec.Struct):
    docs: list[Found] = []


class _Hit(msgspec.Struct, rename={"id": "_id", "sequence": "_seq_no", "term": "_primary_term"}):
    id: str
    sequence: int = 0
    term: int = 0


class _Hits(msgspec.Struct, frozen=True):
    hits: list[_Hit] = []


class _Page(msgspec.Struct, rename={"scroll": "_scroll_id"}):
    scroll: str = ""
    hits: _Hits = _Hits()


class OpenSearch:
    """Keeps an index for each table in step with it: a document for each row. For OpenSearch 2 and Elasticsearch 8.

    At least once, with a guard: a document has the commit's LSN as its external version, and the server refuses what is
    older than that. So what comes again from a replay, a process that was stopped for a while or a dead letter changes
    nothing that a later transaction wrote. Two things are not guarded: all changes of one transaction have one version,
    so a single one of them that comes late can take the place of a later one; and one from before a TRUNCATE that comes
    after it, of a row that was not there then, makes a document. A write that has returned is as durable as the index:
    in its translog, which is synced.

    - **insert, update**: the whole document is written, JSON as `Batch.to_json` has it, under an id made of the key.
    - **delete**: the document becomes one that only says that the row is gone, and since when (`pgcdc_deleted`); the
      server would forget the version of one that is removed after a minute. Searches do not find it: the index's name
      is an alias with a filter. After `keep_deleted` it is removed.
    - **unchanged TOAST**: the document is read, completed, and written with the version. Where there is none, because
      the row was never copied, the columns are missing.
    - **change of key**: the row is written under the new id, then the old document becomes one of a deleted row.
    - **TRUNCATE**: all documents that are older become such, by pages.
    - **schema changes**: new columns get fields before the first row that has them. A field never changes its type; a
      column that is dropped or renamed stays in documents that were written before.
    - **initial copy**: `_bulk` as well, while the index is refreshed every 30 seconds only.

    A row that the index refuses is `SinkRejected` with its position; all others of its batch are written then.
    429, 503 and the like are `SinkUnavailable`, and the next attempt writes what was not written.

    Args:
        url: Where it is: `"https://search.example.com:9200"`; a user and password in it are taken as such.
        index: The name under which the index is searched, with `{schema}` and `{table}` for what is different for each
            table. An alias of that name, and the index behind it with `-000001` at its end, are made where they are
            missing. An alias that is there is used.
        user: For basic authentication.
        password: Likewise.
        api_key: An API key (Elasticsearch), as it is given out in Base64.
        ca_file: Certificates (PEM) to check the server's with; None: those that the system trusts.
        tls: An SSL context instead.
        key: The columns that rows of a table are known by, by the table's name, instead of the primary key.
        fields: Fields by column, instead of those that follow from the types: `{"note": {"type": "keyword"}}`.
        settings: Settings of indexes that are made: `{"number_of_shards": 3}`.
        keep_deleted: How long deleted rows are remembered by documents, in seconds. 0: documents are removed at once.
            Then only the server's memory (`index.gc_deletes`, an hour in indexes that are made) protects from what is
            older, and any index may be used, not only an alias.
        max_bytes: How large one request may be, in bytes; a document that is larger is sent alone.
        timeout: How long a request may take, in seconds.

    Raises:
        ConfigError: When an argument is none of the above.

    Source:
        OpenSearch documentation, "Bulk"; Elasticsearch Guide, "Bulk API", "Index API" (Versioning).
    """

    def __init__(
        self,
        url: str,
        *,
        index: str = "{table}",
        user: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        ca_file: str | None = None,
        tls: ssl.SSLContext | None = None,
        key: Mapping[str, Sequence[str]] | None = None,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
        settings: Mapping[str, Any] | None = None,
        keep_deleted: float = _WEEK,
        max_bytes: int = 5 * 1024**2,
        timeout: float = 60.0,
    ) -> None:
        if keep_deleted < 0 or max_bytes < 1 or timeout <= 0:
            raise ConfigError("keep_deleted, max_bytes and timeout are at least 0, 1 and more than 0")
        if api_key is not None and user is not None:
            raise ConfigError("api_key and user exclude each other")
        headers = {} if api_key is None else {"Authorization": f"ApiKey {api_key}"}
        self._service = HttpService(
            url,
            what=type(self).__name__,
            user=user,
            password=password,
            headers=headers,
            ca_file=ca_file,
            tls=tls,
            timeout=timeout,
        )
        self._template = index
        self._key = {} if key is None else {name: tuple(columns) for name, columns in key.items()}
        self._keep_deleted = keep_deleted
        self._max_bytes = max_bytes
        self._indexes = Indexes(
            self._service, index, dict(fields or {}), dict(settings or {}), remembers=keep_deleted > 0
        )
        # Of a write that failed: what it was to write, completed, and what of it is done. The next one is the same.
        self._begun: dict[tuple[str, Key, Position], RowState] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._template!r} at {self._service.address}>"

    async def open(self) -> None:
        """Connect.

        Raises:
            SinkUnavailable: When it does not answer.
            ConfigError: When it does not know the user or key.
        """
        await self._service.open()
        self._indexes.forget()
        self._begun.clear()
        try:
            status, _ = await self._service.request("GET", "/")
            if status == 401:
                raise ConfigError(f"{self._service!r} does not accept the user, password or API key")
            if status in TEMPORARY:
                raise self._indexes.away(status)
        except BaseException:
            await self._service.close()
            raise

    async def close(self) -> None:
        """Disconnect; indexes that were refreshed seldom are refreshed as usual again."""
        try:
            await self._indexes.close()
        finally:
            await self._service.close()

    async def write(self, batch: Batch) -> None:
        """Write the documents that a batch makes.

        Args:
            batch: The batch.

        Raises:
            SinkUnavailable: When not all could be written for now.
            SinkRejected: When there are some that the index refuses.
        """
        indexes = await self._changes(batch)
        refused: dict[Position, str] = {}
        try:
            for index in indexes:
                await self._write(index, refused)
        except BaseException:
            self._begun = {(index.name, one.key, one.position): one for index in indexes for one in index.rows.values()}
            raise
        if refused:
            raise SinkRejected(
                f"the index refuses {len(refused)} of the documents: {next(iter(refused.values()))}",
                hint="give the column another field with fields=, or the row to a dead letter with on_failure=",
                positions=refused,
            )
        self._begun = {}

    async def _changes(self, batch: Batch) -> list[TableStates]:
        """The changes of each index, and the indexes ready to take them."""
        names = {(one.schema, one.name): await self._indexes.prepare(one) for one in batch.relations}
        indexes: dict[str, TableStates] = {}
        before: Relation | None = None
        index = TableStates("", document_version)
        for row in batch.json_rows(self._key_columns(batch) if self._key else None):
            relation = row.relation
            if relation is None:  # a logical message
                continue
            position = row.position
            if position is None:
                raise SinkError("changes without a position cannot be written to an index")
            if relation is not before:
                name = names[relation.schema, relation.name]
                before, index = relation, indexes.setdefault(name, TableStates(name, document_version))
            index.apply(row, position)
        return list(indexes.values())

    def _key_columns(self, batch: Batch) -> Any:
        def columns(relation: Relation) -> Sequence[str]:
            chosen = self._key.get(f"{relation.schema}.{relation.name}", self._key.get(relation.name))
            return batch.key_columns(relation) if chosen is None else chosen

        return columns

    # What is written.

    async def _write(self, index: TableStates, refused: dict[Position, str]) -> None:
        known = self._indexes[index.name]
        if index.copied and not index.streamed and not known.slow:
            await self._indexes.copy_begins(index.name)
        elif index.streamed and known.slow:
            await self._indexes.copy_ends(index.name)
        if self._begun:
            for key, state in index.rows.items():
                index.rows[key] = self._begun.get((index.name, key, state.position), state)
        if index.emptied is not None:
            await self._empty(index.name, index.emptied)
        if wanted := index.wanted():
            index.resolve(await self._get(index.name, wanted))
        # What a row that has another key now leaves behind goes when the row is safe under its new one.
        left = [one for one in index.rows.values() if not one.done]
        for gone in (False, True):
            await self._bulk(index.name, [(document_id(one.key), one) for one in left if one.gone is gone], refused)
        if time.monotonic() >= known.purge_at:
            known.purge_at = time.monotonic() + PURGE_EVERY
            if self._keep_deleted:
                await self._purge(index.name)

    async def _bulk(self, name: str, rows: Sequence[_Row], refused: dict[Position, str]) -> None:
        """Write documents, each of which has another id.

        Raises:
            SinkUnavailable: When some were not written for now; the others are `done`.
        """
        busy: list[int] = []
        for part, body in self._bodies(rows):
            results = await self._send(name, body)
            if results is None:
                for state in part:
                    state.done = True
                continue
            for state, result in zip(part, results, strict=True):
                error = result.error
                if error is None or result.status == 409:  # newer is there already
                    state.done = True
                elif result.status in TEMPORARY or error.type in _BUSY:
                    busy.append(result.status)
                elif error.type == "index_not_found_exception":
                    raise SinkUnavailable(
                        f"the index {name} is not there any more",
                        hint="make it again, or put its alias back; after a restart an empty one is made",
                    )
                else:
                    refused[state.position] = _reason(error)
        if busy:
            raise SinkUnavailable(f"the index {name} did not take {len(busy)} documents now: status {max(busy)}")

    def _bodies(self, rows: Iterable[_Row]) -> Iterator[tuple[list[RowState], bytes]]:
        """Documents as bodies of requests that are not too large."""
        remove = not self._keep_deleted
        part: list[RowState] = []
        lines: list[bytes] = []
        size = 0
        for id, state in rows:
            new = [action(id, state, remove=remove)]
            if not (remove and state.gone):
                new.append(document(state))
            more = sum(map(len, new)) + len(new)
            if part and size + more > self._max_bytes:
                yield part, b"\n".join((*lines, b""))
                part, lines, size = [], [], 0
            part.append(state)
            lines += new
            size += more
        if part:
            yield part, b"\n".join((*lines, b""))

    async def _send(self, name: str, body: bytes) -> list[_Result] | None:
        """One request.

        Returns:
            What became of each document; None when all were written.
        """
        query = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
        if self._indexes[name].alias:
            # An index that was removed is not made again by the way.
            query["require_alias"] = "true"
        status, answer = await self._service.request(
            "POST", f"/{quoted(name)}/_bulk", query=query, body=body, content_type="application/x-ndjson"
        )
        if status != 200:
            self._indexes.check(status, answer, f"a request for the index {name}")
        if not msgspec.json.decode(answer, type=_Errors).errors:
            return None
        items = msgspec.json.decode(answer, type=_Bulk).items
        return [result for item in items for result in item.values()]

    async def _get(self, name: str, keys: Sequence[Key]) -> dict[Key, list[KnownRow]]:
        ids = {document_id(key): key for key in keys}
        found: dict[Key, list[KnownRow]] = {}
        for start in range(0, len(keys), _GET_AT_ONCE):
            body = msgspec.json.encode({"ids": list(ids)[start : start + _GET_AT_ONCE]})
            answer = await self._indexes.ask("POST", f"/{quoted(name)}/_mget", body)
            for one in msgspec.json.decode(answer, type=_Documents).docs:
                if one.found:
                    found[ids[one.id]] = [KnownRow(one.position(), one.columns())]
        return found

    async def _empty(self, name: str, position: Position) -> None:
        """What was written before a TRUNCATE, and is there, is gone."""
        newer = {"range": {POSITION: {"gte": str(position)}}}
        async for hits in self._search(name, {"bool": {"must_not": [newer, {"exists": {"field": DELETED}}]}}):
            refused: dict[Position, str] = {}
            version = document_version(position)
            gone = [(hit.id, RowState((), position, version, gone=True)) for hit in hits]
            await self._bulk(name, gone, refused)
            if refused:
                raise SinkError(f"the index {name} could not be emptied: {refused[position]}")

    async def _purge(self, name: str) -> None:
        """Remove documents of rows that were deleted long ago."""
        before = datetime.now(UTC) - timedelta(seconds=self._keep_deleted)
        old = {"range": {DELETED: {"lt": before.isoformat(timespec="milliseconds")}}}
        async for hits in self._search(name, old):
            lines = [
                {"delete": {"_id": hit.id, "if_seq_no": hit.sequence, "if_primary_term": hit.term}} for hit in hits
            ]
            # One that has become a row again, or another process removes, is not ours to remove.
            await self._send(name, b"\n".join((*map(msgspec.json.encode, lines), b"")))

    async def _search(self, name: str, query: Mapping[str, Any]) -> AsyncIterator[list[_Hit]]:
        """All documents that a query finds, also those of deleted rows, in pages, as they are now."""
        index = await self._indexes.behind(name)
        await self._indexes.ask("POST", f"/{quoted(index)}/_refresh")
        body = {"query": query, "size": _PAGE, "_source": False, "seq_no_primary_term": True, "sort": ["_doc"]}
        answer = await self._indexes.ask("POST", f"/{quoted(index)}/_search?scroll=5m", msgspec.json.encode(body))
        page = msgspec.json.decode(answer, type=_Page)
        try:
            while page.hits.hits:
                yield page.hits.hits
                more = msgspec.json.encode({"scroll": "5m", "scroll_id": page.scroll})
                page = msgspec.json.decode(await self._indexes.ask("POST", "/_search/scroll", more), type=_Page)
        finally:
            await self._service.request(
                "DELETE", "/_search/scroll", body=msgspec.json.encode({"scroll_id": [page.scroll]})
            )


def _reason(error: _Cause) -> str:
    """Why a document was refused: the kind of error, and the field, but never the value that the server quotes."""
    field = _FIELD.search(error.reason)
    return error.type + (f" in the field {field[1]}" if field is not None else "")


class Elasticsearch(OpenSearch):
    """The same for Elasticsearch; see `OpenSearch`."""
