"""The snapshot bench runs, on a few rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benches import bench_snapshot

if TYPE_CHECKING:
    from tests.servers.postgres import PostgresServer


def test_every_client_gets_all_rows(newest_postgres: PostgresServer) -> None:
    ((section,), data) = bench_snapshot.measure(["--rows=30", "--rounds=1"])
    expected = {(one.name, one.connections) for one in bench_snapshot.CONTESTANTS if one.client != "psql"}
    assert expected <= {(line["contestant"], line["connections"]) for line in data}
    assert "to_arrow" in section.table
