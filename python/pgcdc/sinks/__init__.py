"""The sinks that come with pgcdc, one file each; a sink's library is imported when the sink is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pgcdc.sinks.clickhouse import ClickHouse
    from pgcdc.sinks.duckdb import DuckDB
    from pgcdc.sinks.kafka import Kafka
    from pgcdc.sinks.nats import Nats
    from pgcdc.sinks.opensearch import Elasticsearch, OpenSearch
    from pgcdc.sinks.parquet import Parquet
    from pgcdc.sinks.postgres import Postgres
    from pgcdc.sinks.redis import Redis
    from pgcdc.sinks.sqlite import SQLite
    from pgcdc.sinks.webhook import Webhook

_SINKS: Final[dict[str, tuple[str, str]]] = {
    "ClickHouse": ("pgcdc.sinks.clickhouse", "clickhouse"),
    "DuckDB": ("pgcdc.sinks.duckdb", "duckdb"),
    "Elasticsearch": ("pgcdc.sinks.opensearch", "search"),
    "Kafka": ("pgcdc.sinks.kafka", "kafka"),
    "Nats": ("pgcdc.sinks.nats", "nats"),
    "OpenSearch": ("pgcdc.sinks.opensearch", "search"),
    "Parquet": ("pgcdc.sinks.parquet", "objects"),
    "Postgres": ("pgcdc.sinks.postgres", "binary"),
    "Redis": ("pgcdc.sinks.redis", "redis"),
    "SQLite": ("pgcdc.sinks.sqlite", "pipeline"),
    "Webhook": ("pgcdc.sinks.webhook", "http"),
}
"""The module of each sink, and the extra that brings its library."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _SINKS:
            raise AttributeError(f"module 'pgcdc.sinks' has no attribute {name!r}")
        import importlib

        from pgcdc.errors import ConfigError

        module, extra = _SINKS[name]
        try:
            value = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "pgcdc":
                raise
            raise ConfigError(
                f"the sink {name} needs the package {error.name}", hint=f"pip install 'pgcdc[{extra}]'"
            ) from error
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_SINKS})


__all__ = [
    "ClickHouse",
    "DuckDB",
    "Elasticsearch",
    "Kafka",
    "Nats",
    "OpenSearch",
    "Parquet",
    "Postgres",
    "Redis",
    "SQLite",
    "Webhook",
]
