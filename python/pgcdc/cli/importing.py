"""`module:attribute` to the object, and each of the ways in which that fails as one sentence."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from pgcdc.config import meant
from pgcdc.errors import ConfigError, Error

__all__ = ["as_python_does", "import_attribute", "raised"]


def as_python_does() -> None:
    """Let modules of the current directory be imported, as `python -m` does; not where Python is told not to: `-P`."""
    if not sys.flags.safe_path and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


def import_attribute(path: str, where: str) -> Any:
    """Import a module and take something out of it.

    Args:
        path: `"module:attribute"`; both may have full stops.
        where: What asks for it, for the error: `"pgcdc.toml: consumers.search.sink"`.

    Returns:
        What is there.

    Raises:
        ConfigError: When it is not written so, or the module or the attribute does not exist, or the import fails.
    """
    module, _, attribute = path.partition(":")
    parts = attribute.split(".")
    if "://" in path:
        raise ConfigError(
            "a connection string is not module:attribute", hint="--dsn, where the command has it, takes one"
        )
    if not all(part.isidentifier() for part in (*module.split("."), *parts)):
        raise ConfigError(f"{where}: {path!r} is not module:attribute", hint=_instead(module))
    found: Any = _import(module, where)
    for part in parts:
        try:
            found = getattr(found, part)
        except AttributeError:
            owner = (
                f"module {module!r}" if isinstance(found, ModuleType) else f"an object of type {type(found).__name__}"
            )
            own = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            raise ConfigError(f"{where}: {owner} has no {part!r}", hint=meant(part, own, "names in it")) from None
    return found


def raised(error: BaseException) -> str:
    """What was raised and where, in one line.

    Args:
        error: What was caught.

    Returns:
        `"KeyError: 'SHOP_DSN' (shop.py, line 12)"`.
    """
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen ")
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def _import(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            hint = f"looked for in {Path.cwd()} and among the installed packages"
            if module.endswith(".py"):
                hint = _instead(module)
            raise ConfigError(f"{where}: there is no module {error.name!r}", hint=hint) from None
        raise ConfigError(f"{where}: importing {module!r} failed: {raised(error)}") from error
    except Error as error:
        raise ConfigError(f"{where}: {error}", hint=error.hint) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where}: importing {module!r} failed: {raised(error)}") from error


def _instead(module: str) -> str:
    name = Path(module)
    if name.suffix == ".py":
        return f"write the name of the module, from its directory: {name.stem}:pipeline"
    return "as in shop:pipeline, for the object pipeline of shop.py"
