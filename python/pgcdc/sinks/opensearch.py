"""Documents of a search index, one for each row: OpenSearch and Elasticsearch, by `_bulk`."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pgcdc.errors import ConfigError, SinkError, SinkRejected, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.protocol import Batch
from pgcdc.sinks.http_service import HttpService
from pgcdc.sinks.row_states import Key, KnownRow, RowState, TableStates
from pgcdc.sinks.search_documents import FLOOR_ID, document_id, document_version
from pgcdc.sinks.search_indexes import PURGE_EVERY, TEMPORARY, Indexes
from pgcdc.sinks.search_mapping import DELETED, POSITION
from pgcdc.sinks.search_writing import Documents

__all__ = ["Elasticsearch", "OpenSearch"]

_WEEK: Final = 7 * 24 * 3600.0


class OpenSearch:
    """Keeps an index for each table in step with it: a document for each row. For OpenSearch 2 and Elasticsearch 8.

    At least once, with a guard: a document has the commit's LSN as its external version, and its position within. The
    server takes only what has a greater version; what it does not take for that, as other changes of the same
    transaction, is compared by position and written only over what was compared. So what comes again from a replay,
    from a process that was stopped for a while, or as a dead letter changes nothing that a later change wrote. After a
    TRUNCATE a document with an id that no row has (`%floor`) keeps its position: what is from before that and comes
    later makes no document. A write that has returned is as durable as the index: in its translog, which is synced.

    - **insert, update**: the whole document is written, JSON as `Batch.to_json` has it, under an id made of the key.
    - **delete**: the document becomes one that only says that the row is gone, and since when (`pgcdc_deleted`); the
      server would forget the version of one that is removed after a minute. Searches do not find it: the index's name
      is an alias with a filter. After `keep_deleted` it is removed.
    - **unchanged TOAST**: the document is read, completed, and written with the version. Where there is none, because
      the row was never copied, the columns are missing.
    - **change of key**: the row is written under the new id, then the old document becomes one of a deleted row. Where
      a value was not sent, that one keeps it (`pgcdc_kept`), also when another row has the old id by then.
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
            older, changes of one transaction count in the order in which they come, a TRUNCATE leaves nothing that
            keeps its position, and any index may be used, not only an alias.
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
        remembers = keep_deleted > 0
        self._indexes = Indexes(self._service, index, dict(fields or {}), dict(settings or {}), remembers=remembers)
        self._documents = Documents(self._service, self._indexes, max_bytes, remembers=remembers)
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
        known = sum(one.done for one in self._begun.values())
        try:
            for index in indexes:
                await self._write(index, refused)
            await self._hold_down(indexes)
        except BaseException as error:
            if isinstance(error, SinkUnavailable):
                error.partly = sum(one.done for index in indexes for one in index.rows.values()) > known
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
        await self._find_floors(names.values())
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
            await self._raise_floor(index.name, index.emptied)
            await self._empty(index.name, index.emptied)
        index.skip_below(known.floor)
        if wanted := index.wanted():
            index.resolve(await self._get(index.name, wanted))
        # What a row that has another key now leaves behind goes when the row is safe under its new one.
        left = [one for one in index.rows.values() if not one.done]
        for gone in (False, True):
            rows = [(document_id(one.key), one) for one in left if one.gone is gone]
            await self._documents.write(index.name, rows, refused)
        if time.monotonic() >= known.purge_at:
            known.purge_at = time.monotonic() + PURGE_EVERY
            if self._keep_deleted:
                await self._purge(index.name)

    async def _get(self, name: str, keys: Sequence[Key]) -> dict[Key, list[KnownRow]]:
        found = await self._documents.read(name, [document_id(key) for key in keys])
        return {key: one.rows() for key, one in zip(keys, found, strict=True) if one.found}

    # What a TRUNCATE removes.

    async def _empty(self, name: str, position: Position) -> None:
        """What was written before a TRUNCATE, and is there, is gone."""
        newer = {"range": {POSITION: {"gte": str(position)}}}
        query = {"bool": {"must_not": [newer, {"exists": {"field": DELETED}}]}}
        async for hits in self._documents.search(name, query):
            refused: dict[Position, str] = {}
            version = document_version(position)
            gone = [(hit.id, RowState((), position, version, gone=True)) for hit in hits]
            await self._documents.write(name, gone, refused)
            if refused:
                raise SinkError(f"the index {name} could not be emptied: {refused[position]}")

    async def _raise_floor(self, name: str, position: Position) -> None:
        """Note a TRUNCATE, before anything goes: what is older makes no document from now on, by whomever."""
        known = self._indexes[name]
        if not self._keep_deleted or position <= known.floor:
            return
        refused: dict[Position, str] = {}
        state = RowState((), position, document_version(position), gone=True)
        await self._documents.write(name, [(FLOOR_ID, state)], refused)
        if refused:
            raise SinkError(f"the index {name} does not take the position of a TRUNCATE: {refused[position]}")
        known.floor = position

    async def _floors(self, names: Sequence[str]) -> dict[str, Position]:
        """The position of the last TRUNCATE of each index that has one."""
        found = await self._documents.read_each(names, FLOOR_ID, (POSITION,)) if names and self._keep_deleted else []
        return {name: one.position for name, one in zip(names, found, strict=False) if one.found}

    async def _find_floors(self, names: Iterable[str]) -> None:
        """Of indexes that are seen for the first time: where they were emptied, and what has come late since."""
        new = [name for name in names if not self._indexes[name].is_settled]
        for name, floor in (await self._floors(new)).items():
            await self._empty(name, floor)
            self._indexes[name].floor = floor
        for name in new:
            self._indexes[name].is_settled = True

    async def _hold_down(self, indexes: Sequence[TableStates]) -> None:
        """Remove again what another process has emptied the index of, while this one did not look.

        That one has noted it before it removed what was there. So it has removed what was written before that, or this
        finds its note.
        """
        rows = {index.name: index.rows.values() for index in indexes if index.rows}
        for name, floor in (await self._floors(list(rows))).items():
            if any(one.position < floor for one in rows[name]) and floor > self._indexes[name].floor:
                await self._empty(name, floor)
            self._indexes[name].floor = max(floor, self._indexes[name].floor)

    # What was deleted long ago.

    async def _purge(self, name: str) -> None:
        """Remove documents of rows that were deleted long ago."""
        before = datetime.now(UTC) - timedelta(seconds=self._keep_deleted)
        old = {"range": {DELETED: {"lt": before.isoformat(timespec="milliseconds")}}}
        query = {"bool": {"filter": [old], "must_not": [{"ids": {"values": [FLOOR_ID]}}]}}
        async for hits in self._documents.search(name, query):
            # One that has become a row again, or another process removes, is not ours to remove.
            await self._documents.remove(name, hits)


class Elasticsearch(OpenSearch):
    """The same for Elasticsearch; see `OpenSearch`."""
