"""What `pgcdc run` is given, to the pipeline: `module:pipeline`, or a configuration file with sinks and handlers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import UNSET

from pgcdc.cli.importing import import_attribute, raised
from pgcdc.config import (
    Configuration,
    ConsumerSection,
    MetricsSection,
    ReconnectSection,
    SpoolSection,
    key_path,
    meant,
    read_configuration,
)
from pgcdc.errors import ConfigError, Error
from pgcdc.pipeline import Pipeline, PositionStore, PostgresPositions, Retry, SpoolOptions, SqlitePositions
from pgcdc.replication import Reconnect

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor

__all__ = ["SINKS", "build", "build_watched"]

SINKS: Final = "pgcdc.sinks"
"""The group of entry points by which a package offers its sinks under short names."""
_STORES: Final[dict[str, Callable[..., PositionStore]]] = {"postgres": PostgresPositions, "sqlite": SqlitePositions}

Returned = TypeVar("Returned")


def build(target: str, redactor: Redactor) -> Pipeline:
    """Make the pipeline that a command line names; nothing is connected to.

    Args:
        target: `"module:pipeline"`, or the path of a file that ends with `.toml`.
        redactor: Learns the secrets of the file before anything of it is used.

    Returns:
        The pipeline, with at least one consumer.

    Raises:
        ConfigError: When there is none.
    """
    return build_watched(target, redactor)[0]


def build_watched(target: str, redactor: Redactor) -> tuple[Pipeline, MetricsSection | None]:
    """Make a pipeline, and say what its file has on how it is watched.

    Args:
        target: As for `build`.
        redactor: Likewise.

    Returns:
        The pipeline, and the section; None when there is none, or no file.

    Raises:
        ConfigError: As `build`.
    """
    pipeline, metrics = _configured(target, redactor) if target.endswith(".toml") else (_imported(target), None)
    redactor.learn_options(pipeline._settings.source)
    redactor.learn_dsn(pipeline._settings.dsn)  # Nobody else is to have it, so it is no part of the interface.
    if not pipeline.consumers:
        raise ConfigError(
            f"{target}: pipeline {pipeline.name!r} has no consumers",
            hint='@pipeline.on("orders") or pipeline.add(sink), in the module that makes it',
        )
    return pipeline, metrics


def _imported(target: str) -> Pipeline:
    found = import_attribute(target, target) if ":" in target else None
    if found is None:
        module = target.removesuffix(".py")
        raise ConfigError(
            f"{target!r} is neither module:pipeline nor a file that ends with .toml",
            hint=f"{module}:pipeline, for the object pipeline of {module}.py" if module.isidentifier() else None,
        )
    if isinstance(found, Pipeline):
        return found
    if not callable(found) or isinstance(found, type) or inspect.iscoroutinefunction(found):
        what = "a coroutine function" if inspect.iscoroutinefunction(found) else _what(found)
        raise ConfigError(
            f"{target} is {what}, not a pipeline",
            hint="name a pgcdc.Pipeline, or a function without arguments that gives one",
        )
    made = _call(target, found, {})
    if not isinstance(made, Pipeline):
        raise ConfigError(f"{target} gives something {_what(made)}, not a pipeline", hint="return the Pipeline")
    return made


def _configured(file: str, redactor: Redactor) -> tuple[Pipeline, MetricsSection | None]:
    from pgcdc.replication.dsn import parameters_of

    configuration = read_configuration(file, os.environ)
    redactor.learn(*configuration.secrets)
    redactor.learn_dsn(configuration.pipeline.dsn)
    for section in (*configuration.consumers.values(), configuration.positions):
        redactor.learn_options(None if section is None else section.options)
    _within(f"{file}: pipeline.dsn", parameters_of, configuration.pipeline.dsn, replication=False)
    settings = _given(configuration.pipeline)
    if isinstance(reconnect := settings.get("reconnect"), ReconnectSection):
        settings["reconnect"] = Reconnect(**_given(reconnect))
    if isinstance(spool := settings.get("spool"), SpoolSection):
        settings["spool"] = SpoolOptions(**_given(spool))
    pipeline = _within(f"{file}: pipeline", Pipeline, **settings, positions=_positions(configuration))
    for name, consumer in configuration.consumers.items():
        _add(pipeline, file, name, consumer)
    if configuration.metrics is not None:
        from pgcdc.observe.endpoint import parse_listen

        _within(f"{file}: metrics.listen", parse_listen, configuration.metrics.listen)
    return pipeline, configuration.metrics


def _given(section: msgspec.Struct) -> dict[str, Any]:
    """What is in the file, so that the rest keeps the defaults of the code."""
    return {name: value for name, value in msgspec.structs.asdict(section).items() if value is not UNSET}


def _positions(configuration: Configuration) -> PositionStore | None:
    section = configuration.positions
    if section is None:
        return None
    where, options = f"{configuration.file}: positions", dict(section.options)
    if ":" in section.store:
        kind = import_attribute(section.store, f"{where}.store")
    elif section.store in _STORES:
        kind = _STORES[section.store]
    else:
        hint = meant(section.store, _STORES, "stores")
        raise ConfigError(f"{where}.store is not a store that exists", hint=f"{hint} (or module:Class)")
    if kind is PostgresPositions:
        options.setdefault("dsn", configuration.pipeline.dsn)
    store: PositionStore = _made(f"{where}.options", kind, options)
    for method in ("open", "load", "move", "forget", "close"):
        if not callable(getattr(store, method, None)):
            raise ConfigError(f"{where}.store has no method {method!r}", hint="see pgcdc.pipeline.PositionStore")
    return store


def _add(pipeline: Pipeline, file: str, name: str, consumer: ConsumerSection) -> None:
    where = f"{file}: {key_path('consumers', name)}"
    if (consumer.sink is None) == (consumer.handler is None):
        raise ConfigError(
            f"{where} needs a sink or a handler, and not both",
            hint='sink = "module:Class", or handler = "module:function"',
        )
    others = ("table", "row") if consumer.sink is not None else ("tables", "options")
    for other in others:
        if getattr(consumer, other) is not None:
            kind = "sink" if consumer.sink is not None else "handler"
            instead = {"table": 'tables = ["orders"]', "tables": 'table = "orders"'}.get(other)
            raise ConfigError(f"{where}.{other} is not a setting of a {kind}", hint=instead)
    spool = SpoolOptions(**_given(consumer.spool)) if isinstance(consumer.spool, SpoolSection) else consumer.spool
    more: Any = {"name": name, "snapshot": consumer.snapshot, **_shaping(where, consumer), **_failing(where, consumer)}
    more |= {"spool": spool, "confirm_spooled": consumer.confirm_spooled, "own_slot": consumer.own_slot}
    more["on_schema_change"] = consumer.on_schema_change
    if consumer.sink is not None:
        sink = _made(f"{where}.options", _sink(consumer.sink, f"{where}.sink"), consumer.options or {})
        _within(where, pipeline.add, sink, tables=consumer.tables, actions=consumer.actions, **more)
        return
    assert consumer.handler is not None
    if consumer.table is None:
        raise ConfigError(f"{where}.table is missing", hint="the table whose changes the handler gets")
    handler = import_attribute(consumer.handler, f"{where}.handler")
    if not callable(handler):
        raise ConfigError(f"{where}.handler is {_what(handler)}, not a function")
    row = None if consumer.row is None else import_attribute(consumer.row, f"{where}.row")
    if row is not None and not isinstance(row, type):
        raise ConfigError(f"{where}.row is {_what(row)}, not a class")
    register = _within(where, pipeline.on, consumer.table, *(consumer.actions or ()), row=row, **more)
    _within(where, register, handler)


def _shaping(where: str, consumer: ConsumerSection) -> dict[str, Any]:
    """The options that say what of the changes a consumer gets; functions are imported."""
    plain = ("columns", "messages", "topics", "max_rows", "max_bytes", "max_wait", "transactions", "concurrency", "key")
    given = {name: value for name in plain if (value := getattr(consumer, name)) is not None}
    if consumer.where is not None:
        given["where"] = import_attribute(consumer.where, f"{where}.where")
    if consumer.transform is not None:
        names = [consumer.transform] if isinstance(consumer.transform, str) else consumer.transform
        given["transform"] = [import_attribute(name, f"{where}.transform") for name in names]
    return given


def _failing(where: str, consumer: ConsumerSection) -> dict[str, Any]:
    """The options that say what becomes of failures; classes of exceptions are imported."""
    given = {
        name: value for name in ("on_failure", "max_dead_letters") if (value := getattr(consumer, name)) is not None
    }
    if consumer.retry is not None:
        retry = _given(consumer.retry)
        names = retry.get("on", [])
        kinds = [import_attribute(one if ":" in one else f"builtins:{one}", f"{where}.retry.on") for one in names]
        given["retry"] = _within(f"{where}.retry", Retry, **retry | {"on": tuple(kinds)})
    return given


def _sink(name: str, where: str) -> Any:
    if ":" in name:
        return import_attribute(name, where)
    offered = {entry.name: entry for entry in entry_points(group=SINKS)}
    if name not in offered:
        hint = meant(name, sorted(offered), "sinks installed")
        raise ConfigError(f"{where}: there is no sink {name!r}", hint=f"{hint} (or module:Class, for one of yours)")
    return import_attribute(offered[name].value.partition("[")[0].strip(), where)


def _made(where: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """Call a class with options, after it was looked whether it takes them."""
    if not callable(kind):
        raise ConfigError(f"{where.removesuffix('.options')} names something {_what(kind)}, not a class")
    called = getattr(kind, "__name__", type(kind).__name__)
    try:
        parameters = inspect.signature(kind).parameters
    except (TypeError, ValueError):  # a class of C that does not say
        return _call(where, kind, options)
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in named:
                hint = meant(option, list(named), "options")
                raise ConfigError(f"{key_path(where, option)} is not an option of {called}", hint=hint)
    for name, parameter in named.items():
        if parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{key_path(where, name)} is missing", hint=f"{called} needs it")
    return _call(where, kind, options)


def _call(where: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        return function(**options)
    except Error as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from error
    except Exception as error:
        raise ConfigError(f"{where}: it raised {raised(error)}") from error


def _within(where: str, function: Callable[..., Returned], /, *arguments: Any, **named: Any) -> Returned:
    """Call something of ours, and say in its error where the setting stands that it does not take."""
    try:
        return function(*arguments, **named)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint, table=error.table, slot=error.slot) from None


def _what(thing: object) -> str:
    return f"of the type {type(thing).__name__}"
