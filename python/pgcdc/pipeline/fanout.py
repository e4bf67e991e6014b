"""One batch of the source to the lanes of all consumers: filtered once for each distinct filter, shared by the like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Final, TypeAlias

from pgcdc.errors import Error, SchemaError
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.items import Rows
from pgcdc.pipeline.queue import Lane
from pgcdc.pipeline.reading import MUCH_ROWS
from pgcdc.pipeline.subscription import Subscription, Table
from pgcdc.pipeline.versioning import Versioning
from pgcdc.protocol import Batch
from pgcdc.replication import PublishedTable

__all__ = ["Fanout"]

MOST_EARLY: Final = MUCH_ROWS - 1
"""So many changes at most are written before they are handed over: with more, the next read is waited for."""
_OF_ROWS: Final = ("insert", "update", "delete", "truncate")

Wanted: TypeAlias = tuple[Set[Table], Set[str] | None, Set[str]]
"""The tables and actions that a consumer asks for, None for all actions, and the prefixes of logical messages."""


class Fanout:
    """Hands batches over; used in the source's thread.

    Args:
        subscriptions: The consumers by name.
        lanes: Their lanes.
        wait: Called while a lane has no room: waits until a predicate holds, or raises when the run is being stopped.
        renamed: Told each former name of a table that appears, and what it is called now, before its rows go out.
        versioning: Knows the versions of tables' shapes; None: batches go out without.
    """

    def __init__(
        self,
        subscriptions: Mapping[str, Subscription],
        lanes: Mapping[str, Lane],
        wait: Callable[[Callable[[], bool]], None],
        renamed: Callable[[Table, Table], None],
        versioning: Versioning | None = None,
    ) -> None:
        self._subscriptions = subscriptions
        self._lanes = lanes
        self._wait = wait
        self._renamed = renamed
        self._versioning = versioning
        self._wanted = frozenset(table for one in subscriptions.values() for table in one.tables)
        self._attached = {name: subscription.tables for name, subscription in subscriptions.items()}
        self._after: dict[Lane, Position] = {}
        self._groups = self._grouped()
        self._only = self._alone()
        self._names: dict[int, Table] = {}
        self._renamed_below = 0
        # What the last batch said where there was nothing to be seen to, so that the next of its kind is not asked.
        self._usual: tuple[int, ...] = ()  # the identities of its shapes, which are held
        self._usual_relations: tuple[Relation, ...] = ()
        self._usual_at = -1
        self._usual_for: frozenset[Wanted] = frozenset()
        self._begun: tuple[Lane, Batch] | None = None  # what is being written, and was not handed over yet

    def _grouped(self) -> dict[Wanted, list[Lane]]:
        groups: dict[Wanted, list[Lane]] = {}
        for name, tables in self._attached.items():
            one = self._subscriptions[name]
            groups.setdefault((tables, one.actions, one.messages), []).append(self._lanes[name])
        return groups

    def _alone(self) -> Lane | None:
        """The only one that anything is handed over to; None where there are more."""
        lanes = [lane for lanes in self._groups.values() for lane in lanes]
        return lanes[0] if len(lanes) == 1 else None

    def attach(self, name: str, after: Position | None = None, *, without: Collection[Table] = ()) -> None:
        """Hand over to a consumer from now on.

        Args:
            name: The consumer.
            after: It has everything up to here already.
            without: Tables of it that are left out: it does not have their rows yet.
        """
        self._attached[name] = self._subscriptions[name].tables - frozenset(without)
        if after is not None:
            self._after[self._lanes[name]] = after
        self._regroup()

    def detach(self, name: str) -> None:
        """Hand nothing more over to a consumer.

        Args:
            name: The consumer.
        """
        del self._attached[name]
        self._regroup()

    def _regroup(self) -> None:
        self._groups = self._grouped()
        self._only = self._alone()
        self._usual, self._usual_for = (), frozenset()

    def know(self, tables: Sequence[PublishedTable], renamed_below: int) -> None:
        """Remember which table has which name, so that a rename is seen.

        Args:
            tables: All published tables as they are at the start, also those that no consumer wants.
            renamed_below: An LSN, asked for after the names: transactions that committed below it may know a table by
                a name that it had before; it is the same table nevertheless.
        """
        self._usual = ()
        self._names = {table.relation.oid: (table.relation.schema, table.relation.name) for table in tables}
        self._renamed_below = renamed_below

    @property
    def names(self) -> Mapping[int, Table]:
        """What each published table is called now."""
        return self._names

    def see(self, batch: Batch) -> bool:
        """Begin to write what has just been read, before it is handed over by `send`, where that is all there is to it.

        That is where only one consumer gets anything, its target waits and can be sent to, and the batch is small and
        of the same shapes as the last one.

        Args:
            batch: What came.

        Returns:
            Whether it has.
        """
        lane, versioning = self._only, self._versioning
        if lane is None or versioning is None or self._after or not (self._usual and self._usual_for):
            return False
        if self._usual_at != versioning.generation:
            return False
        try:
            rows = batch.rows_of(self._usual_relations, versioning.versions, MOST_EARLY)
        except Error:
            return False  # `send` meets the same
        if rows is not None and lane.begin(Rows(rows, 0, batch.nbytes)):
            self._begun = lane, batch
            return True
        return False

    @property
    def has_begun(self) -> bool:
        """Whether something is being written that was not handed over yet."""
        return self._begun is not None

    def leave(self) -> None:
        """What is being written and was not handed over is its target's business from now on.

        Where it comes again, its position says that it is known.
        """
        if self._begun is not None:
            (lane, _), self._begun = self._begun, None
            lane.conclude(0, within=0.0)

    def send(self, batch: Batch, through_lsn: int, *, only: Collection[Lane] | None = None) -> None:
        """Hand one batch over to everybody who wants something of it; waits for room where there is none.

        Args:
            batch: What the source has read.
            through_lsn: How far the WAL is done once all of it is durable.
            only: Leave out the other lanes.

        Raises:
            SchemaError: When a table has got another name while the pipeline ran: whose it is now, a person decides.
        """
        if self._begun is not None and self._begun[1] is batch:
            (lane, _), self._begun = self._begun, None
            lane.conclude(through_lsn)
            return
        self.leave()
        relations = batch.relations if batch.changes_count else []
        names = None
        if batch.changes_count and (usual := self._as_usual(batch, relations)) is not None:
            batch = usual
        elif batch.changes_count:
            self._usual = ()
            names = self._names_now(batch, relations)
            if self._versioning is not None:
                batch = self._versioning.observe(batch, self._is_wanted, self._wait)
                if names is None and self._versioning.are_newest(relations):
                    self._remember(relations, self._versioning.generation)
        nbytes = batch.nbytes
        full: list[tuple[Lane, Rows]] = []
        for wanted, lanes in self._groups.items():
            selected = self._select(batch, relations, names, wanted) if batch.changes_count else batch
            for lane in lanes:
                if only is not None and lane not in only:
                    continue
                part = self._without_known(lane, selected) if lane in self._after else selected
                if not part.changes_count:
                    lane.advance(through_lsn)
                    continue
                rows = Rows(part, through_lsn, nbytes)
                if not lane.offer(rows):
                    full.append((lane, rows))
        # Those that have room are served first; only then is the slowest one waited for.
        for lane, rows in full:
            # Offered without the lock that the lanes share: it may write to a disk.
            while not lane.offer(rows):
                self._wait(lambda lane=lane, rows=rows: lane.has_room(rows))  # type: ignore[misc]

    def _as_usual(self, batch: Batch, relations: Sequence[Relation]) -> Batch | None:
        """A batch with its versions, where its shapes are those of the last; None where they are to be looked at."""
        versioning, usual = self._versioning, self._usual
        if versioning is None or not usual or self._usual_at != versioning.generation:
            return None
        return batch.with_versions(versioning.versions) if usual == tuple(map(id, relations)) else None

    def _remember(self, relations: Sequence[Relation], generation: int) -> None:
        """Take down that tables have the names and shapes that they have now, and who wants all of them."""
        self._usual, self._usual_relations, self._usual_at = tuple(map(id, relations)), tuple(relations), generation
        tables = {(one.schema, one.name) for one in relations}
        self._usual_for = frozenset(
            wanted for wanted in self._groups if wanted[1] is None and not wanted[2] and tables <= wanted[0]
        )

    def narrowed(self, name: str, batch: Batch) -> Batch:
        """What a consumer still wants of a batch that was selected for it by an earlier run.

        Args:
            name: The consumer.
            batch: The batch.

        Returns:
            What is left.
        """
        subscription = self._subscriptions[name]
        wanted = set()
        for relation in batch.relations:
            then = (relation.schema, relation.name)
            now = self._names.get(relation.oid, then)
            if now in subscription.tables:
                wanted.add(then)
                if now != then:
                    self._renamed(then, now)
        return batch.select(wanted, subscription.actions, messages=subscription.messages or None)

    def _is_wanted(self, relation: Relation) -> bool:
        name = (relation.schema, relation.name)
        return self._names.get(relation.oid, name) in self._wanted or name in self._wanted

    def _without_known(self, lane: Lane, batch: Batch) -> Batch:
        """What a lane that was attached later has not had yet."""
        after = self._after[lane]
        last = batch.last_position
        if last is not None and last > after:
            del self._after[lane]  # positions go up: nothing that comes later is known
        return batch.after(after)

    def _names_now(self, batch: Batch, relations: Sequence[Relation]) -> Mapping[Table, Set[Table]] | None:
        """Find what the tables are called now for each name in a batch; None when nothing was ever renamed.

        The server names a table as it was called when the row was written. The OID says which table that is.
        """
        if all(self._names.get(relation.oid) == (relation.schema, relation.name) for relation in relations):
            return None
        later = [
            (one.oid, one.schema, one.name) for one in batch.after((self._renamed_below, SNAPSHOT_INDEX)).relations
        ]
        names: dict[Table, set[Table]] = {}
        for relation in relations:
            then = (relation.schema, relation.name)
            live = (relation.oid, *then) in later
            if live:
                now = self._names.setdefault(relation.oid, then)
            else:
                # A table that does not exist any more, or is not published any more, has no other name than this.
                now = self._names.get(relation.oid, then)
            if now != then:
                self._check_rename(now, then, live)
                if now in self._wanted:
                    self._renamed(then, now)
            names.setdefault(then, set()).add(now)
        return names

    def _follows(self, now: Table, then: Table) -> bool:
        """Whether all who have a table under its name at the start go on when it has another; none has that one."""
        those = [one for one in self._subscriptions.values() if now in one.tables or then in one.tables]
        return all(then not in one.tables and one.options.on_schema_change["rename_table"] != "stop" for one in those)

    def _check_rename(self, now: Table, then: Table, live: bool) -> None:
        if live and (now in self._wanted or then in self._wanted) and not self._follows(now, then):
            old, new = ".".join(now), ".".join(then)
            raise SchemaError(
                f"table {old} was renamed to {new} while the pipeline ran: its consumers know it by the old name",
                hint=f"rename it back, or use {new!r} in the pipeline's tables and handlers, and start again;"
                ' nothing was confirmed past the rename. With on_schema_change={"rename_table": "follow"} for all its'
                " consumers the pipeline goes on until its next start",
                table=new,
            )
        if not live and then in self._wanted and now not in self._wanted:
            old, new = ".".join(then), ".".join(now)
            raise SchemaError(
                f"there are changes of table {old} that belong to the table which is called {new} now,"
                " and no consumer has that one",
                hint=f"rename it back, or use {new!r} in the pipeline's tables and give it a consumer, and start again",
                table=new,
            )

    def _select(
        self,
        batch: Batch,
        relations: Sequence[Relation],
        names: Mapping[Table, Set[Table]] | None,
        wanted: Wanted,
    ) -> Batch:
        tables, actions, messages = wanted
        if names is None:
            if self._usual and wanted in self._usual_for:
                return batch.select(actions=_OF_ROWS)
            if actions is None and not messages and all((one.schema, one.name) in tables for one in relations):
                return batch.select(actions=_OF_ROWS)  # the same, where nobody has to look for names
            return batch.select(tables, actions, messages=messages or None)
        for then, now in names.items():
            # Filters go by name, and here one name means two tables.
            if now & tables and now - tables:
                both = " and ".join(".".join(table) for table in sorted(now))
                raise SchemaError(
                    f"tables {both} have both been called {'.'.join(then)}, and there are changes of both under that"
                    " name, but a consumer has only one of them",
                    hint="give both tables to every consumer that has one of them; or empty the targets and call"
                    " Pipeline.destroy() once: the next start takes a new initial copy",
                    table=".".join(then),
                )
        then_wanted = {then for then, now in names.items() if now & tables}
        return batch.select(then_wanted, actions, messages=messages or None)
