"""The command `pgcdc`: one file for each verb, imported when a verb is asked for.

Exit codes: 0 done · 1 an error, with `error:` and mostly `hint:` on stderr, or a check that has failed · 2 the command
line or a configuration is wrong, a server's included, or what the command names does not exist · 3 the demo's targets
are not equal to the source · 4 another process has the pipeline or slot · 5 dead letters are left that were to be
delivered · 130 interrupted · 141 who read the output is gone.

Stdout is data; everything else goes to stderr. What is not an `pgcdc.Error` is a defect of pgcdc and comes with its
trace.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from pgcdc import __version__
from pgcdc.errors import Error

__all__ = [
    "EXIT_CONFIGURATION",
    "EXIT_DEAD_LETTERS",
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_EQUAL",
    "EXIT_READER_GONE",
    "EXIT_SLOT_IN_USE",
    "main",
]

EXIT_ERROR: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_NOT_EQUAL: Final = 3
EXIT_SLOT_IN_USE: Final = 4
EXIT_DEAD_LETTERS: Final = 5
EXIT_INTERRUPTED: Final = 130
EXIT_READER_GONE: Final = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What stands after `pgcdc`; None: what the process was called with.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"pgcdc {__version__}")  # noqa: T201
        return 0
    try:
        from pgcdc.cli.verbs import run
    except KeyboardInterrupt:
        _complain("interrupted", None)
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"typer", "click", "rich"}:
            raise
        _complain(
            f"the command pgcdc needs the package {error.name}, which is not installed", "pip install 'pgcdc[cli]'"
        )
        return EXIT_ERROR
    from pgcdc.cli import complaint

    before = complaint.given.set(given)
    try:
        return run(given)
    except Error as error:
        told = complaint.of_connecting(error)
        complaint.complain(told, json="--json" in given)
        return complaint.exit_code(told)
    except KeyboardInterrupt:
        _complain("interrupted", None)
        return EXIT_INTERRUPTED
    except OSError as error:
        from pgcdc.cli.output import forget_stdout, is_of_output

        if not is_of_output(error):
            raise
        forget_stdout()
        _complain(f"the output cannot be written: {error.strerror}", None)
        return EXIT_ERROR
    finally:
        complaint.given.reset(before)


def _complain(message: str, hint: str | None) -> None:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201
    if hint:
        print(f"hint: {hint}", file=sys.stderr)  # noqa: T201
