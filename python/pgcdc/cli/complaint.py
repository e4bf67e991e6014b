"""How every verb says what went wrong, without secrets: a sentence and a hint on stderr; and its exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from pgcdc.errors import ConfigError, Error, PublicationNotFound, SlotInUse, SlotNotFound

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor

__all__ = ["complain", "complain_of_usage", "complaining", "exit_code", "given", "knowing", "of_connecting"]

given: Final[ContextVar[Sequence[str]]] = ContextVar("given", default=())
"""The command line, whose secrets no verb prints, wherever in it they stand."""


def knowing() -> Redactor:
    """What takes the secrets of the environment and of the command line out of texts."""
    from pgcdc.cli.redaction import Redactor

    redactor = Redactor(os.environ)
    redactor.learn_arguments(given.get())
    return redactor


@contextlib.contextmanager
def complaining(*, json: bool = False) -> Iterator[Redactor]:
    """Print the error that a block ends with, and let the command exit with the code for it.

    Args:
        json: Print it as a line of JSON: `error`, `hint`, `kind` and the facts that are known.

    Yields:
        What takes secrets out of texts; it is to learn those of connection strings and of files.

    Raises:
        Exit: typer's, in the place of an error of pgcdc.
    """
    import typer

    redactor = knowing()
    try:
        yield redactor
    except Error as error:
        told = of_connecting(error)
        complain(told, redactor, json=json)
        raise typer.Exit(exit_code(told)) from None


def of_connecting(error: Error) -> Error:
    """What to do about a connection that could not be made, whichever part of pgcdc has tried.

    Args:
        error: What was raised.

    Returns:
        The same sentence, with the class and the hint that `pgcdc.connect` would have; else the error itself.
    """
    cause: Any = error.__cause__
    if not type(cause).__module__.startswith("psycopg") or cause.sqlstate is not None:
        return error
    said = str(cause)
    if said.startswith("failed to resolve host"):
        sentence = str(error).replace("OperationalError", said.partition("\n")[0])
        return type(error)(sentence, hint="check the host's name in the DSN or PGHOST")
    if not said.startswith(("connection failed:", "connection is bad:")):
        return error
    from pgcdc.replication import dsn, sqlstate

    pgconn = cause.pgconn
    refused = sqlstate.connect_error(
        "",
        said,
        needs_password=pgconn is not None and bool(pgconn.needs_password),
        who=sqlstate.NOBODY if pgconn is None else dsn.who(pgconn),
    )
    return type(refused)(str(error), hint=refused.hint, sqlstate=refused.sqlstate)


def exit_code(error: Error) -> int:
    """The exit code for an error.

    Args:
        error: The error.

    Returns:
        2 when the command line or a configuration is wrong or names what does not exist, 4 when another process has the
        pipeline or slot, else 1.
    """
    from pgcdc.cli import EXIT_CONFIGURATION, EXIT_ERROR, EXIT_SLOT_IN_USE

    if isinstance(error, SlotInUse):
        return EXIT_SLOT_IN_USE
    wrong = (ConfigError, SlotNotFound, PublicationNotFound)
    return EXIT_CONFIGURATION if isinstance(error, wrong) else EXIT_ERROR


def complain(error: Error, redactor: Redactor | None = None, *, json: bool = False) -> None:
    """Print an error.

    Args:
        error: The error.
        redactor: Takes secrets out. None: one that knows those of the environment and of the command line.
        json: As a line of JSON.
    """
    redactor = redactor or knowing()
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if json:
        lines = [_as_json(error, f"{error}{notes}", redactor)]
    else:
        lines = [redactor(f"error: {error}{notes}"), *([redactor(f"hint: {error.hint}")] if error.hint else ())]
    for line in lines:
        print(line.encode(errors="backslashreplace").decode(), file=sys.stderr)  # noqa: T201


def complain_of_usage(error: Any, *, json: bool = False) -> None:
    """Print what is wrong with a command line, as typer words it.

    Args:
        error: Typer's.
        json: As a line of JSON.
    """
    import io
    import json as json_module

    redactor = knowing()
    verb = error.ctx.command_path if getattr(error, "ctx", None) is not None else "pgcdc"
    if json:
        told = {"error": error.format_message(), "hint": f"{verb} --help", "kind": "UsageError"}
        text = json_module.dumps(redactor.everywhere(told))
    else:
        words = io.StringIO()
        error.show(file=words)
        text = redactor(words.getvalue().rstrip())
        if "unexpected extra argument" in text and any("://" in one or "=" in one for one in given.get()):
            text += "\nhint: a connection string follows --dsn, where a command has that option"
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)  # noqa: T201


def _as_json(error: Error, text: str, redactor: Redactor) -> str:
    import json as json_module

    from pgcdc.lsn import format_lsn

    told: dict[str, object] = {"error": text, "hint": error.hint, "kind": type(error).__name__}
    for name in ("slot", "publication", "table", "sqlstate"):
        told |= {} if (value := getattr(error, name, None)) is None else {name: value}
    if error.lsn is not None:
        told["lsn"] = format_lsn(error.lsn)
    return json_module.dumps(redactor.everywhere(told))
