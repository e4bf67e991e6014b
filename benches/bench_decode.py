"""Decoding the ten-column table: pgcdc, an own parser in pure Python, and pypgoutput, on the same messages.

Every contestant gets the messages in lists of 500 and drops what it made before the next list, as a consumer does. One
round is the whole capture. The rounds of all contestants take turns, so that a slow minute of the machine hits all
alike. The garbage collector stays on, as it is for users, and is run before each round.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

from benches.capture import Capture, ten_columns
from benches.pure_python import PureDecoder
from pgcdc.events import Insert
from pgcdc.protocol import Decoder
from tests.reference import plain

LIST = 500
TURNS = 15

Work = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """Who decodes what.

    Attributes:
        name: As printed.
        form: `"text"` or `"binary"`.
        prepare: Takes the messages, gives what is timed.
    """

    name: str
    form: str
    prepare: Callable[[list[bytes]], Work]


def lists(messages: list[bytes]) -> list[list[bytes]]:
    """Messages as they come from a stream: some at a time."""
    return [messages[start : start + LIST] for start in range(0, len(messages), LIST)]


def many(make: Callable[[], Any]) -> Callable[[list[bytes]], Work]:
    """One call for each list."""

    def prepare(messages: list[bytes]) -> Work:
        parts, decode_many = lists(messages), make().decode_many

        def work() -> None:
            for part in parts:
                decode_many(part)

        return work

    return prepare


def one_by_one(make: Callable[[], Any]) -> Callable[[list[bytes]], Work]:
    """One call for each message."""

    def prepare(messages: list[bytes]) -> Work:
        parts, decode = lists(messages), make().decode

        def work() -> None:
            for part in parts:
                [decode(message) for message in part]

        return work

    return prepare


def pypgoutput_decoders() -> dict[int, Callable[[bytes], Any]]:
    """The peer's class for each kind of message, as its own reader picks them."""
    from pypgoutput import decoders

    return {
        ord("B"): decoders.Begin,
        ord("C"): decoders.Commit,
        ord("R"): decoders.Relation,
        ord("I"): decoders.Insert,
        ord("U"): decoders.Update,
        ord("D"): decoders.Delete,
    }


def pypgoutput(messages: list[bytes]) -> Work:
    """The peer's decoders: they know only the text form, and their values are the strings as sent."""
    parts, kinds = lists(messages), pypgoutput_decoders()

    def work() -> None:
        for part in parts:
            [kinds[message[0]](message) for message in part]

    return work


def pypgoutput_version() -> str | None:
    """The installed version, None when it is not."""
    try:
        return version("pypgoutput")
    except PackageNotFoundError:
        return None


OURS = "pgcdc, struct rows"
PURE = "pure Python"
PEER = "pypgoutput (strings)"
YARDSTICKS = {PURE: None, PEER: "text"}
SKIPPED = [] if pypgoutput_version() else ["pypgoutput: not installed (pip install --no-deps pypgoutput==0.0.3)"]

CONTESTANTS = [
    contestant
    for form in ("text", "binary")
    for contestant in (
        Contestant(OURS, form, many(lambda: Decoder("struct"))),
        Contestant("pgcdc, dict rows", form, many(lambda: Decoder("dict"))),
        Contestant("pgcdc, tuple rows", form, many(lambda: Decoder("tuple"))),
        Contestant("pgcdc, struct rows, one message at a time", form, one_by_one(lambda: Decoder("struct"))),
        Contestant(PURE, form, many(lambda: PureDecoder("struct"))),
        Contestant("pure Python, dict rows", form, many(lambda: PureDecoder("dict"))),
    )
] + ([] if SKIPPED else [Contestant(PEER, "text", pypgoutput)])

WHAT = (
    "Ten columns (int8, int4, numeric(12,2), text, bool, float8, timestamptz, uuid, jsonb, text[]), 78 % inserts, "
    "16 % updates, 6 % deletes, 100 changes a transaction. pgcdc and pure Python give equal events with typed values, "
    "jsonb as Python objects (checked before measuring). pypgoutput is measured by its message classes "
    "(pypgoutput.decoders) on the text form: its rows are lists of ColumnData with the strings as sent, no value is "
    "converted, no event is made."
)


@cache
def capture() -> Capture:
    """The messages, with all contestants found to say the same of them."""
    captured = ten_columns()
    for form in ("text", "binary"):
        messages = getattr(captured, form)
        for rows in ("struct", "dict", "tuple"):
            ours = Decoder(rows).decode_many(messages)
            pure = PureDecoder(rows).decode_many(messages)
            assert all(plain(one) == plain(other) for one, other in zip(ours, pure, strict=True)), (form, rows)
    if not SKIPPED:
        kinds = pypgoutput_decoders()
        for message, event in zip(captured.text, Decoder("tuple").decode_many(captured.text), strict=True):
            if isinstance(event, Insert):
                texts = [column.col_data for column in kinds[message[0]](message).new_tuple.column_data]
                assert (int(texts[0]), texts[3]) == (event.new[0], event.new[3])
    return captured


@cache
def prepared(number: int) -> Work:
    """A contestant's work; its decoder has seen the relation and made its classes."""
    contestant = CONTESTANTS[number]
    work = contestant.prepare(getattr(capture(), contestant.form))
    work()
    return work


@pytest.mark.benchmark(timer=time.process_time, disable_gc=False, warmup=False)
@pytest.mark.parametrize(
    ("turn", "number"), [(turn, number) for turn in range(TURNS) for number in range(len(CONTESTANTS))]
)
def test_decode(benchmark: Any, turn: int, number: int) -> None:
    """One round of one contestant."""
    contestant = CONTESTANTS[number]
    benchmark.group = contestant.form
    benchmark.extra_info.update(contestant=contestant.name, form=contestant.form, rows=capture().changes, turn=turn)
    work = prepared(number)
    gc.collect()
    benchmark.pedantic(work, rounds=1, iterations=1)
