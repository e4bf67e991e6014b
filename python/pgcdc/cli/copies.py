"""Where the rows of a snapshot go: lines on stdout, or a file for each table, which is there when it is whole."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from pgcdc.errors import ConfigError, DecodeError, Error
from pgcdc.protocol import Batch
from pgcdc.protocol.json_columns import decode_columns

if TYPE_CHECKING:
    from pgcdc.events import Relation
    from pgcdc.protocol import TypeCatalog
    from pgcdc.replication import PublishedTable

__all__ = ["Copied", "Copies"]

Format = Literal["jsonl", "csv", "parquet", "arrow"]
_JSON = 114
"""The OID of json: jsonb has no half of a surrogate pair. Source: server file `pg_type.dat`."""
_UNFIT = re.compile(r'[%./\\:*?"<>|\x00-\x1f]')
"""What a file's name has not, on any system, and the full stop between the two."""


class Copied(msgspec.Struct, frozen=True):
    """One table that was copied.

    Attributes:
        table: Its name.
        file: Where its rows are; None on stdout.
        rows: How many there are.
    """

    table: str
    file: str | None
    rows: int


class _Writer(Protocol):
    """Writes the rows of one table."""

    def write(self, batch: Batch) -> None:
        """Write the rows of a batch."""

    def close(self) -> None:
        """Write what comes last."""


class _Target:
    """One table, and where its rows go."""

    def __init__(self, file: Path | None, writer: _Writer) -> None:
        self.file = file
        self.writer = writer
        self.rows = 0


class Copies:
    """The copies of tables; a context manager that leaves no file that is not whole.

    Args:
        format: The format.
        output: A file or a directory; None for stdout.
        text: Columns that are strings in Parquet and Arrow.
        overwrite: Whether files that are there are replaced.
    """

    def __init__(self, format: Format, output: Path | None, text: Collection[str], *, overwrite: bool) -> None:
        self._format = format
        self._output = output
        self._text = list(text)
        self._overwrite = overwrite
        self._targets: dict[tuple[str, str], _Target] = {}

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_exception: object) -> None:
        for target in self._targets.values():
            if target.file is not None:
                with suppress(OSError, ValueError, Error):
                    target.writer.close()
                _part(target.file).unlink(missing_ok=True)

    def begin(self, tables: Sequence[PublishedTable], lsn: int, catalog: TypeCatalog) -> None:
        """Open what is written to.

        Args:
            tables: The tables.
            lsn: The snapshot's.
            catalog: What is known of types.

        Raises:
            ConfigError: When a file is there, or cannot be made.
        """
        shared = _JsonLines(sys.stdout.buffer) if self._output is None and self._format == "jsonl" else None
        files = [self._file(table, len(tables)) for table in tables]
        for file in files:
            if file is not None and file.exists() and not self._overwrite:
                raise ConfigError(f"{file} exists already", hint="--overwrite takes its place")
        for table, file in zip(tables, files, strict=True):
            try:
                writer = shared or self._writer(file, table.relation, lsn, catalog)
            except OSError as error:
                raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
            self._targets[table.schema, table.name] = _Target(file, writer)

    def write(self, batch: Batch) -> None:
        """Write the rows of a batch.

        Args:
            batch: Of one table.

        Raises:
            ConfigError: When there is no room.
            DecodeError: When a value cannot be written.
        """
        for relation in batch.relations:
            target = self._targets[relation.schema, relation.name]
            try:
                target.writer.write(batch)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise ConfigError(f"{target.file or 'stdout'} cannot be written: {error.strerror}") from error
            except DecodeError as error:
                if error.hint is None and error.field is not None:
                    error.hint = f"--text {relation.schema}.{relation.name}.{error.field} writes it as text"
                raise
            target.rows += batch.changes_count

    def finish(self) -> list[Copied]:
        """Put the files where they belong.

        Returns:
            What was copied.
        """
        copied = []
        for (schema, name), target in self._targets.items():
            target.writer.close()
            if target.file is not None:
                _part(target.file).replace(target.file)
            copied.append(Copied(f"{schema}.{name}", None if target.file is None else str(target.file), target.rows))
        return copied

    def _file(self, table: PublishedTable, count: int) -> Path | None:
        if self._output is None:
            return None
        if count == 1 and self._output.suffix == f".{self._format}" and not self._output.is_dir():
            return self._output
        # A name may have anything in it; a file's may not, and two tables' names are two names.
        schema, name = (_UNFIT.sub(lambda one: f"%{ord(one[0]):02X}", part) for part in (table.schema, table.name))
        return self._output / f"{schema}.{name}.{self._format}"

    def _writer(self, file: Path | None, relation: Relation, lsn: int, catalog: TypeCatalog) -> _Writer:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file is not None and self._format in ("parquet", "arrow"):
            return _Columns(_part(file), self._format, relation, self._text, lsn, catalog)
        to = sys.stdout.buffer if file is None else _part(file).open("wb")
        return _Csv(to, relation) if self._format == "csv" else _JsonLines(to)


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


class _JsonLines:
    def __init__(self, to: IO[bytes]) -> None:
        self._to = to

    def write(self, batch: Batch) -> None:
        self._to.write(batch.to_json())

    def close(self) -> None:
        _close(self._to)


class _Csv:
    """CSV in PostgreSQL's way: NULL is empty, an empty string is `""`; values as lines of JSON have them.

    There a document that is `null` is the same as NULL, so it is here.
    """

    def __init__(self, to: IO[bytes], relation: Relation) -> None:
        self._to = to
        self._columns = [(column.name, column.type_oid == _JSON) for column in relation.columns]
        to.write(self._line([_quoted(name) for name, _ in self._columns]))

    def write(self, batch: Batch) -> None:
        lines = []
        for change in batch.json_rows(lambda _: ()):
            row = decode_columns(change.new or b"{}")
            lines.append(
                self._line([_cell(row[name], is_json) if name in row else "" for name, is_json in self._columns])
            )
        self._to.write(b"".join(lines))

    def close(self) -> None:
        _close(self._to)

    @staticmethod
    def _line(cells: Sequence[str]) -> bytes:
        return (",".join(cells) + "\n").encode(errors="surrogateescape")


class _Columns:
    """Parquet, or Arrow's file format, by pyarrow."""

    def __init__(
        self, part: Path, format: Format, relation: Relation, text: Sequence[str], lsn: int, catalog: TypeCatalog
    ) -> None:
        try:
            import pyarrow  # type: ignore[import-untyped]
            import pyarrow.parquet  # type: ignore[import-untyped]
        except ModuleNotFoundError:
            raise ConfigError(f"{format} takes the package pyarrow", hint="pip install 'pgcdc[objects]'") from None
        self._pyarrow = pyarrow
        self._text = text
        self._catalog = catalog
        self._count = len(relation.columns)
        # Of a table without rows, too, the columns are known.
        schema = self._rows(Batch.truncation([relation], lsn))[0].schema
        if format == "parquet":
            self._to: Any = pyarrow.parquet.ParquetWriter(part, schema, compression="zstd")
        else:
            self._to = pyarrow.ipc.new_file(str(part), schema)

    def write(self, batch: Batch) -> None:
        for rows in self._rows(batch):
            self._to.write_table(rows)

    def close(self) -> None:
        self._to.close()

    def _rows(self, batch: Batch) -> list[Any]:
        """The table's own columns, which come last."""
        found = []
        for table in batch.to_arrow(text=self._text, catalog=self._catalog).values():
            for part in table.parts:
                rows = self._pyarrow.table(part)
                found.append(rows.select(range(rows.num_columns - self._count, rows.num_columns)))
        return found


def _close(to: IO[bytes]) -> None:
    to.flush()
    if to is not sys.stdout.buffer:
        to.close()


def _cell(raw: msgspec.Raw, is_json: bool) -> str:
    """What JSON has for a value, as CSV: strings without their quotes, all else as it stands there.

    In other columns than those of json half of a surrogate pair stands for a byte of a database in SQL_ASCII.
    """
    data = bytes(raw)
    if data == b"null":
        return ""
    if not data.startswith(b'"'):
        return _quoted(data.decode())
    text = str(json.loads(data))  # Python's own parser takes what stands for bytes of a database in SQL_ASCII
    try:
        text.encode(errors="strict" if is_json else "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which json may hold: as it stands there
        text = data.decode()
    return _quoted(text)


def _quoted(text: str) -> str:
    if text and not set(text) & set(',"\n\r'):
        return text
    return '"' + text.replace('"', '""') + '"'
