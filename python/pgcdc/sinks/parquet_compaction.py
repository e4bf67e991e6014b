"""Small Parquet files into larger ones, and the removal of files that do not count."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from pgcdc.errors import ConfigError, SinkError
from pgcdc.sinks import manifest
from pgcdc.sinks.manifest import DataFile
from pgcdc.sinks.objects import Objects, open_objects

__all__ = ["Cleaned", "Compacted", "clean", "compact"]

DICTIONARY_BYTES = 64 * 1024
"""How large a column's dictionary becomes before its values are written as they are: a large one takes time to build,
and the file is no smaller for it."""
_SHORTEST = 3600.0
"""Seconds that a file is left alone at least: a write may be about to name it."""


class Compacted(NamedTuple):
    """What a compaction has done.

    Attributes:
        before: How many files were put together.
        after: How many they are now.
        bytes: The size of these.
    """

    before: int = 0
    after: int = 0
    bytes: int = 0


class Cleaned(NamedTuple):
    """What was removed.

    Attributes:
        files: Files of changes that did not count.
        entries: Files of the manifest that a later one has in it.
    """

    files: int
    entries: int


def compact(
    url: str | os.PathLike[str],
    table: str | None = None,
    *,
    target_bytes: int = 128 * 1024 * 1024,
    row_group_rows: int = 250_000,
    compression: str = "zstd",
    compression_level: int | None = None,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> Compacted:
    """Put small files together, beside a sink that writes or without; readers see the one or the other.

    Files stay apart that differ in table, shape or day. The old ones do not count any more, and are there until
    `clean` removes them, for whoever is still reading.

    Args:
        url: As for `Parquet`.
        table: Only this one, by its name in the manifest: `"public.orders"`.
        target_bytes: How large files become, about. Those of half that size and more stay as they are.
        row_group_rows: So many rows are in a row group at most, and in memory.
        compression: As for `Parquet`.
        compression_level: Likewise.
        config: Likewise.
        client_options: Likewise.

    Returns:
        What was done.

    Raises:
        SinkUnavailable: When the place cannot be used; nothing has changed then, or what was done counts.
        SinkError: When the manifest is damaged, or somebody else compacts at the same time.
    """
    if target_bytes < 1 or row_group_rows < 1:
        raise ConfigError("target_bytes and row_group_rows are whole numbers of at least 1")
    objects = open_objects(url, config=config, client_options=client_options)
    known = manifest.read_manifest(objects)
    done = Compacted()
    for one in known.tables() if table is None else [table]:
        for group in _groups(known.of(one), target_bytes):
            added = [
                _merged(objects, run, row_group_rows, compression, compression_level)
                for run in _alike(objects, group)
                if len(run) > 1
            ]
            entry = msgspec.structs.replace(
                manifest.new_entry("compact", ""),
                add=tuple(file for _, file in added),
                remove=tuple(path for paths, _ in added for path in paths),
            )
            if not entry.remove:
                continue
            while found := manifest.append(objects, known, entry):
                if any(other.token == entry.token for other in found):
                    break
                if not known.files.keys() >= set(entry.remove):
                    raise SinkError(
                        f"somebody else has put files together at {objects.url}", hint="compact in one place at a time"
                    )
            size = sum(file.bytes for file in entry.add)
            done = Compacted(done.before + len(entry.remove), done.after + len(entry.add), done.bytes + size)
    return done


def clean(
    url: str | os.PathLike[str],
    *,
    older_than: float = 86_400.0,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> Cleaned:
    """Remove files that do not count: what a crash has left, what was put together, entries that a checkpoint has.

    Args:
        url: As for `Parquet`.
        older_than: Only what was written so many seconds ago: longer than anybody reads, an hour at least.
        config: As for `Parquet`.
        client_options: Likewise.

    Returns:
        What was removed.

    Raises:
        ConfigError: When `older_than` is less than an hour.
        SinkUnavailable: When the place cannot be used.
        SinkError: When the manifest is damaged.
    """
    if older_than < _SHORTEST:
        raise ConfigError(
            "older_than= is 3600 seconds at least: a sink may have written files that it is about to name"
        )
    return _clean(open_objects(url, config=config, client_options=client_options), older_than)


def _clean(objects: Objects, older_than: float) -> Cleaned:
    before = datetime.now(UTC) - timedelta(seconds=older_than)
    # Listed first: what is named between the two counts.
    found = [one for one in objects.list("data") if one.modified < before]
    known = manifest.read_manifest(objects)
    unnamed = [one.path for one in found if one.path not in known.files]
    entries = manifest.covered(objects, before)
    objects.delete(unnamed)
    objects.delete(entries)
    objects.sweep(before)
    return Cleaned(len(unnamed), len(entries))


def _groups(files: list[DataFile], target_bytes: int) -> Iterator[list[DataFile]]:
    """Files that follow one another, as many as make one of about the size wanted."""
    for _, same in groupby(sorted(files, key=lambda file: (file.shape, file.date or "")), lambda f: (f.shape, f.date)):
        group: list[DataFile] = []
        for file in same:
            if file.bytes * 2 >= target_bytes:
                continue
            group.append(file)
            if sum(one.bytes for one in group) >= target_bytes:
                yield group
                group = []
        if len(group) > 1:
            yield group


def _alike(objects: Objects, group: list[DataFile]) -> Iterator[list[tuple[DataFile, bytes]]]:
    """Those of a group that have the same columns to the last detail: the sink may have been told of others as text."""
    run: list[tuple[DataFile, bytes]] = []
    schema: pyarrow.Schema | None = None
    for file in group:
        data = objects.get(file.path)
        if data is None:
            raise SinkError(f"{file.path} is named by the manifest at {objects.url}, and does not exist")
        own = pyarrow.parquet.read_schema(pyarrow.BufferReader(data))
        if schema is not None and not own.equals(schema):
            yield run
            run = []
        schema = own
        run.append((file, data))
    yield run


def _merged(
    objects: Objects,
    run: list[tuple[DataFile, bytes]],
    row_group_rows: int,
    compression: str,
    level: int | None,
) -> tuple[list[str], DataFile]:
    output = pyarrow.BufferOutputStream()
    schema = pyarrow.parquet.read_schema(pyarrow.BufferReader(run[0][1]))
    with pyarrow.parquet.ParquetWriter(
        output,
        schema,
        compression=compression,
        compression_level=level,
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    ) as writer:
        waiting: list[pyarrow.RecordBatch] = []
        count = 0
        for _, data in run:
            # Row groups of small files are small: they are put together, up to what a row group may have.
            for rows in pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).iter_batches(row_group_rows):
                if waiting and count + rows.num_rows > row_group_rows:
                    writer.write_table(pyarrow.Table.from_batches(waiting), row_group_rows)
                    waiting, count = [], 0
                waiting.append(rows)
                count += rows.num_rows
        if waiting:
            writer.write_table(pyarrow.Table.from_batches(waiting), row_group_rows)
    written = output.getvalue()
    files = [file for file, _ in run]
    first = files[0]
    folder = first.path.rpartition("/")[0]
    path = f"{folder}/{first.first}-{secrets.token_hex(6)}.parquet"
    objects.put(path, memoryview(written).cast("B"))
    merged = msgspec.structs.replace(
        first,
        path=path,
        rows=sum(file.rows for file in files),
        bytes=written.size,
        last=max(file.last for file in files),
    )
    return [file.path for file in files], merged
