"""`pgcdc top`: slots, consumers and dead letters as they are now, again and again; with `--url` a process, too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgcdc.cli.complaint import complaining
from pgcdc.cli.stopping import Stopping

if TYPE_CHECKING:
    from pgcdc.cli.frames import Frame
    from pgcdc.cli.redaction import Redactor

__all__ = ["top"]


def top(
    dsn: Annotated[
        str,
        typer.Argument(
            metavar="DSN", help="The database that pipelines follow; PG* variables are used for what is not in it."
        ),
    ] = "",
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where `pgcdc run --metrics` answers, http://127.0.0.1:9440: rates, queues and retries of consumers.",
            show_default=False,
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A line of JSON for each look.")] = False,
) -> None:
    """Show slots, retained WAL, lag, rates, consumers, retries and dead letters, the worst first; until Ctrl-C.

    Rates are those between two looks, so that the first one has none.
    """
    from pgcdc.cli.logs import log_to_stderr

    with complaining(json=json) as redactor:
        redactor.learn_dsn(dsn)
        redactor.learn_options(url or "")
        log_to_stderr("error", json, redactor)
        looking = _Looking(dsn, url, redactor)
        if once:
            _print(looking.look(strict=True), redactor, json=json)
            return
        with Stopping() as stopping:
            frames = _frames(looking, interval, stopping)
            if json or not sys.stdout.isatty():
                for frame in frames:
                    _print(frame, redactor, json=json)
            else:
                _draw(frames, redactor)


def _frames(looking: _Looking, interval: float, stopping: Stopping) -> Iterator[Frame]:
    # The first look says at once what is wrong with the command line.
    yield looking.look(strict=True)
    while not stopping.wait(interval):
        yield looking.look(strict=False)


class _Looking:
    """Looks, each time over a new connection: the server may have been away. Knows the look before, for rates."""

    def __init__(self, dsn: str, url: str | None, redactor: Redactor) -> None:
        from pgcdc.cli.frames import check_url

        self._dsn = dsn
        self._url = None if url is None else check_url(url)
        self._redactor = redactor
        self._before: Frame | None = None

    def look(self, *, strict: bool) -> Frame:
        """Ask the database, and the process where one is named.

        Args:
            strict: Whether it is an error when nothing can be asked.
        """
        from pgcdc.cli.frames import Frame, ask_process
        from pgcdc.errors import Error
        from pgcdc.observe.overview import overview_of
        from pgcdc.observe.slots import reaching

        overview = process = None
        troubles = []
        try:
            with reaching(self._dsn) as connection:
                overview = overview_of(connection)
        except Error as error:
            if strict and self._url is None:
                raise
            troubles.append(str(error))
        if self._url is not None:
            try:
                process = ask_process(self._url)
            except Error as error:
                if strict and overview is None:
                    raise
                troubles.append(str(error))
        frame = Frame.of(overview, process, [self._redactor(text) for text in troubles], self._before)
        self._before = frame
        return frame


def _print(frame: Frame, redactor: Redactor, *, json: bool) -> None:
    import msgspec

    if json:
        typer.echo(msgspec.json.encode(redactor.everywhere(frame.as_json())).decode())
        return
    typer.echo(redactor(frame.as_text()))


def _draw(frames: Iterator[Frame], redactor: Redactor) -> None:
    from rich.console import Console
    from rich.live import Live

    from pgcdc.cli.frames import drawn

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        for frame in frames:
            shown: Any = drawn(frame, redactor)
            live.update(shown, refresh=True)
