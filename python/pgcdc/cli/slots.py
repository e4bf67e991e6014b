"""`pgcdc slots` and `pgcdc lag`: the replication slots of a server, and how far one is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining

if TYPE_CHECKING:
    from pgcdc.replication import SlotState

__all__ = ["lag", "slots"]

_Dsn = Annotated[str, typer.Option(help="Any database of the server; PG* variables are used for what is not in it.")]
_Json = Annotated[bool, typer.Option("--json", help="A line of JSON for each slot.")]


def slots(dsn: _Dsn = "", json: _Json = False) -> None:
    """List the slots: who streams, what is lacking, what the server keeps, and how much more until one is lost."""
    with complaining(json=json) as redactor:
        found = _slots(dsn, redactor)
    if json:
        for slot in found:
            typer.echo(_as_json(slot))
        return
    rows: list[tuple[str, ...]] = [("slot", "plugin", "database", "state", "behind", "seconds", "kept", "until lost")]
    rows += [_row(slot) for slot in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def lag(
    slot: Annotated[
        str, typer.Argument(metavar="SLOT", help="The slot, or a pipeline: module:pipeline, or a .toml file.")
    ],
    dsn: _Dsn = "",
    most: Annotated[float, typer.Option("--max", help="Seconds above which it exits with 1.", min=0)] = 600.0,
    json: _Json = False,
) -> None:
    """Say how far a slot, or each of a pipeline's, is behind, in bytes and seconds.

    It exits with 1 when that is too far, or a slot is lost.
    """
    from pgcdc.cli import EXIT_ERROR
    from pgcdc.errors import SlotNotFound

    with complaining(json=json) as redactor:
        names, where = [slot], dsn
        if ":" in slot or slot.endswith(".toml"):
            names, where = _of_pipeline(slot, dsn, redactor)
        known = {one.name: one for one in _slots(where, redactor)}
        for name in names:
            if name not in known:
                raise SlotNotFound(f'slot "{name}" does not exist', hint="pgcdc slots lists those that do", slot=name)
    found = [known[name] for name in names]
    for one in found:
        typer.echo(_as_json(one) if json else _line(one))
    if any(one.lost or (one.lag_seconds is not None and one.lag_seconds > most) for one in found):
        raise typer.Exit(EXIT_ERROR)


def _line(slot: SlotState) -> str:
    seconds = slot.lag_seconds
    age = "unknown (GRANT pg_monitor lets the role see it)" if seconds is None else f"{seconds:.0f} s at least"
    state = "lost" if slot.lost else "active" if slot.active else "inactive"
    return f"{slot.name}: {state}, {_size(slot.lag_bytes)} and {age} behind, {_size(slot.held_bytes)} kept"


def _slots(dsn: str, redactor: Any) -> list[SlotState]:
    from pgcdc import observe

    redactor.learn_dsn(dsn)
    return observe.slots(dsn)


def _of_pipeline(target: str, dsn: str, redactor: Any) -> tuple[list[str], str]:
    from pgcdc.cli.building import build
    from pgcdc.cli.importing import as_python_does

    as_python_does()
    pipeline = build(target, redactor)
    return pipeline.outline().slots, dsn or pipeline._settings.dsn  # nobody else is to have it


def _row(slot: SlotState) -> tuple[str, ...]:
    state = "lost" if slot.lost else f"pid {slot.active_pid}" if slot.active else "inactive"
    return (
        slot.name,
        slot.plugin or "physical",
        slot.database or "",
        state,
        _size(slot.lag_bytes),
        "" if slot.lag_seconds is None else f"{slot.lag_seconds:.0f}",
        _size(slot.held_bytes),
        _size(slot.safe_wal_size),
    )


def _size(count: int | None) -> str:
    from pgcdc.replication.plan import size

    return "" if count is None else size(count)


def _as_json(slot: SlotState) -> str:
    import msgspec

    from pgcdc.lsn import format_lsn

    fields = msgspec.structs.asdict(slot)
    for name in ("restart_lsn", "confirmed_flush_lsn", "two_phase_at"):
        fields[name] = None if fields[name] is None else format_lsn(fields[name])
    return msgspec.json.encode(fields | {"lost": slot.lost}).decode()
