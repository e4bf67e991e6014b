"""Documents of an index: written by `_bulk`, none over a newer one; read by id; and found."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from pgcdc.errors import SinkUnavailable
from pgcdc.lsn import Position
from pgcdc.sinks.http_service import HttpService, quoted
from pgcdc.sinks.row_states import RowState
from pgcdc.sinks.search_documents import Found, action, decode_found, document
from pgcdc.sinks.search_indexes import TEMPORARY, Indexes
from pgcdc.sinks.search_mapping import DELETED, POSITION

__all__ = ["Documents", "Hit"]

_Row: TypeAlias = tuple[str, RowState]
_Guarded: TypeAlias = tuple[str, RowState, Found | None]
_PAGE: Final = 2000
_GET_AT_ONCE: Final = 200
_ROUNDS: Final = 20
"""How often documents are looked at again that others write at the same time."""
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


class Hit(msgspec.Struct, rename={"id": "_id", "sequence": "_seq_no", "term": "_primary_term"}):
    """A document that was found.

    Attributes:
        id: Its id.
        sequence: The number of the operation that wrote it.
        term: And of which time of its shard that is a number.
    """

    id: str
    sequence: int = 0
    term: int = 0


class _Hits(msgspec.Struct, frozen=True):
    hits: list[Hit] = []


class _Page(msgspec.Struct, rename={"scroll": "_scroll_id"}):
    scroll: str = ""
    hits: _Hits = _Hits()


class Documents:
    """The documents of all indexes of a sink.

    Args:
        service: The server.
        indexes: The indexes.
        max_bytes: How large one request may be, in bytes; a document that is larger is sent alone.
        remembers: Whether rows that are gone have documents.
    """

    def __init__(self, service: HttpService, indexes: Indexes, max_bytes: int, *, remembers: bool) -> None:
        self._service = service
        self._indexes = indexes
        self._max_bytes = max_bytes
        self._remembers = remembers

    async def write(self, name: str, rows: Iterable[_Row], refused: dict[Position, str]) -> None:
        """Write documents, each of which has another id, where what is there is not newer.

        The server refuses what does not have a greater version: the commit's LSN. What it refuses for that is compared
        by position, and written if nobody has written it meanwhile.

        Args:
            name: The index.
            rows: Ids, and what becomes of each; those that need no more are `done` then.
            refused: Gets what the index does not take, and why.

        Raises:
            SinkUnavailable: When some were not written for now.
        """
        busy: list[int] = []
        left: list[_Guarded] = [(id, state, None) for id, state in rows]
        for _ in range(_ROUNDS):
            left = await self._attempt(name, left, refused, busy)
            if left and self._remembers:
                left = await self._newer(name, left)
            if not left:
                break
        else:
            raise SinkUnavailable(f"{len(left)} documents of the index {name} are written by others all the time")
        if busy:
            raise SinkUnavailable(f"the index {name} did not take {len(busy)} documents now: status {max(busy)}")

    async def _attempt(
        self, name: str, rows: Sequence[_Guarded], refused: dict[Position, str], busy: list[int]
    ) -> list[_Guarded]:
        """Write documents; those that have others in their places are left."""
        left = []
        for part, body in self._bodies(rows):
            results = await self._send(name, body)
            if results is None:
                for _, state, _ in part:
                    state.done = True
                continue
            for one, result in zip(part, results, strict=True):
                state, error = one[1], result.error
                if result.status == 409 and self._remembers:
                    left.append(one)
                elif error is None or result.status == 409:  # without memory the version alone decides
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
        return left

    async def _newer(self, name: str, rows: Sequence[_Guarded]) -> list[_Guarded]:
        """Those that are not older than what is there, with that."""
        found = {one.id: one for one in await self.read(name, [id for id, *_ in rows], (POSITION, DELETED))}
        left: list[_Guarded] = []
        for id, state, _ in rows:
            there = found[id]
            if not there.found or there.gives_way_to(state):
                left.append((id, state, there))
            else:
                state.done = True
        return left

    def _bodies(self, rows: Iterable[_Guarded]) -> Iterator[tuple[list[_Guarded], bytes]]:
        """Documents as bodies of requests that are not too large."""
        part: list[_Guarded] = []
        lines: list[bytes] = []
        size = 0
        for one in rows:
            id, state, there = one
            new = [action(id, state, there, remembers=self._remembers)]
            if self._remembers or not state.gone:
                new.append(document(state))
            more = sum(map(len, new)) + len(new)
            if part and size + more > self._max_bytes:
                yield part, b"\n".join((*lines, b""))
                part, lines, size = [], [], 0
            part.append(one)
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

    async def read(self, name: str, ids: Sequence[str], fields: Iterable[str] = ()) -> list[Found]:
        """Read documents as they are now, not as a search would find them.

        Args:
            name: The index.
            ids: Their ids.
            fields: What is wanted of them; all when there is none.

        Returns:
            One for each id, in that order.
        """
        found: list[Found] = []
        part = f"?_source_includes={','.join(fields)}" if fields else ""
        for start in range(0, len(ids), _GET_AT_ONCE):
            body = msgspec.json.encode({"ids": ids[start : start + _GET_AT_ONCE]})
            answer = await self._indexes.ask("POST", f"/{quoted(name)}/_mget{part}", body)
            found += decode_found(answer)
        return found

    async def read_each(self, names: Sequence[str], id: str, fields: Iterable[str]) -> list[Found]:
        """Read the document of one id in several indexes.

        Args:
            names: The indexes.
            id: The id.
            fields: What is wanted of them.

        Returns:
            One for each index, in that order.
        """
        body = msgspec.json.encode({"docs": [{"_index": name, "_id": id} for name in names]})
        answer = await self._indexes.ask("POST", f"/_mget?_source_includes={','.join(fields)}", body)
        return decode_found(answer)

    async def remove(self, name: str, hits: Iterable[Hit]) -> None:
        """Remove documents that nobody has written since they were found.

        Args:
            name: The index.
            hits: What was found.
        """
        lines = [{"delete": {"_id": hit.id, "if_seq_no": hit.sequence, "if_primary_term": hit.term}} for hit in hits]
        await self._send(name, b"\n".join((*map(msgspec.json.encode, lines), b"")))

    async def search(self, name: str, query: Mapping[str, Any]) -> AsyncIterator[list[Hit]]:
        """All documents that a query finds, also those of deleted rows, in pages, as they are now.

        Args:
            name: The index.
            query: The query.
        """
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
