"""Changes as records with keys: what Debezium emitted for the same WAL, and the values of `to_json` and `to_bytes`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pgcdc.errors import ConfigError, DecodeError
from pgcdc.protocol import Batch, DebeziumEnvelope
from pgcdc.sinks.kafka_topics import legal_name
from pgcdc.testing.capture import Capture
from pgcdc.testing.changes import Table, delete, insert, message, transaction, truncate, update
from tests.golden.debezium import make as golden
from tests.protocol.test_debezium import PRIMARY_KEYS, catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgcdc.events import Relation

PAIRS = Table("public.pairs", {"a": "integer", "b": "text", "c": "text"}, key=("a", "b"))


def batch_of(capture: Capture) -> Batch:
    return Batch.of([payload for _, payload in capture.messages], [lsn for lsn, _ in capture.messages])


def golden_key(relation: Relation) -> Sequence[str]:
    """The primary key, of which Debezium asks the database."""
    keys = {**PRIMARY_KEYS, "appended": ["id"]}  # whose replica identity is NOTHING
    known = keys.get(f"{relation.schema}.{relation.name}", keys.get(relation.name))
    flagged = [column.name for column in relation.columns if column.is_key and relation.replica_identity != "f"]
    return flagged if known is None else known


@pytest.mark.parametrize("form", golden.FORMS)
def test_topics_keys_and_tombstones_are_debeziums(form: str) -> None:
    """But for two things: a table without a key has no tombstones, and a key that was not sent is not made up."""
    captured = golden.read_messages(form)
    batch = Batch.of([payload for _, payload in captured], [lsn for lsn, _ in captured])
    ours = []
    for _, relation, what, key, value, _, _ in batch.records(
        DebeziumEnvelope("shop"), key=golden_key, catalog=catalog()
    ):
        topic = "shop.message" if relation is None else legal_name(f"shop.{relation.schema}.{relation.name}")
        assert (what == "tombstone") is (value is None)
        ours.append(
            (topic, None if key is None else json.loads(key), said(None if value is None else json.loads(value)))
        )
    theirs = []
    for event in golden.read_events("default"):
        key, what_is_said = event["key"], said(event["value"])
        made_up = event["topic"] == "shop.public.indexed" and key == {"id": 0}
        if what_is_said is None and (key is None or made_up):
            continue
        theirs.append((event["topic"], None if made_up else key, what_is_said))
    # What Debezium cannot convert it leaves out.
    there = {(topic, what_is_said) for topic, _, what_is_said in theirs}
    assert [one for one in ours if one[2] is None or (one[0], one[2]) in there] == theirs
    assert len(ours) - len(theirs) < 10


def said(event: dict[str, Any] | None) -> tuple[str, int] | None:
    """What an event did, and where; None for a tombstone."""
    return None if event is None else (event["op"], event["source"]["lsn"])


def test_values_are_those_of_json_and_of_batches() -> None:
    """One line, or one batch, for each change."""
    batch = batch_of(
        Capture.of(
            [
                transaction(
                    insert(PAIRS, {"a": 1, "b": "é\n", "c": None}),
                    update(PAIRS, {"a": 1, "b": "é\n", "c": "x"}),
                    update(PAIRS, {"a": 2, "b": "y", "c": "x"}, old={"a": 1, "b": "é\n"}),
                    message("hello", b"\x00"),
                    delete(PAIRS, {"a": 2, "b": "y"}),
                ),
                truncate(PAIRS),
            ]
        )
    )
    old, new = {"a": 1, "b": "é\n"}, {"a": 2, "b": "y"}
    plain = batch.records("plain")
    assert [(number, what, key and json.loads(key)) for number, _, what, key, *_ in plain] == [
        (0, "row", old),
        (1, "row", old),
        (2, "tombstone", old),
        (2, "row", new),
        (3, "message", {"prefix": "hello"}),
        (4, "row", new),
        (4, "tombstone", new),
        (5, "truncate", None),
    ]
    lines = [value for _, _, _, _, value, _, _ in plain if value is not None]
    assert b"".join(line + b"\n" for line in lines) == batch.to_json()
    places = [str(change.position).encode() for change in batch.changes() if not isinstance(change, DecodeError)]
    assert [position for _, _, what, _, _, position, _ in plain if what != "tombstone"] == places

    alone = batch.records("batch")
    assert [(what, key and json.loads(key)) for _, _, what, key, *_ in alone] == [
        ("row", old),
        ("row", old),
        ("key", new),
        ("message", {"prefix": "hello"}),
        ("row", new),
        ("truncate", None),
    ]
    read = [Batch.from_bytes(value) for *_, value, _, _ in alone if value is not None]
    assert [change for one in read for change in one.changes()] == batch.changes()
    assert [one.to_bytes() for one in read] == [batch.take([number]).to_bytes() for number in range(6)]


def test_a_truncate_of_several_tables_is_one_for_each() -> None:
    """With the same value, or in Debezium's envelope with its own line."""
    other = Table("public.others", {"id": "integer"}, key=("id",))
    capture = Capture.of([insert(PAIRS, {"a": 1, "b": "", "c": ""}), insert(other, {"id": 1}), truncate(PAIRS, other)])
    for values in ("plain", "debezium", "batch"):
        names: list[Any] = []
        for _, relation, what, key, value, _, _ in batch_of(capture).records(values)[2:]:
            assert relation is not None
            assert (what, key) == ("truncate", None)
            names.append(relation.name)
            if values == "debezium":
                assert value is not None
                assert json.loads(value)["source"]["table"] == relation.name
        assert names == ["pairs", "others"]


def test_what_is_asked_for_is_checked() -> None:
    """Also in an empty batch."""
    with pytest.raises(ConfigError):
        Batch.of([]).records("xml")  # type: ignore[arg-type]


def test_the_first_bad_change_is_raised() -> None:
    """And nothing of the others is given."""
    capture = Capture.of([insert(PAIRS, {"a": 1, "b": "x", "c": ""})])
    messages = [payload for _, payload in capture.messages]
    bad = [payload[:-3] if payload[:1] == b"I" else payload for payload in messages]
    for values in ("plain", "debezium", "batch"):
        with pytest.raises(DecodeError):
            Batch.of(bad).records(values)
