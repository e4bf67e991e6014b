"""Dead letters: listed without values, shown whole on a page of their own, asked for again, dropped.

What is done is what `pgcdc deadletter` does, by the same functions: who owns the pipeline delivers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pgcdc.console.application import local
from pgcdc.errors import ConfigError
from pgcdc.pipeline import DeadLetters
from pgcdc.protocol.json_columns import REFUSED

if TYPE_CHECKING:
    from pgcdc.console.application import Console

__all__ = ["routes"]

_MOST: Final = 200


def routes(console: Console) -> list[Route]:
    """The pages `/deadletters`, `/deadletter?id=`, and what is done to them.

    Args:
        console: What they are given to work with.
    """

    @contextlib.contextmanager
    def using(pipeline: str | None = None) -> Iterator[DeadLetters]:
        letters = console.subject.letters(pipeline)
        try:
            yield letters
        finally:
            if not console.subject.keeps_letters:
                letters.close()

    def listed(request: Request) -> Response:
        query = request.query_params
        consumer, table = query.get("consumer") or None, query.get("table") or None
        pipeline = query.get("pipeline") or None
        with using(pipeline) as letters:
            page = _page(query.get("page"))
            found = letters.list(consumer=consumer, table=table, limit=page * _MOST + 1)[(page - 1) * _MOST :]
        chosen = {"consumer": consumer, "table": table, "pipeline": pipeline}
        address = urlencode({name: value for name, value in chosen.items() if value})
        return console.page(
            request,
            "deadletters.html",
            title="Dead letters",
            letters=found[:_MOST],
            page_number=page,
            more=f"/deadletters?{address}{'&' if address else ''}page={page + 1}" if len(found) > _MOST else "",
            consumer=consumer or "",
            table=table or "",
            pipeline=pipeline or "",
            consumers=sorted({one.name for one in console.watch.seen.consumers} | {one.consumer for one in found}),
            done=_done(query.get("done"), query.get("count")),
        )

    def shown(request: Request) -> Response:
        try:
            with using() as letters:
                letter = letters.show(_number(request.query_params.get("id")))
        except ConfigError as error:
            return console.failed(request, error, "No such dead letter", status=404)
        values = None if letter.values is None else _spread(letter.values)
        return console.page(
            request,
            "deadletter.html",
            title=f"Dead letter {letter.id}",
            letter=letter,
            key=None if letter.key is None else _spread(letter.key),
            values=values,
            error_text=console.redact(letter.error_text),
        )

    async def retried(request: Request) -> Response:
        ids = _numbers(request)

        def retry() -> int:
            with using() as letters:
                return len(letters.retry(ids=ids))

        return _back(request, "retry", await run_in_threadpool(retry))

    async def dropped(request: Request) -> Response:
        ids = _numbers(request)
        if request.scope["form"].get("sure") != ["yes"]:
            back = local(request.scope["form"].get("to", ["/deadletters"])[0])
            return await run_in_threadpool(
                console.page, request, "drop.html", title="Drop for good?", ids=ids, back=back
            )

        def drop() -> int:
            with using() as letters:
                return letters.drop(ids=ids)

        return _back(request, "drop", await run_in_threadpool(drop))

    def _back(request: Request, what: str, number: int) -> Response:
        console.watch.look_now()
        to = local(request.scope["form"].get("to", ["/deadletters"])[0])
        joint = "&" if "?" in to else "?"
        return RedirectResponse(f"{to}{joint}{urlencode({'done': what, 'count': number})}", 303)

    return [
        Route("/deadletters", listed),
        Route("/deadletter", shown),
        Route("/deadletters/retry", retried, methods=["POST"]),
        Route("/deadletters/drop", dropped, methods=["POST"]),
    ]


def _page(text: str | None) -> int:
    return max(1, int(text)) if text and text.isascii() and text.isdecimal() and len(text) < 6 else 1


def _number(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise ConfigError("this is no number of a dead letter", hint="the list has them")
    return int(text)


def _numbers(request: Request) -> list[int]:
    ids = sorted({_number(text) for text in request.scope["form"].get("id", [])})
    if not ids:
        raise ConfigError("no dead letter was chosen", hint="go back, and choose one with the boxes before them")
    return ids


def _done(what: Any, number: Any) -> str | None:
    if what not in ("retry", "drop") or not str(number).isdecimal():
        return None
    letters = "1 dead letter" if number == "1" else f"{number} dead letters"
    if what == "drop":
        return f"{letters} dropped. What waited behind is delivered by whoever runs the pipeline."
    return f"{letters} asked for again: whoever runs the pipeline delivers within about a second, or at its next start."


def _spread(text: str) -> str:
    """JSON on several lines, its numbers as they are."""
    try:
        return msgspec.json.format(text.encode(), indent=2).decode()
    except REFUSED:
        return text
