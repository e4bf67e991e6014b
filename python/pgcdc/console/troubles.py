"""What somebody has to know who is called at night: the worst first, in words, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias
from urllib.parse import urlencode

import msgspec

from pgcdc.console.observation import NEAR, ConsumerSeen, Observation
from pgcdc.console.wording import count, size, span
from pgcdc.pipeline import SourceStatistics
from pgcdc.replication import SlotState

__all__ = ["LATE", "Grave", "Trouble", "all_well", "troubles_of"]

Grave: TypeAlias = Literal["critical", "warning", "notice"]
LATE: Final = 600.0
"""Seconds: `pgcdc lag`, the doctor and the alert rules have the same."""
_SOON: Final = 3600.0
_MUCH: Final = 0.1
_UNLIMITED: Final = 10 * 1024**3
_ORDER: Final = {"critical": 0, "warning": 1, "notice": 2}


class Trouble(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    Attributes:
        grave: `"critical"`: data or the server are at risk, or nothing is delivered any more; `"warning"`: it will be
            so, or some of it is; `"notice"`: it is meant, and good to know.
        what: A sentence.
        then: What follows from it, or what to do: sentences.
        link: The page that shows it.
    """

    grave: Grave
    what: str
    then: str
    link: str


def troubles_of(seen: Observation, growth: Callable[[str], float | None] = lambda _key: None) -> list[Trouble]:
    """Judge what was seen.

    Args:
        seen: What was seen.
        growth: How fast a number has risen lately, by its key: `Watch.growth`.

    Returns:
        The worst first.
    """
    found: list[Trouble] = []
    if seen.error is not None:
        then = "What is below is what this process knows alone." if seen.statistics else "Nothing below is of now."
        found.append(Trouble("critical", f"{seen.error[:1].upper()}{seen.error[1:]}.", then, "/"))
    for slot in seen.slots:
        found += _of_slot(slot, seen, growth)
    for one in seen.consumers:
        found += [*_of_missing(one, seen), *_of_consumer(one)]
    found += _of_source(seen)
    for projection in seen.projections:
        if projection.error is not None and projection.status == "live":
            found.append(
                Trouble(
                    "warning",
                    f"The projection {projection.name} is parked: {projection.error}.",
                    "It takes no events. Put the cause right and start the pipeline again: it goes on from there.",
                    "/streams",
                )
            )
    found += [Trouble("notice", what, "", "/") for what in seen.unknown]
    return sorted(found, key=lambda trouble: _ORDER[trouble.grave])


def all_well(seen: Observation) -> str:
    """What there is to say when there are no troubles.

    Args:
        seen: What was seen.

    Returns:
        A sentence, which says what was looked at.
    """
    active = sum(slot.active for slot in seen.slots)
    parts = [f"{count(active)} {'slot is' if active == 1 else 'slots are'} streamed from"]
    if number := len(seen.consumers):
        known = [one.behind for one in seen.consumers if one.behind is not None]
        if known:
            near = f"{len(known)} {'consumer is' if len(known) == 1 else 'consumers are'}"
            parts.append(f"{near} within {size(max(NEAR, *known))} of the WAL's end")
        if number > len(known):
            parts.append(f"of {number - len(known)} no position is known")
    parts.append("there are no dead letters" if not seen.letters else f"{seen.letters} dead letters")
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."


def _of_slot(slot: SlotState, seen: Observation, growth: Callable[[str], float | None]) -> list[Trouble]:
    link = f"/slot?{urlencode({'name': slot.name})}"
    name = f"Slot {slot.name}"
    if slot.lost:
        why = f" ({slot.invalidation_reason})" if slot.invalidation_reason else ""
        then = (
            "The server has given up WAL that it needed. Whoever used it needs a new slot and a new copy of the tables:"
            f" SELECT pg_drop_replication_slot('{slot.name}'); then start the pipeline with snapshot=\"when_needed\"."
        )
        return [Trouble("critical", f"{name} is lost{why}.", then, link)]
    found: list[Trouble] = []
    safe = slot.safe_wal_size
    rising = growth(f"slot/{slot.name}/held")
    if slot.wal_status == "unreserved" or (safe is not None and safe <= 0):
        then = (
            f"The server keeps {size(slot.held_bytes)} for it, more than max_slot_wal_keep_size."
            " Let its consumer catch up now, or raise the limit."
        )
        found.append(Trouble("critical", f"{name} is lost at the next checkpoint.", then, link))
    elif (
        safe is not None
        and rising is not None
        and rising > 0
        and safe / rising < 6 * _SOON
        and (slot.held_bytes or 0) > _MUCH * safe  # below that it is the ordinary up and down between checkpoints
    ):
        left = safe / rising
        then = f"What the server keeps for it grows by {size(rising)}/s, and {size(safe)} are left before the limit."
        grave: Grave = "critical" if left < _SOON else "warning"
        found.append(Trouble(grave, f"{name} will be lost in {span(left)} at this rate.", then, link))
    if not slot.active and not slot.temporary and not slot.synced:
        used = any(one.slot == slot.name for one in seen.consumers)
        then = f"The server keeps {size(slot.held_bytes)} of WAL for it, and more with every write. "
        then += "Start its pipeline." if used else "Start whoever uses it, or drop it when nobody does."
        what = f"Nobody streams from slot {slot.name}."
        if slot.inactive_since is not None:
            what = f"Nobody has streamed from slot {slot.name} for {span(_since(slot.inactive_since, seen.at))}."
        found.append(Trouble("critical" if used else "warning", what, then, link))
    if slot.active and slot.lag_seconds is not None and slot.lag_seconds > LATE:
        then = f"{size(slot.lag_bytes)} of WAL are not confirmed. The consumer that is furthest behind decides."
        found.append(Trouble("critical", f"{name} is {span(slot.lag_seconds)} behind.", then, link))
    if safe is None and (slot.held_bytes or 0) > _UNLIMITED:
        then = "Nothing limits that: max_slot_wal_keep_size is -1, and the disk is what ends first."
        found.append(
            Trouble("warning", f"The server keeps {size(slot.held_bytes)} of WAL for slot {slot.name}.", then, link)
        )
    return found


def _of_missing(one: ConsumerSeen, seen: Observation) -> list[Trouble]:
    """A consumer whose position belongs to a slot that is not there."""
    source = None if seen.statistics is None else seen.statistics.own_slots.get(one.name, seen.statistics.source)
    begins = source is not None and source.phase in ("starting", "snapshot")
    if one.stored_at is None or not one.slot or begins or seen.error or seen.is_standby or seen.slot(one.slot):
        return []
    then = (
        "The WAL since its position is gone, and its pipeline refuses to go on from there. Begin with a new copy of the"
        ' tables: start it with snapshot="when_needed"; the pipeline of an event store, after pipeline.destroy().'
    )
    if not seen.is_source:
        then = f"If its changes come from another server, or a standby, look there. If they come from here: {then}"
    link = f"/consumer?{urlencode({'pipeline': one.pipeline, 'name': one.name})}"
    whose = f"Slot {one.slot} of consumer {one.name} of {one.pipeline}"
    if not seen.is_source:
        return [Trouble("warning", f"{whose} is not on this server.", then, link)]
    return [Trouble("critical", f"{whose} is not there any more.", then, link)]


def _of_consumer(one: ConsumerSeen) -> list[Trouble]:
    link = f"/consumer?{urlencode({'pipeline': one.pipeline, 'name': one.name})}"
    name = f"Consumer {one.name} of {one.pipeline}"
    found: list[Trouble] = []
    now = one.statistics
    if now is not None and now.state == "failed":
        then = f"{_sentence(now.last_error)} The pipeline ends, and nothing is confirmed past it."
        found.append(Trouble("critical", f"{name} has failed.", then, link))
    if now is not None and now.waiting == "full":
        then = "Nothing more is read from the server until it has taken some of what waits: no consumer gets anything."
        found.append(Trouble("critical", f"The spool of consumer {one.name} of {one.pipeline} is full.", then, link))
    if now is not None and (now.state == "retrying" or now.breaker != "closed"):
        times = "once" if now.failures == 1 else f"{now.failures} times in a row"
        left = "" if now.next_attempt_in is None else f" It is tried again in {span(now.next_attempt_in)}."
        grave: Grave = "critical" if one.seconds is not None and one.seconds > LATE else "warning"
        what = f"{name} cannot deliver: its target has failed {times}."
        found.append(Trouble(grave, what, f"{_sentence(now.last_error)}{left}", link))
    elif one.seconds is not None and one.seconds > 60:
        grave = "critical" if one.seconds > LATE else "warning"
        what = f"{name} is {span(one.seconds)} behind."
        found.append(Trouble(grave, what, f"{size(one.behind)} of WAL are not done for it.", link))
    if one.letters.failed or one.letters.held:
        number = one.letters.failed
        what = f"{name} has {count(number)} dead {'letter' if number == 1 else 'letters'}."
        if one.letters.held:
            waits = "1 later change waits" if one.letters.held == 1 else f"{count(one.letters.held)} later changes wait"
            what = f"{what[:-1]}; {waits} behind."
        query = urlencode({"consumer": one.name, "pipeline": one.pipeline})
        found.append(
            Trouble(
                "warning", what, "Look at the error, put its cause right, and retry; or drop.", f"/deadletters?{query}"
            )
        )
    return found


def _of_source(seen: Observation) -> list[Trouble]:
    if seen.statistics is None:
        return []
    sources = {"": seen.statistics.source} | seen.statistics.own_slots
    return [
        trouble
        for own, source in sources.items()
        for trouble in _of_stream(source, f"{seen.statistics.name}{f', for consumer {own}' if own else ''}")
    ]


def _of_stream(source: SourceStatistics, name: str) -> list[Trouble]:
    if source.phase == "reconnecting":
        then = "It tries again by itself. Nothing is lost: the slot keeps what was not confirmed."
        return [Trouble("critical", f"The pipeline {name} has lost its server, and connects again.", then, "/")]
    if source.phase == "standby":
        return [Trouble("notice", f"This process waits: another one runs the pipeline {name}.", "", "/")]
    if source.phase == "stopped":
        return [Trouble("critical", f"The pipeline {name} has stopped.", "Its log says why.", "/")]
    if source.snapshot is not None and source.snapshot.done < 1:
        return [Trouble("notice", f"Existing rows are being copied: {source.snapshot}.", "", "/tables")]
    return []


def _sentence(text: str | None) -> str:
    if not text:
        return ""
    text = f"{text[:1].upper()}{text[1:]}"
    return text if text.endswith(".") else f"{text}."


def _since(then: datetime, at: float) -> float:
    return (datetime.fromtimestamp(at, UTC) - then).total_seconds()
