"""What `pgcdc top` shows of one look: tables of words, the worst first; as text, for a terminal, or as JSON."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from pgcdc.errors import ConfigError, ConnectionLost
from pgcdc.lsn import format_lsn
from pgcdc.replication.plan import size

if TYPE_CHECKING:
    from pgcdc.observe.overview import Overview, StoredConsumer
    from pgcdc.replication import SlotState

__all__ = ["Frame", "ask_process", "check_url", "drawn"]

_PATIENCE: Final = 3.0
_DAY: Final = 86400.0


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        cells: Its cells.
        bad: Whether somebody should look at it.
    """

    cells: tuple[str, ...]
    bad: bool


class Table(NamedTuple):
    """One table.

    Attributes:
        head: The names of its columns.
        rows: Its rows, the worst first.
    """

    head: tuple[str, ...]
    rows: list[Row]


@dataclass
class Frame:
    """One look, with the rates since the look before.

    Attributes:
        overview: What the database says; None when it could not be asked.
        process: What a pipeline's process says (`/statistics`); None when there is none or it could not be asked.
        troubles: What could not be asked, and why.
        at: When it was, in seconds of `time.monotonic`.
        wal_rate: Bytes of WAL that the server writes a second.
        slot_rates: Bytes of WAL that are confirmed a second, by slot.
        delivered_rates: Changes that become durable a second, by consumer of the process.
    """

    overview: Overview | None
    process: dict[str, Any] | None
    troubles: list[str]
    at: float
    wal_rate: float | None = None
    slot_rates: dict[str, float] = field(default_factory=dict)
    delivered_rates: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, overview: Overview | None, process: dict[str, Any] | None, troubles: list[str], before: Frame | None
    ) -> Frame:
        """Make a frame.

        Args:
            overview: See the class, as the others.
            process: Likewise.
            troubles: Likewise.
            before: The frame before; None for the first.
        """
        frame = cls(overview, process, troubles, time.monotonic())
        if before is not None:
            if overview is not None and before.overview is not None:
                frame._rates_of_server(overview, before.overview)
            if process is not None and before.process is not None:
                seconds = frame.at - before.at
                known = _consumers_of(before.process)
                frame.delivered_rates = {
                    name: _rate(consumer["delivered"], known[name]["delivered"], seconds)
                    for name, consumer in _consumers_of(process).items()
                    if name in known
                }
        return frame

    def _rates_of_server(self, overview: Overview, before: Overview) -> None:
        seconds = (overview.at - before.at).total_seconds()
        self.wal_rate = _rate(overview.wal_lsn, before.wal_lsn, seconds)
        known = {slot.name: slot.confirmed_flush_lsn for slot in before.slots}
        for slot in overview.slots:
            was = known.get(slot.name)
            if slot.confirmed_flush_lsn is not None and was is not None:
                self.slot_rates[slot.name] = _rate(slot.confirmed_flush_lsn, was, seconds)

    def seconds_until_lost(self, slot: SlotState) -> float | None:
        """How long a slot can be left alone as the server writes now; None where there is no limit, or no rate yet.

        Args:
            slot: The slot.
        """
        return slot.safe_wal_size / self.wal_rate if slot.safe_wal_size is not None and self.wal_rate else None

    @property
    def head(self) -> str:
        """The line above the tables."""
        parts = []
        if (overview := self.overview) is not None:
            rate = "" if self.wal_rate is None else f", {size(int(self.wal_rate))}/s"
            parts.append(
                f"database {overview.database}, PostgreSQL {overview.server_version},"
                f" WAL at {format_lsn(overview.wal_lsn)}{rate}, {overview.at:%H:%M:%S %Z}"
            )
        if self.process is not None:
            ready = "ready" if self.process.get("ready") else "not ready"
            statistics = self.process["statistics"]
            parts.append(f"process of pipeline {statistics['name']}: {statistics['source']['phase']}, {ready}")
            parts += [f"  {reason.get('text', '')}" for reason in self.process.get("reasons", ())]
        parts += [f"not known: {trouble}" for trouble in self.troubles]
        return "\n".join(parts)

    @property
    def tables(self) -> list[Table]:
        """The tables, without those that would be empty."""
        found = []
        if self.overview is not None:
            found.append(self._slots(self.overview))
            if self.overview.consumers:
                found.append(_stored(self.overview))
        if self.process is not None:
            found.append(self._running(self.process))
        return [table for table in found if table.rows]

    def as_text(self) -> str:
        """All of it as text, with an empty line behind it."""
        blocks = [self.head]
        for table in self.tables:
            lines = [table.head, *(row.cells for row in table.rows)]
            widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]
            blocks.append("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))
        return "\n\n".join(blocks) + "\n"

    def as_json(self) -> dict[str, Any]:
        """All of it as values that JSON has; LSNs as PostgreSQL prints them."""
        overview = self.overview
        found: dict[str, Any] = {"troubles": self.troubles, "process": self.process}
        if overview is not None:
            found = {
                "at": overview.at.isoformat(),
                "database": overview.database,
                "server_version": overview.server_version,
                "wal_lsn": format_lsn(overview.wal_lsn),
                "wal_bytes_per_second": self.wal_rate,
                "slots": [self._slot_as_json(slot) for slot in overview.slots],
                "consumers": None if overview.consumers is None else [_with_lsn(one) for one in overview.consumers],
                **found,
            }
        if self.process is not None:
            found["delivered_per_second"] = self.delivered_rates
        return dict(msgspec.to_builtins(found))

    def _slot_as_json(self, slot: SlotState) -> dict[str, Any]:
        fields = msgspec.structs.asdict(slot)
        for name in ("restart_lsn", "confirmed_flush_lsn", "two_phase_at"):
            fields[name] = None if fields[name] is None else format_lsn(fields[name])
        return fields | {
            "lost": slot.lost,
            "confirmed_bytes_per_second": self.slot_rates.get(slot.name),
            "seconds_until_lost": self.seconds_until_lost(slot),
        }

    def _slots(self, overview: Overview) -> Table:
        head = ("slot", "state", "behind", "seconds", "kept", "until lost", "confirms")

        def badness(slot: SlotState) -> tuple[bool, bool, int]:
            return slot.lost, not slot.active, slot.held_bytes or 0

        rows = []
        for slot in sorted(overview.slots, key=badness, reverse=True):
            rate = self.slot_rates.get(slot.name)
            state = "lost" if slot.lost else f"pid {slot.active_pid}" if slot.active else "inactive"
            cells = (
                slot.name,
                state,
                _size(slot.lag_bytes),
                "" if slot.lag_seconds is None else f"{slot.lag_seconds:.0f}",
                _size(slot.held_bytes),
                self._until_lost(slot),
                "" if rate is None else f"{size(int(rate))}/s",
            )
            rows.append(Row(cells, slot.lost or not slot.active or (slot.lag_seconds or 0) > 600))
        return Table(head, rows)

    def _until_lost(self, slot: SlotState) -> str:
        if slot.lost or slot.safe_wal_size is None:
            return "lost" if slot.lost else "no limit"
        seconds = self.seconds_until_lost(slot)
        return size(max(0, slot.safe_wal_size)) + ("" if seconds is None else f", {_span(seconds)}")

    def _running(self, process: dict[str, Any]) -> Table:
        words = "consumer|state|delivered|per second|late|in flight|failed tries|breaker|spool|last error"
        head = tuple(words.split("|"))
        rows = []
        for name, one in _consumers_of(process).items():
            rate = self.delivered_rates.get(name)
            state = "parked" if one.get("parked") else str(one["state"])
            cells = (
                name,
                state,
                f"{one['delivered']:,}",
                "" if rate is None else f"{rate:,.0f}",
                "" if one.get("lag_seconds") is None else _span(one["lag_seconds"]),
                f"{one['queued_rows']:,}",
                f"{one.get('failures', 0):,}",
                str(one.get("breaker", "")),
                _size(one.get("spooled_bytes") or None),
                _short(one.get("parked") or one.get("last_error")),
            )
            rows.append(Row(cells, state not in ("running", "starting") or one.get("breaker") == "open"))
        return Table(head, sorted(rows, key=lambda row: not row.bad))


def check_url(url: str) -> str:
    """Look whether something is the address of a process.

    Args:
        url: As in `http://127.0.0.1:9440`; `/statistics` may stand behind it.

    Returns:
        Where its statistics are.

    Raises:
        ConfigError: When it is none.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(
            "--url is no address of a process", hint="as pgcdc run --metrics prints it: http://127.0.0.1:9440"
        )
    path = parts.path.rstrip("/")
    path = path if path.endswith("/statistics") else f"{path}/statistics"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def ask_process(url: str) -> dict[str, Any]:
    """Ask a pipeline's process how it is.

    Args:
        url: Where its statistics are.

    Returns:
        What it says: `statistics`, `ready`, `reasons` and more.

    Raises:
        ConnectionLost: When it does not answer, or something else does.
    """
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:  # noqa: S310 (http or https: see check_url)
            found = msgspec.json.decode(answer.read())
        if set(found["statistics"]) >= {"name", "source", "consumers"}:
            return dict(found)
    except (OSError, TypeError, KeyError, msgspec.DecodeError):
        pass
    raise ConnectionLost(
        "no process of a pipeline answers at --url", hint="pgcdc run --metrics PORT … prints where it does"
    )


def drawn(frame: Frame, redact: Callable[[str], str]) -> Any:
    """The frame for a terminal.

    Args:
        frame: The frame.
        redact: Takes secrets out.

    Returns:
        Something that rich draws.
    """
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = [Text(redact(frame.head))]
    for table in frame.tables:
        shown = RichTable(box=None, pad_edge=False, header_style="dim")
        for column in table.head:
            shown.add_column(column, no_wrap=column != "last error")
        for row in table.rows:
            shown.add_row(*(Text(redact(cell)) for cell in row.cells), style="bold red" if row.bad else None)
        parts += ["", shown]
    return Group(*parts)


def _stored(overview: Overview) -> Table:
    def badness(one: StoredConsumer) -> tuple[int, int]:
        return one.failed_letters, one.behind_bytes or 0

    rows = []
    for one in sorted(overview.consumers or (), key=badness, reverse=True):
        ago = None if one.stored_at is None else (overview.at - one.stored_at).total_seconds()
        waiting = f" (+{one.waiting_letters:,} behind them)" if one.waiting_letters else ""
        cells = (
            f"{one.pipeline}/{one.consumer}",
            "" if one.through_lsn is None else format_lsn(one.through_lsn),
            _size(one.behind_bytes),
            "" if ago is None else f"{_span(max(0.0, ago))} ago",
            one.snapshot or "",
            f"{one.failed_letters:,}{waiting}",
        )
        rows.append(Row(cells, one.failed_letters > 0))
    return Table(("consumer", "done up to", "behind", "stored", "copy", "dead letters"), rows)


def _with_lsn(one: StoredConsumer) -> dict[str, Any]:
    fields = msgspec.structs.asdict(one)
    return fields | {"through_lsn": None if one.through_lsn is None else format_lsn(one.through_lsn)}


def _consumers_of(process: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(process["statistics"]["consumers"])


def _rate(now: int, before: int, seconds: float) -> float:
    """Per second; 0 when it was set back, as after a restart."""
    return max(0.0, (now - before) / seconds) if seconds > 0 else 0.0


def _size(count: int | None) -> str:
    return "" if count is None else size(count)


def _span(seconds: float) -> str:
    """A length of time in one number."""
    for unit, length in (("d", _DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _short(text: Any, most: int = 60) -> str:
    words = " ".join(str(text or "").split())
    return words if len(words) <= most else f"{words[: most - 1]}…"
