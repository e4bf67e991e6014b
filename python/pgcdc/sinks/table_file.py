"""A file with tables in it and the position beside them: what the sinks `DuckDB` and `SQLite` have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pgcdc.errors import ConfigError, PositionError, SinkRejected
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.protocol import Batch

__all__ = ["FilePart", "Kept", "TableFile", "quoted"]


@dataclass
class Kept:
    """How far the file is with something, and whose business that is.

    Attributes:
        name: What it is stored under.
        epoch: That of this process.
        position: The last position applied.
        note: What came with the last write of a partition.
    """

    name: str
    epoch: int = 0
    position: Position | None = None
    note: str | None = None


class TableFile(ABC):
    """A file that one batch after the other is applied to, each in a transaction that moves what is kept.

    Args:
        path: The file.
        name: What the position is stored under.
        mode: `"state"` or `"log"`.

    Raises:
        ConfigError: When the mode is neither.
    """

    refusals: ClassVar[tuple[type[Exception], ...]]
    """What is raised for a change that it never takes."""
    renames_columns: ClassVar = True

    def __init__(self, path: str | Path, name: str, mode: str) -> None:
        if mode not in ("state", "log"):
            raise ConfigError(f"there is no mode {mode!r}", hint='mode="state" or mode="log"')
        self.path = Path(path)
        self._name = name
        self._mode = mode
        self._kept = Kept(name)
        self._has_parts = False
        self._letter: Batch | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {str(self.path)!r} {self._name!r}>"

    @abstractmethod
    def _told(self) -> AbstractContextManager[None]:
        """Say what the file's own errors mean, but for refusals."""

    @abstractmethod
    def _transaction(self, kept: Kept) -> AbstractContextManager[None]:
        """One that only the owner can make."""

    @abstractmethod
    def _take_over(self, name: str) -> Kept:
        """Whoever had it before writes nothing any more under this name."""

    @abstractmethod
    def _run(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Run a statement."""

    @abstractmethod
    def _apply(self, batch: Batch) -> None:
        """Write rows."""

    @abstractmethod
    def _why(self, error: Exception) -> str:
        """What is said of a refusal: no value."""

    def _check(self, kept: Kept) -> None:
        """See, within a transaction, that nobody else has taken it over."""
        found = self._run("SELECT epoch FROM pgcdc_positions WHERE name = ?", [kept.name])
        if [tuple(row) for row in found] != [(kept.epoch,)]:
            raise PositionError(
                f"the file is written to by somebody else under the name {kept.name!r}",
                hint=f"stop the other pipeline, or give each a name of its own: {type(self).__name__}(…, name=…)",
            )

    def position(self) -> Position | None:
        """The last position applied."""
        return self._kept.position

    def part(self, name: str) -> FilePart:
        """Give what writes the changes of one partition, with a note in place of the position.

        Args:
            name: The partition's.

        Returns:
            The part.
        """
        self._has_parts = True  # the file is not one consumer's
        return FilePart(self, f"{self._name}[{name}]")

    def write(self, batch: Batch) -> None:
        """Apply a batch in one transaction.

        Raises:
            SinkUnavailable: When the file cannot be written to now.
            SinkRejected: When it never takes a change.
            PositionError: When somebody else writes to it under this name.
        """
        known = self._kept.position
        if known is not None and known.index != SNAPSHOT_INDEX:
            batch = batch.after(known)
        last = batch.last_position
        if last is not None:
            self._write(batch, self._kept, last)

    def rewrite(self, batch: Batch) -> None:
        """Apply a change that was a dead letter; the position stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
        """
        self._rewrite(batch, self._kept)

    def _rewrite(self, batch: Batch, kept: Kept) -> None:
        self._letter = batch
        try:
            self._write(batch, kept, kept.position, kept.note)
        finally:
            self._letter = None

    def _write(self, batch: Batch, kept: Kept, position: Position | None, note: str | None = None) -> None:
        try:
            with self._transaction(kept):
                self._apply(batch)
                self._move(kept, position, note)
        except self.refusals as error:
            if batch.changes_count == 1:
                raise self._rejected(batch, error) from None
            self._one_by_one(batch, kept, position, note)
        kept.position, kept.note = position, note

    def _move(self, kept: Kept, position: Position | None, note: str | None) -> None:
        text = None if position is None else str(position)
        self._run("UPDATE pgcdc_positions SET position = ?, note = ? WHERE name = ?", [text, note, kept.name])

    def _one_by_one(self, batch: Batch, kept: Kept, position: Position | None, note: str | None) -> None:
        """What was refused may have been right in its own order; else it is found."""
        suspect = batch
        try:
            with self._transaction(kept):
                for number in range(batch.changes_count):
                    suspect = batch.take([number])
                    self._apply(suspect)
                suspect = batch
                self._move(kept, position, note)
        except self.refusals as error:
            raise self._rejected(suspect, error) from None

    def _rejected(self, batch: Batch, error: Exception) -> SinkRejected:
        positions = [batch.first_position] if batch.changes_count == 1 and batch.first_position is not None else []
        tables = {f"{relation.schema}.{relation.name}" for relation in batch.relations}
        table = tables.pop() if len(tables) == 1 else None
        where = "a change" if table is None else f"a change of {table}"
        return SinkRejected(f"the file refuses {where}{self._why(error)}", positions=positions, table=table)


class FilePart:
    """One partition of a topic, with a note of its own in the file.

    Args:
        file: The sink whose part it is.
        name: What the note is stored under.
    """

    def __init__(self, file: TableFile, name: str) -> None:
        self._file = file
        self._kept = Kept(name)

    def open(self) -> str | None:
        """Take the partition over.

        Returns:
            The note of the last write.
        """
        with self._file._told():
            self._kept = self._file._take_over(self._kept.name)
        return self._kept.note

    def write(self, batch: Batch, note: str) -> None:
        """Apply a batch and keep the note, in one transaction.

        Raises:
            SinkUnavailable: As the sink's `write`.
            SinkRejected: As the sink's `write`.
            PositionError: When the partition was taken over since.
        """
        self._file._write(batch, self._kept, batch.last_position, note)

    def rewrite(self, batch: Batch) -> None:
        """Apply a change that was a dead letter; the note stays as it is.

        Raises:
            SinkUnavailable: As `write`.
            SinkRejected: As `write`.
            PositionError: As `write`.
        """
        self._file._rewrite(batch, self._kept)

    def close(self) -> None:
        """The file stays open for the others."""


def quoted(name: str) -> str:
    """A name in SQL.

    Args:
        name: The name.
    """
    return '"' + name.replace('"', '""') + '"'
