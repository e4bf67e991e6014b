"""The event store: streams, how each got where it is, its state at each step; projections, and their rebuilds."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from psycopg import sql
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pgcdc.errors import ConfigError
from pgcdc.eventstore.history import history_of, plain
from pgcdc.observe.slots import reaching

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["LONG", "routes"]

LONG: Final = 10_000
"""Events: of a longer stream only those around a step are read, and what they say stands for what they changed."""
_SHOWN: Final = 200
_RECENT: Final = """
    SELECT s.stream_id, s.stream_type, s.version, s.state, e.last_at
    FROM (SELECT stream_id, max(occurred_at) AS last_at, max(id) AS last_id
          FROM (SELECT stream_id, occurred_at, id FROM {schema}.events ORDER BY id DESC LIMIT 2000) AS latest
          GROUP BY 1) AS e
    JOIN {schema}.streams AS s USING (stream_id)
    ORDER BY e.last_id DESC LIMIT 50
"""
_BEGINNING: Final = """
    SELECT s.stream_id, s.stream_type, s.version, s.state, e.occurred_at
    FROM (SELECT * FROM {schema}.streams WHERE starts_with(stream_id, %s) ORDER BY stream_id LIMIT 50) AS s
    LEFT JOIN {schema}.events AS e ON e.stream_id = s.stream_id AND e.sequence = s.version
    ORDER BY 1
"""
_ABSENT: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InsufficientPrivilege,
)


def routes(console: Console) -> list[Route]:
    """The pages `/streams` and `/stream?id=&at=`, and the rebuild of a projection.

    Args:
        console: What they are given to work with.
    """
    subject = console.subject

    def streams(request: Request) -> Response:
        begins = request.query_params.get("q", "").strip()
        schema = sql.Identifier(subject.schema)
        found: list[tuple[Any, ...]] | None
        with reaching(subject.dsn) as connection:
            try:
                if begins:
                    query = sql.SQL(_BEGINNING).format(schema=schema)
                    found = connection.execute(query, (begins,)).fetchall()
                else:
                    found = connection.execute(sql.SQL(_RECENT).format(schema=schema)).fetchall()
            except _ABSENT:
                found = None
        builds = any(one.status == "building" for one in console.watch.seen.projections)
        declared = [] if subject.store is None else [one.name for one in subject.store.projections]
        return console.page(
            request,
            "streams.html",
            title="Event store",
            streams=found,
            begins=begins,
            declared=declared,
            rebuilds=console.rebuilds,
            total=_total(subject.dsn, subject.schema) if builds else None,
        )

    def stream(request: Request) -> Response:
        id, at = request.query_params.get("id", ""), request.query_params.get("at", "")
        if at and not (at.isascii() and at.isdecimal() and 0 < len(at) < 19):
            raise ConfigError("the step is a number", hint="the timeline has them")
        with subject.reading() as store:
            stream_type, version = _known(subject.dsn, subject.schema, id)
            step = int(at) if at else version
            if not 0 < step <= version:
                raise ConfigError(f"the stream {id} has no event {step}", hint=f"the last one is {version}")
            state_class = subject.states.get(stream_type)
            if version <= LONG:
                entries = store.history(id, state_class)
            else:  # what each has changed of the state would need all of them
                entries = history_of(store.read(id, after=max(0, step - _SHOWN // 2), limit=_SHOWN), None)
            state = None if state_class is None else _spread(plain(store.state(id, state_class, at=step)[0]))
        chosen = next((entry for entry in entries if entry.sequence == step), None)
        if chosen is None:
            raise ConfigError(f"event {step} of the stream {id} is not in the table", hint="it was archived")
        place = entries.index(chosen)
        first = max(0, min(place - _SHOWN // 2, len(entries) - _SHOWN))
        return console.page(
            request,
            "stream.html",
            title=f"Stream {id}",
            id=id,
            entries=entries[first : first + _SHOWN],
            all=version,
            chosen=chosen,
            state=state,
            state_class=None if state_class is None else state_class.__name__,
            payload=_spread(plain(chosen.recorded.event)),
            metadata=_spread(chosen.recorded.metadata) if chosen.recorded.metadata else None,
            text=_text,
            before=entries[place - 1].sequence if place else None,
            after=entries[place + 1].sequence if place + 1 < len(entries) else None,
        )

    async def rebuilt(request: Request) -> Response:
        name = request.scope["form"].get("name", [""])[0]
        await run_in_threadpool(console.rebuilds.begin, name)
        console.watch.look_now()
        return RedirectResponse("/streams#projections", 303)

    return [
        Route("/streams", streams),
        Route("/stream", stream),
        Route("/projections/rebuild", rebuilt, methods=["POST"]),
    ]


def _known(dsn: str, schema: str, id: str) -> tuple[str, int]:
    """The type and the version of a stream."""
    query = sql.SQL("SELECT stream_type, version FROM {}.streams WHERE stream_id = %s").format(sql.Identifier(schema))
    row: tuple[Any, ...] | None = None
    with reaching(dsn) as connection, contextlib.suppress(*_ABSENT):
        row = connection.execute(query, (id,)).fetchone()
    if row is None or not row[1]:
        raise ConfigError(f"the stream {id} has no events", hint="the list has the latest ones")
    return row[0], row[1]


def _total(dsn: str, schema: str) -> int | None:
    """How many events there are, by the server's estimate."""
    query = "SELECT reltuples::bigint FROM pg_class WHERE oid = to_regclass(format('%%I.events', %s::text))"
    with reaching(dsn) as connection:
        row = connection.execute(query, (schema,)).fetchone()
    return None if row is None or row[0] < 0 else int(row[0])


def _spread(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode()


def _text(value: Any) -> str:
    return "nothing" if value is None else msgspec.json.encode(value, enc_hook=str).decode()
