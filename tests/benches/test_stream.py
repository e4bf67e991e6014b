"""The stream bench runs, on a few rows: what it is for is measured by `./dev bench stream`, not here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import bench_stream, report

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


def test_every_workload_gives_its_table(newest_postgres: PostgresServer) -> None:
    arguments = ["--rows=20", "--ticks=100", "--huge=20", "--rounds=1", "--only=recvlogical,batches,async"]
    sections, data = bench_stream.measure(arguments)
    assert [section.title for section in sections] == [
        "Large transactions",
        "Small transactions",
        "How old a row is",
        "One large transaction",
    ]
    read = {(line["workload"], line["contestant"], line["form"]) for line in data}
    assert ("large", bench_stream.RECVLOGICAL, "binary") in read or bench_stream.SKIPPED
    assert {
        ("small", "pgcdc, batches of struct rows", "text"),
        ("busy", bench_stream.CONTESTANTS[5].name, "binary"),
    } <= read
    assert all(isinstance(line["client"], float) and line["client"] > 0 for line in data)
    text = report.markdown("Benchmark: stream", bench_stream.WHAT, sections, bench_stream.READ, {}, [])
    assert text.count("| pgcdc, batches of struct rows") == 3 + 3 + 2 * 2 + 2 * 2
