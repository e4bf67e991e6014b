"""`pgcdc exporter`: the metrics of a server's slots, for a Prometheus, where no process of a pipeline serves them."""

from __future__ import annotations

import os
import signal
import threading
from typing import Annotated, Literal

import typer

__all__ = ["exporter"]


def exporter(
    listen: Annotated[
        str, typer.Argument(metavar="[HOST:]PORT", help="Where to serve; on this machine only without a host.")
    ],
    dsn: Annotated[
        str, typer.Option(help="Any database of the server; PG* variables are used for what is not in it.")
    ] = "",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, at least this grave.")
    ] = "info",
    json: Annotated[bool, typer.Option("--json", help="Write the log as lines of JSON.")] = False,
) -> None:
    """Serve /metrics of all slots of a server until SIGTERM or SIGINT: those that nobody streams from are seen, too."""
    from pgcdc.cli import EXIT_CONFIGURATION
    from pgcdc.cli.logs import log_to_stderr
    from pgcdc.cli.redaction import Redactor
    from pgcdc.errors import Error
    from pgcdc.observe import exporting
    from pgcdc.replication.dsn import parameters_of

    redactor = Redactor(os.environ)
    redactor.learn_dsn(dsn)
    log_to_stderr(log_level, json, redactor)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        parameters_of(dsn, replication=False)  # says what cannot be meant
        with exporting(dsn, listen):
            ended.wait()
    except Error as error:
        typer.echo(redactor(f"error: {error}"), err=True)
        if error.hint:
            typer.echo(redactor(f"hint: {error.hint}"), err=True)
        raise typer.Exit(EXIT_CONFIGURATION) from None
