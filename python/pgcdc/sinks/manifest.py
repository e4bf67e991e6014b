"""A manifest: which files of a folder count, in a log of numbered entries that only grows.

`_manifest/00000000000000000042.json` is the 42nd entry. It is written only if there is none yet, so of two writers one
finds that it is too late. What the first n entries came to is written down from time to time, as
`_manifest/checkpoint/N.json`: a reader begins with the last of these. A file that no entry has named does not count.

Over 400 lines because what an entry says is told here, attribute by attribute.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TypeAlias, TypeVar

import msgspec

from pgcdc.errors import SinkError, SinkUnavailable
from pgcdc.events import Column as RelationColumn
from pgcdc.events import Relation
from pgcdc.lsn import Position
from pgcdc.schema import change_of
from pgcdc.sinks.objects import Objects

__all__ = [
    "Column",
    "DataFile",
    "Entry",
    "Manifest",
    "Part",
    "Shape",
    "append",
    "covered",
    "follow",
    "new_entry",
    "read_manifest",
    "refreshed",
    "shape_of",
    "shape_of_letter",
    "table_key",
]

_FOLDER = "_manifest"
_CHECKPOINTS = "_manifest/checkpoint"
_EVERY = 100
"""Entries after which there is a checkpoint, or more where there are many files: it names all of them."""

Kind: TypeAlias = Literal["open", "write", "rewrite", "compact"]
_Read = TypeVar("_Read")


class Column(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column of a table, as PostgreSQL said it.

    Attributes:
        name: Its name.
        type_oid: The OID of its type.
        type_modifier: The modifier of that, -1 for none.
        is_key: Whether it is part of the replica identity.
        before: Its name in the shape before, where it was another; an empty string where it was not there. In a shape
            beside another, its name in that.
    """

    name: str
    type_oid: int
    type_modifier: int = -1
    is_key: bool = False
    before: str | None = None


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """The columns that a table had for a while.

    Attributes:
        number: Which shape of the table it is, from 1.
        columns: The columns.
        replica_identity: `"d"`, `"n"`, `"f"` or `"i"`.
        key: The columns by which its rows are known; none where nobody has said.
        version: The number that the pipeline gives it, where it has one.
        beside: None, where it follows the shape before. Else it is a former one, which only dead letters had that were
            written later, and this is the number of the one that came next.
    """

    number: int
    columns: tuple[Column, ...]
    replica_identity: str = "d"
    key: tuple[str, ...] = ()
    version: int | None = None
    beside: int | None = None

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]

    @property
    def identity(self) -> list[str]:
        """The names of those of the replica identity."""
        return [column.name for column in self.columns if column.is_key]


class DataFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of changes of one table in one shape.

    Attributes:
        path: Its path, from the manifest's folder on.
        table: The table, as `Batch.to_arrow` names it.
        shape: The number of its shape.
        rows: How many changes.
        bytes: The file's size.
        first: The position of the first change, as text.
        last: That of the last one.
        date: The day that its changes were committed on, where files are parted by days.
    """

    path: str
    table: str
    shape: int
    rows: int
    bytes: int
    first: str
    last: str
    date: str | None = None


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry of the log.

    Attributes:
        number: Which one it is, from 1.
        kind: What happened: a sink was opened, and is the only writer from here on; it has written; it has written a
            dead letter; files were put together.
        writer: Who: a random word for each sink that was opened.
        token: A random word for each entry, by which a writer knows its own.
        time: When, by the writer's clock.
        position: The last change of a write.
        add: Files that count from here on.
        remove: The paths of those that do not any more.
        shapes: Shapes that are new, by table.
        part: The partition of a topic that it is about; empty when it is about all.
        note: What is kept of that partition since a write.
    """

    number: int
    kind: Kind
    writer: str
    token: str
    time: datetime
    position: str | None = None
    add: tuple[DataFile, ...] = ()
    remove: tuple[str, ...] = ()
    shapes: dict[str, list[Shape]] = {}
    part: str = ""
    note: str | None = None


class Part(msgspec.Struct, omit_defaults=True):
    """A partition of a topic.

    Attributes:
        writer: The writer that it was opened by last.
        note: What is kept of it.
        token: That of the last entry that was written of it.
    """

    writer: str = ""
    note: str | None = None
    token: str = ""


class Manifest(msgspec.Struct, omit_defaults=True):
    """What a number of entries come to.

    Attributes:
        number: The last of them, 0 for none.
        writer: The writer that was opened last.
        position: The last change that was written, as text.
        files: The files that count, by path.
        shapes: The shapes of each table, the oldest first.
        rewritten: The positions of dead letters that were written later.
        checkpoint: The entry that the last checkpoint was made at.
        parts: The partitions of topics, by name.
    """

    number: int = 0
    writer: str = ""
    position: str | None = None
    files: dict[str, DataFile] = {}
    shapes: dict[str, list[Shape]] = {}
    rewritten: set[str] = set()
    checkpoint: int = 0
    parts: dict[str, Part] = {}

    def tables(self) -> list[str]:
        """The tables that have files, sorted."""
        return sorted({file.table for file in self.files.values()})

    def of(self, table: str) -> list[DataFile]:
        """The files of a table in the order of their changes.

        Args:
            table: Its name, as `Batch.to_arrow` gives it.

        Returns:
            The files; none of a table that nothing is known of.
        """
        return sorted((one for one in self.files.values() if one.table == table), key=lambda one: (one.first, one.path))

    @property
    def last_position(self) -> Position | None:
        """The last change that was written."""
        return None if self.position is None else Position.parse(self.position)

    def owner(self, part: str) -> str:
        """The writer that may write.

        Args:
            part: A partition of a topic; empty for all.
        """
        if not part:
            return self.writer
        return self.parts[part].writer if part in self.parts else ""

    def apply(self, entry: Entry) -> None:
        """Take note of the next entry.

        Args:
            entry: The entry.
        """
        self.number = entry.number
        if entry.part:
            part = self.parts.setdefault(entry.part, Part())
            if entry.kind == "open":
                part.writer = entry.writer
            elif entry.kind == "write":
                part.note, part.token = entry.note, entry.token
        elif entry.kind == "open":
            self.writer = entry.writer
        if entry.kind == "rewrite" and entry.position is not None:
            self.rewritten.add(entry.position)
        elif entry.position is not None:
            self.position = entry.position
        for path in entry.remove:
            self.files.pop(path, None)
        self.files.update((file.path, file) for file in entry.add)
        for table, shapes in entry.shapes.items():
            self.shapes.setdefault(table, []).extend(shapes)


_entry = msgspec.json.Decoder(Entry)
_whole = msgspec.json.Decoder(Manifest)


def entry_path(number: int) -> str:
    """Where an entry is.

    Args:
        number: Its number.
    """
    return f"{_FOLDER}/{number:020}.json"


def read_manifest(objects: Objects) -> Manifest:
    """Read a manifest.

    Args:
        objects: Where it is.

    Returns:
        What its entries come to; an empty one when there is none.

    Raises:
        SinkUnavailable: When it cannot be read.
        SinkError: When it is damaged.
    """
    manifest = Manifest()
    # It may have been replaced by a later one, and removed, since it was listed.
    for found in reversed(objects.list(_CHECKPOINTS)):
        data = objects.get(found.path)
        if data is not None:
            manifest = _decoded(_whole, data, found.path)
            break
    listed = _entries(objects, entry_path(manifest.number))
    follow(objects, manifest)
    if listed and listed[-1] > entry_path(manifest.number):
        raise SinkError(
            f"the manifest at {objects.url} lacks entry {manifest.number + 1}",
            hint="files of it were removed; bring them back, or begin with an empty folder",
        )
    return manifest


def follow(objects: Objects, manifest: Manifest) -> list[Entry]:
    """Read the entries that have come since, asking for one after the other: a folder of many takes long to list.

    Args:
        objects: Where they are.
        manifest: What was known; it knows them then.

    Returns:
        The entries.

    Raises:
        SinkUnavailable: When they cannot be read.
        SinkError: When one is damaged.
    """
    entries = []
    while (data := objects.get(path := entry_path(manifest.number + 1))) is not None:
        entry = _decoded(_entry, data, path)
        manifest.apply(entry)
        entries.append(entry)
    return entries


def refreshed(objects: Objects, manifest: Manifest) -> Manifest:
    """What a manifest has become that was not looked at for long: what came next may have been removed since.

    Args:
        objects: Where it is.
        manifest: What was known; it knows what has come since, if that is there.

    Returns:
        The same, or another one.

    Raises:
        SinkUnavailable: When it cannot be read.
        SinkError: When it is damaged.
    """
    if not follow(objects, manifest):
        checkpoints = objects.list(_CHECKPOINTS)
        if checkpoints and _number(checkpoints[-1].path) > manifest.number:
            return read_manifest(objects)
    return manifest


def append(objects: Objects, manifest: Manifest, entry: Entry) -> list[Entry]:
    """Write the next entry, unless there is one.

    Args:
        objects: Where to.
        manifest: What is known; it knows the entry then, or what is there in its place.
        entry: The entry; its number is given here.

    Returns:
        The entries that were there already, none when it was written. It is itself among them when an earlier call
        wrote it and did not learn of that.

    Raises:
        SinkUnavailable: When nobody knows whether it was written: call again.
        SinkError: When the manifest is damaged.
    """
    entry = msgspec.structs.replace(entry, number=manifest.number + 1)
    if not objects.put(entry_path(entry.number), msgspec.json.encode(entry), create=True):
        found = follow(objects, manifest)
        if not found:
            raise SinkUnavailable(f"entry {entry.number} of the manifest at {objects.url} exists and cannot be read")
        return found
    manifest.apply(entry)
    if manifest.number - manifest.checkpoint >= max(_EVERY, len(manifest.files) // 10):
        whole = msgspec.structs.replace(manifest, checkpoint=manifest.number)
        with suppress(SinkUnavailable):  # the entry is written; the next one tries again
            objects.put(f"{_CHECKPOINTS}/{manifest.number:020}.json", msgspec.json.encode(whole))
            manifest.checkpoint = manifest.number
    return []


def _number(path: str) -> int:
    return int(path.rpartition("/")[2].partition(".")[0])


def _entries(objects: Objects, after: str = "") -> list[str]:
    # Checkpoints are in a folder of another name.
    return [found.path for found in objects.list(_FOLDER, after) if found.path.startswith(f"{_FOLDER}/0")]


def covered(objects: Objects, before: datetime) -> list[str]:
    """Find what of a manifest nobody needs any more: all that a later checkpoint has in it.

    Args:
        objects: Where it is.
        before: Only what is covered by a checkpoint that was made before: somebody may be reading.

    Returns:
        The paths.
    """
    checkpoints = [found for found in objects.list(_CHECKPOINTS) if found.modified < before]
    if not checkpoints:
        return []
    last = checkpoints[-1]
    through = entry_path(_number(last.path))
    return [found.path for found in checkpoints[:-1]] + [path for path in _entries(objects) if path <= through]


def table_key(schema: str, name: str) -> str:
    """What a table is called in a manifest: as `Batch.to_arrow` calls it.

    Args:
        schema: The name of its schema.
        name: Its own.

    Returns:
        `"schema.table"`, a name with a full stop or a quote in it quoted as in SQL.
    """
    return ".".join(
        f'"{readable}"' if "." in one or '"' in one else readable
        for one in (schema, name)
        for readable in [_readable(one).replace('"', '""')]
    )


def _readable(name: str) -> str:
    """Bytes of a name that are not UTF-8 are written out, as Arrow has them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shape_of(
    table: str, relation: Relation, key: Sequence[str], version: int | None, known: Mapping[str, list[Shape]]
) -> Shape:
    """The shape that a table has, as it is in the manifest, or as it is to be there.

    Args:
        table: The table.
        relation: What PostgreSQL said of it.
        key: The columns by which its rows are known.
        version: The number that the pipeline gives it.
        known: The shapes that are in the manifest.

    Returns:
        The last one that is known when it is the same, else a new one.
    """
    relation, key = _described(relation, key)
    line = [one for one in known.get(table, ()) if one.beside is None]
    if not line:
        return _shape(1, relation, key, version)
    before = line[-1]
    if _is(before, relation, key):
        return before
    change = change_of(_relation(before, relation), relation)
    came_from = {new: old for old, new in change.renamed} | dict.fromkeys(change.added, "")
    return _shape(len(known[table]) + 1, relation, key, version, came_from)


def shape_of_letter(
    table: str,
    relation: Relation,
    key: Sequence[str],
    version: int | None,
    known: Mapping[str, list[Shape]],
    *,
    is_last: bool,
) -> Shape:
    """The shape that a table had when a change was made that is written only now.

    Args:
        table: See `shape_of`, as for the others.
        relation: Likewise.
        key: Likewise.
        version: Likewise.
        known: Likewise.
        is_last: Whether nothing of the table is written that came after it.

    Returns:
        One that is known, where it is that; a new one beside those that follow one another, where they have gone on.
    """
    line = [one for one in known.get(table, ()) if one.beside is None]
    if not line:
        return shape_of(table, relation, key, version, known)
    newest = line[-1].version
    if is_last if version is None or newest is None else version >= newest:
        return shape_of(table, relation, key, version, known)
    relation, key = _described(relation, key)
    followed_by = line[-1]
    likely = line[::-1]
    if version is not None and newest is not None:
        later = [one for one in line if one.version is not None and one.version > version]
        followed_by = later[0]
        likely = [one for one in likely if one.number < followed_by.number][:1]
    likely += [one for one in known[table] if one.beside == followed_by.number and one.version == version]
    for one in likely:
        if _is(one, relation, key):
            return one
    change = change_of(relation, _relation(followed_by, relation))
    became = dict(change.renamed) | dict.fromkeys(change.dropped, "")
    return _shape(len(known[table]) + 1, relation, key, version, became, followed_by.number)


def _described(relation: Relation, key: Sequence[str]) -> tuple[Relation, tuple[str, ...]]:
    columns = [msgspec.structs.replace(column, name=_readable(column.name)) for column in relation.columns]
    return msgspec.structs.replace(relation, columns=columns), tuple(map(_readable, key))


def _is(shape: Shape, relation: Relation, key: tuple[str, ...]) -> bool:
    # A table that has another name is another one here.
    changed = change_of(_relation(shape, relation), relation).kinds - {"rename_table"}
    return not changed and shape.replica_identity == relation.replica_identity and (not key or shape.key == key)


def _shape(
    number: int,
    relation: Relation,
    key: tuple[str, ...],
    version: int | None,
    before: Mapping[str, str] | None = None,
    beside: int | None = None,
) -> Shape:
    names = before or {}
    columns = (
        Column(one.name, one.type_oid, one.type_modifier, one.is_key, names.get(one.name)) for one in relation.columns
    )
    return Shape(number, tuple(columns), relation.replica_identity, key, version, beside)


def new_entry(kind: Kind, writer: str) -> Entry:
    """An entry with nothing in it yet, and a token of its own.

    Args:
        kind: See `Entry`, as for the others.
        writer: Likewise.
    """
    return Entry(0, kind, writer, secrets.token_hex(8), datetime.now(UTC))


def _relation(shape: Shape, like: Relation) -> Relation:
    columns = [RelationColumn(one.name, one.type_oid, one.type_modifier, one.is_key) for one in shape.columns]
    return msgspec.structs.replace(like, columns=columns)


def _decoded(decoder: msgspec.json.Decoder[_Read], data: bytes, path: str) -> _Read:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise SinkError(f"{path} is damaged", hint="it is not what was written there") from error
