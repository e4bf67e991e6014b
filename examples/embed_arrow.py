"""Changes straight into Polars and DuckDB: Arrow tables from the wire, no Python object for any row.

python examples/embed_arrow.py "dbname=shop" my_slot my_publication orders
"""

from __future__ import annotations

import sys
from collections.abc import Collection

import duckdb
import polars
import psycopg

import pgcdc
from pgcdc.protocol import ArrowTable

CHANGES = """
SELECT data
FROM pg_logical_slot_peek_binary_changes(
    %s, NULL, NULL, 'proto_version', '1', 'publication_names', %s, 'binary', 'true')
"""


def read(dsn: str, slot: str, publication: str, text: Collection[str] = ()) -> dict[str, ArrowTable]:
    """What waits in a slot, as one Arrow table for each table; the slot stays where it is.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot.
        publication: What is read.
        text: Columns (`"public.orders.at"`) that hold what their Arrow type cannot, such as infinite times: as strings.

    Returns:
        The tables by name: `"public.orders"`.
    """
    with psycopg.connect(dsn) as connection:
        decoder = pgcdc.Decoder(catalog=pgcdc.Catalog.load(connection))
        rows = connection.execute(CHANGES, (slot, publication), binary=True)
        return decoder.to_arrow([data for (data,) in rows], text=text)


def with_polars(changes: ArrowTable) -> polars.DataFrame:
    """How many rows of each kind of change there are.

    Args:
        changes: One table's changes.
    """
    return polars.DataFrame(changes).group_by("_action").len().sort("_action")


def with_duckdb(changes: ArrowTable, key: str = "id") -> polars.DataFrame:
    """The rows as they are now: of each key the last change, unless that was a delete.

    Args:
        changes: One table's changes.
        key: The column of its primary key.
    """
    query = f"""
        SELECT * EXCLUDE (_action, _position, _commit_lsn, _commit_time, _unset, _old) FROM changes
        QUALIFY row_number() OVER (PARTITION BY "{key}" ORDER BY _position DESC) = 1 AND _action <> 'delete'
        ORDER BY "{key}"
    """
    with duckdb.connect() as connection:
        # As Arrow again: for rows of Python objects DuckDB wants pytz where there are times with a zone.
        rows: polars.DataFrame = connection.register("changes", changes).sql(query).pl()
        return rows


if __name__ == "__main__":
    table = read(*sys.argv[1:4])[f"public.{sys.argv[4]}"]
    print(with_polars(table))
    print(with_duckdb(table))
