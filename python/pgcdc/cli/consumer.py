"""`pgcdc consumer`: one that has another name now, one that is not wanted any more; while its pipeline is stopped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor
    from pgcdc.pipeline import Pipeline

__all__ = ["application"]

application = typer.Typer(
    help="Rename and forget consumers.", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)

_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="The pipeline: module:pipeline, or a .toml file, as for pgcdc run.", show_default=False
    ),
]


@application.callback()
def _consumer() -> None:
    """Rename and forget consumers."""


@application.command("rename", short_help="Let a consumer go on under another name.")
def rename(
    target: _Target,
    consumer: Annotated[str, typer.Argument(metavar="OLD", help="The name that its position is stored under.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that the pipeline has it under now.")],
    json: Annotated[bool, typer.Option("--json", help="A line of JSON, also for an error.")] = False,
) -> None:
    """Let a consumer go on under another name: its position, dead letters, versions of tables and spool go along.

    TARGET is the pipeline as it is now, with the new name. What was interrupted is finished by the same command.
    """
    with complaining(json=json) as redactor:
        pipeline = _pipeline(target, redactor)
        pipeline.rename(consumer, new)
    _say({"pipeline": pipeline.name, "renamed": consumer, "to": new}, f"{consumer} is {new} now", json=json)


@application.command("forget", short_help="Remove what is stored of a consumer.")
def forget(
    target: _Target,
    consumer: Annotated[str, typer.Argument(metavar="CONSUMER", help="Its name.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON, also for an error.")] = False,
) -> None:
    """Remove what is stored of a consumer: its position, its dead letters, its spool; its target stays as it is.

    What it has not got is lost for it. Registered again it begins anew. The last one on a slot takes that along.
    """
    from pgcdc.errors import ConfigError

    with complaining(json=json) as redactor:
        pipeline = _pipeline(target, redactor)
        if not yes:
            if json or not sys.stdin.isatty():
                raise ConfigError(
                    f"what consumer {consumer!r} has not got would be lost for it, and there is nobody to be asked",
                    hint="--yes does it",
                )
            letters = len(pipeline.dead_letters.list(consumer=consumer))
            with_them = f"{letters} dead letters" if letters else "dead letters"
            and_slot = "and the slot, if nobody else is on it"
            if not typer.confirm(f"forget consumer {consumer!r}: its position, {with_them}, {and_slot}?", err=True):
                typer.echo("nothing was changed", err=True)
                raise typer.Exit(1)
        pipeline.forget(consumer)
    _say({"pipeline": pipeline.name, "forgotten": consumer}, f"{consumer} is forgotten", json=json)


def _pipeline(target: str, redactor: Redactor) -> Pipeline:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does

    as_python_does()
    return build(target, redactor)


def _say(told: dict[str, str], text: str, *, json: bool) -> None:
    import json as json_module

    typer.echo(json_module.dumps(told) if json else text)
