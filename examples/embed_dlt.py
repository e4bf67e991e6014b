"""A source for dlt: the changes of a slot are merged into tables of a destination, and the next run goes on after them.

    python examples/embed_dlt.py "dbname=shop" my_slot my_publication    # into target.duckdb

Each run takes what the slot has by then. dlt stores how far that was together with the rows, and only what it gives
back at the next run is sure to be stored: so it is confirmed to the server then, and not before. A run that ends in the
middle is repeated, and merging the same rows again changes nothing. Tables need a primary key, and REPLICA IDENTITY
FULL where values are so large that an update does not send them (TOAST). TRUNCATE is not followed, and said in the log.
"""

import logging
import sys
from collections.abc import Iterator
from typing import Any

import dlt
from dlt.common.pipeline import LoadInfo, get_dlt_pipelines_dir
from dlt.destinations import duckdb
from msgspec import UNSET

import pgcdc

logger = logging.getLogger(__name__)


@dlt.resource(max_table_nesting=0)
def changes(dsn: str, slot: str, publication: str) -> Iterator[Any]:
    """Rows as they are after each change, for the tables that they belong to.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot, which must exist.
        publication: What is read.
    """
    if dlt.current.pipeline().has_pending_data:
        raise RuntimeError("what an earlier run has read is not loaded yet: pipeline.load() first")
    state = dlt.current.resource_state()
    done = pgcdc.Position(*state.get("position", (0, -1)))
    with pgcdc.connect(dsn) as connection:
        [(end,)] = connection.execute("SELECT pg_current_wal_flush_lsn()")
        until = pgcdc.parse_lsn(str(end))
        with connection.stream(slot, [publication], start_lsn=done.commit_lsn) as stream:
            stream.confirm(done.commit_lsn)  # transactions before this commit; the rest of its own may follow
            while stream.idle_lsn < until:
                for change in stream.read(timeout=1).after(done).changes():
                    if isinstance(change, pgcdc.DecodeError):
                        raise change
                    if isinstance(change, pgcdc.Truncate):
                        names = ", ".join(relation.name for relation in change.relations)
                        logger.warning("TRUNCATE of %s is not followed: its rows stay in the destination", names)
                    if isinstance(change, pgcdc.Insert | pgcdc.Update | pgcdc.Delete) and change.position:
                        yield from rows(change)
                        done = change.position
            state["position"] = [done.commit_lsn, done.index]


def rows(change: pgcdc.Insert | pgcdc.Update | pgcdc.Delete) -> Iterator[Any]:
    """A change as rows to be merged: one, or two where an update has changed the key."""
    key = [column.name for column in change.relation.columns if column.is_key]
    old = values(change.old) if not isinstance(change, pgcdc.Insert) and change.old else {}
    new = {} if isinstance(change, pgcdc.Delete) else old | values(change.new)
    hints = dlt.mark.make_hints(
        table_name=change.table,
        primary_key=key,
        write_disposition={"disposition": "merge", "strategy": "delete-insert"},
        columns={
            "pgcdc_deleted": {"data_type": "bool", "hard_delete": True},
            "pgcdc_position": {"data_type": "text", "dedup_sort": "desc"},  # of two changes of a row the later one
        },
    )

    def row(known: dict[str, Any], deleted: bool) -> Any:
        order = f"{change.position}/{0 if deleted else 1}"
        item = known | {"pgcdc_deleted": deleted, "pgcdc_position": order}
        return dlt.mark.with_hints(item, hints, create_table_variant=True)

    if old and {name: old[name] for name in key} != {name: new.get(name) for name in key}:
        yield row({name: old[name] for name in key}, deleted=True)
    if new:
        if missing := [column.name for column in change.relation.columns if column.name not in new]:
            raise ValueError(f"{change.table} needs REPLICA IDENTITY FULL: no value was sent of {', '.join(missing)}")
        yield row(new, deleted=False)


def values(row: Any) -> dict[str, Any]:
    """What was sent of a row."""
    return {name: value for name in row.__struct_fields__ if (value := getattr(row, name)) is not UNSET}


def main(dsn: str, slot: str, publication: str, path: str = "target.duckdb", state: str = "") -> LoadInfo:
    """One run.

    Args:
        dsn: Where to connect.
        slot: The replication slot.
        publication: What is read.
        path: DuckDB's file.
        state: Where dlt keeps what it works on; "": where it always does. What is lost there comes from the target.
    """
    pipeline = dlt.pipeline(
        "shop", destination=duckdb(path), dataset_name="shop", pipelines_dir=state or get_dlt_pipelines_dir()
    )
    return pipeline.run(changes(dsn, slot, publication))


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
