"""Whether a pipeline is ready and well: the judgement of made numbers; test_endpoint.py has real ones."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pgcdc.observe import Limits, Reason
from pgcdc.observe.metrics import _of_slots
from pgcdc.observe.observation import ServerState, Stream
from pgcdc.observe.readiness import illnesses, unready
from pgcdc.observe.server_watch import until_lost
from pgcdc.pipeline import ConsumerStatistics, PipelineStatistics, SourceStatistics
from pgcdc.replication import SlotState

SOURCE = SourceStatistics(phase="streaming", received_lsn=9, confirmed_lsn=8, binary=True, lag=1, moved_ago=0.1)
CONSUMER = ConsumerStatistics(
    delivered=1,
    position=None,
    through_lsn=8,
    queued_rows=0,
    queued_bytes=0,
    state="running",
    last_error="an earlier one",
    lag_seconds=0.0,
)
LIMITS = Limits()
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
    safe_wal_size=1000,
    two_phase=False,
    conflicting=False,
    invalidation_reason=None,
    failover=False,
    synced=False,
)
SERVER = ServerState(
    age=0.0, slots=[SLOT], wal_lsn=9, wal_bytes_per_second=10.0, seconds_until_lost={}, clock_ahead=0.0
)


def pipeline(source: dict[str, Any] | None = None, stored_ago: float | None = 1.0, **one: Any) -> PipelineStatistics:
    return PipelineStatistics(
        name="shop",
        source=msgspec.structs.replace(SOURCE, **(source or {})),
        consumers={"other": CONSUMER, "sink": msgspec.structs.replace(CONSUMER, **one)},
        loop_ago=0.5,
        stored_ago=stored_ago,
    )


def judged(statistics: PipelineStatistics, server: ServerState | None = SERVER, stalled: float = 0.0) -> list[Reason]:
    return unready(statistics, streams(statistics), server, {"pgcdc_shop": stalled}, LIMITS)


def streams(statistics: PipelineStatistics) -> list[Stream]:
    own = [Stream(slot=f"own_{name}", consumer=name, source=one) for name, one in statistics.own_slots.items()]
    return [Stream(slot="pgcdc_shop", consumer=None, source=statistics.source), *own]


def ill(statistics: PipelineStatistics) -> list[Reason]:
    return illnesses(statistics, streams(statistics), LIMITS)


def kinds(reasons: list[Reason]) -> list[tuple[str, str | None]]:
    return [(reason.kind, reason.consumer) for reason in reasons]


def test_all_is_well() -> None:
    assert judged(pipeline()) == []
    assert judged(pipeline(), None) == [], "its stream goes on, though it cannot be asked"
    assert ill(pipeline()) == []


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        (pipeline({"phase": "starting"}), ("starting", None)),
        (pipeline({"phase": "starting"}, state="starting"), ("starting", None)),
        (pipeline({"phase": "standby"}, state="starting"), ("standby", None)),
        (pipeline({"phase": "snapshot"}), ("snapshot", None)),
        (pipeline({"phase": "reconnecting"}), ("reconnecting", None)),
        (pipeline({"phase": "stopped"}), ("stopped", None)),
        (pipeline(stored_ago=61.0), ("store_away", None)),
        (pipeline(state="starting"), ("consumer_starting", "sink")),
        (pipeline(state="failed"), ("consumer_failed", "sink")),
        (pipeline(state="stopped"), ("stopped", "sink")),
        (pipeline(state="retrying"), ("retrying", "sink")),
        (pipeline(state="retrying", breaker="open", failures=8, next_attempt_in=3.0), ("breaker_open", "sink")),
        (pipeline(parked="ValueError at event 2"), ("parked", "sink")),
        (pipeline(waiting="full"), ("spool_full", "sink")),
        (pipeline(lag_seconds=600.5), ("late", "sink")),
    ],
)
def test_each_reason(statistics: PipelineStatistics, expected: tuple[str, str | None]) -> None:
    [reason] = judged(statistics)
    assert (reason.kind, reason.consumer) == expected
    assert reason.text and not reason.text.endswith(".")


def test_a_stream_that_stands_still() -> None:
    assert kinds(judged(pipeline(), stalled=61.0)) == [("stalled", None)]
    assert judged(pipeline(), stalled=59.0) == []


def test_a_slot_that_is_lost() -> None:
    lost = msgspec.structs.replace(SERVER, slots=[msgspec.structs.replace(SLOT, wal_status="lost")])
    [reason] = judged(pipeline(), lost)
    assert reason.kind == "slot_lost" and "pgcdc_shop" in reason.text


def test_all_that_is_wrong_is_said() -> None:
    found = judged(pipeline({"phase": "reconnecting"}, 90.0, state="retrying", lag_seconds=700.0))
    assert kinds(found) == [("reconnecting", None), ("store_away", None), ("retrying", "sink"), ("late", "sink")]


def test_what_only_a_new_process_puts_right() -> None:
    replaced = msgspec.structs.replace
    assert kinds(ill(replaced(pipeline(), loop_ago=61.0))) == [("loop_stuck", None)]
    assert kinds(ill(pipeline({"moved_ago": 61.0}))) == [("thread_stuck", None)]
    assert ill(pipeline({"moved_ago": None, "phase": "starting"})) == [], "a start may take its time"
    ended = replaced(pipeline({"phase": "stopped", "moved_ago": None}), loop_ago=None, stored_ago=None)
    assert kinds(ill(ended)) == [("stopped", None)]
    before = replaced(ended, consumers={})
    assert ill(before) == [], "it has not begun"


def told(slot: SlotState) -> dict[str, float]:
    """The metrics of a slot, by name."""
    return {one.name: one.samples[0].value for one in _of_slots([slot], None, 9, 0.0, "")}


def test_what_is_told_of_a_slot() -> None:
    replaced = msgspec.structs.replace
    assert (told(SLOT)["pgcdc_slot_active"], told(SLOT)["pgcdc_slot_lost"]) == (1.0, 0.0)
    assert told(replaced(SLOT, wal_status="lost"))["pgcdc_slot_lost"] == 1.0
    left = replaced(SLOT, active=False, inactive_since=datetime(2026, 1, 1, tzinfo=UTC))
    assert told(left)["pgcdc_slot_active"] == 0.0 and told(left)["pgcdc_slot_inactive_seconds"] > 0
    synced = replaced(left, synced=True)
    assert not {"pgcdc_slot_active", "pgcdc_slot_inactive_seconds"} & told(synced).keys(), "nobody can stream from it"


def test_how_long_until_a_slot_is_lost() -> None:
    replaced = msgspec.structs.replace
    assert until_lost(SLOT, 10.0) == 100.0
    assert until_lost(replaced(SLOT, safe_wal_size=-5), 10.0) == 0.0
    assert until_lost(replaced(SLOT, safe_wal_size=None), 10.0) is None, "nothing limits what it keeps"
    assert until_lost(SLOT, None) is None and until_lost(SLOT, 0.0) is None
    assert until_lost(replaced(SLOT, wal_status="lost", safe_wal_size=None), None) == 0.0


def test_a_stream_of_a_consumer_alone() -> None:
    replaced = msgspec.structs.replace
    own = {"sink": replaced(SOURCE, phase="reconnecting")}
    [reason] = judged(replaced(pipeline(), own_slots=own))
    assert (reason.kind, reason.consumer) == ("reconnecting", "sink")
    starting = replaced(pipeline(state="starting"), own_slots={"sink": replaced(SOURCE, phase="starting")})
    assert kinds(judged(starting)) == [("starting", "sink")], "it is said once"
    stuck = replaced(pipeline(), own_slots={"sink": replaced(SOURCE, moved_ago=70.0)})
    assert kinds(ill(stuck)) == [("thread_stuck", "sink")]
