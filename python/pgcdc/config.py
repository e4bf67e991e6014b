"""A pipeline's configuration file: TOML, checked key by key, with values from the environment.

Every error names the file and the key, and never a value: any string may be a password. What it means for a pipeline
(a table's name, a mode that does not exist) is the pipeline's to say; nothing is imported or connected to here.

Over 400 lines because every key is described.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from pgcdc.errors import ConfigError

__all__ = [
    "Configuration",
    "ConsumerSection",
    "MetricsSection",
    "PipelineSection",
    "PositionsSection",
    "ReconnectSection",
    "RetrySection",
    "SpoolSection",
    "holds_secret",
    "key_path",
    "meant",
    "read_configuration",
]

TableName: TypeAlias = str | tuple[str, str]

_SECRET_NAME: Final = re.compile(
    r"pass(word|wd|phrase)|(^|_)(pw|pass)$|_pwd$|secret|token|credential|(api|access|private|account|scram_\w+)_?key",
    re.IGNORECASE,
)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MARK: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_REFERENCE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_TYPES: Final = {
    "str": "a string",
    "int": "a whole number",
    "bool": "true or false",
    "float": "a number",
    "array": "an array",
    "object": "a table of keys",
    "null": "nothing",
}


def holds_secret(name: str) -> bool:
    """Whether what has this name, a key or an environment variable, is kept out of everything that is printed.

    Args:
        name: `"api_key"`, `"SHOP_PASSWORD"`.
    """
    return _SECRET_NAME.search(name) is not None


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file; printed, it shows no value in which a secret could be."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown: list[tuple[str, Any]] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "options" and value is not None:
                value = dict.fromkeys(value, "***")
            elif name == "dsn" and value:
                value = "***"
            if value is not UNSET and value is not None:
                shown.append((name, value))
        return shown


class ReconnectSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[pipeline.reconnect]`: the arguments of `pgcdc.replication.Reconnect`.

    Attributes:
        first: See there, as what follows; in seconds.
        longest: Likewise.
        give_up: Likewise.
    """

    first: float | UnsetType = UNSET
    longest: float | UnsetType = UNSET
    give_up: float | UnsetType = UNSET


class RetrySection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[consumers.NAME.retry]`: the arguments of `pgcdc.Retry`.

    Attributes:
        attempts: See there, as what follows; pauses are in seconds.
        give_up: Likewise.
        first: Likewise.
        longest: Likewise.
        on: Classes of exceptions: `"TimeoutError"`, one that Python has, or `"module:Class"`.
        breaker_after: Likewise.
        breaker_pause: Likewise.
    """

    attempts: int | UnsetType = UNSET
    give_up: float | UnsetType = UNSET
    first: float | UnsetType = UNSET
    longest: float | UnsetType = UNSET
    on: list[str] | UnsetType = UNSET
    breaker_after: int | UnsetType = UNSET
    breaker_pause: float | UnsetType = UNSET


class SpoolSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[pipeline.spool]` or `[consumers.NAME.spool]`: the arguments of `pgcdc.pipeline.SpoolOptions`.

    Attributes:
        directory: See there, as all that follow.
        max_bytes: Likewise.
        segment_bytes: Likewise.
        persistent: Likewise.
    """

    directory: str
    max_bytes: int | UnsetType = UNSET
    segment_bytes: int | UnsetType = UNSET
    persistent: bool | UnsetType = UNSET


class PipelineSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[pipeline]`: the arguments of `pgcdc.Pipeline`, under the same names.

    Attributes:
        name: See `pgcdc.Pipeline`, as all that follow; what is not in the file keeps its default there.
        tables: Likewise.
        dsn: Likewise.
        publication: Likewise.
        slot: Likewise.
        snapshot: Likewise.
        snapshot_connections: Likewise.
        show_progress: Likewise.
        max_rows_in_flight: Likewise.
        max_bytes_in_flight: Likewise.
        reconnect: Likewise: true, false, or what a `Reconnect` is made with.
        spool: Likewise: a directory, or what `SpoolOptions` are made with.
        confirm_spooled: Likewise.
        standby: Likewise.
        source: Likewise; may have a password.
    """

    name: str
    tables: list[TableName]
    dsn: str = ""
    publication: str | UnsetType = UNSET
    slot: str | UnsetType = UNSET
    snapshot: str | UnsetType = UNSET
    snapshot_connections: int | UnsetType = UNSET
    show_progress: bool | UnsetType = UNSET
    max_rows_in_flight: int | UnsetType = UNSET
    max_bytes_in_flight: int | UnsetType = UNSET
    reconnect: bool | ReconnectSection | UnsetType = UNSET
    spool: str | SpoolSection | UnsetType = UNSET
    confirm_spooled: bool | UnsetType = UNSET
    standby: bool | UnsetType = UNSET
    source: str | UnsetType = UNSET


class PositionsSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[positions]`: where positions are kept.

    Attributes:
        store: `"postgres"`, `"sqlite"`, or `"module:Class"`.
        options: The arguments of its class.
    """

    store: str
    options: dict[str, Any] = {}


class MetricsSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[metrics]`: where the process can be watched; `pgcdc run` takes notice of it.

    Attributes:
        listen: `"PORT"` or `"HOST:PORT"`.
        late: See `pgcdc.observe.Limits`, as what follows; in seconds.
        stalled: Likewise.
        stuck: Likewise.
    """

    listen: str | int
    late: float | UnsetType = UNSET
    stalled: float | UnsetType = UNSET
    stuck: float | UnsetType = UNSET


class ConsumerSection(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table `[consumers.NAME]`: a sink or a handler.

    Attributes:
        sink: `"module:Class"`, or the name of an entry point of the group `pgcdc.sinks`.
        options: The arguments of the sink's class.
        tables: The tables that the sink gets; all, when there is none.
        handler: `"module:function"`, instead of a sink.
        table: The one table of the handler.
        row: `"module:Class"`, the struct that the handler's rows are made of.
        actions: What it is told of.
        snapshot: `"never"`: no part in copies of existing rows.
        where: `"module:function"`, a function of a change that says whether it is wanted.
        columns: The columns that are wanted, by table, or a list where it has one table.
        transform: `"module:name"`, one or several, in order: functions of a change, or what the functions of
            `pgcdc.transforms` return.
        messages: Prefixes of logical messages.
        topics: Topics of events of `pgcdc.emit`.
        max_rows: See `pgcdc.pipeline.options.ConsumerOptions`, as what follows.
        max_bytes: Likewise.
        max_wait: Likewise.
        transactions: Likewise.
        max_transaction_bytes: Likewise.
        concurrency: Likewise.
        key: Likewise.
        on_schema_change: What it does when a table has another shape: a word, or a table of words by kind of change.
        retry: What a `pgcdc.Retry` is made with.
        on_failure: See `pgcdc.pipeline.options.ConsumerOptions`, as what follows.
        max_dead_letters: Likewise.
        spool: The directory of its own spool, or what `SpoolOptions` are made with; false: it has none.
        confirm_spooled: Whether the slot may be confirmed past what is only in its spool.
        own_slot: Whether it has a slot of its own.
    """

    sink: str | None = None
    options: dict[str, Any] | None = None
    tables: list[TableName] | None = None
    handler: str | None = None
    table: TableName | None = None
    row: str | None = None
    actions: list[str] | None = None
    snapshot: str | None = None
    where: str | None = None
    columns: list[str] | dict[str, list[str]] | None = None
    transform: str | list[str] | None = None
    messages: list[str] | None = None
    topics: list[str] | None = None
    max_rows: int | None = None
    max_bytes: int | None = None
    max_wait: float | None = None
    transactions: bool | int | None = None
    max_transaction_bytes: int | None = None
    concurrency: int | None = None
    key: list[str] | None = None
    on_schema_change: str | dict[str, str] | None = None
    retry: RetrySection | None = None
    on_failure: str | None = None
    max_dead_letters: int | None = None
    spool: str | bool | SpoolSection | None = None
    confirm_spooled: bool | None = None
    own_slot: bool = False


class Configuration(msgspec.Struct, frozen=True):
    """What a file says.

    Attributes:
        file: Its path, as it was given.
        pipeline: The pipeline.
        positions: Where positions are kept; None: the default.
        consumers: The consumers by name, in the file's order.
        secrets: Strings that are to be kept out of everything that is printed. DSNs and URLs may have more in them.
        metrics: Where the process can be watched; None: nowhere, unless the command line says where.
    """

    file: str
    pipeline: PipelineSection
    positions: PositionsSection | None
    consumers: dict[str, ConsumerSection]
    secrets: frozenset[str]
    metrics: MetricsSection | None = None

    def __repr__(self) -> str:
        return f"Configuration({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in self.__struct_fields__ if name != "secrets"]


Section = TypeVar("Section", bound=_Section)


def read_configuration(path: str | Path, environment: Mapping[str, str]) -> Configuration:
    """Read a file, put in what it takes from the environment, and check it.

    Args:
        path: The file.
        environment: What `${NAME}` and `${NAME:-default}` in its strings are taken from.

    Returns:
        What it says.

    Raises:
        ConfigError: When it cannot be read, is no TOML, has a key that does not exist, lacks one, or has a value of
            another type; or when a variable is not set.
    """
    file = str(path)
    reading = _Reading(file, environment)
    document = reading.expanded(_parse(file), "")
    reading.check_keys(document, ("pipeline", "positions", "metrics", "consumers"), "", "section")
    if "pipeline" not in document:
        raise ConfigError(f"{file}: there is no section [pipeline]", hint="it has the keys name, dsn and tables")
    consumers = document.get("consumers", {})
    if not isinstance(consumers, dict) or not consumers:
        raise ConfigError(f"{file}: there are no consumers", hint="[consumers.search] with a sink or a handler")
    return Configuration(
        file=file,
        pipeline=reading.section(document["pipeline"], PipelineSection, "pipeline"),
        positions=(
            reading.section(document["positions"], PositionsSection, "positions") if "positions" in document else None
        ),
        consumers={
            name: reading.section(value, ConsumerSection, key_path("consumers", name))
            for name, value in consumers.items()
        },
        secrets=frozenset(reading.secrets),
        metrics=reading.section(document["metrics"], MetricsSection, "metrics") if "metrics" in document else None,
    )


def key_path(parent: str, key: str) -> str:
    """A key's place in a file, as TOML writes it.

    Args:
        parent: The place of the table that it is in; empty at the top.
        key: The key.

    Returns:
        `consumers.search.options`, with quotes where TOML needs them.
    """
    written = key if _BARE_KEY.fullmatch(key) else msgspec.json.encode(key).decode()
    return f"{parent}.{written}" if parent else written


def meant(name: str, known: Collection[str], what: str) -> str:
    """The hint for a name that does not exist.

    Args:
        name: The name.
        known: Those that do.
        what: What they are, in plural.

    Returns:
        The one that was probably meant, else all of them.
    """
    similar = get_close_matches(name, known, n=1)
    if similar:
        return f"did you mean {similar[0]!r}?"
    return f"the {what} are {', '.join(known)}" if known else f"there are no {what}"


def _parse(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_bytes().decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {file}", hint="name one that ends with .toml") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is not UTF-8", hint="TOML files are") from None
    except tomllib.TOMLDecodeError as error:
        # The parser's words can quote a key, which may be a value where a quote was forgotten: only the place is told.
        place = re.search(r"\(at ([^()]*)\)$", str(error))
        where = f": the mistake is at {place[1]}" if place else ""
        raise ConfigError(f"{file} is not TOML{where}", hint='strings need quotes: name = "shop"') from None
    except RecursionError:
        raise ConfigError(f"{file} is not TOML: it is nested too deeply") from None


class _Reading:
    """What is known while one file is read."""

    def __init__(self, file: str, environment: Mapping[str, str]) -> None:
        self.secrets: set[str] = set()
        self._file = file
        self._environment = environment

    def expanded(self, value: Any, path: str, secret: bool = False) -> Any:
        """The same value with what its strings take from the environment."""
        if isinstance(value, str):
            text = _MARK.sub(lambda mark: self._replacement(mark, path), value)
            if secret:
                self.secrets.add(text)
            return text
        if isinstance(value, dict):
            return {
                key: self.expanded(item, key_path(path, key), secret or holds_secret(key))
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self.expanded(item, f"{path}[{index}]", secret) for index, item in enumerate(value)]
        return value

    def _replacement(self, mark: re.Match[str], path: str) -> str:
        if mark[0] == "$${":
            return "${"
        reference = _REFERENCE.fullmatch(mark[1] or "")
        if reference is None:
            raise ConfigError(
                f"{self._file}: {path} has a ${{ that is not followed by the name of an environment variable",
                hint="${NAME}, or ${NAME:-default}; for the two characters themselves write $${",
            )
        name, default = reference.groups()
        value = self._environment.get(name)
        if default is not None and not value:
            value = default
        if value is None:
            raise ConfigError(
                f"{self._file}: {path} needs the environment variable {name}, which is not set",
                hint=f"set it, or give a default: ${{{name}:-…}}",
            )
        if holds_secret(name):
            self.secrets.add(value)
        return value

    def check_keys(self, table: Mapping[str, Any], known: Collection[str], path: str, what: str) -> None:
        for key in table:
            if key not in known:
                raise ConfigError(
                    f"{self._file}: {key_path(path, key)} is not a {what}", hint=meant(key, known, f"{what}s")
                )

    def section(self, value: Any, kind: type[Section], path: str) -> Section:
        """One table of the file as a struct."""
        if not isinstance(value, dict):
            raise ConfigError(f"{self._file}: {path} is not a table of keys", hint=f"[{path}]")
        self.check_keys(value, kind.__struct_fields__, path, "setting")
        if isinstance(value.get("reconnect"), dict):
            self.section(value["reconnect"], ReconnectSection, f"{path}.reconnect")
        if isinstance(value.get("retry"), dict):
            self.section(value["retry"], RetrySection, f"{path}.retry")
        if isinstance(value.get("spool"), dict):
            self.section(value["spool"], SpoolSection, f"{path}.spool")
        for field in msgspec.structs.fields(kind):
            if field.required and field.name not in value:
                raise ConfigError(
                    f"{self._file}: {path}.{field.name} is missing", hint=f"the section [{path}] needs it"
                )
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            raise self._wrong_type(error, path) from None

    def _wrong_type(self, error: msgspec.ValidationError, path: str) -> ConfigError:
        # As msgspec 0.20 to 0.22 say it: "Expected `int`, got `str` - at `$.tables[0]`".
        said = re.fullmatch(r"(.*?)(?: - at `\$(.*)`)?", str(error), re.DOTALL)
        problem, place = (said[1], said[2] or "") if said else ("", "")
        types = re.fullmatch(r"Expected `(.*)`, got `(.*)`", problem)
        if types is None:
            return ConfigError(f"{self._file}: {path}{place} is not as it must be", hint=problem or None)
        wanted = " or ".join(
            _TYPES.get(name, name) for name in types[1].split(" | ") if name != "null" and name != types[2]
        )
        return ConfigError(f"{self._file}: {path}{place} must be {wanted}, and is {_TYPES.get(types[2], types[2])}")
