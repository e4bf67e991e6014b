"""What `pgcdc run tests.pipeline.kafka_shop:make --from kafka://…` runs: a sink that keeps its position, and handlers.

The sink copies `orders`, which has a key, and `entries`, which has none: a row that came twice would be there twice.
"""

from __future__ import annotations

import os
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgcdc
from pgcdc.sinks import Postgres

TABLES = """
CREATE TABLE orders (id integer PRIMARY KEY, amount numeric, note text);
CREATE TABLE entries (number integer, note text);
CREATE TABLE said (topic text, key text, payload jsonb);
CREATE TABLE migrated (consumer text, old integer, new integer);
"""


def make() -> pgcdc.Pipeline:
    """The pipeline; where it reads and writes is in the environment."""
    dsn = os.environ["SHOP_DSN"]
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders", "entries"])
    pipeline.add(Postgres(dsn, name="shop", schema="copy"), name="copy")

    def migrated(old: pgcdc.Relation, new: pgcdc.Relation) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = ("copy", len(old.columns), len(new.columns))
            connection.execute("INSERT INTO migrated VALUES (%s, %s, %s)", row)

    pipeline.migrate("orders", consumer="copy")(migrated)

    def said(change: Any) -> None:
        row = change.new
        with psycopg.connect(dsn, autocommit=True) as connection:
            insert = "INSERT INTO said VALUES (%s, %s, %s)"
            connection.execute(insert, (change.table, row.key, Jsonb(row.payload)))

    pipeline.on_message("order.paid", name="said")(said)
    return pipeline
