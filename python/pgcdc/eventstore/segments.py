"""Segments of the archive: Parquet files of events, sorted by stream, so that one stream is read without the others.

A file has the columns of the table, payload and metadata as the JSON text that PostgreSQL prints, and the LSN of each
event's commit. What is in it has a hash of its own, which does not depend on how Parquet encodes it: so a file is known
again by its name, and what was read back is compared with what was in the table.

Source: Apache Parquet format, "Data Pages" and "Page Index" (statistics of row groups).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec

from pgcdc.errors import ConfigError, EventStoreError
from pgcdc.eventstore.recorded import EventRow

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

__all__ = ["ArchivedEvent", "Segment", "content_of", "decode", "encode", "of_stream", "require_pyarrow", "rows_of"]

GROUP: Final = 2_000
"""Rows of a row group: what is read at least for one stream."""
_encoder: Final = msgspec.msgpack.Encoder()
_BEGIN: Final = datetime.fromtimestamp(0, UTC)
_MICRO: Final = timedelta(microseconds=1)


class ArchivedEvent(NamedTuple):
    """A row of the table as it goes into a segment, in the order of the file's columns.

    Attributes:
        id: The order of writing.
        stream_id: Its stream.
        stream_type: The stream's type.
        sequence: Its number in the stream.
        event_type: Its name.
        event_version: Its version.
        event_id: Its own id, as text.
        occurred_at: When.
        payload: JSON as PostgreSQL prints it.
        metadata: The same.
        retention_class: As it was appended.
        xid: Of the transaction that has appended it, with the epoch.
        commit_lsn: Of that transaction's commit; 0 when it was before the first slot.
    """

    id: int
    stream_id: str
    stream_type: str
    sequence: int
    event_type: str
    event_version: int
    event_id: str
    occurred_at: datetime
    payload: str
    metadata: str
    retention_class: str
    xid: int
    commit_lsn: int


class Segment(NamedTuple):
    """A file that has been recorded.

    Attributes:
        segment: Its number.
        path: Where it is, below the archive's folder or URL.
        sha256: Of the file.
        events: How many there are.
        min_id: The least id of them.
        max_id: The greatest.
        min_lsn: The least LSN.
        max_lsn: The greatest.
        is_ordered: Whether the LSNs are those of this server.
    """

    segment: int
    path: str
    sha256: bytes
    events: int
    min_id: int
    max_id: int
    min_lsn: int
    max_lsn: int
    is_ordered: bool


def require_pyarrow() -> Any:
    """Import pyarrow.

    Returns:
        The module, with its Parquet part.

    Raises:
        ConfigError: When it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise ConfigError("the archive needs the package pyarrow", hint="pip install 'pgcdc[objects]'") from None
    return pyarrow


def _schema() -> Any:
    pa = require_pyarrow()
    text, number = pa.string(), pa.int64()
    kinds = {"event_version": pa.int32(), "occurred_at": pa.timestamp("us", tz="UTC")}
    numbers = ("id", "sequence", "xid", "commit_lsn")
    return pa.schema(
        [
            pa.field(name, kinds.get(name, number if name in numbers else text), nullable=False)
            for name in ArchivedEvent._fields
        ]
    )


def content_of(events: Sequence[ArchivedEvent]) -> bytes:
    """The hash of some events.

    Args:
        events: The events, in any order.

    Returns:
        32 bytes.
    """
    digest = hashlib.sha256()
    for event in sorted(events):
        digest.update(_encoder.encode(event))
    return digest.digest()


def encode(events: Sequence[ArchivedEvent]) -> bytes:
    """Make a file.

    Args:
        events: What is in it, at least one.

    Returns:
        The file.
    """
    pa = require_pyarrow()
    ordered = sorted(events, key=lambda event: (event.stream_id, event.sequence))
    table = pa.table([list(column) for column in zip(*ordered, strict=True)], schema=_schema())
    output = pa.BufferOutputStream()
    pa.parquet.write_table(table, output, compression="zstd", row_group_size=GROUP, write_statistics=True)
    return output.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(file: bytes) -> list[ArchivedEvent]:
    """Read all events of a file.

    Args:
        file: The file.

    Returns:
        The events, by stream and sequence.

    Raises:
        EventStoreError: When it is none.
    """
    return _events(_table(file))


def of_stream(file: bytes, stream: str, after: int, until: int) -> list[EventRow]:
    """Read a part of one stream.

    Args:
        file: The file.
        stream: The stream.
        after: The sequence behind which to begin.
        until: The last sequence.

    Returns:
        Its events, in order.

    Raises:
        EventStoreError: When the file is none.
    """
    pa = require_pyarrow()
    try:
        opened = pa.parquet.ParquetFile(pa.BufferReader(file))
        place = opened.schema_arrow.get_field_index("stream_id")
        about = opened.metadata
        groups = []
        for number in range(about.num_row_groups):
            known = about.row_group(number).column(place).statistics
            if known is None or not known.has_min_max or known.min <= stream <= known.max:
                groups.append(number)
        table = opened.read_row_groups(groups)
    except pa.ArrowException as error:
        raise _broken(error) from error
    wanted = pa.compute.and_(
        pa.compute.equal(table.column("stream_id"), stream),
        pa.compute.and_(
            pa.compute.greater(table.column("sequence"), after), pa.compute.less_equal(table.column("sequence"), until)
        ),
    )
    return [row for _, row in rows_of(_events(table.filter(wanted)))]


def rows_of(events: Sequence[ArchivedEvent]) -> list[tuple[int, EventRow]]:
    """The same as a reader of the table gets them.

    Args:
        events: The events.

    Returns:
        Of each the LSN of its commit and its row.
    """
    return [
        (
            one.commit_lsn,
            EventRow(
                id=one.id,
                stream_id=one.stream_id,
                stream_type=one.stream_type,
                event_type=one.event_type,
                event_version=one.event_version,
                payload=one.payload,
                metadata=one.metadata,
                occurred_at=one.occurred_at,
                sequence=one.sequence,
                event_id=UUID(one.event_id),
                xid=one.xid,
            ),
        )
        for one in events
    ]


def _table(file: bytes) -> pyarrow.Table:
    pa = require_pyarrow()
    try:
        return pa.parquet.read_table(pa.BufferReader(file))
    except pa.ArrowException as error:
        raise _broken(error) from error


def _events(table: pyarrow.Table) -> list[ArchivedEvent]:
    columns = [table.column(name) for name in ArchivedEvent._fields]
    lists = [
        # Not by pyarrow's own way, which asks for a time zone by its name, which a machine may not know.
        [_BEGIN + _MICRO * value for value in column.cast("int64").to_pylist()]
        if name == "occurred_at"
        else column.to_pylist()
        for name, column in zip(ArchivedEvent._fields, columns, strict=True)
    ]
    return [ArchivedEvent(*row) for row in zip(*lists, strict=True)]


def _broken(error: Exception) -> EventStoreError:
    return EventStoreError(
        f"a segment of the archive is no Parquet file that can be read ({type(error).__name__})",
        hint="restore the file from a backup of the archive",
    )
