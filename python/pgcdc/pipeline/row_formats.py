"""How the rows of each consumer are made, and what its order is kept by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pgcdc.events import Relation
from pgcdc.pipeline.shaping import Keys
from pgcdc.pipeline.subscription import HandlerSubscription, Subscription, Table
from pgcdc.protocol import Batch, RowFormat, TypeCatalog
from pgcdc.transforms.applying import Context

__all__ = ["RowFormats"]


class RowFormats:
    """How the rows of each consumer are made, and what its order is kept by, once the source's catalog is known."""

    def __init__(self) -> None:
        self._catalog: TypeCatalog | None = None
        self.names: Mapping[int, Table] = {}
        """What the consumers call each table, by its OID."""
        self._former: frozenset[tuple[Table, Table]] = frozenset()
        self._formats: dict[tuple[object, ...], RowFormat] = {}
        self._routed: dict[str, frozenset[Table]] = {}
        self._keys: Mapping[int, Sequence[str]] = {}
        self._primary_keys: Mapping[int, Sequence[str]] = {}

    def use(self, catalog: TypeCatalog) -> None:
        """Set what is known of user-defined types; before the first batch is handed over."""
        self._catalog = catalog
        self._formats.clear()

    def order_by(
        self, keys: Mapping[int, Sequence[str]], primary_keys: Mapping[int, Sequence[str]] = MappingProxyType({})
    ) -> None:
        """Set the columns of each table's key; before the first batch is handed over.

        Args:
            keys: By the table's OID.
            primary_keys: Likewise, of those tables that have one.
        """
        self._keys = dict(keys)
        self._primary_keys = dict(primary_keys)

    def know(self, names: Mapping[int, Table]) -> None:
        """Set what the consumers call each table; before the first batch is handed over.

        Args:
            names: By the table's OID.
        """
        self.names = dict(names)

    def meet(self, batch: Batch) -> None:
        """Look at what tables are called in a batch that does not come from the stream.

        Args:
            batch: The batch; it may be from before one of them was renamed.
        """
        for relation in batch.relations:
            then = (relation.schema, relation.name)
            now = self.names.get(relation.oid, then)
            if now != then:
                self.renamed(then, now)

    def for_sink(self, batch: Batch) -> Batch:
        """What a sink is given: it knows its tables' keys.

        Args:
            batch: The batch.
        """
        return batch.with_primary_keys(self._primary_keys)

    @property
    def key_columns(self) -> Mapping[int, Sequence[str]]:
        """The columns of each table's primary key, by the table's OID."""
        return self._keys

    def renamed(self, then: Table, now: Table) -> None:
        """Rows come with a former name of a table: they are of the same class.

        Args:
            then: The name that they come with.
            now: The name that the consumers know.
        """
        self._former |= {(then, now)}

    def of(self, subscription: Subscription, batch: Batch | None = None) -> RowFormat:
        """The format of a consumer; consumers that want the same rows share one, and so the rows.

        Args:
            subscription: What it asked for.
            batch: What it is to be given, where transforms may have given tables other names.
        """
        row = subscription.row if isinstance(subscription, HandlerSubscription) else None
        former = self._former
        tables = subscription.tables
        if row is not None and batch is not None and subscription.options.transforms:
            tables = self._routed.get(subscription.name, tables)
            tables |= {(relation.schema, relation.name) for relation in batch.relations}
            self._routed[subscription.name] = tables
        key = () if row is None else (row, tables, former)
        if key not in self._formats:
            names = tables | {then for then, now in former if now in tables}
            types = {} if row is None else {".".join(table): row for table in names}
            self._formats[key] = RowFormat("struct", types=types, catalog=self._catalog)
        return self._formats[key]

    def context(self) -> Context:
        """What transforms need to know."""
        if () not in self._formats:
            self._formats[()] = RowFormat("struct", types={}, catalog=self._catalog)
        return Context(self._formats[()], self._former)

    def outboxes(self, outboxes: Mapping[Table, tuple[str, str]]) -> Mapping[Table, tuple[str, str]]:
        """The columns with topic and key of outbox tables, by all names that these come with.

        Args:
            outboxes: The same, by the names that the consumer knows.
        """
        if not outboxes or not self._former:
            return outboxes
        return {**{then: outboxes[now] for then, now in self._former if now in outboxes}, **outboxes}

    def keys(self, subscription: Subscription, relations: Sequence[Relation]) -> Keys:
        """What a consumer's changes are kept in order by.

        Args:
            subscription: What it asked for.
            relations: The tables of the changes.
        """
        options = subscription.options
        if options.key is not None:
            return Keys(dict.fromkeys(self._keys, options.key), by_table=False)
        # The rows of an outbox table are events: it is their topic and key that order goes by, as what is held does.
        outboxes = self.outboxes(options.outboxes)
        events = {
            relation.oid: columns
            for relation in relations
            if (columns := outboxes.get((relation.schema, relation.name))) is not None
        }
        return Keys({**self._keys, **events} if events else self._keys, by_table=True)
