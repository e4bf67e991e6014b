"""`pgcdc console`: pages in a browser, of a database or of a pipeline that another process runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor
    from pgcdc.console import Serving
    from pgcdc.pipeline import Pipeline

__all__ = ["console", "served"]

TOKEN: Final = "PGCDC_CONSOLE_TOKEN"  # noqa: S105 (the variable's name)
_TARGET: Final = re.compile(r".+\.toml|[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def console(
    target: Annotated[
        str,
        typer.Argument(
            metavar="[TARGET|DSN]",
            help="A pipeline: module:pipeline, or a .toml file; or a database, for all pipelines that it knows.",
            show_default=False,
        ),
    ] = "",
    listen: Annotated[str, typer.Option(metavar="[HOST:]PORT", help="Where to listen.")] = "127.0.0.1:8432",
    store: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:STORE",
            help="The event store whose projections can be rebuilt from a page.",
            envvar="PGCDC_STORE",
            show_default=False,
        ),
    ] = None,
    schema: Annotated[str, typer.Option(help="The schema of the event store's tables.")] = "es",
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE=MODULE:CLASS", help="The class of the state of streams of a type; several times."),
    ] = None,
) -> None:
    """Show slots, consumers, tables, dead letters, versions and event streams as pages, until Ctrl-C.

    Only this machine can reach them; at another address they ask for the token that PGCDC_CONSOLE_TOKEN says.
    """
    from pgcdc.cli.building import build
    from pgcdc.cli.complaint import complaining
    from pgcdc.cli.importing import as_python_does
    from pgcdc.cli.stopping import Stopping
    from pgcdc.replication.dsn import parameters_of

    with complaining() as redactor:
        pipeline, dsn = None, target
        as_python_does()
        if _TARGET.fullmatch(target):
            pipeline = build(target, redactor)
            dsn = pipeline._settings.dsn  # nobody else is to have it
        else:
            redactor.learn_dsn(dsn)
            parameters_of(dsn, replication=False)
        states = _states(state or [])
        serving = served(listen, dsn, redactor, pipeline=pipeline, store=store, schema=schema, states=states)
    with Stopping() as stopping, serving:
        typer.echo(f"the console is at {serving.url}", err=True)
        stopping.wait()


def served(
    listen: str,
    dsn: str,
    redactor: Redactor,
    *,
    pipeline: Pipeline | None = None,
    running: bool = False,
    links: Mapping[str, str] | None = None,
    store: str | None = None,
    schema: str = "es",
    states: Mapping[str, type] | None = None,
) -> Serving:
    """Bind a console, which is then to be started.

    Args:
        listen: Where to.
        dsn: The database.
        redactor: Takes secrets out of what others have worded.
        pipeline: The pipeline that is meant.
        running: Whether this process runs it.
        links: Further addresses to be shown, by name.
        store: The event store, as `module:store`.
        schema: The schema of its tables.
        states: Classes of states, by types of streams.

    Returns:
        What `start` begins.

    Raises:
        ConfigError: When it cannot be, or a package is missing.
    """
    from pgcdc.errors import ConfigError

    try:
        from pgcdc.console import Console, Serving, Subject, parse_address
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn", "jinja2"}:
            raise
        raise ConfigError(
            f"the console needs the package {error.name}, which is not installed", hint="pip install 'pgcdc[console]'"
        ) from None
    host, port = parse_address(listen)
    token = os.environ.get(TOKEN) or None
    if token is not None:
        redactor.learn(token)
    declared: Any = None if store is None else _declared(store)
    subject = Subject(dsn, pipeline=pipeline, running=running, store=declared, schema=schema, states=states)
    return Serving(Console(subject, redact=redactor, links=links), host, port, token=token)


def _declared(path: str) -> Any:
    from pgcdc.cli.importing import import_attribute
    from pgcdc.errors import ConfigError
    from pgcdc.eventstore import AsyncEventStore, EventStore

    found = import_attribute(path, path) if ":" in path else None
    if not isinstance(found, EventStore | AsyncEventStore):
        raise ConfigError(f"there is no event store {path}", hint="--store MODULE:STORE, as in shop.orders:store")
    return found


def _states(said: list[str]) -> dict[str, type]:
    from pgcdc.cli.importing import import_attribute
    from pgcdc.errors import ConfigError

    states = {}
    for one in said:
        name, _, path = one.partition("=")
        found = import_attribute(path, path) if ":" in path else None
        if not name or not isinstance(found, type):
            raise ConfigError(f"--state {one} names no class", hint="--state order=shop.orders:Order")
        states[name] = found
    return states
