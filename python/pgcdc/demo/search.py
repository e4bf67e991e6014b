"""The search index of the demo: every order is a document in an SQLite FTS5 file, found by the words in it.

A sink as one writes it for oneself: the position is stored in the same transaction as the documents, so each change is
applied exactly once however often it comes.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from pgcdc.errors import DecodeError, SinkUnavailable
from pgcdc.events import Delete, Message, Truncate
from pgcdc.lsn import Position
from pgcdc.protocol import Batch, RowFormat

__all__ = ["Order", "SearchIndex", "words_of"]


class Order(msgspec.Struct, frozen=True):
    """A row of `orders`, and the document in the index.

    A column that the stream did not send (unchanged TOAST) is UNSET, which msgspec leaves out of JSON. The table gets
    its discount later; until then the field keeps its default.
    """

    id: int
    user_id: int | UnsetType = UNSET
    status: str | UnsetType = UNSET
    total: Decimal | UnsetType = UNSET
    shipping_address: Any = UNSET
    created_at: datetime | UnsetType = UNSET
    discount: Decimal | UnsetType | None = None


class SearchIndex:
    """Keeps the documents of an FTS5 index in step with the table `orders`.

    Args:
        path: The SQLite file; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = RowFormat("struct", types={"orders": Order})
        self._database: sqlite3.Connection
        self._position: Position | None = None

    def open(self) -> None:
        """Open or make the file."""
        # The pipeline calls a blocking sink in a thread of its own, one call at a time.
        self._database = sqlite3.connect(self.path, check_same_thread=False)
        self._database.executescript(
            """
            PRAGMA journal_mode = WAL;
            PRAGMA synchronous = FULL;
            CREATE VIRTUAL TABLE IF NOT EXISTS orders USING fts5(words, document UNINDEXED);
            CREATE TABLE IF NOT EXISTS position (one INTEGER PRIMARY KEY CHECK (one = 1), last TEXT NOT NULL);
            """
        )
        stored = self._database.execute("SELECT last FROM position").fetchone()
        self._position = None if stored is None else Position.parse(stored[0])

    def position(self) -> Position | None:
        """The last position applied."""
        return self._position

    def write(self, batch: Batch) -> None:
        """Apply a batch in one transaction.

        Raises:
            SinkUnavailable: When the file is locked by another process.
            UnicodeEncodeError: When a text is not UTF-8; to the pipeline that is a refusal.
        """
        if self._position is not None and self._position.index >= 0:
            batch = batch.after(self._position)
        if batch.last_position is None:
            return
        try:
            with self._database:
                self._apply(batch)
                self._database.execute("INSERT OR REPLACE INTO position VALUES (1, ?)", (str(batch.last_position),))
        except sqlite3.OperationalError as error:
            raise SinkUnavailable(f"the search index did not take a batch: {error}") from error
        self._position = batch.last_position

    def _apply(self, batch: Batch) -> None:
        changed: dict[int, Order | None] = {}  # what each document is after this batch; None when it is gone
        for change in batch.changes(self._rows):
            if isinstance(change, DecodeError):
                raise change
            if isinstance(change, Message):  # belongs to no table
                continue
            if isinstance(change, Truncate):
                changed.clear()
                self._database.execute("DELETE FROM orders")
            elif isinstance(change, Delete):
                changed[change.old.id] = None
            else:
                order, key = change.new, change.new.id
                if change.old is not UNSET and change.old.id != key:  # the key was changed
                    order = self._complete(order, change.old.id, changed)
                    changed[change.old.id] = None
                changed[key] = self._complete(order, key, changed)
        self._database.executemany("DELETE FROM orders WHERE rowid = ?", [(key,) for key in changed])
        self._database.executemany(
            "INSERT INTO orders (rowid, words, document) VALUES (?, ?, ?)",
            [(key, words_of(order), msgspec.json.encode(order)) for key, order in changed.items() if order is not None],
        )

    def _complete(self, order: Order, key: int, changed: dict[int, Order | None]) -> Order:
        """Take what the stream did not send from the document that is there."""
        missing = [name for name in order.__struct_fields__ if getattr(order, name) is UNSET]
        if not missing:
            return order
        before = changed[key] if key in changed else self._document(key)
        if before is None:
            return order
        return msgspec.structs.replace(order, **{name: getattr(before, name) for name in missing})

    def _document(self, key: int) -> Order | None:
        row = self._database.execute("SELECT document FROM orders WHERE rowid = ?", (key,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Order)

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def words_of(order: Order) -> str:
    """The words that an order is found by.

    Args:
        order: The whole row.
    """
    address = order.shipping_address if isinstance(order.shipping_address, dict) else {}
    return f"{order.status} user-{order.user_id} {address.get('city', '')} {address.get('street', '')}"
