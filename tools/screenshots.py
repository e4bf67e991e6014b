"""Pictures of every page of the console, for the docs: `./dev screenshots`.

A shop is followed for a minute, with a target that refuses some changes and is away for a while, and one that is slow.
Then each page is photographed in a real Chromium, light and dark and as a phone has it, and the files are made small.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import pgcdc
from pgcdc.console import Console, Serving, Subject
from pgcdc.errors import SinkRejected, SinkUnavailable
from pgcdc.eventstore import EventStore
from tests.console.scene import Order, OrderCreated, OrderPaid, OrderShipped, Revenue, registry
from tests.pipeline.running import running
from tests.servers.chromium import Chromium
from tests.servers.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
SECONDS: Final = 60.0
MOST: Final = 80 * 1024
"""Bytes of a picture."""
PAGES: Final = {
    "overview": "",
    "slots": "slots",
    "slot": "slot?name=pgcdc_shop",
    "consumers": "consumers",
    "consumer": "consumer?pipeline=shop&name=webhook",
    "tables": "tables",
    "deadletters": "deadletters",
    "deadletter": "deadletter?id=1",
    "schema": "schema",
    "streams": "streams",
    "stream": "stream?id=order-117&at=2",
}
SHOP: Final = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, status text, total numeric(12,2))",
    "CREATE TABLE order_items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " order_id bigint, sku text, price int)",
    "INSERT INTO orders SELECT g, g % 97, 'paid', 20 + g % 80 FROM generate_series(1, 5000) g",
    "INSERT INTO order_items (order_id, sku, price) SELECT g, 'tea-' || g % 7, 4 FROM generate_series(1, 9000) g",
    "ANALYZE",
    "SELECT pg_create_logical_replication_slot('old_reports', 'pgoutput')",
)


class Target:
    """A sink that takes a while, and whose service is away at times or refuses what is odd."""

    def __init__(self, seconds: float, *, away: tuple[float, float] | None = None, odd: int = 0) -> None:
        self._seconds, self._away, self._odd = seconds, away, odd
        self._began = time.monotonic()

    def open(self) -> None:
        """Nothing to open."""

    def write(self, batch: pgcdc.Batch) -> None:
        """Take a batch, or not."""
        at = time.monotonic() - self._began
        if self._away is not None and self._away[0] < at < self._away[1]:
            raise SinkUnavailable("POST https://hooks.example/orders: 503 Service Unavailable")
        if self._odd:
            odd = [one.position for one in batch.changes() if _id(one) % self._odd == 0]
            if odd:
                raise SinkRejected(
                    "POST https://hooks.example/orders: 422, total: must not be above 99", positions=cast("Any", odd)
                )
        time.sleep(self._seconds)

    def close(self) -> None:
        """Nothing to close."""


def _id(change: Any) -> int:
    return int(getattr(getattr(change, "new", None), "id", 1) or 1)


def main() -> int:
    """Make all pictures; the exit code is 1 when one is too large."""
    server = PostgresServer(18, say=lambda line: print(line, file=sys.stderr))
    server.start()
    try:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE shop")
        with (
            server.settings(max_slot_wal_keep_size="64MB"),
            _shop(server) as console,
            Serving(console, port=0) as serving,
        ):
            time.sleep(SECONDS)
            with Chromium() as browser:
                large = [name for name in PAGES if not _photograph(browser, serving.url, name)]
    finally:
        server.destroy()
    for name in large:
        print(f"error: {name} takes more than {MOST:,} bytes", file=sys.stderr)
    return int(bool(large))


@contextlib.contextmanager
def _shop(server: PostgresServer) -> Iterator[Console]:
    """A shop that is written to and followed."""
    dsn = server.dsn("shop")
    with server.connect("shop") as connection:
        for statement in SHOP:
            connection.execute(statement.encode())
    pipeline = pgcdc.Pipeline("shop", dsn, tables=["orders", "order_items"])
    pipeline.add(Target(0.0005), name="search", tables=["orders"])
    pipeline.add(Target(0.001), name="cache", tables=["orders"])
    pipeline.add(Target(0.02), name="analytics", tables=["order_items"])
    webhook = Target(0.004, away=(34.0, 46.0), odd=4099)
    pipeline.add(webhook, name="webhook", tables=["orders"], on_failure="hold")
    with EventStore(dsn, registry=registry, max_connections=4) as store:
        store.init()
        store.projection("revenue")(Revenue)
        for actor, event in (
            ("anna", OrderCreated("117", 30)),
            ("shop", OrderPaid(30)),
            ("ben", OrderShipped("Lane 1")),
        ):
            with pgcdc.eventstore.context(actor=actor, correlation_id="9f2c"):
                store.append("order-117", [event], stream_type="order")
        stop = threading.Event()
        writer = threading.Thread(target=_write, args=(server, store, stop), name="writer")
        with running(store.pipeline("events")) as events, running(pipeline) as run:
            events.streaming()
            run.streaming()
            writer.start()
            try:
                subject = Subject(dsn, pipeline=pipeline, running=True, store=store, states={"order": Order})
                yield Console(subject, links={"metrics": "http://localhost:9440/metrics"}, every=0.5)
            finally:
                stop.set()
                writer.join()


def _write(server: PostgresServer, store: EventStore, stop: threading.Event) -> None:
    """Orders, more and fewer of them; a new column after a while."""
    chance = random.Random(7)  # noqa: S311 (pictures)
    number, altered, began = 5001, False, time.monotonic()
    with server.connect("shop") as connection:
        while not stop.wait(0.1):
            at = time.monotonic() - began
            many = int(20 + 12 * math.sin(at / 4) + chance.random() * 6)
            connection.execute(
                "INSERT INTO orders (id, user_id, status, total) SELECT g, g %% 97, 'pending', 20 + g %% 80"
                " FROM generate_series(%s::bigint, %s::bigint) g",
                (number, number + many - 1),
            )
            connection.execute(
                "INSERT INTO order_items (order_id, sku, price) SELECT g, 'tea-' || g %% 7, 4"
                " FROM generate_series(%s::bigint, %s::bigint) g",
                (number, number + many - 1),
            )
            if chance.random() < 0.02:
                connection.execute("UPDATE orders SET status = 'shipped' WHERE id = 8198")
            number += many
            if at > 20 and not altered:
                altered = True
                connection.execute("ALTER TABLE orders ADD COLUMN discount numeric(10,2)")
            stream = f"order-{int(at * 10) // 4 + 200}"
            step = int(at * 10) % 4
            with contextlib.suppress(pgcdc.Error), pgcdc.eventstore.context(actor=("anna", "shop", "ben")[step % 3]):
                if step == 0:
                    store.append(stream, [OrderCreated(stream[6:], 30 + step)], stream_type="order", expected="none")
                elif step == 1:
                    store.append(stream, [OrderPaid(30)], expected="exists")
                elif step == 2:
                    store.append(stream, [OrderShipped("Lane 1, Harbour")], expected="exists")


def _photograph(browser: Browser, url: str, name: str) -> bool:
    """Light, dark, and for two pages as a phone has it; says whether all are small enough."""
    shots = [("light", 1200), ("dark", 1200)]
    if name in ("overview", "consumer"):
        shots.append(("phone", 390))
    small = True
    for scheme, width in shots:
        dark = scheme == "dark" or (scheme, name) == ("phone", "consumer")
        with contextlib.closing(
            browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme="dark" if dark else "light",
                reduced_motion="reduce",
            )
        ) as context:
            page = context.new_page()
            page.goto(url + PAGES[name])
            for plot in page.locator(".plot").all():
                plot.locator("canvas").wait_for()
            page.wait_for_timeout(700)
            height = min(page.evaluate("document.documentElement.scrollHeight"), 1300)
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(300)
            small &= _save(page.screenshot(), IMAGES / f"console-{name}-{scheme}.png")
    return small


def _save(picture: bytes, path: Path) -> bool:
    """With as many colours as the size allows."""
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (256, 128, 64, 32):
        out = io.BytesIO()
        whole.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
        if len(out.getvalue()) <= MOST:
            break
    path.write_bytes(out.getvalue())
    print(f"{path.name}: {len(out.getvalue()):,} bytes", file=sys.stderr)
    return len(out.getvalue()) <= MOST


if __name__ == "__main__":
    sys.exit(main())
