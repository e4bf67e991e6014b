"""The configuration file: every mistake is named by file and key, no value is ever shown, variables are put in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgcdc import ConfigError
from pgcdc.config import (
    Configuration,
    ConsumerSection,
    PipelineSection,
    PositionsSection,
    holds_secret,
    read_configuration,
)

if TYPE_CHECKING:
    from pathlib import Path

RIGHT = """
[pipeline]
name = "shop"
dsn = "host=${SHOP_HOST:-localhost} password=${SHOP_PASSWORD}"
tables = ["orders", ["sales", "with.stop"]]
snapshot_connections = 3

[positions]
store = "sqlite"
options = { path = "positions.sqlite" }

[consumers.search]
sink = "sinks:Search"
options = { url = "http://search", api_key = "key-one", more = [{ token = "token-two" }] }
tables = ["orders"]

[consumers."with space"]
handler = "handlers:told"
table = "orders"
"""
ENVIRONMENT = {"SHOP_PASSWORD": "correct horse", "EMPTY": "", "SHOP_USER": "app"}


def read(folder: Path, text: str) -> Configuration:
    (folder / "pgcdc.toml").write_text(text, encoding="utf-8")
    return read_configuration(folder / "pgcdc.toml", ENVIRONMENT)


def refused(folder: Path, text: str) -> tuple[str, str | None]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value).replace(str(folder / "pgcdc.toml"), "FILE"), caught.value.hint


def test_what_is_right(tmp_path: Path) -> None:
    read_file = read(tmp_path, RIGHT)
    assert read_file.pipeline == PipelineSection(
        name="shop",
        dsn="host=localhost password=correct horse",
        tables=["orders", ("sales", "with.stop")],
        snapshot_connections=3,
    )
    assert read_file.positions == PositionsSection(store="sqlite", options={"path": "positions.sqlite"})
    assert list(read_file.consumers) == ["search", "with space"]
    assert read_file.consumers["with space"] == ConsumerSection(handler="handlers:told", table="orders")
    assert read_file.secrets == {"correct horse", "key-one", "token-two"}


def test_printed_it_has_no_secret(tmp_path: Path) -> None:
    shown = repr(read(tmp_path, RIGHT))
    assert "dsn='***'" in shown
    assert "'api_key': '***'" in shown
    for secret in ("correct horse", "key-one", "token-two"):
        assert secret not in shown


def test_rich_prints_it_likewise(tmp_path: Path) -> None:
    pretty = pytest.importorskip("rich.pretty", reason="rich is not installed: pip install 'pgcdc[cli]'")
    shown = pretty.pretty_repr(read(tmp_path, RIGHT))
    assert "'***'" in shown
    for secret in ("correct horse", "key-one", "token-two"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("${SHOP_USER}", "app"),
        ("${SHOP_USER}:${SHOP_USER:-x}", "app:app"),
        ("${NOT_SET:-a b}", "a b"),
        ("${NOT_SET:-}", ""),
        ("${EMPTY:-full}", "full"),
        ("[${EMPTY}]", "[]"),
        ("$${SHOP_USER} $SHOP_USER $ $$", "${SHOP_USER} $SHOP_USER $ $$"),
    ],
)
def test_variables(tmp_path: Path, written: str, meant: str) -> None:
    assert read(tmp_path, RIGHT.replace("sinks:Search", written)).consumers["search"].sink == meant


def test_what_comes_from_a_variable_is_not_expanded_again(tmp_path: Path) -> None:
    (tmp_path / "pgcdc.toml").write_text(RIGHT)
    read_file = read_configuration(tmp_path / "pgcdc.toml", {"SHOP_PASSWORD": "${HOME}"})
    assert read_file.pipeline.dsn == "host=localhost password=${HOME}"


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("[pipeline]", "[pipelin]", "FILE: pipelin is not a section", "did you mean 'pipeline'?"),
        (
            'name = "shop"',
            'name = "shop"\nsnapshot_conections = 2',
            "FILE: pipeline.snapshot_conections is not a setting",
            "did you mean 'snapshot_connections'?",
        ),
        (
            'tables = ["orders"]',
            'tabels = ["orders"]',
            "FILE: consumers.search.tabels is not a setting",
            "did you mean 'tables'?",
        ),
        (
            'table = "orders"',
            'tabel = "orders"',
            'FILE: consumers."with space".tabel is not a setting',
            "did you mean 'table'?",
        ),
        (
            'store = "sqlite"',
            'zzz = "sqlite"',
            "FILE: positions.zzz is not a setting",
            "the settings are store, options",
        ),
        ('store = "sqlite"', "", "FILE: positions.store is missing", "the section [positions] needs it"),
        ('name = "shop"', "", "FILE: pipeline.name is missing", "the section [pipeline] needs it"),
        ('name = "shop"', "name = 7", "FILE: pipeline.name must be a string, and is a whole number", None),
        ("= 3", '= "3"', "FILE: pipeline.snapshot_connections must be a whole number, and is a string", None),
        ("= 3", "= true", "FILE: pipeline.snapshot_connections must be a whole number, and is true or false", None),
        (
            "snapshot_connections = 3",
            "show_progress = 1",
            "FILE: pipeline.show_progress must be true or false, and is a whole number",
            None,
        ),
        (
            'tables = ["orders"]',
            'tables = "orders"',
            "FILE: consumers.search.tables must be an array, and is a string",
            None,
        ),
        (
            'tables = ["orders"]',
            "tables = [[1]]",
            "FILE: consumers.search.tables[0] is not as it must be",
            "Expected `array` of length 2, got 1",
        ),
        (
            "snapshot_connections = 3",
            "reconnect = { give_upp = 3 }",
            "FILE: pipeline.reconnect.give_upp is not a setting",
            "did you mean 'give_up'?",
        ),
        (
            'name = "shop"',
            'name = "shop"\nspool = { dirctory = "x" }',
            "FILE: pipeline.spool.dirctory is not a setting",
            "did you mean 'directory'?",
        ),
        (
            "snapshot_connections = 3",
            'reconnect = { give_up = "3" }',
            "FILE: pipeline.reconnect.give_up must be a number, and is a string",
            None,
        ),
        (
            "snapshot_connections = 3",
            'reconnect = "never"',
            "FILE: pipeline.reconnect must be true or false or a table of keys, and is a string",
            None,
        ),
        (
            '{ path = "positions.sqlite" }',
            '"positions.sqlite"',
            "FILE: positions.options must be a table of keys, and is a string",
            None,
        ),
        (
            "${SHOP_PASSWORD}",
            "${SHOP_PASWORD}",
            "FILE: pipeline.dsn needs the environment variable SHOP_PASWORD, which is not set",
            "set it, or give a default: ${SHOP_PASWORD:-…}",
        ),
        (
            '"token-two"',
            '"${NO}"',
            "FILE: consumers.search.options.more[0].token needs the environment variable NO, which is not set",
            "set it, or give a default: ${NO:-…}",
        ),
        *(
            (
                "${SHOP_PASSWORD}",
                wrong,
                "FILE: pipeline.dsn has a ${ that is not followed by the name of an environment variable",
                "${NAME}, or ${NAME:-default}; for the two characters themselves write $${",
            )
            for wrong in ("${SHOP", "${}", "${1}", "${A-b}", "${:-x}")
        ),
        ('name = "shop"', "name = shop", "FILE is not TOML: the mistake is at line 3, column 8", "NOT NONE"),
    ],
)
def test_what_is_wrong(tmp_path: Path, before: str, after: str, message: str, hint: str | None) -> None:
    assert before in RIGHT
    told, advice = refused(tmp_path, RIGHT.replace(before, after, 1))
    assert told == message
    assert advice == hint or (hint == "NOT NONE" and advice)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "FILE: there is no section [pipeline]"),
        ("pipeline = 1\n[consumers.a]", "FILE: pipeline is not a table of keys"),
        ('[pipeline]\nname = "shop"\ntables = []', "FILE: there are no consumers"),
        ('consumers = []\n[pipeline]\nname = "shop"\ntables = []', "FILE: there are no consumers"),
        ('[pipeline]\nname = "shop"\ntables = []\n[consumers]\na = 1', "FILE: consumers.a is not a table of keys"),
        ("a = " + "[" * 5000, "FILE is not TOML: "),
    ],
)
def test_what_is_missing(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text)[0].startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        read_configuration("no-such.toml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_configuration(tmp_path, {})
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_configuration(tmp_path / "latin.toml", {})


@pytest.mark.parametrize(
    "name",
    ["password", "PGPASSWORD", "SHOP_DB_PASSWD", "apiKey", "api_key", "secret", "auth-token", "private_key", "pw"],
)
def test_names_of_secrets(name: str) -> None:
    assert holds_secret(name)


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "path", "key", "user", "host", "PATH", "compass", "keys"])
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not holds_secret(name)


@settings(deadline=None, derandomize=True, database=None)
@given(at=st.integers(0, len(RIGHT)), length=st.integers(0, 12), put=st.text("[]{}\"'=.,\n#\\ abc0$", max_size=4))
def test_any_damage_is_told_without_a_value(
    tmp_path_factory: pytest.TempPathFactory, at: int, length: int, put: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    text = RIGHT[:at] + put + RIGHT[at + length :]
    told = ""
    try:
        read(folder, text)
    except ConfigError as error:
        told = f"{error} {error.hint}"
    for value in ("correct horse", "http://search", "positions.sqlite"):
        assert value not in told
