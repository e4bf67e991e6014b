"""The golden captures as the tests want them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from tests.golden.make import VERSIONS, Captured, manners, read_capture
from tests.reference import ReferenceDecoder

GOLDEN = Path(__file__).parent.parent / "golden"
FORMS = ("text", "binary")
ALL = [(version, form) for version in VERSIONS for form in FORMS]
IDS = [f"pg{version}-{form}" for version, form in ALL]

STREAMS = [(version, manner) for version in VERSIONS for manner in manners(version)]
"""The captures of streamed and prepared transactions, and "plain", which is the same workload without them."""
STREAM_IDS = [f"pg{version}-{manner}" for version, manner in STREAMS]


@cache
def capture(version: int, form: str) -> Captured:
    """(wal_start, message) pairs of one capture."""
    return read_capture(GOLDEN / f"pg{version}" / f"{form}.capture")


def messages(version: int, form: str) -> list[bytes]:
    """The messages of one capture."""
    return [message for _, message in capture(version, form)]


@cache
def tables(version: int) -> dict[str, Any]:
    """The tables after the workload, as SELECT prints them."""
    tables: dict[str, Any] = json.loads((GOLDEN / f"pg{version}" / "select.json").read_text(encoding="utf-8"))
    return tables


@cache
def reference(version: int, form: str) -> list[Any]:
    """What the reference decoder makes of one capture."""
    captured = capture(version, form)
    return ReferenceDecoder().decode_many([message for _, message in captured], [lsn for lsn, _ in captured])
