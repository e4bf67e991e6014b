"""The store in memory is the oracle of the one in PostgreSQL: any calls have the same outcome in both."""

from __future__ import annotations

import random
import uuid
from typing import TYPE_CHECKING, Any

from pgcdc.eventstore import Append, EventStore, EventStoreError
from pgcdc.eventstore.memory import MemoryEventStore
from tests.eventstore.contract import Counted, Total

if TYPE_CHECKING:
    from tests.conftest import Database

STREAMS = ["count-1", "count-2", "other", "Z-1"]


def _append(chance: random.Random, known: list[uuid.UUID]) -> dict[str, Any]:
    """An append that may fit or not, with ids that may have been used."""
    events = [Counted(0, chance.randrange(100)) for _ in range(chance.choice([0, 1, 1, 2, 3]))]
    ids = None
    if events and chance.random() < 0.5:
        ids = [uuid.UUID(int=chance.getrandbits(128)) for _ in events]
        if len(known) > 5 and chance.random() < 0.5:
            begin = chance.randrange(len(known) - len(events))
            ids[: chance.randint(1, len(ids))] = known[begin : begin + len(events)]
            ids = ids[: len(events)]
        known += ids
        if len(set(ids)) < len(ids):
            ids = None
    return {
        "stream": chance.choice(STREAMS),
        "events": events,
        "expected": chance.choice(["any", "none", "exists", *range(12)]),
        "stream_type": chance.choice([None, None, None, "count", "other"]),
        "event_ids": ids,
        "metadata": chance.choice([None, {"actor": "anna"}]),
    }


def _outcome(store: Any, call: tuple[str, Any]) -> Any:
    """What a call returns, or how it is refused."""
    name, arguments = call
    try:
        if name == "append":
            return store.append(arguments["stream"], **{key: arguments[key] for key in arguments if key != "stream"})
        if name == "append_many":
            return store.append_many([Append(**one) for one in arguments])
        rest = {key: arguments[key] for key in arguments if key not in ("stream", "expected")}
        return store.insert(arguments["stream"], after=arguments["expected"], **rest)
    except EventStoreError as error:
        return type(error), str(error), getattr(error, "version", None), getattr(error, "stream", None)


def _calls(seed: int, count: int) -> list[tuple[str, Any]]:
    chance, known = random.Random(seed), list[uuid.UUID]()
    calls: list[tuple[str, Any]] = []
    while len(calls) < count:
        kind = chance.choice(["append", "append", "append", "append_many", "insert"])
        if kind == "append_many":
            several = {one["stream"]: one for one in (_append(chance, known) for _ in range(3)) if one["events"]}
            if several:
                calls.append((kind, list(several.values())))
            continue
        one = _append(chance, known)
        if kind == "insert":
            one |= {"expected": chance.randrange(12)}
            if not one["events"]:
                continue
        calls.append((kind, one))
    return calls


def test_any_calls_have_the_same_outcome(database: Database) -> None:
    with EventStore(database.dsn) as store:
        store.init(profile="lean")
        memory = MemoryEventStore()
        seen: set[Any] = set()
        for number, call in enumerate(_calls(18, 300)):
            expected = _outcome(memory, call)
            assert _outcome(store, call) == expected, f"call {number}: {call}"
            seen.add(type(expected) if not isinstance(expected, tuple) else expected[0])
        assert len(seen) >= 4, "versions, dicts, conflicts and refusals were among them"
        for stream in STREAMS:
            ours, theirs = store.read(stream), memory.read(stream)
            assert [(e.event, e.sequence, e.stream_type, e.metadata) for e in ours] == [
                (e.event, e.sequence, e.stream_type, e.metadata) for e in theirs
            ]
            assert store.load(stream, Total)[0].seen == memory.load(stream, Total)[0].seen
        assert all(finding.status != "failed" for finding in store.check(deep=True))
