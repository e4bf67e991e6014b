"""`pgcdc schema history`: the versions that a pipeline's tables have had, and what differs from one to the next."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.events import Column
    from pgcdc.schema import SchemaVersion

__all__ = ["application"]

application = typer.Typer(
    help="Versions of tables.", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)


@application.callback()
def _schema() -> None:
    """Versions of tables."""


@application.command("history", short_help="Print the versions that tables have had.")
def history(
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Only this table, by any name that it had.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="The pipeline: module:pipeline, or a .toml file, as for pgcdc run.", show_default=False),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Instead: its name, where versions are in PostgreSQL.", show_default=False)
    ] = None,
    dsn: Annotated[str, typer.Option(help="And the database; PG* variables are used for what is not in it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each version.")] = False,
) -> None:
    """Print the versions that a pipeline's tables have had, the oldest first."""
    from pgcdc.errors import ConfigError

    with complaining(json=json) as redactor:
        versions = _versions(table, target, pipeline, dsn, redactor)
        if not versions:
            what = "the pipeline" if table is None else f"table {table}"
            raise ConfigError(
                f"nothing is known of {what}", hint="versions are stored from the first run of a pipeline on"
            )
    for line in _lines_of_json(versions) if json else _lines(versions):
        typer.echo(line.encode(errors="backslashreplace").decode())


def _versions(
    table: str | None, target: str | None, pipeline: str | None, dsn: str, redactor: Any
) -> list[SchemaVersion]:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does
    from pgcdc.errors import ConfigError
    from pgcdc.pipeline import Pipeline

    if (target is None) == (pipeline is None):
        raise ConfigError(
            "it is not said of which pipeline", hint="--target module:pipeline, or --pipeline NAME --dsn …"
        )
    if target is not None:
        as_python_does()
        return build(target, redactor).schema_history(table)
    redactor.learn_dsn(dsn)
    # Of a pipeline that is only asked for its versions the tables make no difference.
    return Pipeline(str(pipeline), dsn, tables=["any"], slot="any").schema_history(table)


def _lines(versions: Sequence[SchemaVersion]) -> Iterator[str]:
    from pgcdc.schema import change_of

    before: SchemaVersion | None = None
    for version in versions:
        if before is None or before.oid != version.oid:
            latest = [one for one in versions if one.oid == version.oid][-1]
            yield f"{latest.schema}.{latest.table}"
            before = None
        yield f"  version {version.version}  from {_place(version)}, seen {version.seen_at:%Y-%m-%d %H:%M:%S %Z}"
        types = {column.name: _column(version, column) for column in version.relation.columns}
        if before is None:
            yield f"    {', '.join(types.values())}"
        else:
            change = change_of(before.relation, version.relation)
            old = {column.name: _column(before, column) for column in before.relation.columns}
            if change.table_renamed:
                yield f"    {before.schema}.{before.table} renamed to {version.schema}.{version.table}"
            yield from (f"    + {types[name]}" for name in change.added)
            yield from (f"    - {old[name]}" for name in change.dropped)
            yield from (f"    {was} renamed to {now}" for was, now in change.renamed)
            names = {now: was for was, now in change.renamed}
            yield from (f"    {old[names.get(name, name)]} is now {types[name]}" for name in change.retyped)
            if change.rekeyed:
                keys = [column.name for column in version.columns if column.is_key]
                yield f"    the replica identity is now {', '.join(keys) or 'empty'}"
        before = version


def _place(version: SchemaVersion) -> str:
    from pgcdc.lsn import format_lsn

    lsn, index = version.position
    return f"{format_lsn(lsn)}, {'initial copy' if index < 0 else f'change {index}'}"


def _column(version: SchemaVersion, column: Column) -> str:
    from pgcdc.event_text import type_text

    stored = next(one for one in version.columns if one.name == column.name)
    key = " key" if column.is_key and version.replica_identity != "f" else ""
    return f"{column.name} {type_text(stored.type_name, column.type_modifier)}{key}"


def _lines_of_json(versions: Sequence[SchemaVersion]) -> Iterator[str]:
    from pgcdc.lsn import format_lsn

    for version in versions:
        yield json_module.dumps(
            {
                "oid": version.oid,
                "version": version.version,
                "schema": version.schema,
                "table": version.table,
                "position": str(version.position),
                "lsn": format_lsn(version.position.commit_lsn),
                "seen_at": version.seen_at.isoformat(),
                "replica_identity": version.replica_identity,
                "fingerprint": version.fingerprint,
                "columns": [
                    {
                        "name": column.name,
                        "type": column.type_name,
                        "type_oid": column.type_oid,
                        "type_modifier": column.type_modifier,
                        "is_key": column.is_key,
                    }
                    for column in version.columns
                ],
            }
        )
