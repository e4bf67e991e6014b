"""`pgcdc snapshot`: the rows of tables at one moment, as lines of JSON, CSV, Parquet or Arrow; nothing is left behind.

Through the library's own snapshot, so with its promises: one moment for all tables, several connections, no lock that
keeps anybody from writing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import typer

from pgcdc.cli.arguments import Dsn, Tables
from pgcdc.cli.complaint import complaining
from pgcdc.cli.output import forget_stdout

if TYPE_CHECKING:
    from pgcdc.cli.copies import Copied, Copies
    from pgcdc.replication import Connection, PublishedTable

__all__ = ["snapshot"]

_MAX_BYTES: Final = 8 << 20
_MAX_ROWS: Final = 200_000
"""Batches of a size that makes good row groups; each connection keeps one."""
Format: TypeAlias = Literal["jsonl", "csv", "parquet", "arrow"]
_FORMATS: Final[dict[str, Format]] = {".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


def snapshot(
    dsn: Dsn = "",
    table: Tables = None,
    format: Annotated[
        Format | None, typer.Option(help="What rows become; as the output's name says, else jsonl.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR",
            help="A file for one table, else a directory of files.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", help="Of one table only the rows for which this holds.", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCHEMA.TABLE.COLUMN",
            help="In Parquet and Arrow a string, whatever its type is.",
            show_default=False,
        ),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, help="How many connections share the work, at most.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Take the place of files that are there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --output: a line of JSON for each table.")] = False,
) -> None:
    """Copy the rows of tables as they are at one moment.

    Lines of JSON are as `pgcdc tail` prints them; the other formats have the columns of the table, and a file for each.
    """
    from pgcdc.cli.copies import Copies
    from pgcdc.cli.logs import log_to_stderr
    from pgcdc.errors import ConfigError
    from pgcdc.replication import check_server, connect, parse_table

    with complaining(json=json) as redactor:
        redactor.learn_dsn(dsn)
        log_to_stderr("info", json, redactor)
        names = [parse_table(one) for one in table or ()]
        if where is not None and len(names) != 1:
            raise ConfigError("--where is for one table", hint="name it: --table orders")
        chosen = format or (_FORMATS.get(output.suffix, "jsonl") if output is not None else "jsonl")
        if output is None and chosen in ("parquet", "arrow"):
            raise ConfigError(f"{chosen} is not written to stdout", hint=f"--output rows.{chosen}")
        with connect(dsn) as connection:
            check_server(connection)
            tables = _tables(connection, names, where)
            if output is None and chosen == "csv" and len(tables) != 1:
                raise ConfigError("CSV on stdout is of one table", hint="--table orders, or --output DIR")
            with Copies(chosen, output, text or (), overwrite=overwrite) as copies:
                copied = _copy(connection, tables, copies, connections)
    if json and output is not None:
        _print(copied)


def _copy(connection: Connection, tables: Sequence[PublishedTable], copies: Copies, connections: int) -> list[Copied]:
    from pgcdc.protocol import Catalog
    from pgcdc.replication import Snapshot
    from pgcdc.replication.snapshot_view import SnapshotView

    catalog = Catalog.load(connection)
    slot = connection.create_slot(f"pgcdc_snapshot_{secrets.token_hex(6)}", temporary=True, export_snapshot=True)
    try:
        with (
            Snapshot(
                connection.dsn, slot, tables, catalog, connections=connections, beside=connection.session()
            ) as snapshot,
            SnapshotView(snapshot.progress, connection.database),
        ):
            copies.begin(tables, slot.consistent_point, catalog)
            for batch in snapshot.batches(max_bytes=_MAX_BYTES, max_rows=_MAX_ROWS):
                copies.write(batch)
        return copies.finish()
    except BrokenPipeError:  # whoever reads has enough
        forget_stdout()
        return []


def _tables(connection: Connection, names: Sequence[tuple[str, str]], where: str | None) -> list[PublishedTable]:
    import msgspec

    from pgcdc.cli.borrowing import tables_of_database
    from pgcdc.errors import ConfigError
    from pgcdc.replication.publication import named_tables_sql, tables_from

    if not names:
        names, others = tables_of_database(connection, "read")
        if others:
            typer.echo(
                f"snapshot: without {len(others)} table{'s' * (len(others) > 1)} that this role may not read", err=True
            )
    if not names:
        raise ConfigError(f"database {connection.database!r} has no table that this role may read")
    tables = tables_from(connection.execute(named_tables_sql(names)), connection.server_version)
    found = {(table.schema, table.name) for table in tables}
    for schema, name in names:
        if (schema, name) not in found:
            raise ConfigError(
                f"table {schema}.{name} does not exist",
                hint="correct the name (letters are not folded, the schema is public when none is given)",
                table=f"{schema}.{name}",
            )
    return tables if where is None else [msgspec.structs.replace(table, row_filter=where) for table in tables]


def _print(copied: Sequence[Copied]) -> None:
    import msgspec

    for one in copied:
        typer.echo(msgspec.json.encode(one).decode())
