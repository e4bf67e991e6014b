"""What a batch makes of the documents of one index: for each id the last state, and where the rest of it is.

Rows stay JSON as it came from the wire; only a row that lacks unchanged TOAST values is taken apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pgcdc.errors import SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import JsonRow
from pgcdc.sinks.search_mapping import DELETED, KEPT, POSITION

__all__ = ["Document", "Found", "Index", "action", "document_id", "version"]

_LONGEST_ID: Final = 512
"""In bytes. Source: the manual of Elasticsearch, "_id field"."""
_GREATEST_VERSION: Final = 2**63 - 1
"""A version is a signed number of 64 bits. Source: the manual of Elasticsearch, "Index API", Versioning."""

_Columns = dict[str, msgspec.Raw]
_columns = msgspec.json.Decoder(_Columns)
_encode = msgspec.json.Encoder().encode


def document_id(key: Iterable[str | None]) -> str:
    """The id of a row's document: its key, as PostgreSQL prints it.

    The values of several columns are separated by commas. So that two keys never have one id, a comma in one of several
    is `%2C`, a per cent sign `%25`, an empty value `%00`, NULL `%N`; and what is longer than an id may be is
    `%sha256-` with the hash of that.

    Args:
        key: The values of the key's columns.

    Returns:
        At most 512 bytes in UTF-8.
    """
    values = tuple(key)
    parts = []
    for value in values:
        if value is None:
            parts.append("%N")
            continue
        written = value.replace("%", "%25") or "%00"
        parts.append(written.replace(",", "%2C") if len(values) > 1 else written)
    whole = ",".join(parts)
    # A database in SQL_ASCII can have bytes in it that are no text.
    raw = whole.encode("utf-8", "surrogateescape")
    if len(raw) > _LONGEST_ID or (not whole.isascii() and any("\ud800" <= one <= "\udfff" for one in whole)):
        return f"%sha256-{hashlib.sha256(raw).hexdigest()}"
    return whole


def version(position: Position) -> int:
    """What the server compares: the commit's LSN; for rows of the initial copy what comes right before it.

    All changes of a transaction have the same, and the last one written wins: the server takes what is equal, too.

    Args:
        position: A change's position.

    Returns:
        The version.

    Raises:
        SinkRejected: When it is more than a version can be.
    """
    number = position.commit_lsn - (position.index == SNAPSHOT_INDEX)
    if not 0 <= number <= _GREATEST_VERSION:
        raise SinkRejected(
            "the LSN of a change is larger than a document's version can be",
            lsn=position.commit_lsn,
            positions=[position],
        )
    return number


class Document:
    """What becomes of one document.

    Attributes:
        id: Its id.
        position: The change that it is the result of.
        body: The columns that are known, a JSON object.
        missing: The columns that are not known yet.
        source: The document that has them, as it is in the index before the batch.
        gone: Whether the row is gone; `body` has what is to be kept for one that comes from it then.
        done: Whether it is written.
    """

    __slots__ = ("body", "done", "gone", "id", "missing", "position", "source")

    def __init__(
        self,
        id: str,
        position: Position,
        body: bytes = b"{}",
        *,
        missing: tuple[str, ...] = (),
        source: str | None = None,
        gone: bool = False,
    ) -> None:
        self.id = id
        self.position = position
        self.body = body
        self.missing = missing
        self.source = source
        self.gone = gone
        self.done = False

    @property
    def version(self) -> int:
        """What the server compares."""
        return version(self.position)

    def sent(self) -> bytes:
        """The document as it is stored."""
        position = b'{"%s":"%s"' % (POSITION.encode(), str(self.position).encode())
        if not self.gone:
            return position + (b"," + self.body[1:] if len(self.body) > 2 else b"}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds").encode()
        kept = b',"%s":%s' % (KEPT.encode(), self.body) if len(self.body) > 2 else b""
        return b'%s,"%s":"%s"%s}' % (position, DELETED.encode(), now, kept)

    def fill(self, columns: Mapping[str, msgspec.Raw]) -> None:
        """Put in what was missing, as far as it is there.

        Args:
            columns: Those of the document that has it.
        """
        there = {name: columns[name] for name in self.missing if name in columns}
        if there:
            self.body = _encode({**_columns.decode(self.body), **there})
            self.missing = tuple(name for name in self.missing if name not in there)


class Found(msgspec.Struct, rename={"id": "_id", "version": "_version", "source": "_source"}):
    """A document as the index has it.

    Attributes:
        id: Its id.
        found: Whether there is one.
        version: Its version.
        source: What is in it.
    """

    id: str
    found: bool = False
    version: int = -1
    source: dict[str, msgspec.Raw] = {}

    def columns(self) -> Mapping[str, msgspec.Raw]:
        """The row's columns, or those that were kept of one that has another key now."""
        if KEPT in self.source:
            return _columns.decode(self.source[KEPT])
        return self.source


class Index:
    """The changes of one batch to the documents of one index.

    Args:
        name: What the index is called.

    Attributes:
        documents: What becomes of each, by id.
        emptied: The position of the last TRUNCATE: what is older is to go.
        copied: Whether there are rows of an initial copy among them.
        streamed: Whether there are others.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.documents: dict[str, Document] = {}
        self.emptied: Position | None = None
        self.copied = False
        self.streamed = False

    def apply(self, row: JsonRow, position: Position) -> None:
        """Take the next change.

        Args:
            row: The change, of this index's table.
            position: Its position.

        Raises:
            SinkRejected: When the row's key is not known, or its position is larger than a version can be.
        """
        version(position)
        if position.index == SNAPSHOT_INDEX:
            self.copied = True
        else:
            self.streamed = True
        if row.action == "truncate":
            self.emptied = position
            self.documents = {id: Document(id, position, gone=True) for id in self.documents}
            return
        if row.key is None:
            relation = row.relation
            assert relation is not None
            raise SinkRejected(
                f"a row of {relation.schema}.{relation.name} has no key to name its document by",
                hint="give the table a primary key or a replica identity, or say which columns it is known by: key=",
                table=f"{relation.schema}.{relation.name}",
                positions=[position],
            )
        id = document_id(row.key)
        if row.new is None:
            self.documents[id] = Document(id, position, gone=True)
        else:
            self._put(row, row.new, id, position)

    def _put(self, row: JsonRow, body: bytes, id: str, position: Position) -> None:
        former = id if row.old_key is None else document_id(row.old_key)
        document = Document(id, position, body)
        if row.unsent:
            document.missing = row.unsent
            before = self.documents.get(former)
            if before is None:
                document.source = former
            elif not before.gone:
                self._take_over(document, before)
        if former != id:
            kept = {name: value for name, value in _columns.decode(document.body).items() if name in row.unsent}
            self.documents[former] = Document(
                former,
                position,
                _encode(kept) if row.unsent else b"{}",
                missing=document.missing,
                source=document.source,
                gone=True,
            )
        self.documents[id] = document

    def _take_over(self, document: Document, before: Document) -> None:
        """What this batch knows of the row; the rest is where that has it from."""
        document.fill(_columns.decode(before.body))
        document.source = before.source if document.missing else None

    def unresolved(self) -> list[Document]:
        """The documents that lack something."""
        return [document for document in self.documents.values() if document.missing and document.source is not None]

    def resolve(self, found: Mapping[str, Found]) -> None:
        """Complete documents with what the index has.

        Args:
            found: What it has under the ids of `unresolved` and their sources.

        Raises:
            SinkRejected: When what a row needs has been there and is not any more.
        """
        lost: list[Position] = []
        for document in self.unresolved():
            assert document.source is not None
            source, own = found.get(document.source), found.get(document.id)
            if source is not None and source.found and source.version <= document.version:
                document.fill(source.columns())
            if own is not None and own.found and own.version >= document.version:
                # The change comes again: its document is there, or a later one that stays.
                document.fill(own.columns())
            elif source is not None and source.found and source.version > document.version and not document.gone:
                lost.append(document.position)
        if lost:
            raise SinkRejected(
                f"the index {self.name} does not have any more what an update did not send again",
                hint="another row has had the place of that row since; copy the table anew",
                positions=lost,
            )


def action(document: Document, remove: bool) -> bytes:
    """The line of a `_bulk` body that comes before a document.

    Args:
        document: The document.
        remove: Whether it is removed when the row is gone.
    """
    what: dict[str, dict[str, Any]] = {
        "delete" if remove and document.gone else "index": {
            "_id": document.id,
            "version": document.version,
            "version_type": "external_gte",
        }
    }
    return _encode(what)
