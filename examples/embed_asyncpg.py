"""The decoder over `pg_logical_slot_get_binary_changes`, with asyncpg: changes on demand, on an event loop.

    python examples/embed_asyncpg.py "postgresql://localhost/shop" my_slot my_publication

`get` moves the slot as it reads, so a crash before the changes were handled loses them: good for a cache that a missed
change makes stale for a while. Whoever may lose nothing looks first and moves the slot later, as
`embed_slot_function.py` does.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg

import pgcdc
from pgcdc.protocol import CATALOG_SQL

CHANGES = """
SELECT (lsn - '0/0')::int8, data
FROM pg_logical_slot_get_binary_changes(
    $1, NULL, NULL, 'proto_version', '1', 'publication_names', $2, 'binary', 'true', 'messages', 'true')
"""
# What has no binary form is printed as the session asks; pgcdc reads what these settings give.
SETTINGS = {
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}


async def main(dsn: str, slot: str, publication: str) -> list[pgcdc.Event]:
    """Print what has happened since the last call.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot, which must exist.
        publication: What is read.

    Returns:
        The events.
    """
    connection = await asyncpg.connect(dsn, server_settings=SETTINGS)
    try:
        # User-defined types, so that enums, domains and their arrays have values in binary, too.
        catalog = pgcdc.Catalog.of(await connection.fetch(CATALOG_SQL))
        rows = await connection.fetch(CHANGES, slot, publication)
    finally:
        await connection.close()
    decoder = pgcdc.Decoder(catalog=catalog)
    events = []
    for lsn, data in rows:
        event = decoder.decode(data, lsn)
        events.append(event)
        print(event)
    return events


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3]))
