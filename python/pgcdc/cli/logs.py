"""Where the log of `pgcdc run` goes: lines on stderr, for people or as JSON, without secrets."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor

__all__ = ["LEVELS", "JsonLines", "Lines", "log_to_stderr"]

LEVELS: Final = ("debug", "info", "warning", "error")
_TALKATIVE: Final = ("httpx", "httpx2", "httpcore")
"""Libraries that log each request at the level at which we say what becomes of a pipeline."""


def log_to_stderr(level: str, json: bool, redactor: Redactor) -> None:
    """Let everything that is logged in this process go to stderr, warnings of Python included.

    A module that sets its own log up afterwards has to say so: `logging.basicConfig(..., force=True)`.

    Args:
        level: One of `LEVELS`: what is below it is left out.
        json: One line of JSON for each record, instead of one for people.
        redactor: Takes the secrets out.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(redactor) if json else Lines(redactor))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level != "debug":
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended


class Lines(logging.Formatter):
    """Lines for people: time (UTC), level, logger, message.

    Args:
        redactor: Takes the secrets out.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._redactor = redactor

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802, ARG002, D102
        return _time(record)

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        return self._redactor(super().format(record))


class JsonLines(logging.Formatter):
    """Lines of JSON: `time`, `level`, `logger`, `message`; `trace` and `hint` with errors; `statistics` at the end.

    Args:
        redactor: Takes the secrets out.
    """

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:  # noqa: D102
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["trace"] = "".join(traceback.format_exception(record.exc_info[1]))
        for name in ("hint", "trace", "statistics"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = msgspec.to_builtins(value)
        return msgspec.json.encode(self._redactor.everywhere(line)).decode()


def _thread_ended(arguments: threading.ExceptHookArgs) -> None:
    """What Python would print of a thread that raised, a handler's own say, is logged: it may have secrets."""
    if arguments.exc_type is not SystemExit and arguments.exc_value is not None:
        name = "" if arguments.thread is None else f" {arguments.thread.name!r}"
        logging.getLogger("pgcdc.run").error("the thread%s raised", name, exc_info=arguments.exc_value)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
