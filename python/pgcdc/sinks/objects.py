"""Where sinks keep files: a local folder, or an object store by obstore (S3, GCS, Azure)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from pgcdc.errors import ConfigError, SinkUnavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["Found", "LocalFolder", "Objects", "RemoteObjects", "open_objects"]

_Result = TypeVar("_Result")
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class Found(NamedTuple):
    """A file.

    Attributes:
        path: Its path, from the root on.
        modified: When it was written, in UTC.
        size: In bytes.
    """

    path: str
    modified: datetime
    size: int


class Objects(Protocol):
    """Files by path; one that is there is whole, and what was put survives a crash.

    All methods raise SinkUnavailable when the store cannot be used.
    """

    @property
    def url(self) -> str:
        """What the paths begin at: a folder or a URL, without a slash at the end."""

    def open(self) -> None:
        """Make what has to be there before the first file."""

    def put(self, path: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        """Write a file.

        Args:
            path: Its path.
            data: What is in it.
            create: Whether it must not exist yet.

        Returns:
            False when it exists and must not.
        """

    def get(self, path: str) -> bytes | None:
        """Read a file.

        Args:
            path: Its path.

        Returns:
            What is in it; None when there is none.
        """

    def list(self, folder: str, after: str = "") -> list[Found]:
        """Find files.

        Args:
            folder: All those in it and in folders of it.
            after: Only those whose path is greater.

        Returns:
            The files, sorted by path.
        """

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files; those that do not exist are none.

        Args:
            paths: Their paths.
        """

    def sweep(self, before: datetime) -> None:
        """Remove what is left of files that were never whole.

        Args:
            before: Only what was begun before.
        """


def open_objects(
    url: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
    private: bool = False,
) -> Objects:
    """Say where files are.

    Args:
        url: A folder, `file:///folder`, or `s3://bucket/prefix`, `gs://…`, `az://…` and what else obstore knows.
        config: Of an object store: `{"region": …, "endpoint": …, "access_key_id": …}`, with obstore's names.
        client_options: Of the connection to it: `{"timeout": "30s", "allow_http": True}`, with obstore's names.
        private: Whether what is made in a local folder is for its owner alone; otherwise the umask says for whom.

    Returns:
        The place; nothing has been connected to.

    Raises:
        ConfigError: When the URL or an option is none, or obstore is missing.
    """
    text = os.fspath(url)
    parts = urlsplit(text)
    # One letter is a drive of Windows.
    if len(parts.scheme) < 2 or parts.scheme == "file":
        if config or client_options:
            raise ConfigError("a local folder has no config= and no client_options=")
        return LocalFolder(Path(unquote(parts.path)) if parts.scheme == "file" else Path(text), private)
    try:
        import obstore.exceptions
        import obstore.store
    except ModuleNotFoundError:
        raise ConfigError(
            f"files at {parts.scheme}:// need the package obstore", hint="pip install 'pgcdc[objects]'"
        ) from None
    if parts.username is not None or parts.password is not None or parts.query:
        raise ConfigError("the URL of an object store has neither credentials nor a query", hint="config={…}")
    place = f"{parts.scheme}://{parts.netloc}"
    for key in config or {}:
        if _is_of_connection(key):
            raise ConfigError(
                f"{key!r} in config= is a setting of the connection, not of {place}",
                hint=f"client_options={{{key!r}: …}}",
            )
    from_url: Any = obstore.store.from_url  # its options are typed for each of the stores
    try:
        store = from_url(
            text,
            config=dict(config) if config else None,
            client_options={"timeout": "30s", "connect_timeout": "5s", **(client_options or {})},
            # Little is tried again there, for the pipeline tries again without end, and says that it does.
            retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        )
    except obstore.exceptions.UnknownConfigurationKeyError as error:
        # Its text may have what it was given in it, but a name is no secret.
        unknown = [key for key in config or {} if f"'{key.lower()}'" in str(error)]
        raise ConfigError(
            f"{place} has no setting {unknown[0]!r}" if unknown else f"config= has a name that {place} does not know",
            hint="config= has the names of obstore's documentation of the store",
        ) from None
    except BaseException as error:
        # What panics within obstore is none of the errors that a caller would catch.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ConfigError(
            f"obstore does not take the URL or the options for {place}",
            hint="names and values as in obstore's documentation of the store",
        ) from error
    return RemoteObjects(text.rstrip("/"), store)


def _is_of_connection(key: str) -> bool:
    """Whether it names a setting of the connection, at which obstore panics when it is given as one of the store."""
    import obstore.exceptions
    import obstore.store

    name = key.lower()
    for store in ("aws_", "azure_", "google_"):
        name = name.removeprefix(store)
    options: Any = {name: "true"}
    try:
        obstore.store.HTTPStore.from_url("https://localhost", client_options=options)
    except ValueError:  # no such name
        return False
    except obstore.exceptions.BaseError:  # no such value
        return True
    return True


class LocalFolder:
    """A folder of this machine; a file comes into being whole, by a link, and is synced with its folder.

    Args:
        root: The folder, which is made when it is opened.
        private: Whether folders are made with mode 0700 and files with 0600.
    """

    def __init__(self, root: Path, private: bool = False) -> None:
        self._root = root.absolute()
        self._folder_mode, self._file_mode = (0o700, 0o600) if private else (0o777, 0o666)
        self._known: set[Path] = set()

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._root)

    def __repr__(self) -> str:
        return f"LocalFolder({str(self._root)!r})"

    def open(self) -> None:
        """Make the folder."""
        with self._used():
            _make_folder(self._root, self._folder_mode)

    def put(self, path: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        """Write a file, sync it, give it its name, sync the folder."""
        with self._used():
            target = self._root / path
            folder = target.parent
            if folder not in self._known:
                # The root itself is made only by `open`: one that has vanished may be a disk that is not mounted.
                if not self._root.is_dir():
                    raise FileNotFoundError(2, "No such file or directory", str(self._root))
                _make_folder(folder, self._folder_mode)
                self._known.add(folder)
            part = folder / f".{secrets.token_hex(8)}.part"
            try:
                with os.fdopen(os.open(part, _NEW, self._file_mode), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if create:
                    try:
                        target.hardlink_to(part)
                    except FileExistsError:
                        return False
                else:
                    part.replace(target)
            finally:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
            _sync(folder)
        return True

    def get(self, path: str) -> bytes | None:
        """Read a file."""
        with self._used():
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                if self._root.is_dir():
                    return None
                raise

    def list(self, folder: str, after: str = "") -> list[Found]:
        """Find files; what is not whole yet is none."""
        with self._used():
            if not self._root.is_dir():
                raise FileNotFoundError(2, "No such file or directory", str(self._root))
            found = []
            for file in (self._root / folder).rglob("*"):
                path = file.relative_to(self._root).as_posix()
                if path > after and file.is_file() and not file.name.endswith(".part"):
                    status = file.stat()
                    found.append(Found(path, datetime.fromtimestamp(status.st_mtime, UTC), status.st_size))
            return sorted(found)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files."""
        with self._used():
            for path in paths:
                (self._root / path).unlink(missing_ok=True)

    def sweep(self, before: datetime) -> None:
        """Remove files that a crash has left without their name."""
        with self._used():
            for part in self._root.rglob(".*.part"):
                if part.stat().st_mtime < before.timestamp():
                    part.unlink(missing_ok=True)

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._known.clear()
            raise SinkUnavailable(f"the folder {self.url} cannot be used: {os.strerror(error.errno or 0)}") from error


def _make_folder(folder: Path, mode: int) -> None:
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode, exist_ok=True)
        _sync(one.parent)


def _sync(folder: Path) -> None:
    if os.name == "nt":  # there a folder cannot be opened, and its entries are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RemoteObjects:
    """An object store.

    Args:
        url: What it is, for readers.
        store: obstore's object for it.
    """

    def __init__(self, url: str, store: ObjectStore) -> None:
        import obstore
        import obstore.exceptions

        self._url = url
        self._store = store
        self._obstore = obstore
        self._exists = obstore.exceptions.AlreadyExistsError
        self._errors = (obstore.exceptions.BaseError, OSError)

    @property
    def url(self) -> str:
        """The URL."""
        return self._url

    def __repr__(self) -> str:
        return f"RemoteObjects({self._url!r})"

    def open(self) -> None:
        """Nothing has to be there but the bucket, which is not ours to make."""

    def put(self, path: str, data: bytes | memoryview, *, create: bool = False) -> bool:
        """Write an object, in parts when it is large."""

        def write() -> bool:
            try:
                self._obstore.put(self._store, path, data, mode="create" if create else "overwrite")
            except self._exists:
                if create:
                    return False
                raise
            return True

        return self._ask("written", write)

    def get(self, path: str) -> bytes | None:
        """Read an object."""

        def read() -> bytes | None:
            try:
                return bytes(self._obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                return None

        return self._ask("read", read)

    def list(self, folder: str, after: str = "") -> list[Found]:
        """Find objects."""
        found = self._ask(
            "listed", lambda: self._obstore.list(self._store, folder.rstrip("/"), offset=after or None).collect()
        )
        return sorted(Found(one["path"], one["last_modified"], one["size"]) for one in found)

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects."""

        def remove() -> None:
            try:
                self._obstore.delete(self._store, list(paths))
            except FileNotFoundError:  # not all stores say so
                for path in paths:
                    with suppress(FileNotFoundError):
                        self._obstore.delete(self._store, path)

        if paths:
            self._ask("removed", remove)

    def sweep(self, before: datetime) -> None:
        """What of large objects was not finished is the store's to remove, by a rule of the bucket."""

    def _ask(self, what: str, call: Callable[[], _Result]) -> _Result:
        try:
            return call()
        except self._errors as error:
            # The text of the error may hold a signed address.
            raise SinkUnavailable(
                f"objects at {self._url} cannot be {what} ({type(error).__name__})",
            ) from error
