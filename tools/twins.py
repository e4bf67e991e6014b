"""The synchronous twin of each file that is written for asyncio: python -m tools.twins [--check].

What drives the protocol is written once, in `NAME_async.py`; `NAME.py` beside it is made here and checked in. A twin is
the same text without `async` and `await`, and with the names of the other colour. Where the two really differ is in
files that are written by hand for both, so there is nothing here that understands the code.
"""

from __future__ import annotations

import io
import keyword
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ["main", "sources", "translate"]

ROOT: Final = Path(__file__).parents[1]
BY_HAND: Final = frozenset(
    {
        "python/pgcdc/replication/waits_async.py",
        "python/pgcdc/eventstore/calling_async.py",
        "python/pgcdc/eventstore/connections_async.py",
        "python/pgcdc/eventstore/grouping_async.py",
    }
)
"""Asynchronous files whose twin is written by hand, because the two differ in more than their colour."""
NAMES: Final = {
    "aconnect": "connect",
    "asyncio": "time",
    "acheck_server": "check_server",
    "aensure_publication": "ensure_publication",
    "aiter": "iter",
    "anext": "next",
    "apublished_tables": "published_tables",
    "aclosing": "closing",
    "asynccontextmanager": "contextmanager",
    "StopAsyncIteration": "StopIteration",
}
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_DROPPED: Final = ("async", "await")
_WITH_WORDS: Final = (tokenize.NAME, tokenize.STRING, tokenize.COMMENT, getattr(tokenize, "FSTRING_MIDDLE", -1))
_MADE: Final = ("Awaitable", "Opening")
Edit = tuple[int, int, str]


def main(arguments: Sequence[str]) -> int:
    """Make the twins, or with `--check` only say which are not as they would be made.

    Args:
        arguments: Those of the command line.

    Returns:
        The exit code: 1 when one differs.
    """
    check = "--check" in arguments
    differs = False
    for source in sources():
        twin = twin_of(source)
        made = formatted(translate(source.read_text(), source.name), twin)
        if twin.exists() and twin.read_text() == made:
            continue
        differs = True
        if check:
            print(f"{twin.relative_to(ROOT)} is not what ./dev lint --fix makes of {source.name}", file=sys.stderr)
        else:
            twin.write_text(made)
    return int(differs and check)


def sources() -> Iterator[Path]:
    """All files that have a twin which is made here."""
    for folder in ("python/pgcdc", "tests"):
        for path in sorted((ROOT / folder).rglob("*_async.py")):
            if path.relative_to(ROOT).as_posix() not in BY_HAND:
                yield path


def twin_of(source: Path) -> Path:
    """Where the twin is.

    Args:
        source: The asynchronous file.

    Returns:
        The synchronous one beside it.
    """
    return source.with_name(source.name.replace("_async.py", ".py"))


def translate(text: str, name: str) -> str:
    """Write a file in the other colour.

    Args:
        text: The asynchronous file.
        name: Its name, for the header.

    Returns:
        The synchronous one, not formatted yet.
    """
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))

    def at(place: tuple[int, int]) -> int:
        return starts[place[0] - 1] + place[1]

    edits: list[Edit] = []
    for number, token in enumerate(tokens):
        begin, end = at(token.start), at(token.end)
        if token.type == tokenize.NAME and token.string in _DROPPED:
            edits.append((begin, at(tokens[number + 1].start), ""))
            edits += [(at(t.start), at(t.end), "") for t in _needless(tokens, number - 1)]
        elif token.type == tokenize.NAME and token.string in _MADE and tokens[number + 1].string in ("[", "("):
            # What is awaited or entered there is the thing itself here; needless parentheses ruff takes away.
            edits.append((begin, end, ""))
            if tokens[number + 1].string == "[":
                closing = tokens[_closing(tokens, number + 1)]
                edits += [(at(t.start), at(t.end), "") for t in (tokens[number + 1], closing)]
        elif token.type in _WITH_WORDS:
            changed = _WORD.sub(_renamed, token.string).replace("{await ", "{")  # in an f-string before 3.12
            if changed != token.string:
                edits.append((begin, begin + len(token.string), changed))
    for begin, end, replacement in sorted(edits, reverse=True):
        text = text[:begin] + replacement + text[end:]
    text = re.sub(r"\b(\w+) as \1\b", r"\1", text)  # import x_async as x
    return f"# Made from {name} by ./dev lint --fix: change that file, not this one.\n{text}"


def formatted(text: str, path: Path) -> str:
    """Have ruff drop and sort imports and break the lines, which are shorter now.

    Args:
        text: Source.
        path: Where it is going to be, which decides what is sorted as our own.

    Returns:
        The source as it is checked in.
    """
    # Without the keywords an import may be of no use, a loop be `yield from`, two blocks be one.
    tidy = ["check", "--select", "I,F401,UP028,SIM117", "--fix", "--unsafe-fixes", "--exit-zero", "--quiet"]
    for command in (tidy, ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def _renamed(match: re.Match[str]) -> str:
    """One word in the other colour: AsyncStream, stream_async, __aenter__."""
    word = match[0]
    if word in NAMES:
        return NAMES[word]
    word = re.sub(r"^__a(enter|exit|iter|next)__$", r"__\1__", word)
    word = re.sub(r"^Async(?=[A-Z])", "", word)
    return word.removesuffix("_async")


def _closing(tokens: Sequence[tokenize.TokenInfo], opening: int) -> int:
    """The place of the bracket that closes one."""
    depth = 0
    for place in range(opening, len(tokens)):
        if tokens[place].type == tokenize.OP:
            depth += (tokens[place].string in "([{") - (tokens[place].string in ")]}")
            if not depth:
                return place
    raise ValueError("a bracket is not closed")


def _needless(tokens: Sequence[tokenize.TokenInfo], opening: int) -> list[tokenize.TokenInfo]:
    """The parentheses around `(await something.called())`, which nothing needs any more."""
    before = tokens[opening - 1]
    called = before.string in (")", "]") or (before.type == tokenize.NAME and not keyword.iskeyword(before.string))
    if tokens[opening].string != "(" or called:
        return []
    closing = _closing(tokens, opening)
    place = opening + 2
    while place < closing:
        token = tokens[place]
        if token.string in ("(", "["):
            place = _closing(tokens, place)
        elif token.string != "." and (token.type != tokenize.NAME or keyword.iskeyword(token.string)):
            return []
        place += 1
    return [tokens[opening], tokens[closing]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
