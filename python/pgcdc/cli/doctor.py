"""`pgcdc doctor`: what has to be right before a pipeline is relied on, with the reason and the remedy."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.observe import Finding
    from pgcdc.pipeline import Pipeline
    from pgcdc.pipeline.outline import PipelineOutline

__all__ = ["doctor"]


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="A pipeline: module:pipeline, or a .toml file, as for pgcdc run.",
            show_default=False,
        ),
    ] = None,
    dsn: Annotated[str, typer.Option(help="The database to be followed; PG* variables for what is not in it.")] = "",
    slot: Annotated[str | None, typer.Option(help="A slot to look at.", show_default=False)] = None,
    publication: Annotated[str | None, typer.Option(help="A publication to look at.", show_default=False)] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="A table to look at; several times.", show_default=False)
    ] = None,
    lag: Annotated[float, typer.Option(help="How many seconds the slot may be behind.", min=0)] = 600.0,
    role: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Print the script of a role that is enough, and check nothing.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each check.")] = False,
) -> None:
    """Check the server, the role, tables and slot, and a pipeline; exits with 1 when something has failed."""
    from pgcdc.cli import EXIT_ERROR

    with complaining(json=json) as redactor:
        outline, ours, pipeline = None, list[tuple[str, str]](), None
        if target is not None:
            pipeline = _pipeline(target, redactor)
            settings = pipeline._settings  # nobody else is to have it: no part of the interface
            dsn, outline, ours = dsn or settings.dsn, pipeline.outline(), list(settings.tables)
        redactor.learn_dsn(dsn)
        tables = [".".join(_table(name)) for name in table or ()]
        if role is not None:
            typer.echo(_script(role, dsn, outline, ours or list(map(_table, table or ())), publication))
            return
        stored = None if pipeline is None else _stored(pipeline)
        findings = _examine(dsn, outline, slot, publication, tables, lag, stored)
    _print(findings, redactor, json=json)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(EXIT_ERROR)


def _pipeline(target: str, redactor: Any) -> Pipeline:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does

    as_python_does()
    return build(target, redactor)


def _stored(pipeline: Pipeline) -> dict[str, int] | None:
    """How many positions its store has; None where it cannot be asked, of which another check tells."""
    from pgcdc.errors import Error

    try:
        stored = pipeline._stored_there()
    except Error:
        return None
    if stored is None:
        return None
    return {name: sum(row.is_begun_with for row in rows.values()) for name, rows in stored.items()}


def _table(name: str) -> tuple[str, str]:
    from pgcdc.tables import parse_table

    return parse_table(name)


def _script(
    role: str, dsn: str, outline: PipelineOutline | None, tables: list[tuple[str, str]], publication: str | None
) -> str:
    from pgcdc.errors import ConfigError
    from pgcdc.observe import role_sql
    from pgcdc.replication.dsn import parameters_of

    if outline is not None:
        publication = outline.publication
    if not tables:
        raise ConfigError("a role is for tables, and none is named", hint="name a pipeline, or give --table")
    database = parameters_of(dsn, replication=False).get("dbname") or os.environ.get("PGDATABASE") or "postgres"
    own = [] if outline is None else outline.own_slots
    more = {
        one.publication: [table for table in tables if not one.tables or ".".join(table) in one.tables] for one in own
    }
    return role_sql(role, str(database), tables, publication or "pgcdc", more)


def _examine(
    dsn: str,
    outline: PipelineOutline | None,
    slot: str | None,
    publication: str | None,
    tables: list[str],
    lag: float,
    stored: dict[str, int] | None,
) -> list[Finding]:
    from pgcdc.observe import examine

    return examine(dsn, outline, slot=slot, publication=publication, tables=tables, lag_seconds=lag, stored=stored)


def _print(findings: list[Finding], redactor: Any, *, json: bool) -> None:
    import msgspec

    for finding in findings:
        typer.echo(redactor(msgspec.json.encode(finding).decode() if json else str(finding)))
    if not json:
        counts = Counter(finding.status for finding in findings)
        typer.echo(
            ", ".join(f"{counts[word]} {word}" for word in ("ok", "warning", "failed", "skipped") if counts[word])
        )
