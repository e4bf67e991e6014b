"""The verbs of the command, as typer knows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from pgcdc import __version__
from pgcdc.cli.deadletter import application as deadletter
from pgcdc.cli.demo import demo
from pgcdc.cli.doctor import doctor
from pgcdc.cli.events import application as events
from pgcdc.cli.run import run as run_pipeline
from pgcdc.cli.schema import application as schema
from pgcdc.cli.slots import lag, slots

__all__ = ["run"]

# Plain help and plain traces: rich's take a quarter of a second to import, and a trace is for a bug report.
_application = typer.Typer(
    name="pgcdc",
    help="Change data capture for PostgreSQL.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
_application.command("run")(run_pipeline)
_application.command()(demo)
_application.command()(doctor)
_application.command()(slots)
_application.command()(lag)
_application.add_typer(schema, name="schema")
_application.add_typer(deadletter, name="deadletter")
_application.add_typer(events, name="events")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pgcdc {__version__}")
        raise typer.Exit


@_application.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Change data capture for PostgreSQL."""


def run(arguments: Sequence[str]) -> int:
    """Parse the arguments and call the verb.

    Args:
        arguments: What stands after `pgcdc`.

    Returns:
        The exit code: of the verb, or 2 when the arguments are wrong.
    """
    try:
        _application(list(arguments), prog_name="pgcdc")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
