"""The versions that tables have had, each with what differs from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgcdc.event_text import type_text
from pgcdc.observe.slots import reaching
from pgcdc.pipeline.settings import BESIDE
from pgcdc.schema import SchemaVersion, change_of

if TYPE_CHECKING:
    from pgcdc.console.application import Console
    from pgcdc.events import Column

__all__ = ["differences", "routes"]

_PIPELINES: Final = "SELECT DISTINCT pipeline FROM pgcdc.schema_versions ORDER BY 1"


def routes(console: Console) -> list[Route]:
    """The page `/schema`.

    Args:
        console: What it is given to work with.
    """

    def schema(request: Request) -> Response:
        wanted = request.query_params.get("pipeline")
        meant = console.subject.pipeline
        names = {meant: []} if meant else _pipelines(console.subject.dsn)
        shown = [name for name in names if wanted in (None, "", name)]
        pipelines = [(name, _tables(console.subject.versions(name, names[name]))) for name in shown]
        return console.page(request, "schema.html", title="Schema", pipelines=pipelines, names=list(names))

    return [Route("/schema", schema)]


def _pipelines(dsn: str) -> dict[str, list[str]]:
    """The pipelines that have noted versions, with their consumers that have slots of their own.

    The tables are not made for a look.
    """
    found: dict[str, list[str]] = {}
    with reaching(dsn) as connection:
        try:
            for (stored,) in connection.execute(_PIPELINES):
                name, _, consumer = stored.partition(BESIDE)
                found.setdefault(name, []).extend([consumer] if consumer else [])
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege):
            return {}
    return found


def _tables(versions: Sequence[SchemaVersion]) -> list[dict[str, Any]]:
    """By table, the newest version first."""
    by_oid: dict[int, list[SchemaVersion]] = {}
    for version in versions:
        by_oid.setdefault(version.oid, []).append(version)
    tables = []
    for several in by_oid.values():
        steps = [
            {
                "version": version,
                "lines": differences(several[number - 1] if number else None, version),
                "columns": [
                    (stored.name, _type(version, column), column.is_key and version.replica_identity != "f")
                    for stored, column in zip(version.columns, version.relation.columns, strict=True)
                ],
            }
            for number, version in enumerate(several)
        ]
        tables.append({"name": f"{several[-1].schema}.{several[-1].table}", "steps": steps[::-1]})
    return sorted(tables, key=lambda table: str(table["name"]))


def differences(before: SchemaVersion | None, version: SchemaVersion) -> list[tuple[str, str]]:
    """What has changed from one version to the next.

    Args:
        before: The one before; None for the first.
        version: The version.

    Returns:
        Lines: `"+"`, `"-"` or `"~"`, and what.
    """
    if before is None:
        return []
    change = change_of(before.relation, version.relation)
    new = {column.name: f"{column.name} {_type(version, column)}" for column in version.relation.columns}
    old = {column.name: f"{column.name} {_type(before, column)}" for column in before.relation.columns}
    lines = []
    if change.table_renamed:
        lines.append(("~", f"{before.schema}.{before.table} is now {version.schema}.{version.table}"))
    lines += [("+", new[name]) for name in change.added]
    lines += [("-", old[name]) for name in change.dropped]
    lines += [("~", f"{was} is now {now}") for was, now in change.renamed]
    names = {now: was for was, now in change.renamed}
    lines += [("~", f"{old[names.get(name, name)]} is now {new[name]}") for name in change.retyped]
    if change.rekeyed:
        keys = [column.name for column in version.columns if column.is_key]
        lines.append(("~", f"the replica identity is now {', '.join(keys) or 'empty'}"))
    return lines


def _type(version: SchemaVersion, column: Column) -> str:
    stored = next(one for one in version.columns if one.name == column.name)
    return type_text(stored.type_name, column.type_modifier)
