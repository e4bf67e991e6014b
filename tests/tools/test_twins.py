"""The converter: what it takes away, what it renames, and that a twin is what it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import twins

PAIRS = [
    ("async def f() -> None: ...", "def f() -> None: ..."),
    ("rows = await session.execute(sql)", "rows = session.execute(sql)"),
    ("row = (await session.execute(sql))[0]", "row = session.execute(sql)[0]"),
    ("f(await g(), (await h(1)).i)", "f(g(), h(1).i)"),
    ("x = (await g() or 1)", "x = g() or 1"),
    ("async with aclosing(a) as b: ...", "with closing(a) as b:\n    ..."),
    ("async for x in y: ...", "for x in y:\n    ..."),
    ("z = [x async for x in y]", "z = [x for x in y]"),
    ("class AsyncStream: ...", "class Stream: ..."),
    ("async def __aenter__(self): ...", "def __enter__(self): ..."),
    ("def f() -> Opening[AsyncStream]: ...", "def f() -> Stream: ..."),
    ("x = Opening(f(1))", "x = f(1)"),
    ("ask: Callable[[], Awaitable[None]]", "ask: Callable[[], None]"),
    ("from a.b import c_async as c\n\nc()", "from a.b import c\n\nc()"),
    ("from a.b_async import AsyncC\n\nAsyncC()", "from a.b import C\n\nC()"),
    ('"""As `aconnect`, of `AsyncStream`."""', '"""As `connect`, of `Stream`."""'),
    ('x = f"<AsyncStream {await y()}>"', 'x = f"<Stream {y()}>"'),
    ("x = 1  # why: asynchronous, awaited, `async with`", "x = 1  # why: asynchronous, awaited, `async with`"),
]


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_pairs(asynchronous: str, synchronous: str) -> None:
    made = twins.translate(f"{asynchronous}\n", "x_async.py")
    header, _, code = twins.formatted(made, twins.ROOT / "tests" / "x.py").partition("\n")
    assert header.startswith("# Made from x_async.py")
    assert code.strip() == synchronous


def test_every_twin_is_what_is_made() -> None:
    """The same as `./dev lint` says; a list that has become empty would hide it."""
    assert len(list(twins.sources())) >= 12
    assert twins.main(["--check"]) == 0


def test_a_twin_that_was_changed_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "x_async.py").write_text("async def f() -> None:\n    await g()\n")
    monkeypatch.setattr(twins, "ROOT", folder.parent)
    assert twins.main(["--check"]) == 1
    assert not (folder / "x.py").exists()
    assert twins.main([]) == 0
    assert (folder / "x.py").read_text().endswith("def f() -> None:\n    g()\n")
    assert twins.main(["--check"]) == 0
    (folder / "x.py").write_text("def f() -> None: ...\n")
    assert twins.main(["--check"]) == 1
    assert "tests/x.py is not what" in capsys.readouterr().err
