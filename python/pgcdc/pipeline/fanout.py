"""One batch of the source to the lanes of all consumers: filtered once for each distinct filter, shared by the like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pgcdc.errors import SchemaError
from pgcdc.pipeline.queue import Lane, Rows
from pgcdc.pipeline.subscription import Subscription, Table
from pgcdc.protocol import Batch
from pgcdc.replication import PublishedTable

__all__ = ["Fanout"]


class Fanout:
    """Hands batches over; used in the source's thread.

    Args:
        subscriptions: The consumers by name.
        lanes: Their lanes.
        wait: Called while a lane has no room: waits until a predicate holds, or raises when the run is being stopped.
    """

    def __init__(
        self,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        wait: Callable[[Callable[[], bool]], None],
    ) -> None:
        groups: dict[tuple[frozenset[Table], frozenset[str] | None], list[Lane]] = {}
        for name, subscription in subscriptions.items():
            groups.setdefault((subscription.tables, subscription.actions), []).append(lanes[name])
        self._groups = groups
        self._wait = wait
        self._names: dict[int, Table] = {}

    def know(self, tables: Sequence[PublishedTable]) -> None:
        """Remember which table has which name, so that a rename is seen.

        Args:
            tables: The published tables at the start.
        """
        self._names = {table.relation.oid: (table.relation.schema, table.relation.name) for table in tables}

    def send(self, batch: Batch, through_lsn: int, *, only: Collection[Lane] | None = None) -> None:
        """Hand one batch over to everybody who wants something of it; waits for room where there is none.

        Args:
            batch: What the source has read.
            through_lsn: How far the WAL is done once all of it is durable.
            only: Leave out the other lanes.

        Raises:
            SchemaError: When a table has another name now: filters go by name, and would leave its rows out silently.
        """
        if batch.changes_count:
            self._check_names(batch)
        nbytes = batch.nbytes
        full: list[tuple[Lane, Rows]] = []
        for (tables, actions), lanes in self._groups.items():
            selected = batch.select(tables, actions) if batch.changes_count else batch
            for lane in lanes:
                if only is not None and lane not in only:
                    continue
                if not selected.changes_count:
                    lane.advance(through_lsn)
                    continue
                rows = Rows(selected, through_lsn, nbytes)
                if not lane.offer(rows):
                    full.append((lane, rows))
        # Those that have room are served first; only then is the slowest one waited for.
        for lane, rows in full:
            self._wait(lambda lane=lane, rows=rows: lane.offer(rows))  # type: ignore[misc]

    def _check_names(self, batch: Batch) -> None:
        for relation in batch.relations:
            known = self._names.get(relation.oid)
            if known is not None and known != (relation.schema, relation.name):
                old, new = ".".join(known), f"{relation.schema}.{relation.name}"
                raise SchemaError(
                    f"table {old} was renamed to {new} while the pipeline ran: its consumers know it by the old name",
                    hint=f"rename it back, or use {new!r} in the pipeline's tables and handlers and start again;"
                    " nothing was confirmed past the rename",
                    table=new,
                )
