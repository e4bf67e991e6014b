"""`pgcdc deadletter list | show | retry | drop`: the changes that consumers could not be given.

Exit codes of its own, besides those of the command: 5 of `retry --wait` when a letter has failed again.
"""

from __future__ import annotations

import contextlib
import json as json_module
import time
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.pipeline import DeadLetter, DeadLetters

__all__ = ["application"]

application = typer.Typer(
    help="Changes that consumers could not be given.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

Target = Annotated[
    str | None,
    typer.Option(help="The pipeline: module:pipeline, or a .toml file, as for pgcdc run.", show_default=False),
]
Dsn = Annotated[
    str | None, typer.Option(help="Instead: the database that has the table pgcdc.dead_letters.", show_default=False)
]
PipelineName = Annotated[str | None, typer.Option(help="With --dsn: only of this pipeline.", show_default=False)]
ConsumerName = Annotated[str | None, typer.Option(help="Only of this consumer.", show_default=False)]
Table = Annotated[str | None, typer.Option(help="Only of this table: orders, sales.orders.", show_default=False)]
Since = Annotated[
    str | None,
    typer.Option(help="Only what failed last at this time or later: 2026-11-27T12:00:00Z.", show_default=False),
]
At = Annotated[
    str | None, typer.Option(help="Only the change at this position, as list prints it.", show_default=False)
]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Only these.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="All of them, where nothing else says which.")]
Json = Annotated[bool, typer.Option("--json", help="Lines of JSON.")]


@application.command("list")
def list_(
    ids: Ids = None,
    target: Target = None,
    dsn: Dsn = None,
    pipeline: PipelineName = None,
    consumer: ConsumerName = None,
    table: Table = None,
    since: Since = None,
    position: At = None,
    limit: Annotated[int | None, typer.Option(min=1, help="So many at most.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List dead letters, by consumer and position."""
    with _letters(target, dsn, pipeline, json=json) as (letters, known):
        found = letters.list(limit=limit, **_which(ids, consumer, table, since, position))
    for letter in found:
        _say(_as_json(letter, known) if json else _as_line(letter, known))


@application.command("show", short_help="Show one, with the values of its row.")
def show(
    id: Annotated[int, typer.Argument(help="Its number, as list prints it.")],
    target: Target = None,
    dsn: Dsn = None,
    pipeline: PipelineName = None,
    json: Json = False,
) -> None:
    """Show one dead letter, with the values of its row and the text of the error."""
    with _letters(target, dsn, pipeline, json=json) as (letters, known):
        letter = letters.show(id)
    if json:
        _say(_as_json(letter, known, whole=True))
        return
    _say(_as_line(letter, known))
    for name in ("first_at", "last_at", "error_type", "error_text", "values"):
        _say(f"  {name}: {getattr(letter, name)}")
    _say(f"  message: {len(letter.message)} bytes (--json prints them)")


@application.command("retry", short_help="Ask for them to be delivered again.")
def retry(
    ids: Ids = None,
    target: Target = None,
    dsn: Dsn = None,
    pipeline: PipelineName = None,
    consumer: ConsumerName = None,
    table: Table = None,
    since: Since = None,
    position: At = None,
    all: All = False,
    wait: Annotated[
        float | None, typer.Option(min=0, help="Wait so many seconds for the outcome.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Ask for dead letters to be delivered again, by the process that runs the pipeline, or the next one that does.

    What waits behind them follows.
    """
    from pgcdc.cli import EXIT_DEAD_LETTERS

    with _letters(target, dsn, pipeline, json=json) as (letters, _):
        which = _which(ids, consumer, table, since, position)
        asked = letters.retry(**_meant(which, all))
        if not json:
            _say(f"asked for {len(asked)}", error=True)
        deadline = time.monotonic() + (wait or 0.0)
        left = letters.list(ids=asked) if asked else []
        while wait is not None and any(letter.requested for letter in left) and time.monotonic() < deadline:
            time.sleep(0.2)
            left = letters.list(ids=asked)
    waiting = sum(letter.requested for letter in left)
    counts = {"asked": len(asked), "delivered": len(asked) - len(left), "failed": len(left) - waiting}
    if json:
        _say(json_module.dumps({**counts, "waiting": waiting}))
    if wait is None or not asked:
        return
    if not json:
        _say(
            f"{counts['delivered']} delivered, {counts['failed']} failed again, {waiting} not delivered yet", error=True
        )
    if left:
        raise typer.Exit(EXIT_DEAD_LETTERS)


@application.command("drop", short_help="Remove them for good.")
def drop(
    ids: Ids = None,
    target: Target = None,
    dsn: Dsn = None,
    pipeline: PipelineName = None,
    consumer: ConsumerName = None,
    table: Table = None,
    since: Since = None,
    position: At = None,
    all: All = False,
    json: Json = False,
) -> None:
    """Remove dead letters for good; what waits behind them is delivered by whoever runs the pipeline."""
    with _letters(target, dsn, pipeline, json=json) as (letters, _):
        dropped = letters.drop(**_meant(_which(ids, consumer, table, since, position), all))
    _say(json_module.dumps({"dropped": dropped}) if json else f"dropped {dropped}", error=not json)


@contextlib.contextmanager
def _letters(
    target: str | None, dsn: str | None, pipeline: str | None, *, json: bool = False
) -> Iterator[tuple[DeadLetters, Collection[str] | None]]:
    """The letters that a command line names, and the consumers that there are, where the pipeline is known.

    Errors are printed, and become exit codes.
    """
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does
    from pgcdc.errors import ConfigError
    from pgcdc.pipeline import DeadLetters, PostgresDeadLetters

    known: Collection[str] | None = None
    with complaining(json=json) as redactor:
        if (target is None) == (dsn is None) or (target is not None and pipeline is not None):
            raise ConfigError(
                "it is not said whose dead letters", hint="--target module:pipeline, or --dsn … (--pipeline NAME)"
            )
        if target is not None:
            as_python_does()
            built = build(target, redactor)
            letters, known = built.dead_letters, built.consumers
        else:
            redactor.learn_dsn(str(dsn))
            letters = DeadLetters(PostgresDeadLetters(str(dsn)), pipeline)
        with contextlib.closing(letters):
            yield letters, known


def _which(
    ids: list[int] | None, consumer: str | None, table: str | None, since: str | None, position: str | None
) -> dict[str, Any]:
    from pgcdc.errors import ConfigError
    from pgcdc.lsn import Position

    try:
        at = None if since is None else datetime.fromisoformat(since)
    except ValueError:
        raise ConfigError(f"--since {since} is no time", hint="2026-11-27T12:00:00Z") from None
    return {
        "ids": ids or None,
        "consumer": consumer,
        "table": table,
        "since": at,
        "position": None if position is None else Position.parse(position),
    }


def _meant(which: dict[str, Any], all: bool) -> dict[str, Any]:
    from pgcdc.errors import ConfigError

    if not all and not any(value is not None for value in which.values()):
        raise ConfigError("it is not said which dead letters", hint="name their numbers, a condition, or --all")
    return which


def _as_line(letter: DeadLetter, known: Collection[str] | None) -> str:
    what = f"{letter.action} of {letter.table}" if letter.table else letter.action
    key = f" {letter.key}" if letter.key else ""
    tried = f"{letter.attempts} attempts, {letter.error_type}" if letter.state == "failed" else "waits"
    asked = ", asked for" if letter.requested else ""
    gone = "" if known is None or letter.consumer in known else "; the pipeline has no such consumer any more"
    whose = f"{letter.pipeline_name}/{letter.consumer}"
    return (
        f"{letter.id}  {whose}  {letter.position}  {letter.last_at:%Y-%m-%dT%H:%M:%S%z}"
        f"  {what}{key}: {tried}{asked}{gone}"
    )


def _as_json(letter: DeadLetter, known: Collection[str] | None, *, whole: bool = False) -> str:
    values: dict[str, Any] = {
        "id": letter.id,
        "pipeline": letter.pipeline_name,
        "consumer": letter.consumer,
        "gone": None if known is None else letter.consumer not in known,
        "position": str(letter.position),
        "state": letter.state,
        "requested": letter.requested,
        "table": letter.table,
        "action": letter.action,
        "key": None if letter.key is None else json_module.loads(letter.key),
        "error_type": letter.error_type,
        "attempts": letter.attempts,
        "first_at": letter.first_at.isoformat(),
        "last_at": letter.last_at.isoformat(),
    }
    if whole:
        # As text, because not every number in it is one that every parser keeps.
        values |= {"error_text": letter.error_text, "values": letter.values, "message": letter.message.hex()}
    return json_module.dumps(values)


def _say(line: str, *, error: bool = False) -> None:
    typer.echo(line.encode(errors="backslashreplace").decode(), err=error)
