"""The console in a real Chromium, of a real pipeline: pages, numbers that follow, dead letters, keys, phones."""

from __future__ import annotations

import contextlib
import re
import threading
from typing import TYPE_CHECKING

import pytest

import pgcdc
from pgcdc.console.observation import Observer
from pgcdc.console.pages import streams
from pgcdc.console.subject import Subject
from tests.console.scene import SECRET
from tests.pipeline.running import running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from pgcdc.console import Serving
    from tests.console.scene import Scene

PAGES = {
    "/": "Consumer webhook of shop has 2 dead letters; 1 later change waits behind.",
    "/slots": "Slots and WAL",
    "/slot?name=pgcdc_shop": "Slot pgcdc_shop streaming",
    "/consumers": "Consumers",
    "/consumer?pipeline=shop&name=webhook": "Consumer webhook running",
    "/tables": "Tables",
    "/deadletters": "Dead letters",
    "/schema": "Schema",
    "/streams": "Event store",
    "/stream?id=order-1": "Stream order-1",
}


@pytest.fixture(scope="module")
def console(shop: Scene) -> Iterator[Serving]:
    with shop.serving() as serving:
        yield serving


@contextlib.contextmanager
def tab(browser: Browser, *, width: int = 1280, scheme: str = "light") -> Iterator[Page]:
    """A page of its own; what the browser complains of fails the test: errors of scripts, breaches of the policy."""
    complaints: list[str] = []
    with contextlib.closing(
        browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    ) as context:
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
    assert complaints == []


def titled(page: Page, title: str) -> None:
    """Waits for the page of a title: a click returns before its page is there."""
    page.wait_for_function("wanted => document.querySelector('h1')?.innerText === wanted", arg=title)


def test_pages_render_without_a_complaint_and_show_no_cell(browser: Browser, console: Serving) -> None:
    with tab(browser) as page:
        for address, title in PAGES.items():
            answer = page.goto(f"{console.url[:-1]}{address}")
            assert answer is not None and answer.status == 200, address
            titled(page, title)
            for plot in page.locator(".plot").all():  # drawn from what the stream of events has brought
                plot.locator("canvas").wait_for()
            assert SECRET not in page.content(), address
        answer = page.goto(f"{console.url}consumers")
        assert answer is not None and answer.headers["content-security-policy"].startswith("default-src 'none'")
        page.locator("tbody a", has_text="webhook").click()
        titled(page, "Consumer webhook running")


def test_the_policy_is_what_keeps_scripts_out(browser: Browser, console: Serving) -> None:
    """Script that had got into a page would not run: else the test above could not fail."""
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(console.url)
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 1\">')")
        until(lambda: page.evaluate("1") == 1 and any("Content Security Policy" in one for one in said), "a refusal")
        assert page.evaluate("window.broken") is None


def test_numbers_follow(browser: Browser, console: Serving, shop: Scene) -> None:
    with tab(browser) as page:
        page.goto(f"{console.url}consumer?pipeline=shop&name=search")
        delivered = page.locator('[data-live="consumer/shop/search/delivered"]')
        before = int(delivered.inner_text().replace(",", ""))
        shop.database.execute("INSERT INTO orders SELECT g, 'new' FROM generate_series(101, 140) g")
        page.wait_for_function(
            "wanted => document.querySelector('[data-live=\"consumer/shop/search/delivered\"]').textContent === wanted",
            arg=f"{before + 40:,}",
        )
        assert page.locator("#connection").inner_text().endswith(" UTC")


def test_the_overview_says_what_is_wrong_while_it_is(browser: Browser, console: Serving, shop: Scene) -> None:
    with tab(browser) as page:
        page.goto(console.url)
        with shop.database.connect() as connection:
            connection.execute("SELECT pg_create_logical_replication_slot('left_alone', 'pgoutput')")
            try:
                page.locator('a[href="/slot?name=left_alone"]', has_text="streamed from slot left_alone").wait_for()
            finally:
                connection.execute("SELECT pg_drop_replication_slot('left_alone')")
        page.locator('a[href="/slot?name=left_alone"]', has_text="streamed from").wait_for(state="detached")


def test_dead_letters_are_shown_retried_and_dropped(browser: Browser, console: Serving, shop: Scene) -> None:
    """Of letters of its own: those of the scene stay, whichever test is next."""
    shop.database.execute(
        f"INSERT INTO orders VALUES (21, 'poison', '{SECRET}'), (22, 'poison', '{SECRET}')",
        "UPDATE orders SET discount = 1 WHERE id = 21",
    )
    until(
        lambda: len(shop.letters(21)) == 2 and len(shop.letters(22)) == 1, "two letters and one that waits", pause=0.1
    )
    first, waiting = shop.letters(21)
    [second] = shop.letters(22)
    with tab(browser) as page:
        page.goto(f"{console.url}deadletters?consumer=webhook&table=orders")
        assert SECRET not in page.content()
        page.locator("tbody th a", has_text=re.compile(f"^{first}$")).click()
        titled(page, f"Dead letter {first} failed")
        assert f'"note": "{SECRET}"' in page.locator("main").inner_text(), "the letter's own page has its values"
        page.goto(f"{console.url}deadletter?id={waiting}")
        assert page.locator("button", has_text="Retry").count() == 0, "what waits follows by itself"

        page.goto(f"{console.url}deadletter?id={second}")
        page.locator("button", has_text="Drop").click()
        titled(page, "Drop this dead letter for good?")
        assert shop.letters(22) == [second], "it was only asked"
        page.locator("a", has_text="Keep").click()
        page.locator(f'input[name="id"][value="{second}"]').check()
        page.locator("button", has_text="Drop the chosen").click()
        page.locator("button", has_text="Drop for good").click()
        assert page.locator(".said").inner_text().startswith("1 dead letter dropped.")
        assert shop.letters(22) == []

        page.goto(f"{console.url}deadletter?id={first}")
        shop.picky.cured = True
        try:
            page.locator("button", has_text="Retry").click()
            assert page.locator(".said").inner_text().startswith("1 dead letter asked for again:")
            until(lambda: shop.letters(21) == [], "it is delivered, and what waited behind it", pause=0.1)
        finally:
            shop.picky.cured = False
        assert [row for row in shop.picky.rows if row[0] == 21] == [(21, "poison"), (21, "poison")]


def test_a_stream_step_by_step_and_a_rebuild(
    browser: Browser, console: Serving, shop: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tab(browser) as page:
        page.goto(f"{console.url}streams")
        page.locator("tbody a", has_text="order-1").click()
        page.locator("#state", has_text="Order after step 3").wait_for()
        assert '"status": "shipped"' in page.locator("#state + pre").inner_text()
        page.locator("a", has_text="Step 2").click()
        page.locator("#state", has_text="Order after step 2").wait_for()
        assert '"status": "paid"' in page.locator("#state + pre").inner_text()
        assert page.locator("li[aria-current] .diff").inner_text().startswith('status: "pending" → "paid"')
        monkeypatch.setattr(streams, "LONG", 2)
        page.goto(f"{console.url}stream?id=order-1&at=3")
        assert '"status": "shipped"' in page.locator("#state + pre").inner_text()
        assert page.locator("li[aria-current] .diff").inner_text() == 'address: "Lane 1"', "what it says"
        page.goto(f"{console.url}streams?q=order-")
        assert page.locator("#streams ~ .frame tbody tr").inner_text().startswith("order-1")
        page.locator("button", has_text="Rebuild").click()
        page.locator('[data-live="rebuild/revenue"]', has_text="done: 3 events").wait_for()
    assert shop.database.execute("SELECT generation, status FROM es.projections ORDER BY 1") == [
        (1, "retired"),
        (2, "live"),
    ]


class Gate:
    """A sink that takes nothing until it is let."""

    def __init__(self) -> None:
        self.opens = threading.Event()

    def open(self) -> None: ...

    def write(self, batch: pgcdc.Batch) -> None:
        assert self.opens.wait(120)

    def close(self) -> None: ...


def test_a_copy_is_followed(browser: Browser, shop: Scene) -> None:
    shop.database.execute(
        "CREATE TABLE large (id bigint PRIMARY KEY, filler text)",
        "INSERT INTO large SELECT g, repeat('x', 100) FROM generate_series(1, 60000) g",
        "ANALYZE large",
    )
    gate = Gate()
    pipeline = pgcdc.Pipeline("copying", shop.database.dsn, tables=["large"])
    pipeline.add(gate, name="slow", max_rows=100)
    subject = Subject(shop.database.dsn, pipeline=pipeline, running=True)
    try:
        with running(pipeline) as run, shop.serving(subject) as serving, tab(browser) as page:
            try:
                until(lambda: pipeline.statistics().source.snapshot is not None, "the copy has begun")

                def is_shown() -> bool:
                    """A page is of the last second."""
                    page.goto(f"{serving.url}tables")
                    return page.locator("h2", has_text="Existing rows are being copied").count() == 1

                until(is_shown, "the page says so", pause=0.3)
                assert page.locator("tbody tr", has_text="public.large").first.inner_text().startswith("public.large")
                assert float(page.locator('[data-bar="copy"]').get_attribute("value") or 1) < 1
                assert "Existing rows are being copied" in page.goto(serving.url).text()  # type: ignore[union-attr]
            finally:
                gate.opens.set()
            run.streaming()
            run.catch_up(shop.database)
            until(lambda: not is_shown(), "and that it is over", pause=0.3)
    finally:
        pipeline.destroy()


def test_what_the_role_may_not_see_is_said(shop: Scene) -> None:
    database, role = shop.database, f"reader_{shop.database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN")
    observer = Observer(Subject(f"{database.dsn} user={role}"))
    try:
        seen = observer.observe()
        assert seen.error is None
        assert [sentence.partition(":")[0] for sentence in seen.unknown] == [
            "The role may not read the stored positions",
            "The role may not read the dead letters",
        ]
        database.execute(
            f"GRANT USAGE ON SCHEMA pgcdc TO {role}", f"GRANT SELECT ON ALL TABLES IN SCHEMA pgcdc TO {role}"
        )
        seen = observer.observe()
        assert seen.unknown == []
        assert {one.key for one in seen.consumers} >= {"shop/search", "shop/webhook", "events/commits"}
        assert [one.name for one in seen.slots] >= ["pgcdc_events", "pgcdc_shop"]
    finally:
        observer.close()
        database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_keys(browser: Browser, console: Serving) -> None:
    with tab(browser) as page:
        page.goto(console.url)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"
        page.keyboard.press("g")
        page.keyboard.press("s")
        page.wait_for_url("**/slots")
        page.locator('[data-live="wal/lsn"], .plot canvas').first.wait_for()
        page.keyboard.press("j")
        assert page.evaluate("document.activeElement.closest('tbody, .troubles') !== null")
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#help").is_visible()
        page.keyboard.press("g")
        page.keyboard.press("d")
        page.wait_for_url("**/deadletters")
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.name") == "consumer"
        page.keyboard.press("g")
        assert page.url.endswith("/deadletters"), "where something is chosen or typed a letter is a letter"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scroll(browser: Browser, console: Serving, scheme: str) -> None:
    with tab(browser, width=360, scheme=scheme) as page:
        for address in PAGES:
            page.goto(f"{console.url[:-1]}{address}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, address
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(21, 23, 26)"
        assert dark == (scheme == "dark")
        page.locator('button[value="light"]').click()
        page.locator('html[data-theme="light"]').wait_for()
        page.wait_for_load_state("load")  # the page's markup is there before its stylesheet
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(251, 250, 248)"
        assert page.locator('button[value="light"]').get_attribute("aria-pressed") == "true"
