"""`pgcdc config validate` and `pgcdc config show`: a file checked as `pgcdc run` would, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.pipeline import Pipeline

__all__ = ["application"]

application = typer.Typer(
    help="Configuration files.", rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True
)

_File = Annotated[str, typer.Argument(metavar="FILE", help="The file: pgcdc.toml, or module:pipeline.")]
_Json = Annotated[bool, typer.Option("--json", help="One line of JSON.")]


@application.callback()
def _config() -> None:
    """Configuration files."""


@application.command("validate", short_help="Check a file: keys, variables, sinks, handlers.")
def validate(file: _File = "pgcdc.toml", json: _Json = False) -> None:
    """Check a file: every key, the variables that it takes, sinks and handlers; nothing is connected to."""
    with complaining(json=json) as redactor:
        pipeline = _build(file, redactor)
    if json:
        _print({"file": file, "pipeline": pipeline.name, "consumers": list(pipeline.consumers)})
        return
    consumers = ", ".join(pipeline.consumers)
    typer.echo(f"{file}: pipeline {pipeline.name!r} is in order; its consumers: {consumers}")


@application.command("show", short_help="Print what a file means, with what is not said in it.")
def show(file: _File = "pgcdc.toml", json: _Json = False) -> None:
    """Print what a file means: names that were not said, tables and policies of each consumer; no secrets."""
    import msgspec

    with complaining(json=json) as redactor:
        outline: dict[str, Any] = redactor.everywhere(msgspec.to_builtins(_build(file, redactor).outline()))
    if json:
        _print(outline)
        return
    consumers = outline.pop("consumers")
    for line in _lines("pipeline", outline):
        typer.echo(line)
    for consumer in consumers:
        typer.echo("")
        for line in _lines(f"consumers.{consumer.pop('name')}", consumer):
            typer.echo(line)


def _build(file: str, redactor: Any) -> Pipeline:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does

    as_python_does()
    return build(file, redactor)


def _lines(name: str, values: dict[str, Any]) -> Iterator[str]:
    import msgspec

    yield f"[{name}]"
    for key, value in values.items():
        text = ", ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            text = ", ".join(f"{kind}: {word}" for kind, word in value.items())
        yield f"{key} = {text if isinstance(text, str) else msgspec.json.encode(text).decode()}"


def _print(value: dict[str, Any]) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())
