"""The bench of the event store runs, with few events; it looks itself at whether one is lost."""

from __future__ import annotations

from benches import bench_eventstore

SMALL = ["--projected=300", "--history=3000"]


def test_a_round() -> None:
    sections, data = bench_eventstore.measure(
        ["--rounds=1", "--events=400", "--processes=1", "--synchronous=off", *SMALL]
    )
    work = {
        "append 1",
        "append 1, plain INSERT",
        "append 100",
        "load a long stream",
        "full replay",
        "full replay with envelopes",
        "32 writers",
        "project, 1 a transaction",
        "project, 100 a transaction",
        "rebuild while 4 append",
    }
    assert {line["work"] for line in data if line["contestant"] == "pgcdc"} == work
    assert [section.title for section in sections] == ["synchronous_commit off"]
    assert {line["contestant"] for line in data if line["work"] == "32 writers"} >= {
        "pgcdc",
        "bare INSERT",
        "table lock",
        "table lock, one call",
    }
