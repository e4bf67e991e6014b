"""What a run from Kafka asks the source database before it begins: types, keys, how far consumers were on the slot."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing

from pgcdc.errors import PositionError, SinkUnavailable
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.positions import PositionStore, StoredPosition
from pgcdc.pipeline.row_formats import RowFormats
from pgcdc.pipeline.settings import Settings
from pgcdc.protocol import Catalog
from pgcdc.protocol.catalog import CATALOG_SQL, add_rows
from pgcdc.replication.quoting import literal
from pgcdc.replication.session import Session

__all__ = ["Database", "Turn", "handed_over", "skipped"]

_FIRST_USER_OID = 16384
_KEYS = """
SELECT c.oid, pg_catalog.to_jsonb(ARRAY(
    SELECT a.attname FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS key(attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = key.attnum
    WHERE i.indrelid = c.oid AND key.place <= i.indnkeyatts
      AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
    ORDER BY key.place))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE (n.nspname, c.relname) IN ({tables})"""


class Database:
    """The source database, for those who do not read its WAL.

    Args:
        settings: The pipeline's.
        formats: Told types and keys.
    """

    def __init__(self, settings: Settings, formats: RowFormats) -> None:
        self._settings = settings
        self._formats = formats
        self._lock = threading.Lock()
        self.catalog = Catalog()
        self._known: set[int] = set()

    def look(self) -> None:
        """Look up types and keys; blocks.

        Raises:
            ConnectionLost: When there is no server.
            ConfigError: When it refuses.
        """
        names = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in self._settings.tables)
        with self._lock, closing(Session.connect(self._settings.dsn, replication=False)) as session:
            add_rows(self.catalog, session.execute(CATALOG_SQL))
            rows = session.execute(_KEYS.format(tables=names))
        keys = {int(oid or 0): _names(text) for oid, text in rows}
        # Of a table without one every row is in order with all others.
        self._formats.order_by({oid: columns for oid, columns in keys.items() if columns})

    def look_for(self, relation: Relation) -> None:
        """Look again, when a shape has types that were not there; blocks.

        Args:
            relation: The shape.
        """
        types = {column.type_oid for column in relation.columns if column.type_oid >= _FIRST_USER_OID}
        if not types <= self._known:
            self.look()
            self._known |= types

    def alone(self) -> Turn:
        """What one process may do at a time, of all that have this pipeline: to be taken, and given back."""
        return Turn(self._settings)


class Turn:
    """A lock in the source database, of one process at a time.

    Args:
        settings: The pipeline's, whose name it has.
    """

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.dsn
        self._key = f"pg_catalog.hashtextextended({literal('pgcdc migrations of ' + settings.name)}, 0)"
        self._session: Session | None = None

    def take(self) -> None:
        """Take it; blocks.

        Raises:
            ConnectionLost: When there is no server.
            SinkUnavailable: While another process has it.
        """
        session = Session.connect(self._dsn, replication=False)
        [(taken,)] = session.execute(f"SELECT pg_catalog.pg_try_advisory_lock({self._key})")
        if taken != "t":
            session.close()
            raise SinkUnavailable("another process runs a migration of this pipeline")
        self._session = session

    def give_back(self) -> None:
        """Give it back; a process that dies gives it back, too."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _names(text: str | None) -> Sequence[str]:
    names: list[str] = json.loads(text or "[]")
    return names


def handed_over(settings: Settings, store: PositionStore, consumers: Sequence[str]) -> Mapping[str, StoredPosition]:
    """Read how far consumers were when they read from the slot; blocks.

    Args:
        settings: The pipeline's.
        store: Where their positions are.
        consumers: Their names.

    Returns:
        What is stored, by consumer; nothing of those that never did.

    Raises:
        PositionError: When the copy of existing rows was not finished for one of them.
    """
    store.open()
    try:
        stored = store.load(settings.name)
    finally:
        store.close()
    for name, row in stored.items():
        if name in consumers and row.snapshot == "begun":
            raise PositionError(
                f"consumer {name!r} has not got all existing rows yet, and reads from the slot until it has",
                hint="run the pipeline from the slot until its copy is finished; or call Pipeline.forget"
                f"({name!r}), empty its target, and let it begin with the topics",
                slot=settings.slot,
            )
    return {name: row for name, row in stored.items() if name in consumers}


def skipped(row: StoredPosition | None) -> Position | None:
    """What a consumer has had by the slot; of a transaction that it has had a part of, nothing counts.

    Args:
        row: What is stored.
    """
    if row is None:
        return None
    through = Position(row.through_lsn, SNAPSHOT_INDEX)
    return through if row.position is None else max(through, Position(row.position.commit_lsn, SNAPSHOT_INDEX))
