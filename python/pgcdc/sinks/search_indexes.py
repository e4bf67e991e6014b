"""The indexes of a search server: found or made, with fields for their tables; and what its answers mean."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pgcdc.errors import ConfigError, SinkError, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.sinks.http_service import HttpService, quoted
from pgcdc.sinks.search_mapping import DELETED, FILTER, index_name, mapping

__all__ = ["COPY_REFRESH", "TEMPORARY", "Indexes", "Known"]

logger = logging.getLogger("pgcdc.sinks")

COPY_REFRESH: Final = "30s"
"""How often an index is refreshed during an initial copy."""
TEMPORARY: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of what can be tried again."""
PURGE_EVERY: Final = 3600.0
"""How often documents of rows that were deleted long ago are looked for, in seconds."""


class Known:
    """What is known of an index since it was looked at.

    Attributes:
        alias: Whether its name is an alias.
        table: The table that it belongs to.
        shapes: The relations whose columns have fields.
        slow: Whether it is refreshed seldom, because of an initial copy.
        purge_at: When documents of deleted rows are looked for next.
        floor: The position of the last TRUNCATE that is known of.
        is_settled: Whether the index was asked for that.
    """

    def __init__(self, table: tuple[str, str]) -> None:
        self.table = table
        self.alias = True
        self.shapes: list[Relation] = []
        self.slow = False
        self.purge_at = 0.0
        self.floor = Position(0, SNAPSHOT_INDEX)
        self.is_settled = False


class Indexes:
    """The indexes that one sink writes to.

    Args:
        service: The server.
        template: Their names, with `{schema}` and `{table}`.
        fields: Fields by column.
        settings: Settings of those that are made.
        remembers: Whether deleted rows have documents.
    """

    def __init__(
        self,
        service: HttpService,
        template: str,
        fields: Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, Any],
        *,
        remembers: bool,
    ) -> None:
        self._service = service
        self._template = template
        self._fields = fields
        self._settings = settings
        self._remembers = remembers
        self._known: dict[str, Known] = {}
        self._preparing = asyncio.Lock()

    def forget(self) -> None:
        """Look at all of them again."""
        self._known.clear()

    def __getitem__(self, name: str) -> Known:
        return self._known[name]

    async def prepare(self, relation: Relation) -> str:
        """Make sure that there is an index with fields for a table's columns.

        Args:
            relation: The table.

        Returns:
            Its name.

        Raises:
            ConfigError: When it cannot be.
            SinkUnavailable: When it cannot be for now.
        """
        name = index_name(self._template, relation)
        async with self._preparing:
            await self._prepare(name, relation)
        return name

    async def copy_begins(self, name: str) -> None:
        """Refresh an index seldom."""
        if self._settings.get("refresh_interval") != "-1":
            await self._put_settings(name, COPY_REFRESH)
            self._known[name].slow = True

    async def copy_ends(self, name: str) -> None:
        """Refresh an index as usual again, and now."""
        await self._put_settings(name, self._settings.get("refresh_interval"))
        await self.ask("POST", f"/{quoted(name)}/_refresh")
        self._known[name].slow = False

    async def close(self) -> None:
        """Refresh all as usual again."""
        try:
            for name, known in self._known.items():
                if known.slow:
                    await self.copy_ends(name)
        except SinkError as error:
            logger.warning("an index is refreshed only every %s after its copy: %s", COPY_REFRESH, error)

    async def _prepare(self, name: str, relation: Relation) -> None:
        """Make sure that there is an index with fields for a table's columns."""
        known = self._known.get(name)
        table = relation.schema, relation.name
        if known is None:
            known = Known(table)
            known.alias, made = await self._find_or_make(name, relation)
            if made:
                known.shapes.append(relation)
                known.purge_at = time.monotonic() + PURGE_EVERY
            else:
                known.slow = await self._is_slow(name)
            self._known[name] = known
        elif known.table != table:
            raise ConfigError(
                f"the tables {'.'.join(known.table)} and {'.'.join(table)} would be in one index, {name}",
                hint='write what is different into its name: index="shop-{table}"',
            )
        if relation in known.shapes:
            return
        await self._widen(name, relation)
        known.shapes.append(relation)

    async def _find_or_make(self, name: str, relation: Relation) -> tuple[bool, bool]:
        """Whether there is an alias, and whether it was made."""
        status, answer = await self._service.request("GET", f"/_alias/{quoted(name)}")
        if status == 200:
            behind = msgspec.json.decode(answer, type=dict[str, dict[str, dict[str, dict[str, Any]]]])
            if len(behind) > 1:
                raise ConfigError(f"the alias {name} is of several indexes, and a document would have to be in one")
            if self._remembers and any("filter" not in one["aliases"][name] for one in behind.values()):
                logger.warning("the alias %s has no filter: searches find what was deleted (%s)", name, DELETED)
            return True, False
        if status != 404:
            self.check(status, answer, f"the alias {name}")
        status, answer = await self._service.request("HEAD", f"/{quoted(name)}")
        if status == 200:
            if self._remembers:
                raise ConfigError(
                    f"{name} is an index, and searches in it would find what was deleted",
                    hint="choose a name that is free: an alias is made of it, which leaves that out; or keep_deleted=0",
                )
            return False, False
        fields = mapping(relation, self._fields)
        settings: dict[str, Any] = {"gc_deletes": "1h"}
        if len(relation.columns) > 400:  # text has two fields
            settings["mapping.total_fields.limit"] = 2 * len(relation.columns) + 200
        body = {
            "settings": {"index": {**settings, **self._settings}},
            "mappings": fields,
            "aliases": {name: {"filter": FILTER}},
        }
        status, answer = await self._service.request(
            "PUT", f"/{quoted(f'{name}-000001')}", body=msgspec.json.encode(body)
        )
        if status == 400 and b"resource_already_exists_exception" in answer:
            if (await self._service.request("HEAD", f"/_alias/{quoted(name)}"))[0] == 200:  # somebody else made it
                return True, False
            raise ConfigError(
                f"there is an index {name}-000001, and no alias {name} of it",
                hint=f"give it that alias, with the filter that leaves out {DELETED}, or remove the index",
            )
        self.check(status, answer, f"making the index {name}")
        return True, True

    async def _widen(self, name: str, relation: Relation) -> None:
        """Give columns fields that have none."""
        answer = await self.ask("GET", f"/{quoted(name)}/_mapping")
        [there] = msgspec.json.decode(answer, type=dict[str, dict[str, dict[str, Any]]]).values()
        has: Mapping[str, Any] = there["mappings"].get("properties", {})
        wanted = mapping(relation, self._fields)["properties"]
        new = {column: field for column, field in wanted.items() if column not in has}
        for column, field in wanted.items():
            if column in has and has[column].get("type", "object") != field["type"]:
                logger.warning("index %s: the field of %s stays %s", name, column, has[column].get("type", "object"))
        if new:
            await self.ask("PUT", f"/{quoted(name)}/_mapping", msgspec.json.encode({"properties": new}))

    async def behind(self, name: str) -> str:
        """The index behind an alias, which has no filter.

        Args:
            name: The alias, or the index itself.
        """
        [index] = msgspec.json.decode(await self.ask("GET", f"/{quoted(name)}/_alias"), type=dict[str, Any])
        return index

    async def _is_slow(self, name: str) -> bool:
        """Whether a copy has left it so."""
        answer = await self.ask("GET", f"/{quoted(name)}/_settings/index.refresh_interval?flat_settings=true")
        found = msgspec.json.decode(answer, type=dict[str, dict[str, dict[str, str]]])
        is_now = [one["settings"].get("index.refresh_interval") for one in found.values()]
        return COPY_REFRESH in is_now and self._settings.get("refresh_interval") != COPY_REFRESH

    async def _put_settings(self, name: str, refresh: Any) -> None:
        body = msgspec.json.encode({"index": {"refresh_interval": refresh}})
        await self.ask("PUT", f"/{quoted(name)}/_settings", body)

    async def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Ask for what the server has to answer.

        Args:
            method: `"GET"`, `"POST"` …
            path: With its parameters.
            body: JSON.

        Returns:
            The answer.

        Raises:
            SinkUnavailable: When it does not for now.
            SinkError: When it refuses.
        """
        status, answer = await self._service.request(method, path, body=body)
        self.check(status, answer, f"{method} {path.partition('?')[0]}")
        return answer

    def check(self, status: int, answer: bytes, what: str) -> None:
        """Raise for an answer that is an error.

        Args:
            status: Its status.
            answer: The answer.
            what: What was asked for.

        Raises:
            SinkUnavailable: When it may be another one later.
            SinkError: When not.
        """
        if status < 300:
            return
        if status in TEMPORARY or status in (401, 403):
            raise self.away(status)
        try:
            error = msgspec.json.decode(answer, type=dict[str, Any]).get("error")
        except msgspec.DecodeError:
            error = None
        kind = error.get("type", "") if isinstance(error, dict) else ""
        raise SinkError(f"{self._service!r} refuses {what}: status {status} {kind}".rstrip())

    def away(self, status: int) -> SinkUnavailable:
        """What is to be raised for a server that does not take anything now.

        Args:
            status: What it said.
        """
        hint = "is the user allowed to do that?" if status in (401, 403) else None
        return SinkUnavailable(f"{self._service!r} does not take anything now: status {status}", hint=hint)
