"""The pipeline bench runs, on a few rows: one program of each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import bench_pipeline

if TYPE_CHECKING:
    import pytest

    from tests.servers.postgres import PostgresServer


def test_every_program_gets_all_rows(newest_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {one.kind: one for one in bench_pipeline.DISPATCH}
    monkeypatch.setattr(bench_pipeline, "DISPATCH", tuple(some.values()))
    monkeypatch.setattr(bench_pipeline, "SINKS", bench_pipeline.SINKS[-1:])
    monkeypatch.setattr(bench_pipeline, "SLOW", bench_pipeline.SLOW[-1:])
    sections, data = bench_pipeline.measure(["--rows=300", "--large=300", "--rounds=1"])
    named = {one.name for one in (*some.values(), bench_pipeline.SINKS[0], bench_pipeline.SLOW[0])}
    assert named == {line["contestant"] for line in data if "contestant" in line}
    assert [section.title for section in sections] == ["Dispatch", "More sinks", "Slow sinks", "The spool"]
    assert "coroutine" in sections[0].table
