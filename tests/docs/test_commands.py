"""Commands that stand in pages exist, with their options; files of configuration in them make a pipeline.

Whole consoles, with what they print, are run for two pages, "The command line" and "Running a pipeline".
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from pgcdc.cli import verbs
from pgcdc.cli.building import build_watched
from pgcdc.cli.redaction import Redactor

REPOSITORY = Path(__file__).parents[2]
PAGES: Final = sorted(
    [*(page for page in (REPOSITORY / "docs").rglob("*.md") if "_build" not in page.parts), REPOSITORY / "README.md"]
)
RUN = {REPOSITORY / "docs" / "cli.md", REPOSITORY / "docs" / "running.md"}
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}


def commands(text: str) -> list[str]:
    """What a page says of `pgcdc`, in consoles and in the middle of sentences."""
    fenced = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line[2:] for block in fenced for line in block.splitlines() if line.startswith("$ ")]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [span.replace("\n", " ") for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]
    return [found[0] for line in lines for found in re.finditer(r"\bpgcdc (?=[a-z-])[^\\|;&)]*", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_its_commands_exist(page: Path) -> None:
    for line in commands(TEXTS[page]):
        command: Any = typer.main.get_command(verbs._application)
        path = "pgcdc"
        words = shlex.split(line.replace("…", ""), comments=True)[1:]
        while words and hasattr(command, "get_command") and not words[0].startswith("-"):
            below = command.get_command(None, words[0])
            assert below is not None, f"{path} has no {words[0]}: {line}"
            command, path = below, f"{path} {words.pop(0)}"
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
        options |= {"--install-completion", "--show-completion"} if path == "pgcdc" else set()
        wanted = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
        assert wanted <= options, f"{path} has no {wanted - options}: {line}"


FILES = [
    (page, number, block)
    for page in PAGES
    if page not in RUN
    for number, block in enumerate(re.findall(r"^```toml\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL))
    if "[project." not in block
]


@pytest.mark.parametrize(
    ("page", "block"), [pytest.param(page, block, id=f"{page.stem}-{number}") for page, number, block in FILES]
)
def test_its_files_make_a_pipeline(page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a file is completed with what is said of it elsewhere."""
    pipeline = '[pipeline]\nname = "shop"\ndsn = "dbname=shop"\ntables = ["orders", "products"]\n'
    text = block.replace("[pipeline]\n", pipeline) if "[pipeline]" in block else pipeline + block
    if "[consumers." not in block:
        text += '[consumers.lines]\nsink = "duckdb"\noptions = { path = "lines.duckdb" }\n'
    if page.stem == "own":  # the package of the page is not installed
        monkeypatch.syspath_prepend(REPOSITORY / "examples" / "sink_template")
        text = text.replace('sink = "folder"', 'sink = "folder_sink:Folder"')
    text = re.sub(r"^ca_file = .*\n", "", text, flags=re.MULTILINE)  # there is none here
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "from-the-environment")
    file = tmp_path / "pgcdc.toml"
    file.write_text(text)
    made, watched = build_watched(str(file), Redactor({}))
    assert len(made.consumers) == 1
    assert (watched is not None) == ("[metrics]" in block)


def test_there_are_some() -> None:
    assert sum(len(commands(text)) for text in TEXTS.values()) > 100 and len(FILES) > 5
