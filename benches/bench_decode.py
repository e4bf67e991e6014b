"""Decoding four workloads: pgcdc in all its forms, an own parser in pure Python, and the peers, on the same changes.

Every contestant gets the messages in lists of 500 and drops what it made before the next list, as a consumer does. One
round is a whole capture. The rounds of all contestants take turns, so that a slow minute of the machine hits all alike.
The garbage collector stays on, as it is for users, and is run before each round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache, partial
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from benches import peers
from benches.capture import WORKLOADS, Capture, Workload, capture
from benches.pure_python import PureDecoder
from pgcdc.events import Insert
from pgcdc.protocol import Decoder
from tests.reference import plain

LIST = 500
TURNS = 9
CHECKED = 4000

Form = Literal["text", "binary"]
Work = Callable[[], object]

FORMS: tuple[Form, ...] = ("text", "binary")


class Order(msgspec.Struct, frozen=True, gc=False):
    """The ten columns as a user writes them down, in an order of their own."""

    id: int
    status: str | None = None
    total: Decimal | None = None
    user_id: int | None = None
    paid: bool | None = None
    weight: float | None = None
    created_at: datetime | None = None
    reference: UUID | None = None
    shipping_address: Any = None
    tags: list[str] | None = None


@dataclass(frozen=True)
class Contestant:
    """Who decodes what.

    Attributes:
        workload: Which of the workloads.
        form: `"text"` or `"binary"`; `"JSON"` of wal2json.
        name: As printed.
        prepare: Makes what is timed.
    """

    workload: Workload
    form: str
    name: str
    prepare: Callable[[], Work]


@cache
def captured(workload: Workload) -> Capture:
    """The messages, with all that give typed values found to say the same of them."""
    found = capture(workload)
    for form in FORMS:
        messages = getattr(found, form)[:CHECKED]
        for rows in ("struct", "dict", "tuple"):
            ours = [plain(event) for event in Decoder(rows).decode_many(messages)]
            pure = [plain(event) for event in PureDecoder(rows).decode_many(messages)]
            assert ours == pure, (workload.name, form, rows)
        # psycopg knows nothing of columns that were not sent, but all values of inserts.
        theirs = peers.TransformerDecoder(form).decode_many(messages)
        for one, other in zip(Decoder().decode_many(messages), theirs, strict=True):
            assert not isinstance(one, Insert) or plain(one) == plain(other), (workload.name, form)
    return found


def messages_of(workload: Workload, form: str) -> list[list[Any]]:
    """Messages as they come from a stream: some at a time."""
    messages: list[Any] = peers.wal2json(workload) if form == "JSON" else getattr(captured(workload), form)
    return [messages[start : start + LIST] for start in range(0, len(messages), LIST)]


def many(make: Callable[[], Callable[[list[bytes]], object]], workload: Workload, form: str) -> Work:
    """One call for each list."""
    parts, call = messages_of(workload, form), make()

    def work() -> None:
        for part in parts:
            call(part)

    return work


def one_by_one(make: Callable[[], Callable[[Any], object]], workload: Workload, form: str) -> Work:
    """One call for each message."""
    parts, call = messages_of(workload, form), make()

    def work() -> None:
        for part in parts:
            [call(message) for message in part]

    return work


def pypgoutput() -> Callable[[bytes], object]:
    kinds = peers.pypgoutput()
    return lambda message: kinds[message[0]](message)


OURS = "pgcdc, struct rows"
PURE = "pure Python"
PEER = "pypgoutput (strings)"
TRANSFORMER = "pure Python + psycopg's loaders"
WAL2JSON = "wal2json through msgspec"
YARDSTICKS = {PURE: None, PEER: "text"}


def contestants(workload: Workload) -> list[Contestant]:
    """All for the ten columns, the ways that differ for the others."""
    found = []
    for form in FORMS:
        listed: dict[str, Callable[[], Callable[[list[bytes]], object]]] = {
            OURS: lambda: Decoder("struct").decode_many,
            "pgcdc, dict rows": lambda: Decoder("dict").decode_many,
            "pgcdc, tuple rows": lambda: Decoder("tuple").decode_many,
            "pgcdc, to_json": lambda: Decoder().to_json,
            "pgcdc, to_json, Debezium's envelope": lambda: partial(Decoder().to_json, envelope="debezium"),
            "pgcdc, to_arrow": lambda: Decoder().to_arrow,
            PURE: lambda: PureDecoder("struct").decode_many,
            TRANSFORMER: lambda form=form: peers.TransformerDecoder(form).decode_many,  # type: ignore[misc]
        }
        if workload is WORKLOADS[0]:
            listed |= {
                "pgcdc, the user's own structs": lambda: Decoder("struct", types={"orders": Order}).decode_many,
                'pgcdc, struct rows, json="raw"': lambda: Decoder("struct", json="raw").decode_many,
                'pgcdc, struct rows, json="text"': lambda: Decoder("struct", json="text").decode_many,
                "pure Python, dict rows": lambda: PureDecoder("dict").decode_many,
            }
        found += [
            Contestant(workload, form, name, partial(many, make, workload, form)) for name, make in listed.items()
        ]
        if workload is WORKLOADS[0]:
            name = "pgcdc, struct rows, one message at a time"
            alone = partial(one_by_one, lambda: Decoder("struct").decode, workload, form)
            found.append(Contestant(workload, form, name, alone))
    found.append(Contestant(workload, "text", PEER, partial(one_by_one, pypgoutput, workload, "text")))
    if workload is WORKLOADS[0]:
        decode = msgspec.json.Decoder(peers.Wal2JsonChange).decode
        found.append(Contestant(workload, "JSON", WAL2JSON, partial(one_by_one, lambda: decode, workload, "JSON")))
    return found


CONTESTANTS = [contestant for workload in WORKLOADS for contestant in contestants(workload)]
SKIPPED: list[str] = []

WHAT = (
    "pgcdc and pure Python (benches/pure_python.py, on the standard library) give equal "
    "events with typed values, jsonb as Python objects, which is checked before measuring. What the others do is less. "
    "pypgoutput is measured by its message classes (pypgoutput.decoders) on the text form: its rows are lists of "
    "ColumnData with the strings as sent. psycopg's loaders (psycopg.adapt.Transformer, in C) get columns that were "
    "cut in Python, and take a column that was not sent for NULL. wal2json (format 2, PostgreSQL 15) is the time that "
    "msgspec takes to decode its payloads into structs of name, type and value, where numbers are numbers and all "
    "other values are strings; what the server does for it, which is more than for pgoutput, is not in it."
)


@cache
def prepared(number: int) -> Work:
    """A contestant's work; its decoder has seen the relations and made its classes."""
    work = CONTESTANTS[number].prepare()
    work()
    return work


@pytest.mark.benchmark(timer=time.process_time, disable_gc=False, warmup=False)
@pytest.mark.parametrize(
    ("turn", "number"), [(turn, number) for turn in range(TURNS) for number in range(len(CONTESTANTS))]
)
def test_decode(benchmark: Any, turn: int, number: int) -> None:
    """One round of one contestant."""
    contestant = CONTESTANTS[number]
    try:
        work = prepared(number)
    except peers.Unavailable as error:
        if str(error) not in SKIPPED:
            SKIPPED.append(str(error))
        pytest.skip(str(error))
    benchmark.group = f"{contestant.workload.name}, {contestant.form}"
    benchmark.extra_info.update(
        workload=f"{contestant.workload.name}: {contestant.workload.what}",
        contestant=contestant.name,
        form=contestant.form,
        rows=captured(contestant.workload).changes,
        turn=turn,
    )
    gc.collect()
    benchmark.pedantic(work, rounds=1, iterations=1)
