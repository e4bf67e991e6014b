"""What is said of what was seen, and in which order: without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

pytest.importorskip("starlette")

from pgcdc.console.observation import ConsumerSeen, LettersSeen, Observation, ProjectionSeen
from pgcdc.console.troubles import all_well, troubles_of
from pgcdc.lsn import Position
from pgcdc.pipeline import ConsumerStatistics, PipelineStatistics, SourceStatistics
from pgcdc.replication import SlotState

GB = 1024**3
AT = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)
SLOT = SlotState(
    name="pgcdc_shop",
    plugin="pgoutput",
    database="shop",
    temporary=False,
    active=True,
    active_pid=1,
    restart_lsn=1,
    confirmed_flush_lsn=1,
    wal_status="reserved",
    safe_wal_size=50 * GB,
    two_phase=False,
    conflicting=False,
    invalidation_reason=None,
    failover=False,
    synced=False,
    lag_bytes=0,
    lag_seconds=0.0,
    held_bytes=16 * 1024**2,
)
NOW = ConsumerStatistics(
    delivered=1, position=None, through_lsn=1, queued_rows=0, queued_bytes=0, state="running", last_error=None
)
CONSUMER = ConsumerSeen(
    pipeline="shop",
    name="search",
    slot="pgcdc_shop",
    position=Position(1, 0),
    through_lsn=1,
    snapshot="done",
    stored_at=AT,
    behind=0,
    seconds=0.0,
    letters=LettersSeen(),
    statistics=NOW,
)
STREAM = SourceStatistics(phase="streaming", received_lsn=1, confirmed_lsn=1, binary=True, lag=0)
replace = msgspec.structs.replace


def seen(*, slot: SlotState = SLOT, consumer: ConsumerSeen = CONSUMER, **more: Any) -> Observation:
    return Observation(at=AT.timestamp(), slots=[slot], consumers=[consumer], **more)


def said(observation: Observation, rising: float | None = None) -> list[tuple[str, str]]:
    return [(one.grave, one.what) for one in troubles_of(observation, lambda _key: rising)]


def test_all_is_well() -> None:
    assert said(seen()) == []
    assert all_well(seen()) == (
        "1 slot is streamed from, 1 consumer is within 128.0 kB of the WAL's end, and there are no dead letters."
    )


SLOTS = [
    ({"wal_status": "lost"}, None, "critical", "Slot pgcdc_shop is lost."),
    ({"invalidation_reason": "wal_removed"}, None, "critical", "Slot pgcdc_shop is lost (wal_removed)."),
    ({"wal_status": "unreserved"}, None, "critical", "Slot pgcdc_shop is lost at the next checkpoint."),
    ({"safe_wal_size": -1}, None, "critical", "Slot pgcdc_shop is lost at the next checkpoint."),
    (
        {"safe_wal_size": GB, "held_bytes": GB},
        GB / 1800,
        "critical",
        "Slot pgcdc_shop will be lost in 30 min 0 s at this rate.",
    ),
    (
        {"safe_wal_size": GB, "held_bytes": GB},
        GB / 7200,
        "warning",
        "Slot pgcdc_shop will be lost in 2 h 0 min at this rate.",
    ),
    ({"active": False}, None, "critical", "Nobody streams from slot pgcdc_shop."),
    (
        {"active": False, "inactive_since": datetime(2026, 11, 27, 2, 48, tzinfo=UTC)},
        None,
        "critical",
        "Nobody has streamed from slot pgcdc_shop for 12 min 0 s.",
    ),
    ({"lag_seconds": 660.0}, None, "critical", "Slot pgcdc_shop is 11 min 0 s behind."),
    (
        {"safe_wal_size": None, "held_bytes": 20 * GB},
        None,
        "warning",
        "The server keeps 20.0 GB of WAL for slot pgcdc_shop.",
    ),
]


@pytest.mark.parametrize(("facts", "rising", "grave", "what"), SLOTS, ids=[str(one[0]) for one in SLOTS])
def test_slots(facts: dict[str, Any], rising: float | None, grave: str, what: str) -> None:
    assert said(seen(slot=replace(SLOT, **facts)), rising) == [(grave, what)]


def test_a_slot_that_does_not_grow_is_not_lost_soon() -> None:
    for rising in (None, 0.0, -5.0, GB / (7 * 3600)):
        assert said(seen(slot=replace(SLOT, safe_wal_size=GB, held_bytes=GB)), rising) == []
    assert said(seen(slot=replace(SLOT, safe_wal_size=GB)), GB / 1800) == [], "so it is between two checkpoints"


def test_a_slot_that_is_gone() -> None:
    gone = Observation(at=AT.timestamp(), consumers=[CONSUMER])
    # Its changes may come from another server, where no pipeline is meant.
    assert said(gone) == [("warning", "Slot pgcdc_shop of consumer search of shop is not on this server.")]
    gone = replace(gone, is_source=True)
    assert said(gone) == [("critical", "Slot pgcdc_shop of consumer search of shop is not there any more.")]
    assert said(replace(gone, consumers=[replace(CONSUMER, stored_at=None)])) == [], "it was not there yet"
    assert said(replace(gone, is_standby=True)) == [], "it is on the primary"
    assert said(replace(gone, error="it is away")) == [("critical", "It is away.")]
    starting = PipelineStatistics(name="shop", source=replace(STREAM, phase="starting"), consumers={"search": NOW})
    assert said(replace(gone, statistics=starting)) == [], "it is being made"


def test_what_is_not_known_is_not_near() -> None:
    unknown = replace(CONSUMER, name="cache", behind=None, stored_at=None)
    assert all_well(replace(seen(), consumers=[CONSUMER, unknown])) == (
        "1 slot is streamed from, 1 consumer is within 128.0 kB of the WAL's end, of 1 no position is known, and there"
        " are no dead letters."
    )


def test_a_slot_of_nobody_that_is_known_is_a_warning() -> None:
    found = said(Observation(at=AT.timestamp(), slots=[SLOT, replace(SLOT, name="other", active=False)]))
    assert found == [("warning", "Nobody streams from slot other.")]
    assert said(seen(slot=replace(SLOT, active=False, synced=True))) == []


CONSUMERS = [
    ({"seconds": 61.0}, {}, "warning", "Consumer search of shop is 1 min 1 s behind."),
    ({"seconds": 601.0}, {}, "critical", "Consumer search of shop is 10 min 1 s behind."),
    ({}, {"state": "failed"}, "critical", "Consumer search of shop has failed."),
    ({}, {"waiting": "full"}, "critical", "The spool of consumer search of shop is full."),
    (
        {},
        {"state": "retrying", "failures": 1},
        "warning",
        "Consumer search of shop cannot deliver: its target has failed once.",
    ),
    (
        {"seconds": 700.0},
        {"state": "retrying", "failures": 7},
        "critical",
        "Consumer search of shop cannot deliver: its target has failed 7 times in a row.",
    ),
    ({"letters": LettersSeen(1, 0)}, {}, "warning", "Consumer search of shop has 1 dead letter."),
    (
        {"letters": LettersSeen(2, 5)},
        {},
        "warning",
        "Consumer search of shop has 2 dead letters; 5 later changes wait behind.",
    ),
]


@pytest.mark.parametrize(("facts", "now", "grave", "what"), CONSUMERS, ids=[one[3] for one in CONSUMERS])
def test_consumers(facts: dict[str, Any], now: dict[str, Any], grave: str, what: str) -> None:
    consumer = replace(CONSUMER, statistics=replace(NOW, **now), **facts)
    assert said(seen(consumer=consumer)) == [(grave, what)]


PHASES = [
    ("reconnecting", "critical", "The pipeline shop has lost its server, and connects again."),
    ("stopped", "critical", "The pipeline shop has stopped."),
    ("standby", "notice", "This process waits: another one runs the pipeline shop."),
]


@pytest.mark.parametrize(("phase", "grave", "what"), PHASES)
def test_the_stream(phase: Any, grave: str, what: str) -> None:
    statistics = PipelineStatistics("shop", replace(STREAM, phase=phase), {})
    assert said(seen(statistics=statistics)) == [(grave, what)]
    beside = PipelineStatistics("shop", STREAM, {}, {"search": replace(STREAM, phase=phase)})
    [(_, with_name)] = said(seen(statistics=beside))
    assert "shop, for consumer search" in with_name


def test_the_worst_is_first() -> None:
    consumer = replace(CONSUMER, letters=LettersSeen(1, 0))
    projection = ProjectionSeen(name="revenue", generation=1, version=1, status="live", events=1, error="ValueError")
    observation = seen(
        slot=replace(SLOT, wal_status="lost"),
        consumer=consumer,
        projections=[projection],
        unknown=["The role may not read the stored positions."],
    )
    assert [grave for grave, _ in said(observation)] == ["critical", "warning", "warning", "notice"]
    assert said(seen(error="the server cannot be asked: no"))[0] == ("critical", "The server cannot be asked: no.")
