"""`pgcdc events`: the tables of an event store, a stream's history, numbers, the checklist, rebuilds, the archive.

Over 400 lines because all verbs share how a store is found, and how moments are read and progress is told.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pgcdc.eventstore import ArchiveProgress, AsyncEventStore, EventStore, HistoryEntry, RebuildProgress

    Progress = RebuildProgress | ArchiveProgress

__all__ = ["application"]

application = typer.Typer(
    help="The event store: its tables, a stream's history, numbers, the checklist, rebuilds, its archive.",
    rich_markup_mode=None,
    no_args_is_help=True,
)
_Dsn = Annotated[str, typer.Option(help="Where to connect to, as libpq has it; without it PG* variables.")]
_Schema = Annotated[str, typer.Option(help="The schema of the store's tables.")]
_Archive = Annotated[
    str | None,
    typer.Option(
        metavar="URL", envvar="PGCDC_ARCHIVE", help="Where events are that have left the table: a folder, s3://…"
    ),
]
_StorePath = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="MODULE:STORE",
        help="The event store that it is declared in.",
        envvar="PGCDC_STORE",
        show_default=False,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else.")]


@application.command()
def init(
    dsn: _Dsn = "",
    schema: _Schema = "es",
    profile: Annotated[
        str | None,
        typer.Option(metavar="full|lean", help="The indexes: by type and time (full), or a small one by time."),
    ] = None,
    max_payload_bytes: Annotated[int | None, typer.Option(min=1, help="The most that a payload may take.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL that would be run, and change nothing.")
    ] = False,
    json: _Json = False,
) -> None:
    """Make what is missing of the tables; nothing when all is there."""
    import msgspec

    with _store(dsn, schema) as store:
        wanted: dict[str, Any] = {"profile": profile, "max_payload_bytes": max_payload_bytes}
        plan = store.plan_init(**wanted) if dry_run else store.init(**wanted)
    if json:
        typer.echo(msgspec.json.encode(plan).decode())
    elif dry_run and plan.steps:
        typer.echo("\n\n".join(f"-- {step.what}\n{step.sql}" for step in plan.steps))
    else:
        typer.echo(str(plan))


@application.command("history", short_help="Tell how a stream got where it is.")
def history(
    stream: Annotated[str, typer.Argument(help="The stream, as in order-123.")],
    dsn: _Dsn = "",
    schema: _Schema = "es",
    state: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:CLASS", help="The class of the state: what each event has changed, not its payload."
        ),
    ] = None,
    module: Annotated[
        list[str] | None, typer.Option("--events", metavar="MODULE", help="Where classes of events are; several times.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="SEQUENCE|TIME", help="Up to an event, or a time as 2026-11-27T12:00:00+01:00."),
    ] = None,
    archive: _Archive = None,
    store: _StorePath = "",
    json: _Json = False,
) -> None:
    """Tell how a stream got where it is: each event, when, by whom, and what it has changed."""
    import msgspec

    state_class = None if state is None else _class(state)
    moment = None if at is None else _moment(at)
    if store and not dsn:
        entries: list[HistoryEntry] = _ask(_declared(store), lambda one: one.history(stream, state_class, at=moment))
    else:
        modules = [_module(name) for name in module or []]
        with _store(dsn, schema, events=modules, archive=archive) as given:
            entries = given.history(stream, state_class, at=moment)
    if json:
        for entry in entries:
            typer.echo(msgspec.json.encode(_flat(entry)).decode())
        return
    if not entries:
        typer.echo(f"the stream {stream} has no events{'' if at is None else ' up to then'}", err=True)
        raise typer.Exit(1)
    for entry in entries:
        typer.echo(_text(entry))


@application.command("stats", short_help="Count and measure.")
def stats(dsn: _Dsn = "", schema: _Schema = "es", store: _StorePath = "", json: _Json = False) -> None:
    """Count and measure: sizes, lengths of streams, what reading an event takes, and whether snapshots pay."""
    import msgspec

    wanted = _declared(store) if store and not dsn else _store(dsn, schema)
    found = _ask(wanted, lambda one: one.stats())
    typer.echo(msgspec.json.encode(found).decode() if json else str(found))


@application.command("check", short_help="Go through the checklist of event sourcing, live.")
def check(
    dsn: _Dsn = "",
    schema: _Schema = "es",
    deep: Annotated[
        bool, typer.Option("--deep", help="Look at all streams for holes, and read all files of the archive.")
    ] = False,
    archive: _Archive = None,
    store: _StorePath = "",
    json: _Json = False,
) -> None:
    """Go through the checklist of event sourcing, live; exits with 1 when a point has failed."""
    import msgspec

    wanted = _declared(store) if store and not dsn else _store(dsn, schema, archive=archive)
    findings = _ask(wanted, lambda one: one.check(deep=deep))
    typer.echo(msgspec.json.encode(findings).decode() if json else "\n".join(map(str, findings)))
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


@application.command("rebuild", short_help="Build a projection anew beside the one that is live.")
def rebuild(
    name: Annotated[str | None, typer.Argument(help="The projection.", show_default=False)] = None,
    store: _StorePath = "",
    everything: Annotated[bool, typer.Option("--all", help="All projections of the store.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away one that was begun.")] = False,
    back: Annotated[
        bool, typer.Option("--rollback", help="Put the one that was live before back in its place.")
    ] = False,
    json: _Json = False,
) -> None:
    """Build a projection anew beside the one that is live, and put it in its place when it has come as far."""
    import msgspec

    from pgcdc.errors import ConfigError
    from pgcdc.eventstore import plan_rebuild, rollback
    from pgcdc.eventstore import rebuild as build

    declared = _declared(store)
    if (name is None) == (not everything):
        raise ConfigError(
            "say which projection, or --all", hint="pgcdc events rebuild daily_revenue --store shop:store"
        )
    if back and (dry_run or restart):
        raise ConfigError(
            "--rollback changes places at once, and builds nothing",
            hint=f"--rollback, without {'--dry-run' if dry_run else '--restart'}",
        )
    names = [projection.name for projection in declared.projections] if name is None else [name]
    for one in names:
        if dry_run:
            plan = plan_rebuild(declared, one, restart=restart)
            typer.echo(msgspec.json.encode(plan).decode() if json else str(plan))
        elif back:
            rollback(declared, one)
            typer.echo(f"{one}: what was live before is live again", err=json)
        else:
            with _Bar(one) as told:
                done = build(declared, one, restart=restart, told=told)
            took = f"{done.done:,} events in {done.seconds:.1f} s, {done.rate:,.0f} a second"
            typer.echo(msgspec.json.encode(done).decode() if json else f"{one}: {took}")


@application.command("archive", short_help="Move old events out of the table.")
def archive(
    store: _StorePath = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would leave, and change nothing.")] = False,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="The moment from which ages count, instead of now.")
    ] = None,
    segment_events: Annotated[int, typer.Option(min=1, help="How many events are in a file at most.")] = 20_000,
    json: _Json = False,
) -> None:
    """Move old events, as the store's rules say, out of the table into Parquet files: verified before they leave."""
    import msgspec

    from pgcdc.eventstore import archive as move
    from pgcdc.eventstore import plan_archive

    declared = _declared(store)
    now = None if at is None else _time(at)
    if dry_run:
        plan = plan_archive(declared, now=now)
        typer.echo(msgspec.json.encode(plan).decode() if json else str(plan))
        return
    with _Bar("archive") as told:
        done = move(declared, now=now, segment_events=segment_events, told=told)
    if json:
        typer.echo(msgspec.json.encode(done).decode())
    elif done.segments:
        again = f", {done.taken:,} of them there from a run that was interrupted" if done.taken else ""
        typer.echo(
            f"{done.done:,} events in {done.segments:,} segments{again}, {done.bytes:,} bytes;"
            f" {done.seconds:.1f} s, {done.rate:,.0f} a second"
        )
    else:
        typer.echo("nothing leaves")


@application.command("adopt", short_help="Make a restored store one of this server.")
def adopt(
    store: _StorePath = "",
    pipeline: Annotated[str | None, typer.Option(help="The name of its pipeline; the schema's without it.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    json: _Json = False,
) -> None:
    """Make a store that was restored from a dump one of this server, whose transaction ids and LSNs are others."""
    import msgspec

    from pgcdc.eventstore import adopt as make_ours
    from pgcdc.eventstore import plan_adopt

    declared = _declared(store)
    plan = (plan_adopt if dry_run else make_ours)(declared, pipeline=pipeline)
    typer.echo(msgspec.json.encode(plan).decode() if json else str(plan))


def _store(dsn: str, schema: str, **options: Any) -> EventStore:
    from pgcdc.eventstore import EventStore

    return EventStore(dsn, schema=schema, max_connections=1, **options)


def _ask(store: EventStore | AsyncEventStore, question: Callable[[Any], Any]) -> Any:
    """Ask a store that is declared, which may be an asynchronous one."""
    from pgcdc.eventstore import EventStore

    if isinstance(store, EventStore):
        with store:
            return question(store)

    import asyncio

    async def asked() -> Any:
        async with store:
            return await question(store)

    return asyncio.run(asked())


def _module(name: str) -> ModuleType:
    from pgcdc.errors import ConfigError

    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the folder one is in
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ConfigError(
            f"there is no module {name}", hint="name it as in `import`, from the folder that it is in"
        ) from None


def _declared(path: str) -> Any:
    from pgcdc.errors import ConfigError
    from pgcdc.eventstore import AsyncEventStore, EventStore

    module, _, name = path.partition(":")
    found = getattr(_module(module), name, None) if name else None
    if not isinstance(found, EventStore | AsyncEventStore):
        raise ConfigError(
            f"there is no event store {path}" if path else "it was not said where the event store is",
            hint="--store MODULE:STORE, as in shop.orders:store",
        )
    return found


def _class(path: str) -> type:
    from pgcdc.errors import ConfigError

    module, _, name = path.partition(":")
    found = getattr(_module(module), name, None) if name else None
    if not isinstance(found, type):
        raise ConfigError(f"there is no class {path}", hint="MODULE:CLASS, as in shop.orders:Order")
    return found


def _moment(at: str) -> int | datetime:
    from pgcdc.errors import ConfigError

    if at.isdecimal():
        return int(at)
    try:
        return _time(at)
    except ConfigError:
        raise ConfigError(
            "--at is neither a sequence nor a time", hint="--at 3, or --at 2026-11-27T12:00:00Z"
        ) from None


def _time(at: str) -> datetime:
    from pgcdc.errors import ConfigError

    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigError("--at is no time", hint="--at 2026-11-27T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _flat(entry: HistoryEntry) -> dict[str, Any]:
    recorded = entry.recorded
    return {
        "stream_id": recorded.stream_id,
        "sequence": entry.sequence,
        "event_type": entry.event_type,
        "event_version": recorded.event_version,
        "event_id": recorded.event_id,
        "occurred_at": entry.occurred_at,
        "actor": entry.actor,
        "metadata": recorded.metadata,
        "changes": {path: {"before": before, "after": after} for path, (before, after) in entry.changes.items()},
    }


def _text(entry: HistoryEntry) -> str:
    import msgspec

    when = entry.occurred_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")
    lines = [f"{entry.sequence:>6}  {when}  {entry.event_type}  by {entry.actor or 'nobody that is known'}"]
    for path, (before, after) in entry.changes.items():
        then = msgspec.json.encode(after).decode()
        lines.append(f"{'':8}{path}: {'' if before is None else f'{msgspec.json.encode(before).decode()} → '}{then}")
    return "\n".join(lines)


class _Bar:
    """A bar on stderr, with rate and time left, where that is a terminal; else a line now and then."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._progress: Any = None
        self._task: Any = None
        self._next = 0.0

    def __enter__(self) -> Callable[[Progress], None]:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:,.0f}/s"),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._progress.start()
            self._task = self._progress.add_task(self._name, total=None, rate=0.0)
        return self._told

    def _told(self, progress: Progress) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=progress.done, total=progress.total, rate=progress.rate)
            return
        if progress.seconds >= self._next:
            self._next = progress.seconds + 5.0
            left = progress.seconds_left
            rest = "" if left is None else f", {left:.0f} s left"
            typer.echo(
                f"{self._name}: {progress.done:,} of {progress.total:,} events, {progress.rate:,.0f} a second{rest}",
                err=True,
            )

    def __exit__(self, *_exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
