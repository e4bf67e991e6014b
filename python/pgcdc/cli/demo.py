"""`pgcdc demo`: what it takes on the command line, and its closing line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pgcdc.demo.report import Report

__all__ = ["demo"]


def demo(
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="How long the writer writes. Without it: until Ctrl-C.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON at the end, and nothing else.")] = False,
    dsn: Annotated[
        str | None,
        typer.Option(help="A server of yours instead of the embedded one. All that is made there is dropped."),
    ] = None,
    rate: Annotated[
        int, typer.Option(min=0, help="Row changes a second that are not exceeded; 0: as many as it can.")
    ] = 3000,
    redis: Annotated[
        str | None, typer.Option(metavar="URL", help="A Redis for the cache, which otherwise is in memory.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the target files (SQLite, DuckDB) in this directory.")
    ] = None,
) -> None:
    """Run a shop, a pipeline and five targets, and compare the targets with the shop at the end.

    One of them is away now and then, and one is slow.

    Exits with 0 only when every target is equal to the source, with 3 when one is not.
    """
    import msgspec

    from pgcdc.cli import EXIT_NOT_EQUAL
    from pgcdc.demo.report import Options
    from pgcdc.demo.run import run_demo
    from pgcdc.demo.view import make_view

    options = Options(seconds=seconds, dsn=dsn, rate=rate, redis=redis, directory=directory)
    report = run_demo(options, make_view())
    typer.echo(msgspec.json.encode(report).decode() if json else summary(report))
    if not report.targets_equal:
        raise typer.Exit(EXIT_NOT_EQUAL)


def summary(report: Report) -> str:
    """The closing words for people.

    Args:
        report: What is told.

    Returns:
        Some lines.
    """
    lines = [
        f"PostgreSQL {report.server_version}: {report.written:,} row changes written in {report.transactions:,}"
        f" transactions, {report.rolled_back:,} more rolled back",
        f"initial copy of {report.snapshot_rows:,} rows, then {report.streamed:,} changes"
        f" from the stream, {report.rows_per_second:,} a second"
        f"{'' if report.binary is None else ', in binary' if report.binary else ', as text'}",
        f"{'the column that was added half way was followed; ' if report.schema_changes else ''}"
        f"the targets had everything {report.catch_up_seconds:.2f} s after the last write",
        "",
    ]
    for name, target in report.targets.items():
        verdict = "equal to the source" if target.equal else f"{target.differing:,} keys differ from the source"
        if target.away:
            verdict += f", though it was away {target.away:,} times"
        lines.append(f"{name:<10}{target.rows:>10,} rows   {verdict}")
        lines += [f"{'':10}{difference}" for difference in target.first_differences]
    return "\n".join(lines)
