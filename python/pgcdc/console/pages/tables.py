"""Tables: which are published, who takes them, and how far the copy of their rows is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pgcdc.observe.slots import reaching

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]

_PUBLISHED: Final = (
    "SELECT p.schemaname, p.tablename, array_agg(DISTINCT p.pubname::text ORDER BY p.pubname::text),"
    " max(c.reltuples), max(pg_table_size(c.oid)), max(c.relreplident::text)"
    " FROM pg_publication_tables AS p"
    " JOIN pg_namespace AS n ON n.nspname = p.schemaname"
    " JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename"
    " GROUP BY 1, 2 ORDER BY 1, 2"
)
_IDENTITIES: Final = {"d": "primary key", "n": "nothing", "f": "all columns", "i": "an index"}


def routes(console: Console) -> list[Route]:
    """The page `/tables`.

    Args:
        console: What it is given to work with.
    """

    def tables(request: Request) -> Response:
        outline, seen = console.subject.outline, console.watch.seen
        with reaching(console.subject.dsn) as connection:
            rows = connection.execute(_PUBLISHED.encode()).fetchall()
        ours: set[str] = set()
        if outline is not None:  # a consumer with a slot of its own may have a publication of its own
            ours = {outline.publication} | {f"{outline.publication}_{one.name}" for one in outline.consumers}
        copy = None if seen.statistics is None else seen.statistics.source.snapshot
        found: list[dict[str, Any]] = []
        for schema, table, publications, expected, stored, identity in rows:
            name = f"{schema}.{table}"
            if outline is not None and not ours.intersection(publications):
                continue
            takers = [] if outline is None else [one.name for one in outline.consumers if name in one.tables]
            found.append(
                {
                    "name": name,
                    "publications": publications,
                    "rows": None if expected is None or expected < 0 else expected,
                    "stored": stored,
                    "identity": _IDENTITIES.get(identity, identity),
                    "has_identity": identity != "n",
                    "takers": takers,
                }
            )
        copied = sorted(seen.consumers, key=lambda one: (one.snapshot == "done", one.key))
        return console.page(request, "tables.html", title="Tables", tables=found, copy=copy, copied=copied)

    return [Route("/tables", tables)]
