"""Parquet files in a folder or on an object store: the log of all changes, from which the current state is read.

Over 400 lines because a write is its files and its entry in the manifest, and what is known of both without an answer.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote

import msgspec
import pyarrow  # type: ignore[import-untyped]
import pyarrow.compute  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from pgcdc.errors import ConfigError, DecodeError, PositionError, SinkRejected
from pgcdc.events import Relation
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import ArrowTable, Batch
from pgcdc.sinks import manifest
from pgcdc.sinks.manifest import DataFile, Entry, Manifest, Shape, shape_of, shape_of_letter, table_key
from pgcdc.sinks.objects import open_objects
from pgcdc.sinks.parquet_compaction import DICTIONARY_BYTES, clean, compact
from pgcdc.sinks.parquet_reading import change_log_sql, current_state, current_state_sql, files, scan_changes

__all__ = [
    "Parquet",
    "change_log_sql",
    "clean",
    "compact",
    "current_state",
    "current_state_sql",
    "files",
    "scan_changes",
]

logger = logging.getLogger("pgcdc.sinks")

Compression: TypeAlias = Literal["zstd", "snappy", "lz4", "gzip", "brotli", "none"]

_Described: TypeAlias = tuple[Relation, tuple[str, ...], int | None]
"""The shape of a table, its key, its version."""
_KEPT: Final = 600.0
"""Seconds for which files that no entry names yet are taken for what they were when they were written."""


class _Writer(NamedTuple):
    """Who writes.

    Attributes:
        name: A random word.
        part: The partition of a topic that it is about; empty when it is about all.
    """

    name: str
    part: str = ""


class _Pending(NamedTuple):
    """A batch whose files are written, and what is to be said of them in the manifest."""

    batch: Batch
    entry: Entry
    written: float


class Parquet:
    """Exactly once: files count from the moment on at which an entry of the manifest names them, with the position.

    One folder or prefix belongs to one consumer of one pipeline. Each `write` makes one file for each table in it (for
    each of its shapes, and days, where it has several), and then one entry of the manifest, which is written only if
    there is none of its number: either all files of a write count or none. What a crash leaves without an entry is in
    no reading, and `clean` removes it. Whoever opens the folder becomes its only writer: another process that wakes up
    finds that, and stops with PositionError. On Kafka each partition has a writer of its own, and a note in the
    manifest.

    Each change is a row, with the columns that `Batch.to_arrow` gives it: `_action`, `_position`, `_commit_lsn`,
    `_commit_time`, `_unset`, `_old`, then the table's.

    - An insert, also one of the initial copy, and an update have the new row, a delete the old key or row.
    - A change of key is an update whose `_old` has the old key.
    - Unchanged TOAST is null, and its column is named in `_unset`.
    - TRUNCATE is a row with the action alone, in each of its tables.
    - A schema change begins a new file; the manifest says which columns a file has, and which of them were renamed.
    - Logical messages are in a table `messages`.

    Files are as large as writes are, so the sink's `defaults` gather: up to 1,000,000 changes or 64 MiB of raw
    messages, for 10 s at most; `Pipeline.add(…, max_wait=60)` says otherwise. `compact` puts small ones together.

    A value that Arrow cannot hold (an infinite date, NaN in a numeric with a precision, an array of several
    dimensions) is refused with SinkRejected, its batch with it; `text` has such a column as strings.

    Args:
        url: A folder, or `s3://bucket/prefix`, `gs://…`, `az://…`; the extra `objects` has what is needed.
        config: Of an object store, with obstore's names: `{"region": …, "access_key_id": …}`. What is not given comes
            from the environment, as usual there.
        client_options: Of the connection to it, likewise: `{"timeout": "30s"}`.
        text: Columns (`"schema.table.column"`) that are strings whatever their type is.
        partition_by: `"commit_date"`: files are in a folder for each day (UTC) that their changes were committed on,
            `date=2026-01-31`; rows of the initial copy in `date=snapshot`.
        compression: Of the files.
        compression_level: Of zstd, gzip and brotli; None for what pyarrow takes.
        row_group_rows: So many rows are in a row group at most.

    Raises:
        ConfigError: When an argument is none of these.
    """

    defaults: ClassVar[Mapping[str, Any]] = {"max_rows": 1_000_000, "max_bytes": 64 * 1024 * 1024, "max_wait": 10.0}

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        config: Mapping[str, Any] | None = None,
        client_options: Mapping[str, Any] | None = None,
        text: Collection[str] = (),
        partition_by: Literal["commit_date"] | None = None,
        compression: Compression = "zstd",
        compression_level: int | None = None,
        row_group_rows: int = 250_000,
    ) -> None:
        if isinstance(text, str):
            raise ConfigError('text= takes a list of columns, each as "schema.table.column"')
        if partition_by not in (None, "commit_date"):
            raise ConfigError(f"partition_by={partition_by!r} does not exist", hint='it is "commit_date" or None')
        if compression not in ("zstd", "snappy", "lz4", "gzip", "brotli", "none"):
            raise ConfigError(f"compression={compression!r} does not exist")
        if row_group_rows < 1:
            raise ConfigError("row_group_rows must be a whole number of at least 1")
        self._objects = open_objects(url, config=config, client_options=client_options)
        self._text = frozenset(text)
        self._by_date = partition_by is not None
        self._compression = compression
        self._level = compression_level
        self._row_group_rows = row_group_rows
        self._manifest = Manifest()
        self._writer = _Writer("")
        # Of each partition, whose files are written and whose entry is not, as far as is known.
        self._pending: dict[str, _Pending] = {}
        # When the last entry of the manifest was known for sure.
        self._looked = 0.0

    def __repr__(self) -> str:
        return f"Parquet({self._objects.url!r})"

    def open(self) -> None:
        """Read the manifest, and become its only writer.

        Raises:
            SinkUnavailable: When the place cannot be used.
            SinkError: When the manifest is damaged.
        """
        self._objects.open()
        self._manifest = manifest.read_manifest(self._objects)
        self._looked = time.time()
        self._pending.clear()
        self._writer = self._take_over("")

    def _take_over(self, part: str) -> _Writer:
        self._look()
        writer = _Writer(secrets.token_hex(8), part)
        entry = msgspec.structs.replace(manifest.new_entry("open", writer.name), part=part)
        while found := manifest.append(self._objects, self._manifest, entry):
            if any(one.token == entry.token for one in found):
                break
        self._looked = time.time()
        return writer

    def part(self, name: str) -> ParquetPart:
        """Give what writes the changes of one partition, with a note in place of the position.

        Args:
            name: The partition's.

        Returns:
            The part.
        """
        return ParquetPart(self, name)

    def position(self) -> Position | None:
        """The last change that an entry of the manifest has."""
        return self._manifest.last_position

    def write(self, batch: Batch) -> None:
        """Write files and the entry that names them.

        Args:
            batch: The changes.

        Raises:
            SinkUnavailable: When the place cannot be used.
            SinkRejected: When Arrow cannot hold a value.
            PositionError: When another process writes there.
        """
        self._write(batch, "write", self._writer)

    def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter: a row with the position that it had.

        Args:
            batch: The change.

        Raises:
            SinkUnavailable: As `write`, as for the others.
            SinkRejected: Likewise.
            PositionError: Likewise.
        """
        self._rewrite(batch, self._writer)

    def _rewrite(self, batch: Batch, writer: _Writer) -> None:
        if str(batch.last_position) not in self._manifest.rewritten:
            self._write(batch, "rewrite", writer)

    def close(self) -> None:
        """Nothing is open."""
        self._pending.clear()

    def _write(self, batch: Batch, kind: Literal["write", "rewrite"], writer: _Writer, note: str | None = None) -> None:
        entry, pending = None, self._pending.get(writer.part)
        if pending is not None:
            was_written, is_same = self._was_written(pending), pending.batch.to_bytes() == batch.to_bytes()
            if was_written or not is_same:
                del self._pending[writer.part]
            if was_written and is_same:
                return
            if is_same and time.monotonic() - pending.written <= _KEPT and self._numbers_are_free(pending.entry):
                entry = pending.entry
        self._look()
        self._check(writer)  # what others wrote may be known already
        entry = entry or self._put_files(batch, kind, writer, note)
        if entry is None:
            return
        # Compaction writes entries, too, and so do those who have other partitions.
        while found := manifest.append(self._objects, self._manifest, entry):
            if any(one.token == entry.token for one in found):
                break
            self._check(writer)
            if any(one.shapes.keys() & entry.shapes.keys() for one in found):
                # Somebody else has met the same new shape: theirs has the number.
                anew = self._put_files(batch, kind, writer, note)
                assert anew is not None
                entry = anew
        self._looked = time.time()
        self._pending.pop(writer.part, None)

    def _look(self) -> None:
        """Whoever slept for long may find the number free that the next entry had: `clean` removes old ones."""
        if abs(time.time() - self._looked) > _KEPT:
            self._manifest = manifest.refreshed(self._objects, self._manifest)
            self._looked = time.time()

    def _check(self, writer: _Writer) -> None:
        if self._manifest.owner(writer.part) != writer.name:
            raise PositionError(
                f"another process writes to {self._objects.url}, and has taken it over from this one",
                hint="one folder or prefix belongs to one consumer of one pipeline",
            )

    def _numbers_are_free(self, entry: Entry) -> bool:
        known = self._manifest.shapes
        return all(new[0].number == len(known.get(table, ())) + 1 for table, new in entry.shapes.items())

    def _was_written(self, pending: _Pending) -> bool:
        """Whether its entry is there, of which nobody knew; what has come since is known then."""
        entry, found = pending.entry, manifest.follow(self._objects, self._manifest)
        if any(one.token == entry.token for one in found):
            return True
        # Or another part has met it, and what came after it.
        if entry.kind == "rewrite":
            return entry.position in self._manifest.rewritten
        part = self._manifest.parts.get(entry.part)
        # By its own word: several entries can have one note.
        return part is not None and part.token == entry.token

    def _put_files(
        self, batch: Batch, kind: Literal["write", "rewrite"], writer: _Writer, note: str | None
    ) -> Entry | None:
        """Write the files of a batch; no entry when it has no change that is new."""
        given, known = batch, self._manifest.last_position
        # Rows of the initial copy share one position, which says of none of them whether it is there.
        if kind == "write" and not writer.part and known is not None and known.index != SNAPSHOT_INDEX:
            batch = batch.after(known)
        last = batch.last_position
        if last is None:
            return None
        shapes = {table: list(found) for table, found in self._manifest.shapes.items()}
        new: dict[str, list[Shape]] = {}
        encoded = []
        for part, relations in _segments(batch):
            # All is encoded before anything is written: what is refused leaves nothing behind.
            for table, arrow in self._arrow(part).items():
                number = 0
                if table in relations:
                    if kind == "rewrite":
                        is_last = self._is_last(table, last)
                        shape = shape_of_letter(table, *relations[table], shapes, is_last=is_last)
                    else:
                        shape = shape_of(table, *relations[table], shapes)
                    number = shape.number
                    if shape not in shapes.setdefault(table, []):
                        shapes[table].append(shape)
                        new.setdefault(table, []).append(shape)
                for one in arrow.parts:
                    encoded += [self._encoded(table, number, rows, date) for rows, date in self._days(one)]
        for file, data in encoded:
            self._objects.put(file.path, memoryview(data).cast("B"))
        entry = manifest.new_entry(kind, writer.name)
        # A partition has its note in place of a position; what was a dead letter is known by its own.
        if (kind == "write" and not writer.part) or (kind == "rewrite" and last.index != SNAPSHOT_INDEX):
            entry = msgspec.structs.replace(entry, position=str(last))
        added = tuple(file for file, _ in encoded)
        entry = msgspec.structs.replace(entry, add=added, shapes=new, part=writer.part, note=note)
        self._pending[writer.part] = _Pending(given, entry, time.monotonic())
        return entry

    def _is_last(self, table: str, position: Position) -> bool:
        return all(
            Position.parse(file.last) < position for file in self._manifest.files.values() if file.table == table
        )

    def _arrow(self, batch: Batch) -> dict[str, ArrowTable]:
        try:
            return batch.to_arrow(text=self._text)
        except DecodeError as error:
            raise SinkRejected(
                f"a change has a value that Arrow cannot hold: {error}",
                hint=f"text=[{f'{error.table}.{error.field}'!r}] has that column as strings" if error.field else None,
                table=error.table,
                positions=() if error.position is None else [error.position],
            ) from error

    def _days(self, part: ArrowTable) -> Iterator[tuple[pyarrow.Table, str | None]]:
        rows = pyarrow.table(part)
        if not self._by_date:
            yield rows, None
            return
        name = next(name for name in rows.column_names if name.lstrip("_") == "commit_time" and name.startswith("_"))
        days = pyarrow.compute.strftime(rows.column(name), "%Y-%m-%d")
        for day in pyarrow.compute.unique(days).to_pylist():
            is_it = pyarrow.compute.is_null(days) if day is None else pyarrow.compute.equal(days, day)
            yield rows.filter(is_it), "snapshot" if day is None else day

    def _encoded(
        self, table: str, shape: int, rows: pyarrow.Table, date: str | None
    ) -> tuple[DataFile, pyarrow.Buffer]:
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(
            rows,
            sink,
            compression=self._compression,
            compression_level=self._level,
            row_group_size=self._row_group_rows,
            dictionary_pagesize_limit=DICTIONARY_BYTES,
        )
        data = sink.getvalue()
        positions = rows.column(_position_column(rows))
        first, last = positions[0].as_py(), positions[len(positions) - 1].as_py()
        day = "" if date is None else f"date={date}/"
        path = f"data/{_folder(table)}/{day}{first}-{secrets.token_hex(6)}.parquet"
        return DataFile(path, table, shape, rows.num_rows, data.size, first, last, date), data


class ParquetPart:
    """One partition of a topic, with a note of its own in the manifest.

    Args:
        sink: Whose part it is.
        name: What the note is stored under.
    """

    def __init__(self, sink: Parquet, name: str) -> None:
        self._sink = sink
        self._writer = _Writer("", name)

    def open(self) -> str | None:
        """Take the partition over.

        Returns:
            The note of the last write.
        """
        sink, name = self._sink, self._writer.part
        sink._pending.pop(name, None)
        self._writer = sink._take_over(name)
        return sink._manifest.parts[name].note

    def write(self, batch: Batch, note: str) -> None:
        """Write files, and the entry that names them and has the note.

        Raises:
            SinkUnavailable: As `Parquet.write`.
            SinkRejected: As `Parquet.write`.
            PositionError: When somebody else has taken the partition over.
        """
        self._sink._write(batch, "write", self._writer, note)

    def rewrite(self, batch: Batch) -> None:
        """Write what was a dead letter; the note stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """
        self._sink._rewrite(batch, self._writer)

    def close(self) -> None:
        """Nothing is open."""


def _segments(batch: Batch) -> Iterator[tuple[Batch, dict[str, _Described]]]:
    """A batch in parts, in each of which every table has one shape; and what is known of those shapes."""
    relations: dict[str, _Described] = {}
    key_columns, done = batch.key_columns, 0
    for at, relation, _, version in batch.shape_runs():
        table = table_key(relation.schema, relation.name)
        if table in relations:
            known, _, its = relations[table]
            if (known, its) == (relation, version):
                continue  # of what was read one by one, from Kafka, each record says its table's shape anew
            before, batch = batch.split_at(at - done)
            done = at
            yield before, relations
            relations = {}
        relations[table] = (relation, key_columns(relation), version)
    yield batch, relations


def _position_column(rows: pyarrow.Table) -> str:
    names: list[str] = rows.column_names
    return next(name for name in names if name.startswith("_") and name.lstrip("_") == "position")


def _folder(table: str) -> str:
    """A name that every store takes; what it says is for people, the manifest has the table's name."""
    name = quote(table, safe="").replace("%", "~")
    return name if len(name) <= 150 else f"{name[:130]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
