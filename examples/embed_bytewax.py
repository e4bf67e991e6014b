"""A source for Bytewax: the changes of a slot flow through a dataflow, and a restart goes on where it was.

    python -m bytewax.recovery state 1
    python -m bytewax.run "examples.embed_bytewax:flow('dbname=shop', 'my_slot', 'my_publication')" -r state -s 5 -b 0

Bytewax keeps how far the source was, together with the state of the other steps. Only what it gives back at the next
start is sure to be kept, so it is confirmed to the server then, and not before: until then the slot keeps the WAL.
"""

from __future__ import annotations

import logging
from typing import Any

import bytewax.operators as op
from bytewax.connectors.stdio import StdOutSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import Sink

import pgcdc

logger = logging.getLogger(__name__)


class SlotPartition(StatefulSourcePartition[pgcdc.Change, pgcdc.Position]):
    """Reads one slot.

    Args:
        source: What is read.
        done: The last change that the dataflow has kept, from its recovery store; None at first.
    """

    def __init__(self, source: SlotSource, done: pgcdc.Position | None) -> None:
        self._done = done or pgcdc.Position(0, -1)
        self._until = source.until
        self._connection = pgcdc.connect(source.dsn)
        self._stream = self._connection.stream(source.slot, [source.publication], start_lsn=self._done.commit_lsn)
        self._stream.confirm(self._done.commit_lsn)  # transactions before this commit; the rest of its own may follow

    def next_batch(self) -> list[pgcdc.Change]:
        """What has come; nothing when nothing has."""
        if self._until is not None and self._stream.idle_lsn >= self._until:
            raise StopIteration
        rows: list[pgcdc.Change] = []
        for change in self._stream.read(timeout=0.01).after(self._done).changes():
            if isinstance(change, pgcdc.DecodeError):
                raise change
            if isinstance(change, pgcdc.Truncate):
                names = ", ".join(relation.name for relation in change.relations)
                logger.warning("TRUNCATE of %s is not handed on: the dataflow is of rows", names)
            if isinstance(change, pgcdc.Insert | pgcdc.Update | pgcdc.Delete) and change.position:
                rows.append(change)
                self._done = change.position
        return rows

    def snapshot(self) -> pgcdc.Position:
        """The last change that was handed on."""
        return self._done

    def close(self) -> None:
        """Ends the stream."""
        self._connection.close()


class SlotSource(FixedPartitionedSource[pgcdc.Change, pgcdc.Position]):
    """A slot as a source of changes, in commit order; one partition, because a slot is one stream.

    Args:
        dsn: Where to connect; the user needs REPLICATION.
        slot: The replication slot, which must exist.
        publication: What is read.
        until: The LSN at which the source ends; None: it does not.
    """

    def __init__(self, dsn: str, slot: str, publication: str, until: int | None = None) -> None:
        self.dsn, self.slot, self.publication, self.until = dsn, slot, publication, until

    def list_parts(self) -> list[str]:
        """The one partition."""
        return [self.slot]

    def build_part(self, step_id: str, for_part: str, resume_state: pgcdc.Position | None) -> SlotPartition:  # noqa: ARG002
        """Begins, or goes on after the change that the recovery store names."""
        return SlotPartition(self, resume_state)


def flow(dsn: str, slot: str, publication: str, *, until: int | None = None, sink: Sink[Any] | None = None) -> Dataflow:
    """A dataflow with a state of its own: how often each table was changed.

    Args:
        dsn: Where to connect.
        slot: The replication slot.
        publication: What is read.
        until: The LSN at which the source ends.
        sink: Where the counts go; standard output by default.
    """
    result = Dataflow("changes")
    changes = op.input("slot", result, SlotSource(dsn, slot, publication, until))
    by_table = op.key_on("table", changes, lambda change: change.table)
    counts = op.stateful_map("count", by_table, lambda count, _change: ((count or 0) + 1, (count or 0) + 1))
    op.output("out", counts, sink or StdOutSink())
    return result
