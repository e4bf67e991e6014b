"""A sink to begin with: each row is a JSON file in a folder, and has the position of its last change in it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import msgspec

from pgcdc.errors import SinkRejected, SinkUnavailable
from pgcdc.protocol import Batch, JsonRow

__all__ = ["Folder", "Stored"]

_LONGEST_NAME = 255  # of a file, in bytes


class Stored(msgspec.Struct):
    """What is in a file.

    Attributes:
        position: The position of the row's last change.
        row: The row; None when it is gone.
    """

    position: str
    row: dict[str, msgspec.Raw] | None


class Folder:
    """Keeps a folder for each table, with a file for each row.

    **Promise: at least once, guarded.** Each file has the position of the last change of its row, and what is not above
    it is skipped. The file of a deleted row stays, without a row, so that it stays deleted.

    Args:
        path: Where the folders are; made when it is not there.
        max_bytes: The largest row, in bytes.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 1 << 20) -> None:
        # Only look at the arguments here: `pgcdc run --check` makes sinks, too. To connect is for `open`.
        self._path = Path(path)
        self._max_bytes = max_bytes

    def open(self) -> None:
        """Make the folder.

        Raises:
            SinkUnavailable: When that cannot be done now.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unavailable(error) from error

    def write(self, batch: Batch) -> None:
        """Apply a batch; when this returns, it survives a crash.

        Raises:
            SinkUnavailable: When the disk does not take it now.
            SinkRejected: When a row has no key, is too large, or has JSON that msgspec does not read.
        """
        # A method that is a coroutine function is awaited; one that is not runs in a thread of its own.
        rows = [row for row in batch.json_rows() if row.action != "message"]
        self._check(rows)
        try:
            for row in rows:
                self._apply(row)
        except OSError as error:
            # The same batch comes again. Whatever of it is there already is skipped then.
            raise _unavailable(error) from error

    def _check(self, rows: list[JsonRow]) -> None:
        """Refuse a batch before anything of it is written, and say which rows it is about: the others come again."""
        keyless = [row for row in rows if row.action != "truncate" and (row.key is None or None in row.key)]
        large = [row for row in rows if len(row.new or b"") > self._max_bytes]
        known = [row for row in rows if row.key is not None and None not in row.key]
        long = [row for row in known if len(_name(row.key)) > _LONGEST_NAME]
        odd = [row for row in rows if row.new is not None and not _can_be_read(row.new)]
        reasons = (
            (keyless, "has no key"),
            (odd, "has JSON that msgspec does not read"),
            (large, f"is larger than {self._max_bytes} bytes"),
            (long, "has a key that is too long for the name of a file"),
        )
        for refused, why in reasons:
            if refused:
                positions = [row.position for row in refused if row.position is not None]
                # No value of the row: errors are logged.
                raise SinkRejected(f"a row of table {_table(refused[0])} {why}", positions=positions)

    def _apply(self, row: JsonRow) -> None:
        folder, position = self._path / quote(_table(row), safe=""), str(row.position)
        folder.mkdir(exist_ok=True)
        if row.action == "truncate":
            self._empty(folder, position)
            return
        now, before = _file(folder, row.key), _file(folder, row.old_key or row.key)
        new = None if row.new is None else msgspec.json.decode(row.new, type=dict[str, msgspec.Raw])
        if new is not None and row.unsent:
            # What the server did not send (unchanged TOAST) is in the row as it was, under its former key.
            old = _read(before)
            if old is not None and old.row is not None:
                new |= {name: old.row[name] for name in row.unsent if name in old.row}
        _put(folder, now, Stored(position, new))
        if before != now:  # the key was changed: only now, because what was not sent was in there
            _put(folder, before, Stored(position, None))

    def _empty(self, folder: Path, position: str) -> None:
        """Remove every row that was written before a TRUNCATE, and nothing that came after it."""
        # First what keeps them from coming back: after a crash in the middle all of this is done again.
        _put(folder, folder / "floor", Stored(position, None))
        for file in folder.glob("*.json"):
            stored = _read(file)
            if stored is not None and stored.position < position:
                file.unlink()

    def close(self) -> None:
        """Nothing is held open."""


def _table(row: JsonRow) -> str:
    assert row.relation is not None
    return f"{row.relation.schema}.{row.relation.name}"


def _file(folder: Path, key: tuple[str | None, ...] | None) -> Path:
    return folder / _name(key)


def _name(key: tuple[str | None, ...] | None) -> str:
    assert key is not None
    # Two keys never have the same name: a comma within a value is written as %2C.
    return ",".join(quote(str(value), safe="", errors="surrogateescape") for value in key) + ".json"


def _can_be_read(row: bytes) -> bool:
    """PostgreSQL's json may have half of a surrogate pair in it, or thousands of arrays within each other."""
    try:
        msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _read(file: Path) -> Stored | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Stored)
    except FileNotFoundError:
        return None


def _put(folder: Path, file: Path, new: Stored) -> None:
    """Write a file, unless a later change of the row is in it, or the table was emptied later."""
    # Positions as text have a fixed width, and compare as positions do.
    there, floor = _read(file), _read(folder / "floor")
    if there is not None and there.position >= new.position:
        return
    # A copy begins with a TRUNCATE that has the position of its rows: these are not below it.
    if floor is not None and floor.position > new.position:
        return
    beside = file.with_suffix(".new")
    with beside.open("wb") as handle:
        handle.write(msgspec.json.encode(new))
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(file)  # whole or not at all
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # the name survives a crash, too
    finally:
        os.close(directory)


def _unavailable(error: OSError) -> SinkUnavailable:
    return SinkUnavailable(f"the folder cannot be written now ({error.strerror})")
