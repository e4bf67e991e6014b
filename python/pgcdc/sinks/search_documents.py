"""Documents: what their ids, versions and guards are, and how they are written and read."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from pgcdc.errors import SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import json_items
from pgcdc.protocol.json_columns import REFUSED, Columns, decode_columns, encode_columns
from pgcdc.sinks.row_states import Key, KnownRow, RowState
from pgcdc.sinks.search_mapping import DELETED, KEPT, POSITION

__all__ = ["FLOOR_ID", "Found", "action", "decode_found", "document", "document_id", "document_version"]

FLOOR_ID: Final = "%floor"
"""Of the document that has the position of the last TRUNCATE. No key has this id: in those a per cent sign is `%25`."""

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

    All changes of a transaction have the same. The server takes what is greater; where it is not, the positions decide.

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
    fields = b'{"%s":"%s"' % (POSITION.encode(), str(state.position).encode())
    kept = {str(one.position): msgspec.Raw(one.body) for one in (*state.left, state) if one.keeps}
    if kept:
        fields += b',"%s":%s' % (KEPT.encode(), encode_columns(kept))
    if not state.gone:
        return fields + (b"," + state.body[1:] if len(state.body) > 2 else b"}")
    now = datetime.now(UTC).isoformat(timespec="milliseconds").encode()
    return b'%s,"%s":"%s"}' % (fields, DELETED.encode(), now)


def action(id: str, state: RowState, there: Found | None, *, remembers: bool) -> bytes:
    """The line of a `_bulk` body that comes before a document.

    Args:
        id: The document's id.
        state: The row.
        there: What has been found to be there and is to be replaced, and nothing else; None: what is older is.
        remembers: Whether documents of rows that are gone stay. When not, documents are removed, and the order of
            changes within a transaction is that in which they come.
    """
    name = "index" if remembers or not state.gone else "delete"
    guard: dict[str, Any] = {"version": state.version, "version_type": "external" if remembers else "external_gte"}
    if there is not None and there.found:
        guard = {"if_seq_no": there.sequence, "if_primary_term": there.term}
    elif there is not None:
        name, guard = "create", {}
    return _encode({name: {"_id": id, **guard}})


_FIELDS: Final = {
    "id": "_id",
    "version": "_version",
    "sequence": "_seq_no",
    "term": "_primary_term",
    "source": "_source",
}


class Found(msgspec.Struct, rename=_FIELDS):
    """A document as the index has it.

    Attributes:
        id: Its id.
        found: Whether there is one.
        version: Its version.
        sequence: The number of the operation that wrote it.
        term: And of which time of its shard that is a number.
        source: What is in it, or the part of that which was asked for.
    """

    id: str
    found: bool = False
    version: int = -1
    sequence: int = 0
    term: int = 0
    source: dict[str, msgspec.Raw] = {}

    @property
    def position(self) -> Position:
        """Of the change that wrote it; by its version, if somebody else did."""
        if POSITION in self.source:
            return Position.parse(msgspec.json.decode(self.source[POSITION], type=str))
        return Position(self.version, SNAPSHOT_INDEX)

    def gives_way_to(self, state: RowState) -> bool:
        """Whether something is to take its place: what is newer, or the same once more.

        Args:
            state: That. A TRUNCATE does not remove what has its position: rows of a copy that began with it.
        """
        if self.position == state.position:
            return DELETED in self.source or not state.gone
        return self.position < state.position

    def rows(self) -> list[KnownRow]:
        """The row, and what was kept of rows that have another key now."""
        kept: dict[str, Columns] = {}
        if KEPT in self.source:
            kept = {at: decode_columns(of) for at, of in decode_columns(self.source[KEPT]).items()}
        own = kept.pop(str(self.position), {}) if DELETED in self.source else self.source
        return [KnownRow(self.position, own), *(KnownRow(Position.parse(at), of) for at, of in kept.items())]


class _Answer(msgspec.Struct):
    docs: list[Found] = []


def decode_found(answer: bytes) -> list[Found]:
    """The documents of an answer to `_mget`.

    Args:
        answer: The answer.
    """
    try:
        return msgspec.json.decode(answer, type=_Answer).docs
    except msgspec.ValidationError:
        raise
    except REFUSED:
        found = []
        for document in json_items(bytes(decode_columns(answer)["docs"])):
            members = decode_columns(document)
            source = members.pop("_source", msgspec.Raw(b"{}"))
            one = msgspec.json.decode(encode_columns(members), type=Found)
            one.source = decode_columns(source)
            found.append(one)
        return found
