"""`pgcdc init` and `pgcdc destroy`: what a pipeline has on servers, made before the first run, removed after the last.

A plan comes first. Nothing is done before somebody has agreed to it, on a terminal or by `--yes`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor
    from pgcdc.pipeline import Pipeline, ProvisionPlan

__all__ = ["destroy", "init"]

_Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="A pipeline: module:pipeline, or a .toml file, as for pgcdc run.", show_default=False
    ),
]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without a question.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan, and change nothing.")]
_Json = Annotated[bool, typer.Option("--json", help="The plan as one line of JSON; with `done`, whether it was done.")]


def init(target: _Target, yes: _Yes = False, dry_run: _DryRun = False, json: _Json = False) -> None:
    """Make what a pipeline needs on its servers: tables of its own, the publication. `pgcdc run` would make it, too.

    For a role that may make it, before another one runs the pipeline.
    """
    with complaining(json=json) as redactor:
        pipeline = _pipeline(target, redactor)
        plan = pipeline.plan_init()
        done = _agreed(plan, redactor, yes=yes, dry_run=dry_run, json=json)
        if done:
            pipeline.init(plan)
    _close(plan, redactor, done=done, dry_run=dry_run, json=json)
    if not json and not dry_run and done:
        typer.echo(f"done; now: pgcdc doctor {target}; pgcdc run {target}", err=True)


def destroy(target: _Target, yes: _Yes = False, dry_run: _DryRun = False, json: _Json = False) -> None:
    """Remove what a pipeline has on its servers: slot, publication, positions, dead letters, spools; not its targets.

    The slot frees the WAL that it keeps. What the pipeline has not delivered is lost for it.
    """
    with complaining(json=json) as redactor:
        pipeline = _pipeline(target, redactor)
        plan = pipeline.plan_destroy()
        done = _agreed(plan, redactor, yes=yes, dry_run=dry_run, json=json)
        if done:
            pipeline.destroy(tables=True)
    _close(plan, redactor, done=done, dry_run=dry_run, json=json)
    if not json and not dry_run and done:
        stays = ", ".join(f"{step.kind} {step.name}" for step in plan.steps if step.state == "stays")
        typer.echo(f"done; what stays: the rows of the targets{f', {stays}' if stays else ''}", err=True)


def _pipeline(target: str, redactor: Redactor) -> Pipeline:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does

    as_python_does()
    return build(target, redactor)


def _agreed(plan: ProvisionPlan, redactor: Redactor, *, yes: bool, dry_run: bool, json: bool) -> bool:
    """Print the plan, and find out whether it is to be done."""
    from pgcdc.errors import ConfigError

    if not json:
        typer.echo(redactor(str(plan)))
    if dry_run or not plan.changes:
        return False
    if yes:
        return True
    if json or not sys.stdin.isatty():
        raise ConfigError(
            f"{plan.does} changes the server, and there is nobody to be asked",
            hint="--yes does what the plan says, --dry-run only prints it",
        )
    return typer.confirm(f"{plan.does}: do this?", err=True)


def _close(plan: ProvisionPlan, redactor: Redactor, *, done: bool, dry_run: bool, json: bool) -> None:
    """Print the outcome; one who was asked and said no is told so by the exit code."""
    import msgspec

    from pgcdc.cli import EXIT_ERROR

    if json:
        told = redactor.everywhere({**msgspec.to_builtins(plan), "changes": plan.changes, "done": done})
        typer.echo(msgspec.json.encode(told).decode())
    elif not dry_run and plan.changes and not done:
        typer.echo("nothing was changed", err=True)
        raise typer.Exit(EXIT_ERROR)
