"""The one place where psycopg is imported, so that a missing libpq is one sentence and not a traceback."""

from __future__ import annotations

from pgcdc.errors import ConfigError

try:
    import psycopg
    from psycopg import conninfo, pq, waiting
except ImportError as error:  # psycopg is there but finds no libpq, or it is not there at all
    raise ConfigError(
        "psycopg finds no libpq, the PostgreSQL client library, on this machine",
        hint="pip install 'psycopg[binary]', or install libpq by the system's package manager",
    ) from error

__all__ = ["conninfo", "pq", "psycopg", "waiting"]
