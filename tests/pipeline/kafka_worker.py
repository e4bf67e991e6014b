"""A worker as a program of its own: `python -m tests.pipeline.kafka_worker DSN SOURCE`.

Its handler keeps the table `mirror` of the source's database in step with `orders`, and guards each row by position, as
targets do. What it was given is in `handled`, and each run of its migration in `migrated`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import closing
from typing import Any

import msgspec
import psycopg

import pgcdc

TABLES = """
CREATE TABLE mirror (id integer PRIMARY KEY, data jsonb, position text NOT NULL);
CREATE TABLE floor (position text NOT NULL);
CREATE TABLE handled (number bigserial, worker text, action text, id integer, position text, version integer);
CREATE TABLE migrated (worker text, old integer, new integer);
"""
UPSERT = """
INSERT INTO mirror SELECT %(id)s, %(data)s, %(position)s
WHERE NOT EXISTS (SELECT FROM floor WHERE position >= %(position)s)
ON CONFLICT (id) DO UPDATE SET data = EXCLUDED.data, position = EXCLUDED.position
WHERE mirror.position < EXCLUDED.position
"""


class Target:
    """The tables, by one connection."""

    def __init__(self, dsn: str, worker: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._worker = worker

    def close(self) -> None:
        self._connection.close()

    def put(self, change: Any) -> None:
        position = str(change.position)
        with self._connection.transaction():
            if change.action == "truncate":
                self._connection.execute("INSERT INTO floor VALUES (%s)", (position,))
                emptied = "UPDATE mirror SET data = NULL, position = %s WHERE position < %s"
                self._connection.execute(emptied, [position] * 2)
                row = None
            else:
                row = change.old if change.action == "delete" else change.new
                old: Any = getattr(change, "old", None)
                if change.action == "update" and isinstance(old, msgspec.Struct) and old.id != row.id:  # type: ignore[attr-defined]
                    self._put(change.old.id, None, position)
                data = None if change.action == "delete" else msgspec.json.encode(row).decode()
                self._put(row.id, data, position)
            version = getattr(change, "schema_version", None)
            self._connection.execute(
                "INSERT INTO handled (worker, action, id, position, version) VALUES (%s, %s, %s, %s, %s)",
                (self._worker, change.action, getattr(row, "id", None), position, version),
            )

    def _put(self, key: int, data: str | None, position: str) -> None:
        self._connection.execute(UPSERT, {"id": key, "data": data, "position": position})

    def migrated(self, old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        self._connection.execute(
            "INSERT INTO migrated VALUES (%s, %s, %s)", (self._worker, len(old.columns), len(new.columns))
        )


def pipeline_of(dsn: str, target: Target) -> pgcdc.Pipeline:
    """The pipeline that runs on the slot and on Kafka."""
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders"])
    pipeline.on("orders", "insert", "update", "delete", "truncate", name="mirror")(target.put)
    pipeline.migrate("orders", consumer="mirror")(target.migrated)
    return pipeline


def main() -> None:
    """Run until killed or stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dsn")
    parser.add_argument("source")
    parser.add_argument("--name", default="worker")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"{arguments.name} %(message)s")
    with closing(Target(arguments.dsn, arguments.name)) as target:
        pipeline = pipeline_of(arguments.dsn, target)
        print("running", flush=True)
        pipeline.run(source=arguments.source)


if __name__ == "__main__":
    main()
