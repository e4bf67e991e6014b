"""The verbs of the command, as typer knows them, in the order in which a newcomer needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from pgcdc import __version__
from pgcdc.cli import EXIT_CONFIGURATION, EXIT_ERROR, EXIT_READER_GONE
from pgcdc.cli.complaint import complain_of_usage
from pgcdc.cli.config import application as config
from pgcdc.cli.console import console
from pgcdc.cli.consumer import application as consumer
from pgcdc.cli.deadletter import application as deadletter
from pgcdc.cli.demo import demo
from pgcdc.cli.doctor import doctor
from pgcdc.cli.events import application as events
from pgcdc.cli.exporter import exporter
from pgcdc.cli.init import destroy, init
from pgcdc.cli.run import run as run_pipeline
from pgcdc.cli.schema import application as schema
from pgcdc.cli.slots import lag, slots
from pgcdc.cli.snapshot import snapshot
from pgcdc.cli.tail import tail
from pgcdc.cli.top import top

__all__ = ["run"]

_UNTIL_STOPPED: Final = ("run", "tail", "top")
_UsageError: Final[Any] = typer.BadParameter.__base__
"""Of click, or of what typer has in its place."""

_LOOK: Final = "See it work"
_RUN: Final = "Run a pipeline"
_WATCH: Final = "Watch it"
_MEND: Final = "When something failed or changed"
_EVENTS: Final = "Event sourcing"
_OTHERS: Final = "Others"


class _Grouped(TyperGroup):
    """Help whose list of commands is in sections; rich has such panels, and takes a quarter of a second to import."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, Any]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = command.rich_help_panel
                sections.setdefault(panel if isinstance(panel, str) else _OTHERS, []).append((name, command))
        width = max(len(name) for commands in sections.values() for name, _ in commands)
        for section, commands in sections.items():
            with formatter.section(section):
                texts = [
                    (name.ljust(width), command.get_short_help_str(formatter.width - 6 - width))
                    for name, command in commands
                ]
                formatter.write_dl(texts)


# Plain help and plain traces: rich's take a quarter of a second to import, and a trace is for a bug report.
_application = typer.Typer(
    name="pgcdc",
    cls=_Grouped,
    help="Change data capture for PostgreSQL.",
    epilog="Every command has --help, and --json where it prints something.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
_application.command(short_help="A shop, a pipeline and five targets, compared at the end.", rich_help_panel=_LOOK)(
    demo
)
_application.command(short_help="Print changes as they are committed.", rich_help_panel=_LOOK)(tail)
_application.command(short_help="Copy the rows of tables as they are now.", rich_help_panel=_LOOK)(snapshot)
_application.command(short_help="Check server, role, tables, slot and pipeline.", rich_help_panel=_RUN)(doctor)
_application.add_typer(
    config, name="config", short_help="Check a configuration file; show what it means.", rich_help_panel=_RUN
)
_application.command(short_help="Make what a pipeline needs on its servers; a plan first.", rich_help_panel=_RUN)(init)
_application.command("run", short_help="Run a pipeline until SIGTERM or Ctrl-C.", rich_help_panel=_RUN)(run_pipeline)
_application.command(short_help="Remove what a pipeline has there; a plan first.", rich_help_panel=_RUN)(destroy)
_application.command(short_help="Slots, lag, consumers and dead letters, live.", rich_help_panel=_WATCH)(top)
_application.command(short_help="List the slots: who streams, what each keeps.", rich_help_panel=_WATCH)(slots)
_application.command(short_help="How far a slot is behind, in bytes and seconds.", rich_help_panel=_WATCH)(lag)
_application.command(short_help="Serve metrics of all slots, for Prometheus.", rich_help_panel=_WATCH)(exporter)
_application.command(short_help="Pages of slots, consumers, dead letters.", rich_help_panel=_WATCH)(console)
_application.add_typer(
    deadletter, name="deadletter", short_help="List, show, retry and drop dead letters.", rich_help_panel=_MEND
)
_application.add_typer(consumer, name="consumer", short_help="Rename a consumer, or forget it.", rich_help_panel=_MEND)
_application.add_typer(schema, name="schema", short_help="The versions that tables have had.", rich_help_panel=_MEND)
_application.add_typer(
    events, name="events", short_help="The event store: tables, histories, checks, rebuilds.", rich_help_panel=_EVENTS
)


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
        ended = _application(list(arguments), prog_name="pgcdc", standalone_mode=False)
    except SystemExit as exit:
        if isinstance(exit.__context__, BrokenPipeError):  # whoever reads has enough
            return 0 if arguments[0] in _UNTIL_STOPPED else EXIT_READER_GONE
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except _UsageError as error:
        complain_of_usage(error, json="--json" in arguments)
        return EXIT_CONFIGURATION
    except typer.Abort:
        typer.echo("Aborted!", err=True)
        return EXIT_ERROR
    return ended if isinstance(ended, int) else 0
