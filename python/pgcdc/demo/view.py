"""What a person sees while the demo runs: a live table on a terminal, plain lines elsewhere; all of it on stderr."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live

__all__ = ["LiveView", "PlainView", "Status", "TargetStatus", "View", "make_view"]

_LINE_SECONDS: Final = 2.0


class TargetStatus(msgspec.Struct, frozen=True):
    """How one target stands.

    Attributes:
        name: The consumer's name.
        delivered: Changes that are durable in it, with the rows of the initial copy.
        position: The last of them, as `Position` prints; empty before the first.
        queued: Changes on their way to it.
        state: As the pipeline calls it.
    """

    name: str
    delivered: int
    position: str
    queued: int
    state: str


class Status(msgspec.Struct, frozen=True):
    """How everything stands.

    Attributes:
        seconds: Since the writer began.
        phase: Of the pipeline, or `"catching up"`.
        written: Row changes of transactions that committed.
        delivered: Changes from the stream that all targets have.
        rows_per_second: Changes delivered, over the last two seconds or so.
        lag: Bytes of WAL between what the server has written and what the slowest target has done.
        targets: The targets.
        altered_at: When the column was added, in seconds; None before.
    """

    seconds: float
    phase: str
    written: int
    delivered: int
    rows_per_second: float
    lag: int
    targets: tuple[TargetStatus, ...]
    altered_at: float | None


class View(Protocol):
    """A context manager that is told how everything stands a few times a second."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """One thing that happened."""

    def show(self, status: Status) -> None:
        """How everything stands now."""


class PlainView:
    """Lines, one every two seconds."""

    def __init__(self) -> None:
        self._last: tuple[float, str] | None = None

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    def show(self, status: Status) -> None:
        """Print a line when two seconds are over or the phase is another."""
        if self._last is not None and self._last[1] == status.phase and status.seconds < self._last[0] + _LINE_SECONDS:
            return
        self._last = (status.seconds, status.phase)
        targets = "  ".join(f"{target.name} {target.delivered:,}{_trouble(target)}" for target in status.targets)
        self.say(
            f"{status.seconds:5.1f} s  {status.phase}  written {status.written:,}  delivered {status.delivered:,}"
            f"  {status.rows_per_second:,.0f} rows/s  lag {_size(status.lag)}  {targets}".rstrip()
        )


class LiveView:
    """A table that is drawn again four times a second.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live: Live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the table."""
        self._console.print(text, highlight=False, markup=False)

    def show(self, status: Status) -> None:
        """Draw the table."""
        self._live.update(_draw(status), refresh=True)


def make_view() -> View:
    """A live view when stderr is a terminal that can show one, else lines."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "") in {"", "dumb"}:
        return PlainView()
    from rich.console import Console

    return LiveView(Console(stderr=True))


def _draw(status: Status) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("target")
    for name in ("delivered", "on the way"):
        table.add_column(name, justify="right")
    table.add_column("position")
    table.add_column("state")
    for target in status.targets:
        style = "" if target.state == "running" else "yellow"
        table.add_row(
            target.name,
            f"{target.delivered:,}",
            f"{target.queued:,}",
            target.position,
            Text(target.state, style=style),
        )
    facts = Text.assemble(
        f"{status.seconds:5.0f} s  ",
        (status.phase, "bold green" if status.phase == "streaming" else "bold yellow"),
        f"   written {status.written:,}   delivered {status.delivered:,}   ",
        (f"{status.rows_per_second:,.0f} rows/s", "bold"),
        f"   lag {_size(status.lag)}",
    )
    change = (
        "" if status.altered_at is None else f"ALTER TABLE orders ADD COLUMN discount, after {status.altered_at:.0f} s"
    )
    return Group(facts, Text(change, style="cyan"), table)


def _trouble(target: TargetStatus) -> str:
    return f" ({target.state})" if target.state in {"retrying", "failed"} else ""


def _size(count: int) -> str:
    size = float(max(count, 0))
    for unit in ("B", "kB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} MB"
