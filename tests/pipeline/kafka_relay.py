"""What `pgcdc run tests.pipeline.kafka_relay:make --from kafka://…` runs: a sink that writes to other topics.

`orders` has a key and a transform; `entries` has no key, and all of its rows are in the first partition.
"""

from __future__ import annotations

import os
from typing import Final

import pgcdc
from pgcdc import transforms
from pgcdc.sinks import Kafka

TABLES: Final = """
CREATE TABLE orders (id integer PRIMARY KEY, amount numeric, note text);
CREATE TABLE entries (number integer, note text);
"""
PARTITIONS: Final = 2


def relaying(dsn: str, brokers: str, prefix: str, format: str = "json") -> pgcdc.Pipeline:
    """The pipeline: its topics have a partition less than those that it reads."""
    pipeline = pgcdc.Pipeline("relay", dsn, tables=["orders", "entries"])
    sink = Kafka(brokers, prefix=prefix, format=format, partitions=PARTITIONS, tombstones=False)  # type: ignore[arg-type]
    pipeline.add(sink, name="again", transform=[transforms.mask("orders", "note")])
    return pipeline


def make() -> pgcdc.Pipeline:
    """The same; where it reads and writes is in the environment."""
    return relaying(os.environ["SHOP_DSN"], os.environ["TARGET_BROKERS"], os.environ["TARGET_PREFIX"])
