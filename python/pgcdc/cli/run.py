"""`pgcdc run`: one pipeline, until a signal or an error ends it.

Stdout is left to the handlers. Exit codes of its own, besides those of the command: 2 also for a configuration that is
wrong, which is known before anything was connected to; 4 when another process runs the pipeline.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pgcdc.cli.redaction import Redactor
    from pgcdc.config import MetricsSection
    from pgcdc.errors import Error
    from pgcdc.pipeline import Pipeline, PipelineStatistics

__all__ = ["run"]

logger = logging.getLogger("pgcdc.run")


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="module:pipeline, where pipeline is a pgcdc.Pipeline or a function that gives one; or a .toml file.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="URL",
            help="Where changes come from, instead of the slot: kafka://broker:9092/PREFIX.",
            show_default=False,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Serve /metrics, /statistics, /healthz and /readyz there; on this machine only without a host.",
            show_default=False,
        ),
    ] = None,
    console: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Also show pages in a browser there, as pgcdc console does: 8432 for this machine alone.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether it could be run, without connecting to anything.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="What is logged, at least this grave.")
    ] = "info",
    json: Annotated[bool, typer.Option("--json", help="Write the log, and errors, as lines of JSON.")] = False,
) -> None:
    """Run a pipeline until SIGTERM or SIGINT, which end it within 5 seconds with nothing lost.

    The log goes to stderr; its last line says how far everything came.
    """
    from pgcdc.cli import EXIT_CONFIGURATION
    from pgcdc.cli.building import build_watched
    from pgcdc.cli.complaint import knowing
    from pgcdc.cli.importing import as_python_does
    from pgcdc.cli.logs import log_to_stderr
    from pgcdc.errors import Error
    from pgcdc.observe import endpoint
    from pgcdc.pipeline.kafka_address import parse_address as check_source

    redactor = knowing()
    log_to_stderr(log_level, json, redactor)
    as_python_does()
    teller = _Teller(redactor, json)
    try:
        pipeline, watched = build_watched(target, redactor)
        if source is not None:
            redactor.learn_options(source)
            check_source(source, pipeline.name)
        listen = watched.listen if metrics is None and watched is not None else metrics
        if metrics is not None:
            endpoint.parse_listen(metrics)
    except Error as error:
        teller.tell(error)
        raise typer.Exit(EXIT_CONFIGURATION) from None
    if check:
        typer.echo(f"{target}: pipeline {pipeline.name!r} is in order; its consumers: {', '.join(pipeline.consumers)}")
        return
    if "opentelemetry" in sys.modules:  # whoever says where spans go has imported it
        from pgcdc.observe.telemetry import instrument, is_set_up

        if is_set_up():
            instrument(pipeline)
    with contextlib.ExitStack() as stack:
        try:
            links = _watch(stack, pipeline, listen, watched, redactor)
            if console is not None:
                _show(stack, pipeline, console, links, redactor)
        except Error as error:
            teller.tell(error)
            raise typer.Exit(EXIT_CONFIGURATION) from None
        code = _run(pipeline, teller, source)
    raise typer.Exit(code)


def _watch(
    stack: contextlib.ExitStack,
    pipeline: Pipeline,
    listen: str | int | None,
    section: MetricsSection | None,
    redactor: Redactor,
) -> dict[str, str]:
    """Serve what those who watch the process ask for, where that is wanted; gives the addresses."""
    if listen is None:
        return {}
    import msgspec

    from pgcdc.observe import Limits, serving

    given: dict[str, Any] = {} if section is None else msgspec.structs.asdict(section)
    limits = {name: value for name, value in given.items() if name != "listen" and value is not msgspec.UNSET}
    endpoint = stack.enter_context(serving(pipeline, listen, limits=Limits(**limits), redact=redactor))
    return {name: f"{endpoint.url}/{name}" for name in ("metrics", "statistics", "healthz", "readyz")}


def _show(
    stack: contextlib.ExitStack, pipeline: Pipeline, listen: str, links: dict[str, str], redactor: Redactor
) -> None:
    """Serve pages for people."""
    from pgcdc.cli.console import served

    dsn = pipeline._settings.dsn  # nobody else is to have it
    serving = stack.enter_context(served(listen, dsn, redactor, pipeline=pipeline, running=True, links=links))
    logger.info("the console is at %s", serving.url)


def _run(pipeline: Pipeline, teller: _Teller, source: str | None) -> int:
    from pgcdc.cli import EXIT_ERROR, EXIT_SLOT_IN_USE
    from pgcdc.errors import Error, SlotInUse

    logger.info("pipeline %r starts; its consumers: %s", pipeline.name, ", ".join(pipeline.consumers))
    began, code = time.monotonic(), 0
    try:
        pipeline.run(source=source)
    except Error as error:
        teller.tell(error)
        code = EXIT_SLOT_IN_USE if isinstance(error, SlotInUse) else EXIT_ERROR
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust half is no Exception
        teller.tell_defect(error)
        code = EXIT_ERROR
    statistics = pipeline.statistics()
    logger.info(
        "pipeline %r ended after %.1f s: %s",
        pipeline.name,
        time.monotonic() - began,
        _summary(statistics),
        extra={"statistics": statistics},
    )
    return code


def _summary(statistics: PipelineStatistics) -> str:
    from pgcdc.lsn import format_lsn

    confirmed = statistics.source.confirmed_lsn
    consumers = (f"{name} {consumer.delivered:,} changes" for name, consumer in statistics.consumers.items())
    done, nothing = ("confirmed", "nothing confirmed")
    if statistics.source.kind == "kafka":
        done, nothing = ("offsets stored", "no offsets stored")
    return f"{', '.join(consumers)}; {f'{done} up to {format_lsn(confirmed)}' if confirmed else nothing}"


class _Teller:
    """Says what went wrong, as lines or as JSON."""

    def __init__(self, redactor: Redactor, json: bool) -> None:
        self._redactor = redactor
        self._json = json

    def tell(self, error: Error) -> None:
        """An error of pgcdc: a sentence, a hint, and where a handler or sink raised what is behind it."""
        cause = error.__cause__
        if cause is not None and cause.__traceback__ is not None:
            # Without the text of what was raised, which can have values of rows, and without lines of source.
            frames = traceback.extract_tb(cause.__traceback__)
            places = "".join(f"\n  {frame.filename}, line {frame.lineno}, in {frame.name}" for frame in frames)
            logger.info("where %s was raised:%s", type(cause).__name__, places)
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))  # which consumer's it is, where known
        if self._json:
            logger.error("%s%s", error, notes, extra={"hint": error.hint})
            return
        self._line(f"error: {error}{notes}")
        if error.hint:
            self._line(f"hint: {error.hint}")

    def tell_defect(self, error: BaseException) -> None:
        """Anything else is a defect of pgcdc, for a bug report: its whole trace."""
        if self._json:
            logger.error("a defect of pgcdc: %s", type(error).__name__, exc_info=error)
            return
        self._line("".join(traceback.format_exception(error)).rstrip())

    def _line(self, text: str) -> None:
        typer.echo(self._redactor(text), err=True)
