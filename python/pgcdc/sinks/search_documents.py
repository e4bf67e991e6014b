"""Documents: what their ids and versions are, and how they are written and read."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pgcdc.errors import SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.sinks.row_states import Columns, Key, RowState, decode_columns
from pgcdc.sinks.search_mapping import DELETED, KEPT, POSITION

__all__ = ["Found", "action", "document", "document_id", "document_version"]

_LONGEST_ID: Final = 512
"""In bytes. Source: the manual of Elasticsearch, "_id field"."""
_GREATEST_VERSION: Final = 2**63 - 1
"""A version is a signed number of 64 bits. Source: the manual of Elasticsearch, "Index API", Versioning."""

_encode = msgspec.json.Encoder().encode


def document_id(key: Key) -> str:
    """The id of a row's document: its key, as PostgreSQL prints it.

    The values of several columns are separated by commas. So that two keys never have one id, a comma in one of several
    is `%2C`, a per cent sign `%25`, an empty value `%00`, NULL `%N`; and what is longer than an id may be is
    `%sha256-` with the hash of that.

    Args:
        key: The values of the key's columns.

    Returns:
        At most 512 bytes in UTF-8.
    """
    parts = []
    for value in key:
        if value is None:
            parts.append("%N")
            continue
        written = value.replace("%", "%25") or "%00"
        parts.append(written.replace(",", "%2C") if len(key) > 1 else written)
    whole = ",".join(parts)
    # A database in SQL_ASCII can have bytes in it that are no text.
    raw = whole.encode("utf-8", "surrogateescape")
    if len(raw) > _LONGEST_ID or (not whole.isascii() and any("\ud800" <= one <= "\udfff" for one in whole)):
        return f"%sha256-{hashlib.sha256(raw).hexdigest()}"
    return whole


def document_version(position: Position) -> int:
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


def document(state: RowState) -> bytes:
    """The document as it is stored.

    Args:
        state: The row.
    """
    position = b'{"%s":"%s"' % (POSITION.encode(), str(state.position).encode())
    if not state.gone:
        return position + (b"," + state.body[1:] if len(state.body) > 2 else b"}")
    now = datetime.now(UTC).isoformat(timespec="milliseconds").encode()
    kept = b',"%s":%s' % (KEPT.encode(), state.body) if len(state.body) > 2 else b""
    return b'%s,"%s":"%s"%s}' % (position, DELETED.encode(), now, kept)


def action(id: str, state: RowState, *, remove: bool) -> bytes:
    """The line of a `_bulk` body that comes before a document.

    Args:
        id: The document's id.
        state: The row.
        remove: Whether the document is removed when the row is gone.
    """
    what: dict[str, dict[str, Any]] = {
        "delete" if remove and state.gone else "index": {
            "_id": id,
            "version": state.version,
            "version_type": "external_gte",
        }
    }
    return _encode(what)


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

    def position(self) -> Position:
        """Of the change that wrote it; by its version, if somebody else did."""
        if POSITION in self.source:
            return Position.parse(msgspec.json.decode(self.source[POSITION], type=str))
        return Position(self.version, SNAPSHOT_INDEX)

    def columns(self) -> Columns:
        """The row's columns, or those that were kept of one that has another key now."""
        return decode_columns(self.source[KEPT]) if KEPT in self.source else self.source
