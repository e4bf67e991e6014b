"""What a change of a publication means: for streams, for targets, and for whoever writes to the tables; no I/O.

It is found out for each table that holds rows itself (a plain table, a leaf of partitions), because that is what the
server looks at when a row is written, and said by the name under which the table is published.

Source: PostgreSQL manual, "Publication", "Replica Identity"; server files `execReplication.c`
(CheckCmdReplicaIdentity), `publicationcmds.c`, `pgoutput.c`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from pgcdc.replication.plan import PlanWarning, named_some
from pgcdc.replication.publication_catalog import RowFilter, TableFacts
from pgcdc.replication.publication_definition import Publication

__all__ = ["PublicationMeaning"]

_Trouble = Literal["identity", "filter", "columns"]


class _Shown(msgspec.Struct, frozen=True):
    """How a publication shows a table that holds rows.

    Attributes:
        name: Under which name.
        columns: The list of columns, None without one.
        where: The row filter, None for every row.
        source: The table in the publication that the filter is of.
    """

    name: str
    columns: frozenset[str] | None = None
    where: str | None = None
    source: str | None = None


class PublicationMeaning:
    """What publications mean for the tables that hold rows.

    Args:
        facts: The tables.
        filters: By table, which columns are in its wanted row filter.
        server_version: The server's version as a number.
    """

    def __init__(self, facts: Sequence[TableFacts], filters: Mapping[str, RowFilter], server_version: int) -> None:
        self.facts = {fact.oid: fact for fact in facts}
        self.leaves = [fact for fact in facts if fact.kind == "r" and fact.lasting]
        self.filters = filters
        self.server_version = server_version

    def warnings(self, found: Publication | None, wanted: Publication) -> Iterable[PlanWarning]:
        """All that is to be known."""
        before = {} if found is None else self._shown(found)
        after = self._shown(wanted)
        yield from self._rows(before, after)
        if found is not None:
            yield from self._actions(found, wanted)
        yield from self._narrowings(before, after)
        yield from self._writes(found, before, wanted, after)
        yield from self._inheritance(wanted)

    def _shown(self, publication: Publication) -> dict[int, _Shown]:
        """How each table that holds rows is published, by OID; what is not published is missing."""
        named = {table.name: table for table in publication.tables}
        shown: dict[int, _Shown] = {}
        for leaf in self.leaves:
            line = [leaf, *self._roots(leaf)]
            published = [
                fact
                for fact in line
                if publication.all_tables or fact.schema in publication.schemas or (fact.schema, fact.name) in named
            ]
            if not published:
                continue
            # The topmost is the one that counts where rows come as those of the root.
            counts = published[-1] if publication.publish_via_partition_root else leaf
            table = named.get((counts.schema, counts.name))
            if table is None or publication.all_tables or counts.schema in publication.schemas:
                shown[leaf.oid] = _Shown(counts.table)
                continue
            columns = None if table.columns is None else frozenset(table.columns)
            shown[leaf.oid] = _Shown(counts.table, columns, table.where, table.table)
        return shown

    def _roots(self, leaf: TableFacts) -> Iterable[TableFacts]:
        """What a table is a partition of, the next first."""
        while leaf.partition and leaf.parents and leaf.parents[0] in self.facts:
            leaf = self.facts[leaf.parents[0]]
            yield leaf

    def _names(self, oids: Iterable[int], shown: Mapping[int, _Shown]) -> tuple[str, ...]:
        return tuple(sorted({shown[oid].name for oid in oids}))

    def _rows(self, before: Mapping[int, _Shown], after: Mapping[int, _Shown]) -> Iterable[PlanWarning]:
        if tables := self._names(before.keys() - after.keys(), before):
            yield PlanWarning(
                "rows_lost",
                f"what is written to {named_some(tables)} from then on is in no stream, also when it is published again"
                " later",
                tables,
                "a table that is published again needs a snapshot",
            )
        if tables := self._names(after.keys() - before.keys(), after):
            yield PlanWarning(
                "snapshot_needed",
                f"the stream gives only what is written to {named_some(tables)} from then on, not the rows that are"
                " there",
                tables,
                "take a snapshot of them after the change",
            )
        both = before.keys() & after.keys()
        renamed = [oid for oid in both if before[oid].name != after[oid].name]
        if tables := self._names(renamed, after):
            others = self._names(renamed, before)
            yield PlanWarning(
                "renamed",
                f"rows of {named_some(others)} come as rows of {named_some(tables)} from then on",
                tables,
                "have the consumers know both names before",
            )

    def _actions(self, found: Publication, wanted: Publication) -> Iterable[PlanWarning]:
        if less := [action for action in found.publish if action not in wanted.publish]:
            yield PlanWarning(
                "targets_stay", f"{' and '.join(less)} are not sent any more: targets keep what these would change"
            )
        if more := [action for action in wanted.publish if action not in found.publish]:
            yield PlanWarning(
                "snapshot_needed",
                f"{' and '.join(more)} are sent from then on, and what was done before is not made up for",
                hint="take a snapshot of the tables after the change",
            )

    def _narrowings(self, before: Mapping[int, _Shown], after: Mapping[int, _Shown]) -> Iterable[PlanWarning]:
        both = before.keys() & after.keys()
        other = [oid for oid in both if after[oid].where != before[oid].where]
        if tables := self._names([oid for oid in other if before[oid].where is not None], after):
            yield PlanWarning(
                "snapshot_needed",
                f"rows of {named_some(tables)} that were filtered out before and are not now come only when they are"
                " written again",
                tables,
                "take a snapshot of them after the change",
            )
        if tables := self._names([oid for oid in other if after[oid].where is not None], after):
            yield PlanWarning(
                "targets_stay",
                f"rows of {named_some(tables)} that the row filter leaves out from then on stay in targets as they are",
                tables,
                "delete them there",
            )
        wider = [oid for oid in both if self._columns(oid, after) - self._columns(oid, before)]
        if tables := self._names(wider, after):
            yield PlanWarning(
                "snapshot_needed",
                f"columns of {named_some(tables)} that were not published before come only with rows that are written"
                " again",
                tables,
                "take a snapshot of them after the change",
            )
        narrower = [oid for oid in both if self._columns(oid, before) - self._columns(oid, after)]
        if tables := self._names(narrower, after):
            yield PlanWarning(
                "targets_stay",
                f"columns of {named_some(tables)} that are not published any more stay in targets as they are",
                tables,
            )

    def _columns(self, oid: int, shown: Mapping[int, _Shown]) -> frozenset[str]:
        listed_columns = shown[oid].columns
        if listed_columns is not None:
            return listed_columns
        return frozenset(column for column, _ in self.facts[oid].columns)

    def _writes(
        self,
        found: Publication | None,
        before: Mapping[int, _Shown],
        wanted: Publication,
        after: Mapping[int, _Shown],
    ) -> Iterable[PlanWarning]:
        """What the server is going to refuse, and did not before."""
        troubles: dict[_Trouble, set[str]] = {}
        for oid, shown in after.items():
            new = self._trouble(self.facts[oid], shown, wanted)
            if new is None:
                continue
            if found is not None and oid in before and self._trouble(self.facts[oid], before[oid], found) == new:
                continue
            troubles.setdefault(new, set()).add(self.facts[oid].table)
        refused = " and ".join(action.upper() for action in ("update", "delete") if action in wanted.publish)
        explained: tuple[tuple[_Trouble, str, str], ...] = (
            (
                "identity",
                "it has no replica identity",
                "a primary key; or ALTER TABLE … REPLICA IDENTITY USING INDEX …, or FULL; or publish inserts only",
            ),
            (
                "filter",
                "the row filter has a column that is not in the replica identity",
                "a replica identity with it (ALTER TABLE … REPLICA IDENTITY …), or another filter",
            ),
            (
                "columns",
                "the published columns do not hold the whole replica identity",
                "add its columns to the list; under REPLICA IDENTITY FULL leave the list out",
            ),
        )
        for trouble, says, hint in explained:
            if tables := tuple(sorted(troubles.get(trouble, ()))):
                yield PlanWarning(
                    "writes_fail",
                    f"{refused} on {named_some(tables)} will fail for whoever runs it: {says}",
                    tables,
                    hint,
                )
        unasked = {
            shown.source
            for oid, shown in after.items()
            if shown.source and shown.where is not None and shown.source not in self.filters and refused
        }
        if tables := tuple(sorted(unasked)):
            yield PlanWarning(
                "unchecked",
                f"the row filter of {named_some(tables)} could not be looked at: its columns have to be in the replica"
                f" identity, or {refused} will fail",
                tables,
                "plan as a role that may read the table and create temporary tables, on the primary",
            )

    def _trouble(self, leaf: TableFacts, shown: _Shown, publication: Publication) -> _Trouble | None:
        """Why the server refuses to update or delete."""
        if not {"update", "delete"} & set(publication.publish):
            return None
        if leaf.full:
            return "columns" if shown.columns is not None else None
        if leaf.identity is None:
            return "identity"
        identity = set(leaf.identity)
        asked = self.filters.get(shown.source or "")
        if asked is not None and shown.where == asked.where and not set(asked.columns) <= identity:
            return "filter"
        if shown.columns is not None and not identity <= shown.columns:
            return "columns"
        generated = {column for column, is_generated in leaf.columns if is_generated}
        unpublished = shown.columns is None and publication.publish_generated_columns == "none"
        if self.server_version >= 180000 and unpublished and identity & generated:
            return "columns"
        return None

    def _inheritance(self, wanted: Publication) -> Iterable[PlanWarning]:
        named = {table.name for table in wanted.tables}
        parents = {oid for oid, fact in self.facts.items() if (fact.schema, fact.name) in named}
        missing = [
            fact
            for fact in self.facts.values()
            if not fact.partition
            and parents.intersection(fact.parents)
            and (fact.schema, fact.name) not in named
            and fact.schema not in wanted.schemas
        ]
        if tables := tuple(sorted(fact.table for fact in missing)):
            yield PlanWarning(
                "not_included",
                f"{named_some(tables)} inherits from a published table and is not published itself",
                tables,
                "name it too, if its rows are wanted",
            )
