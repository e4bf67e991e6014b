"""Spools of consumers: where each one is, whether it may be relied on, and what its lane does with it.

What the slot may be confirmed to on the strength of a spool is decided in ledger.py, and at a start in start.py.

Over 400 lines because where a spool is, what is left out of it, and what its lane does with it share its directory's
files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from pgcdc.errors import ConfigError, Error, SpoolError
from pgcdc.lsn import SNAPSHOT_INDEX, Position
from pgcdc.pipeline.private_file import make_private
from pgcdc.protocol import Batch, RowFormat, Spool
from pgcdc.replication import Connection

__all__ = [
    "Backlog",
    "Place",
    "SpoolOptions",
    "SpoolState",
    "Spooled",
    "check_spool",
    "directory_of",
    "move_spool",
    "pass_spool_on",
    "place_of",
    "remove_spool",
    "source_of",
]

_VOLATILE: Final = frozenset({"tmpfs", "ramfs", "overlay", "overlayfs", "aufs", "devtmpfs"})
"""Kinds of file systems whose files do not outlive the machine or the container."""
_CUTS: Final = "cuts"
"""The file of a spool's directory that says which of its changes were replaced by later ones."""
_SEGMENT_BYTES: Final = 64 * 1024**2
_OWNER: Final = "owner"
"""The file of a spool's directory that says whose it is."""


class SpoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where what a slow consumer has not taken is kept, and how much of it.

    Attributes:
        directory: A directory on a local disk; made where it is missing. As the pipeline's option it is the one that
            has a directory for each consumer; as a consumer's it is that consumer's own.
        max_bytes: What the files of one consumer may take, in bytes.
        segment_bytes: A file is closed, and removed when it is not needed any more, at about this size, in bytes. None:
            64 MiB, or `max_bytes` where that is less.
        persistent: Whether its files outlive the machine and the container. None: on Linux the kind of file system
            tells (tmpfs, ramfs and overlay do not); elsewhere it is believed. Only `confirm_spooled` asks.
    """

    directory: str | PathLike[str]
    max_bytes: int = 16 * 1024**3
    segment_bytes: int | None = None
    persistent: bool | None = None


def check_spool(whose: str, given: object) -> SpoolOptions | None:
    """Check what was said of a spool.

    Args:
        whose: `"pipeline 'shop'"`, for the error.
        given: A path, `SpoolOptions`, or None.

    Returns:
        The options; None for none.

    Raises:
        ConfigError: When it is something else, or the sizes cannot be.
    """
    if given is None:
        return None
    if isinstance(given, str | PathLike):
        given = SpoolOptions(directory=given)
    if not isinstance(given, SpoolOptions):
        raise ConfigError(
            f"the spool of {whose} is neither a directory nor SpoolOptions",
            hint='spool="/var/lib/shop/spool", or spool=pgcdc.pipeline.SpoolOptions(directory=…, max_bytes=…)',
        )
    if not os.fspath(given.directory):
        raise ConfigError(f"the spool of {whose} has no directory", hint='spool="/var/lib/shop/spool"')
    if given.max_bytes < 1:
        raise ConfigError(f"max_bytes of the spool of {whose} is not at least 1")
    if given.segment_bytes is not None and not 1 <= given.segment_bytes <= given.max_bytes:
        raise ConfigError(f"segment_bytes of the spool of {whose} is not from 1 to max_bytes")
    return given


def place_of(
    consumer: str,
    slot: str,
    own: SpoolOptions | Literal[False] | None,
    shared: SpoolOptions | None,
    *,
    confirms: bool,
) -> Place | None:
    """Where the spool of a consumer is.

    Args:
        consumer: The consumer's name.
        slot: The slot's name.
        own: What was said of this consumer's spool; None: nothing; False: that it has none.
        shared: What was said of all consumers' spools.
        confirms: Whether the slot may be confirmed past what is only in it.

    Returns:
        The place; None when it has no spool.
    """
    if own:
        return Place(consumer, slot, Path(own.directory), own, confirms)
    if own is False or shared is None:
        return None
    return Place(consumer, slot, directory_of(shared, slot, consumer), shared, confirms)


def directory_of(spool: SpoolOptions, slot: str, consumer: str) -> Path:
    """The directory of one consumer in the pipeline's.

    Args:
        spool: The pipeline's.
        slot: The slot's name.
        consumer: The consumer's name; any characters will do.

    Returns:
        The directory.
    """
    return Path(spool.directory) / slot / quote(consumer, safe=" ").replace(".", "%2E")


def source_of(connection: Connection) -> str:
    """Where a spool's changes come from, for its file `owner`.

    The name of a slot is one of a cluster, and a copy of a database beside it has the same positions.

    Args:
        connection: To the server.
    """
    asking = "SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    return f"database {connection.execute(asking)[0][0]} of cluster {connection.system_identifier}"


def remove_spool(directory: Path, slot: str, source: str, consumer: str | None = None) -> None:
    """Remove a spool that nobody uses, with what is in it; one that is not there is no error.

    One that is another's is left as it is: what is in it may be nowhere else.

    Args:
        directory: Its directory.
        slot: The slot that it belongs to.
        source: Where its changes came from, by `source_of`.
        consumer: Whose it is; None: any consumer's of the slot.

    Raises:
        SpoolInUse: When somebody uses it.
        SpoolError: When it cannot be removed.
    """
    if not (directory / "lock").exists() or not _is_of(directory, slot, source, consumer):
        return
    try:
        Spool(directory).close()  # whoever has it is not disturbed
        shutil.rmtree(directory)
    except OSError as error:
        raise _refused(directory, "removed", error) from error


def is_there(id: str, directories: Iterable[Path]) -> bool:
    """Whether one of these directories is the spool of an id.

    Args:
        id: The id.
        directories: Where to look; some may not exist.

    Raises:
        SpoolInUse: When somebody uses one of them.
        SpoolError: When one cannot be read.
    """
    for directory in directories:
        if (directory / "lock").exists():
            with contextlib.closing(Spool(directory)) as spool:
                if spool.id == id:
                    return True
    return False


def move_spool(spool: SpoolOptions | None, slot: str, consumer: str, new: str, source: str) -> None:
    """Give the spool of a consumer in the pipeline's directory to another name; one that is not there is no error.

    One that is another slot's is left as it is.

    Args:
        spool: The pipeline's; None when it has none.
        slot: The slot's name.
        consumer: The name that it had.
        new: The name that it is to have.
        source: Where its changes came from, by `source_of`.

    Raises:
        SpoolInUse: When somebody uses it.
        SpoolError: When it cannot be moved.
    """
    before = None if spool is None else directory_of(spool, slot, consumer)
    if spool is None or before is None or not before.exists() or not _is_of(before, slot, source):
        return
    remove_spool(after := directory_of(spool, slot, new), slot, source)
    Spool(before).close()  # whoever has it is not disturbed
    try:
        # First, so that after a crash in between the same call moves it.
        _write_durably(before / _OWNER, _owner(slot, new, source))
        before.rename(after)
        _sync_directory(after.parent)
    except OSError as error:
        raise _refused(before, "moved", error) from error


def pass_spool_on(directory: Path, slot: str, consumer: str, new: str, source: str) -> None:
    """Give a consumer's own directory to its new name; one that is another's, or not there, is left as it is.

    Args:
        directory: The directory.
        slot: The slot's name.
        consumer: The name that it had.
        new: The name that it is to have.
        source: Where its changes came from, by `source_of`.

    Raises:
        SpoolInUse: When somebody uses it.
        SpoolError: When that cannot be written.
    """
    path = directory / _OWNER
    try:
        if path.exists() and path.read_bytes() == _owner(slot, consumer, source):
            Spool(directory).close()  # whoever has it is not disturbed
            _write_durably(path, _owner(slot, new, source))
    except OSError as error:
        raise _refused(path, "written", error) from error


@dataclass(frozen=True)
class Place:
    """Where one consumer's spool is to be.

    Attributes:
        consumer: The consumer's name.
        slot: The slot's name.
        directory: The spool's own directory.
        options: The sizes, and whether the directory is persistent.
        confirms: Whether the slot may be confirmed past what is only in the spool.
    """

    consumer: str
    slot: str
    directory: Path
    options: SpoolOptions
    confirms: bool

    def claim(self, source: str) -> None:
        """Make sure that the directory is not that of another consumer, and note whose it is.

        Args:
            source: Which database the changes come from, by `source_of`.

        Raises:
            ConfigError: When it is: a start may empty it, and what is in it may be nowhere else.
            SpoolError: When that cannot be read or written.
        """
        path, owner = self.directory / _OWNER, _owner(self.slot, self.consumer, source)
        try:
            found = path.read_bytes() if path.exists() else None
            if found is None:
                _write_durably(path, owner)
        except OSError as error:
            raise _refused(path, "read or written", error) from error
        if found not in (None, owner):
            whose = found.decode(errors="replace")
            former = re.fullmatch("consumer (.+)" + re.escape(_behind(self.slot, source)), whose)
            raise ConfigError(
                f"the spool that {owner.decode()} was to have in {self.directory} is that of {whose}",
                hint="give each consumer of each pipeline and server a directory of its own; if what is in that"
                " one is not needed any more, remove it"
                if former is None
                else f"if it is the same consumer under another name, Pipeline.rename({former[1]}, {self.consumer!r})"
                " says so; else give each a directory of its own",
            )

    def check_persistent(self) -> None:
        """Make sure that the directory may be relied on, if it is to be.

        Raises:
            ConfigError: When its files end with the machine or the container.
        """
        if not self.confirms or self.options.persistent:
            return
        kind = _kind_of_file_system(self.directory)
        if self.options.persistent is None and kind not in _VOLATILE:
            return
        what = "persistent=False says" if self.options.persistent is False else f"it is on {kind}"
        raise ConfigError(
            f"the spool of consumer {self.consumer!r} in {self.directory} does not outlive its machine or container"
            f" ({what}), and confirm_spooled=True lets the server remove WAL on the strength of it",
            hint="give it a directory on a disk or volume that stays, or leave confirm_spooled out; where it does stay,"
            " SpoolOptions(directory=…, persistent=True) says so",
        )


class SpoolState(NamedTuple):
    """What is compared with the stored position and the slot.

    Attributes:
        id: The spool's id.
        through_lsn: How far the WAL is done for the consumer once all of it is delivered that is durable in the spool.
    """

    id: str
    through_lsn: int


class Spooled(NamedTuple):
    """Blocks that were read together.

    Attributes:
        batch: Their changes.
        through_lsn: How far the WAL is done once they are durable in the consumer.
        sequence: The last block's.
        blocks: How many there were.
    """

    batch: Batch
    through_lsn: int
    sequence: int
    blocks: int


class Backlog:
    """The spool of one consumer while it runs.

    One thread appends, another one reads; `sync`, `release` and the statistics may be called by any.

    Args:
        place: Where it is.
    """

    def __init__(self, place: Place) -> None:
        self.confirms = place.confirms
        self._place = place
        self._spool: Spool | None = None
        self._format: RowFormat | None = None
        self._cuts: list[tuple[int, int]] = []
        self._earlier = 0
        self._source = ""
        self._narrow: Callable[[Batch], Batch] = lambda batch: batch

    @property
    def _opened(self) -> Spool:
        if self._spool is None:
            raise SpoolError(f"the spool of consumer {self._place.consumer!r} is not open")
        return self._spool

    @property
    def is_open(self) -> bool:
        """Whether it is open; where no server is followed, it never is."""
        return self._spool is not None

    @property
    def id(self) -> str:
        """The spool's id."""
        return self._opened.id

    @property
    def blocks(self) -> int:
        """How many batches are in it that are still needed, as far as is stored; 0 while it is not open."""
        return self._counted(lambda spool: spool.pending)

    @property
    def bytes(self) -> int:
        """What its files take; 0 while it is not open."""
        return self._counted(lambda spool: spool.stored_bytes)

    def _counted(self, count: Callable[[Spool], int]) -> int:
        spool = self._spool
        try:
            return 0 if spool is None else count(spool)
        except ValueError:  # it was closed just now: who asks for statistics does so from another thread
            return 0

    @property
    def state(self) -> SpoolState:
        """What is in it, as far as it was appended."""
        return SpoolState(self._opened.id, self._opened.through_lsn)

    def open(self, format: RowFormat, source: str = "") -> None:
        """Open it, and make it where it is not there.

        Args:
            format: How rows of what is read are given.
            source: Which database changes come from, by `source_of`: what is in it came from there.

        Raises:
            ConfigError: When it is to be relied on, and its directory does not stay; when it is another consumer's.
            SpoolInUse: When another process has it.
            SpoolError: When it cannot be read or made.
        """
        options = self._place.options
        self._place.check_persistent()
        self._format, self._source = format, source
        spool = Spool(
            self._place.directory,
            max_bytes=options.max_bytes,
            segment_bytes=options.segment_bytes or min(_SEGMENT_BYTES, options.max_bytes),
            format=format,
        )
        try:
            self._place.claim(source)
        except Error:
            spool.close()
            raise
        self._spool = spool
        self._cuts = self._read_cuts()

    def clear(self) -> None:
        """Make it empty and new, with another id: what is in it comes again from the server, or is not wanted.

        Raises:
            SpoolError: When that cannot be done.
        """
        assert self._format is not None
        spool, directory = self._opened, self._place.directory
        if not (spool.pending or spool.through_lsn):
            return
        spool.close()
        self._spool = None
        try:
            # From the newest on, so that a crash in between leaves what an earlier moment would have left.
            for path in sorted(directory.glob("*.segment"), reverse=True):
                path.unlink()
            for name in (_CUTS, "spool"):
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise _refused(directory, "emptied", error) from error
        self.open(self._format, self._source)

    def begin(self, narrow: Callable[[Batch], Batch]) -> int:
        """Get ready to give what an earlier run has left.

        A transaction of which it has only a part is not given from here: the server sends it again, whole.

        Args:
            narrow: Leaves out of an earlier run's batch what the consumer does not want any more.

        Returns:
            How many blocks there are to read.

        Raises:
            SpoolError: When it is not possible to write down what is not to be given.
        """
        spool = self._opened
        pending, last = spool.pending, spool.last_position
        self._narrow, self._earlier = narrow, spool.last_sequence
        if pending and last is not None and last.commit_lsn >= spool.through_lsn:
            self._cuts.append((spool.last_sequence, spool.through_lsn))
            self._write_cuts()
        return pending

    def append(self, batch: Batch, through_lsn: int) -> None:
        """Put a batch at the end.

        Args:
            batch: The batch; one without changes only says how far the WAL is done.
            through_lsn: How far it is, once this batch is.

        Raises:
            SpoolFull: When there is no room.
            SpoolError: When it cannot be written.
        """
        self._opened.append(batch, through_lsn)

    def sync(self) -> None:
        """Make durable what was appended.

        Raises:
            SpoolError: When that failed; nothing more can be appended then.
        """
        self._opened.sync()

    def release(self, sequence: int) -> None:
        """Give up blocks up to one: what they led to is durable and stored.

        Args:
            sequence: The last one's.

        Raises:
            SpoolError: When a file cannot be removed.
        """
        self._opened.release(sequence)

    def read(self, most: int, changes: int) -> Spooled:
        """Read the next blocks, together.

        Args:
            most: So many at most; there must be one.
            changes: No more when there are so many changes already.

        Returns:
            What was read.

        Raises:
            SpoolError: When it is not there as it was written.
        """
        batches: list[Batch] = []
        count = blocks = sequence = through_lsn = 0
        while blocks < most and (not blocks or count < changes):
            found = self._opened.read()
            if found is None:
                raise SpoolError(f"the spool in {self._place.directory} ends before what was written to it")
            sequence, batch, through_lsn = found
            blocks += 1
            batch = self._still_wanted(sequence, batch)
            if batch.changes_count:
                batches.append(batch)
                count += batch.changes_count
        batch = batches[0] if len(batches) == 1 else Batch.concat(batches) if batches else Batch.of([])
        return Spooled(batch, through_lsn, sequence, blocks)

    def _still_wanted(self, sequence: int, batch: Batch) -> Batch:
        for last, lsn in self._cuts:
            if sequence <= last:
                batch = batch.up_to(Position(lsn, SNAPSHOT_INDEX))
        return self._narrow(batch) if sequence <= self._earlier and batch.changes_count else batch

    def close(self) -> None:
        """Let go of it, so that another process can have it."""
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()

    # Beside the segments there is a file that says which changes of an earlier run were left out. They must be left out
    # again by each later run that meets them: the server's own, which came after them, may count them otherwise.

    def _read_cuts(self) -> list[tuple[int, int]]:
        path = self._place.directory / _CUTS
        try:
            return [(int(last), int(lsn)) for last, lsn in json.loads(path.read_bytes())] if path.exists() else []
        except OSError as error:
            raise _refused(path, "read", error) from error
        except (ValueError, TypeError) as error:
            raise SpoolError(f"{path} does not hold what was written to it") from error

    def _write_cuts(self) -> None:
        path = self._place.directory / _CUTS
        try:
            _write_durably(path, json.dumps(self._cuts).encode())
        except OSError as error:
            raise _refused(path, "written", error) from error


def _owner(slot: str, consumer: str, source: str) -> bytes:
    return f"consumer {consumer!r}{_behind(slot, source)}".encode()


def _behind(slot: str, source: str) -> str:
    return f" of slot {slot!r}{_of(source)}"


def _of(source: str) -> str:
    return f" of {source}" if source else ""


def _is_of(directory: Path, slot: str, source: str, consumer: str | None = None) -> bool:
    """Whether a spool is that of a slot, and of a consumer, as far as it says so."""
    path = directory / _OWNER
    try:
        if not path.exists():
            return True
        owner = path.read_bytes()
        return (
            owner.endswith(_behind(slot, source).encode())
            if consumer is None
            else owner == _owner(slot, consumer, source)
        )
    except OSError as error:
        raise _refused(path, "read", error) from error


def _write_durably(path: Path, data: bytes) -> None:
    """Give a file other content: after a crash it has the one or the other, and its directory knows of it."""
    new = path.with_name(f"{path.name}.new")
    make_private(new)
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync_directory(path.parent)


def _refused(path: Path, what: str, error: OSError) -> SpoolError:
    return SpoolError(f"{path} cannot be {what}: {error.strerror}", hint="see to that disk, and start again")


def _sync_directory(directory: Path) -> None:
    if os.name != "posix":
        return  # elsewhere a directory cannot be opened; names are as durable as the system makes them
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _kind_of_file_system(directory: Path) -> str | None:
    """The kind of file system that a directory is on, or will be; None where the system does not tell.

    Source:
        proc_pid_mountinfo(5): the mount point is the fifth field, the kind the first behind a hyphen.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    where = Path(os.path.realpath(directory))
    best: tuple[int, str] | None = None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        # Of two at the same place the later one is seen.
        if where.is_relative_to(point) and (best is None or len(point) >= best[0]):
            best = (len(point), after.split(" ")[0])
    return None if best is None else best[1]
