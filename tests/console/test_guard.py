"""Who is let in and who is refused, by a plain HTTP client: hosts, origins, forms, tokens, cookies."""

from __future__ import annotations

import contextlib
import http.client
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

pytest.importorskip("starlette")

from pgcdc.console import Console, Serving, Subject, parse_address
from pgcdc.console.application import local
from pgcdc.console.guard import Session, is_loopback
from pgcdc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a-token-of-twenty-five-ch"
NOWHERE = "host=/nowhere connect_timeout=2"


class Client:
    """Sends what it is told and keeps a cookie, and does nothing else by itself."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self.host = f"127.0.0.1:{serving.port}"
        self.cookie: str | None = None

    def ask(
        self, path: str, form: dict[str, str] | None = None, *, method: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._serving.port, timeout=30)
        with contextlib.closing(connection):
            sent = {"Host": self.host} | {name.replace("_", "-"): value for name, value in headers.items()}
            if self.cookie is not None:
                sent["Cookie"] = self.cookie
            body = None
            if form is not None:
                sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
                body = urlencode(form)
            connection.request(method or ("GET" if form is None else "POST"), path, body=body, headers=sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            if found.get("set-cookie", "").startswith("pgcdc_console_"):
                self.cookie = found["set-cookie"].partition(";")[0]
            return answer.status, found, answer.read().decode()

    def forget(self) -> None:
        """Be somebody new."""
        self.cookie = None

    def csrf(self, path: str = "/") -> str:
        """What the forms of a page carry."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.ask(path)[2])
        assert found is not None
        return found[1]


@contextlib.contextmanager
def client(host: str = "127.0.0.1", token: str | None = None) -> Iterator[Client]:
    """A console of a server that is not there, which pages say; nothing else is needed here."""
    with Serving(Console(Subject(NOWHERE)), host, 0, token=token) as serving:
        yield Client(serving)


@pytest.fixture(scope="module")
def opened() -> Iterator[Client]:
    with client() as one:
        yield one


@pytest.fixture(scope="module")
def locked() -> Iterator[Client]:
    with client(token=TOKEN) as one:
        yield one


def test_a_server_that_is_away_is_said(opened: Client) -> None:
    status, headers, page = opened.ask("/")
    assert status == 200
    assert "The server cannot be asked" in page
    assert headers["cache-control"] == "no-store"
    assert headers["x-frame-options"] == "DENY"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! src=)", page), "nothing inline"
    assert opened.ask("/no-such-page")[0] == 404
    assert opened.ask("/static/../guard.py")[0] in (400, 404)
    status, _, page = opened.ask("/tables")
    assert status == 409 and "The server cannot be asked" in page
    assert "What is stored is not known" in opened.ask("/consumers")[2], "not: that there is nothing"


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]"])
def test_another_name_is_not_answered_to(opened: Client, name: str) -> None:
    """As DNS rebinding would have it: the name of a page of elsewhere leads here."""
    status, _, page = opened.ask("/", Host=f"{name}:{opened.host.rpartition(':')[2]}")
    assert (status, page) == (421, "this console answers to localhost; with a token it answers to any name\n")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost."])
def test_names_of_this_machine_are(opened: Client, name: str) -> None:
    assert opened.ask("/login", Host=f"{name}:1")[0] == 303


FORMS = [
    ("nothing", {}, 403),
    ("a token of nobody", {"csrf": "0" * 64}, 403),
    ("no number", {"csrf": ""}, 403),
]


@pytest.mark.parametrize(
    "path", ["/deadletters/retry", "/deadletters/drop", "/projections/rebuild", "/theme", "/logout"]
)
def test_a_form_without_the_token_of_the_session_is_refused(opened: Client, path: str) -> None:
    opened.ask("/")
    for _, form, expected in FORMS:
        assert opened.ask(path, form | {"id": "1"})[0] == expected
    assert opened.ask(path)[0] == 405, "a GET does nothing"


def test_a_form_from_elsewhere_is_refused(opened: Client) -> None:
    right = {"csrf": opened.csrf(), "theme": "dark", "to": "/slots"}
    assert opened.ask("/theme", right)[0] == 303
    assert opened.ask("/theme", right, Origin=f"http://{opened.host}")[0] == 303
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://{opened.host}.evil.example"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert opened.ask("/theme", right, **headers)[0] == 403, headers
    assert opened.ask("/theme", right, Content_Type="text/plain")[0] == 415
    assert opened.ask("/theme", right | {"more": "x" * 70_000})[0] == 413
    assert opened.ask("/theme", right, method="DELETE")[0] == 405
    session, opened.cookie = opened.cookie, None
    assert opened.ask("/theme", right)[0] == 403, "the token is of one session"
    opened.cookie = session


def test_a_theme_and_where_it_leads(opened: Client) -> None:
    csrf = opened.csrf()
    status, headers, _ = opened.ask("/theme", {"csrf": csrf, "theme": "dark", "to": "/slots?a=1"})
    assert (status, headers["location"]) == (303, "/slots?a=1")
    assert opened.ask("/theme", {"csrf": csrf, "theme": "x", "to": "//evil.example"})[1]["location"] == "/"
    for address in ("//evil.example", "/\\evil.example", "http://evil.example", "", "/a\nb", "evil"):
        assert local(address) == "/", address


def test_without_the_token_nothing_is_shown(locked: Client, caplog: pytest.LogCaptureFixture) -> None:
    locked.cookie = None
    status, headers, _ = locked.ask("/slot?name=x")
    assert (status, headers["location"]) == (303, "/login?to=%2Fslot%3Fname%3Dx")
    assert locked.ask("/live")[0] == 401
    status, _, page = locked.ask("/login")
    assert status == 200 and "nowhere" not in page and "PostgreSQL" not in page
    assert locked.ask("/static/console.css")[0] == 200
    csrf = locked.csrf("/login")
    assert locked.ask("/deadletters/drop", {"csrf": csrf, "id": "1"})[0] == 401
    for wrong in ("", "x", TOKEN[:-1], f"{TOKEN}x", TOKEN.upper()):
        assert locked.ask("/login", {"csrf": csrf, "token": wrong})[0] == 403
    assert caplog.messages.count("a wrong token was given to the console, from 127.0.0.1") == 5
    assert locked.ask("/")[0] == 303


def test_with_the_token_and_out_again(locked: Client) -> None:
    locked.forget()
    csrf = locked.csrf("/login")
    before = str(locked.cookie)
    assert locked.ask("/login", {"csrf": "0" * 64, "token": TOKEN})[0] == 403
    status, headers, _ = locked.ask("/login", {"csrf": csrf, "token": TOKEN, "to": "/consumers"})
    assert (status, headers["location"]) == (303, "/consumers")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Lax" in headers["set-cookie"]
    assert locked.cookie != before, "another session: nobody has planted it"
    assert locked.ask("/consumers", Host="console.example")[0] == 200, "with a token any name is answered to"
    known = str(locked.cookie)
    assert locked.ask("/logout", {"csrf": locked.csrf()})[0] == 303
    assert locked.ask("/")[0] == 303
    for forged in (known[:-1] + "0", known.replace(".1.", ".2."), "pgcdc_console=a.b.c.d", "x"):
        if forged != known:
            locked.cookie = forged
            assert locked.ask("/")[0] == 303, "nobody else can make such a cookie"


def test_sessions_end() -> None:
    key = b"k" * 32
    session = Session.begin(key, 1000.0, is_known=True)
    read = Session.read(session.cookie, key, 1000.0)
    assert read is not None and read.is_known and read.csrf == session.csrf
    assert Session.read(session.cookie, key, session.ends_at) is None
    assert Session.read(session.cookie, b"l" * 32, 1000.0) is None
    assert Session.read(session.cookie.replace(".1.", ".0."), key, 1000.0) is None
    unknown = Session.begin(key, 1000.0)
    assert Session.read(unknown.cookie.replace(".0.", ".1."), key, 1000.0) is None


def test_where_others_can_reach_it_there_is_a_token() -> None:
    with pytest.raises(ConfigError, match=r"a console at 0\.0\.0\.0 can be reached by others"):
        Serving(Console(Subject(NOWHERE)), "0.0.0.0", 0)
    with pytest.raises(ConfigError, match="fewer than 16"):
        Serving(Console(Subject(NOWHERE)), "0.0.0.0", 0, token="short")
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "127.evil.example", "localhost.example")))


def test_addresses() -> None:
    assert parse_address("8432") == ("127.0.0.1", 8432)
    assert parse_address(":0") == ("127.0.0.1", 0)
    assert parse_address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parse_address("[::1]:80") == ("::1", 80)
    for wrong in ("", "x", "1:x", "::1:80", "99999", "80:", "-1"):
        with pytest.raises(ConfigError, match="is no address"):
            parse_address(wrong)


def test_a_port_that_is_taken_is_said() -> None:
    with client() as one, pytest.raises(ConfigError, match="the console cannot listen at"):
        Serving(Console(Subject(NOWHERE)), "127.0.0.1", int(one.host.rpartition(":")[2]))
