"""`pgcdc exporter`: the metrics of a server's slots, for a Prometheus, where no process of a pipeline serves them."""

from __future__ import annotations

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
    from pgcdc.cli.complaint import complaining
    from pgcdc.cli.logs import log_to_stderr
    from pgcdc.cli.stopping import Stopping
    from pgcdc.observe import exporting
    from pgcdc.replication.dsn import parameters_of

    with complaining(json=json) as redactor, Stopping() as stopping:
        redactor.learn_dsn(dsn)
        log_to_stderr(log_level, json, redactor)
        parameters_of(dsn, replication=False)  # says what cannot be meant
        with exporting(dsn, listen):
            stopping.wait()
