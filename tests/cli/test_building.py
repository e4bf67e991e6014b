"""From what `pgcdc run` is given to a pipeline: import paths, sinks by class or entry point, and each mistake told."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import pgcdc
from pgcdc import ConfigError
from pgcdc.cli.building import build
from pgcdc.cli.importing import as_python_does
from pgcdc.cli.redaction import Redactor
from pgcdc.replication import Reconnect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULE = """
import msgspec
import pgcdc

class Order(msgspec.Struct):
    id: int

class Search:
    made = []

    def __init__(self, url, *, batch=100):
        if batch < 1:
            raise ValueError(f"{batch} is too small")
        if batch > 1000:
            raise pgcdc.ConfigError("batch is too large", hint="at most 1000")
        Search.made.append((url, batch))

    def open(self): ...
    def write(self, batch): ...
    def close(self): ...

class Anything(Search):
    def __init__(self, **options):
        Search.made.append(options)

class NoSink:
    pass

class Store(pgcdc.pipeline.MemoryPositions):
    pass

async def told(change): ...

def make():
    pipeline = pgcdc.Pipeline("made", tables=["orders"])
    pipeline.on("orders")(told)
    return pipeline

class holder:
    pipeline = make()

empty = pgcdc.Pipeline("empty", tables=["orders"])
def make_nothing(): ...
def make_badly(): return pgcdc.Pipeline("made", tables="orders")
def make_with(name): ...
async def make_later(): ...
"""
FILE = """
[pipeline]
name = "shop"
dsn = "host=localhost"
tables = ["orders", "items"]
slot = "shop_slot"
max_rows_in_flight = 10

[consumers.search]
sink = "shop_for_tests:Search"
options = { url = "http://search" }

[consumers.told]
handler = "shop_for_tests:told"
table = "orders"
actions = ["insert"]
row = "shop_for_tests:Order"
snapshot = "never"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a module, which is the current one; what is imported there is forgotten again."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "shop_for_tests.py").write_text(MODULE)
    as_python_does()
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.endswith("_for_tests"):
            del sys.modules[name]


def built(target: str) -> pgcdc.Pipeline:
    return build(target, Redactor({}))


def built_file(place: Path, text: str) -> pgcdc.Pipeline:
    (place / "pgcdc.toml").write_text(text)
    return built("pgcdc.toml")


@pytest.mark.parametrize("target", ["shop_for_tests:make", "shop_for_tests:holder.pipeline"])
def test_an_import_path(place: Path, target: str) -> None:
    pipeline = built(target)
    assert (pipeline.name, pipeline.consumers) == ("made", ("told",))


def test_a_package(place: Path) -> None:
    (place / "package_for_tests").mkdir()
    (place / "package_for_tests" / "shop.py").write_text(MODULE)
    assert built("package_for_tests.shop:make").name == "made"


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("shop", "'shop' is neither module:pipeline nor a file that ends with .toml", "shop:pipeline, for"),
        ("shop.py", "'shop.py' is neither", "shop:pipeline, for"),
        ("shop_for_tests.py:make", "there is no module 'shop_for_tests.py'", "shop_for_tests:pipeline"),
        ("no_such:make", "no_such:make: there is no module 'no_such'", "looked for in "),
        ("no_such.deep:make", "there is no module 'no_such'", "looked for in "),
        ("shop_for_tests:", "'shop_for_tests:' is not module:attribute", "as in shop:pipeline"),
        (":make", "':make' is not module:attribute", "as in shop:pipeline"),
        (".shop:make", "'.shop:make' is not module:attribute", "as in shop:pipeline"),
        ("shop_for_tests:mak", "module 'shop_for_tests' has no 'mak'", "did you mean 'make'?"),
        ("shop_for_tests:make.it", "an object of type function has no 'it'", ""),
        ("shop_for_tests:Search", "is of the type type, not a pipeline", "name a pgcdc.Pipeline"),
        ("shop_for_tests:pgcdc", "is of the type module, not a pipeline", "name a pgcdc.Pipeline"),
        ("shop_for_tests:make_later", "is a coroutine function, not a pipeline", "name a pgcdc.Pipeline"),
        ("shop_for_tests:make_nothing", "gives something of the type NoneType, not a pipeline", "return the Pipeline"),
        ("shop_for_tests:make_badly", "tables of pipeline 'made' must be a list", "write tables=['orders']"),
        ("shop_for_tests:make_with", "it raised TypeError: make_with() missing 1 required positional argument", ""),
        ("shop_for_tests:empty", "pipeline 'empty' has no consumers", "pipeline.add(sink)"),
        ("broken_for_tests:x", "importing 'broken_for_tests' failed: KeyError: 'NO' (broken_for_tests.py, line 3)", ""),
        ("syntax_for_tests:x", "importing 'syntax_for_tests' failed: SyntaxError: ", ""),
        ("lacks_for_tests:x", "failed: ModuleNotFoundError: No module named 'no_such_module' (lacks_for_tests.py", ""),
        ("exits_for_tests:x", "importing 'exits_for_tests' failed: SystemExit: 3 (exits_for_tests.py, line 1)", ""),
        ("wrong_for_tests:x", "wrong_for_tests:x: a pipeline needs a name", "Pipeline("),
    ],
)
def test_an_import_path_that_leads_nowhere(place: Path, target: str, message: str, hint: str) -> None:
    (place / "broken_for_tests.py").write_text("import os\n\nos.environ['NO']\n")
    (place / "syntax_for_tests.py").write_text("x = = 1\n")
    (place / "lacks_for_tests.py").write_text("import no_such_module\n")
    (place / "exits_for_tests.py").write_text("raise SystemExit(3)\n")
    (place / "wrong_for_tests.py").write_text("import pgcdc\npgcdc.Pipeline('', tables=['orders'])\n")
    with pytest.raises(ConfigError) as caught:
        built(target)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_file(place: Path) -> None:
    pipeline = built_file(place, FILE)
    assert (pipeline.name, pipeline.consumers) == ("shop", ("search", "told"))
    assert sys.modules["shop_for_tests"].Search.made == [("http://search", 100)]
    search, told = pipeline._subscriptions.values()
    assert search.tables == {("public", "orders"), ("public", "items")}
    assert (search.actions, search.copies) == (None, True)
    assert told.tables == {("public", "orders")}
    assert told.actions == frozenset({"insert"})
    assert not told.copies
    assert pipeline._settings.slot == "shop_slot"
    assert pipeline._settings.max_rows_in_flight == 10
    assert pipeline._settings.publication == "pgcdc_shop"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("true", Reconnect()),
        ("false", None),
        ("{ first = 1, give_up = 600.5 }", Reconnect(first=1.0, give_up=600.5)),
    ],
)
def test_reconnect(place: Path, written: str, meant: Reconnect | None) -> None:
    pipeline = built_file(place, FILE.replace("slot =", f"reconnect = {written}\nslot ="))
    assert pipeline._settings.reconnect == meant


def test_every_setting_of_a_pipeline_has_its_key() -> None:
    """Whoever adds an argument to Pipeline adds it to the section too; stores are said elsewhere, or beside another."""
    import inspect

    from pgcdc.config import PipelineSection, ReconnectSection

    beside = {"positions", "dead_letters"}
    assert set(PipelineSection.__struct_fields__) == set(inspect.signature(pgcdc.Pipeline).parameters) - beside
    assert ReconnectSection.__struct_fields__ == Reconnect.__struct_fields__


@pytest.mark.parametrize(
    ("positions", "kind"),
    [
        ('store = "sqlite"\noptions = { path = "p.sqlite" }', "SqlitePositions"),
        ('store = "postgres"', "PostgresPositions"),
        ('store = "postgres"\noptions = { schema = "shop_positions", dsn = "host=b" }', "PostgresPositions"),
        ('store = "shop_for_tests:Store"', "Store"),
    ],
)
def test_position_stores(place: Path, positions: str, kind: str) -> None:
    pipeline = built_file(place, f"{FILE}\n[positions]\n{positions}")
    store: Any = pipeline._store
    assert type(store).__name__ == kind
    if kind == "PostgresPositions":
        assert (store._schema, store._dsn) in {("shop_positions", "host=b"), ("pgcdc", "host=localhost")}


def test_functions_of_what_a_consumer_gets(place: Path) -> None:
    """`where` is a key of the file and no argument of whoever reads it."""
    told = 'where = "shop_for_tests:told"\ntransform = ["shop_for_tests:told"]\n'
    changed = FILE.replace("sink = ", f"{told}sink = ", 1).replace('table = "orders"', f'{told}table = "orders"', 1)
    pipeline = built_file(place, changed)
    function = sys.modules["shop_for_tests"].told
    for name in ("search", "told"):
        options = pipeline._subscriptions[name].options
        assert options.where is function and len(options.transforms) == 1


def test_a_sink_by_entry_point(place: Path) -> None:
    package = place / "search_sinks-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: search-sinks\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pgcdc.sinks]\nsearch-index = shop_for_tests:Search [extra]\n")
    built_file(place, FILE.replace("shop_for_tests:Search", "search-index"))
    assert sys.modules["shop_for_tests"].Search.made == [("http://search", 100)]
    with pytest.raises(ConfigError, match="there is no sink 'search-inde'") as caught:
        built_file(place, FILE.replace("shop_for_tests:Search", "search-inde"))
    assert caught.value.hint == "did you mean 'search-index'? (or module:Class, for one of yours)"


def test_a_class_that_takes_any_option(place: Path) -> None:
    built_file(place, FILE.replace(":Search", ":Anything").replace("url =", "uri = [1], url ="))
    assert sys.modules["shop_for_tests"].Search.made == [{"uri": [1], "url": "http://search"}]


@pytest.mark.parametrize(
    ("before", "after", "message", "hint"),
    [
        ("url = ", "ulr = ", "consumers.search.options.ulr is not an option of Search", "did you mean 'url'?"),
        ("url = ", 'url = "x", "b c" = ', 'consumers.search.options."b c" is not an option of Search', "the options"),
        ("options = ", "#", "consumers.search.options.url is missing", "Search needs it"),
        ("url = ", "batch = 0, url = ", "consumers.search.options: it raised ValueError: 0 is too small", ""),
        ("url = ", "batch = 1001, url = ", "consumers.search.options: batch is too large", "at most 1000"),
        (":Search", ":NoSink", "consumers.search.options.url is not an option of NoSink", ""),
        (":Search", ":Sarch", "consumers.search.sink: module 'shop_for_tests' has no 'Sarch'", "did you mean 'Search'"),
        ('"shop_for_tests:Search"', '"kinesis"', "consumers.search.sink: there is no sink 'kinesis'", "module:Class"),
        ("sink = ", 'table = "orders"\nsink = ', "consumers.search.table is not a setting of a sink", "tables = ["),
        ("sink = ", 'handler = "a:b"\nsink = ', "consumers.search needs a sink or a handler, and not both", "sink ="),
        ("sink = ", "#", "consumers.search needs a sink or a handler, and not both", "sink ="),
        ("sink = ", 'tables = ["order"]\nsink = ', "consumers.search: consumer 'search' asks for table", "add it"),
        ('table = "orders"', 'tables = ["orders"]', "consumers.told.tables is not a setting of a handler", "table ="),
        ('table = "orders"', "options = {a = 1}", "consumers.told.options is not a setting of a handler", ""),
        ('table = "orders"', "options = {}", "consumers.told.options is not a setting of a handler", ""),
        ('table = "orders"', "", "consumers.told.table is missing", "the table whose"),
        ('table = "orders"', 'table = "oders"', "asks for table 'public.oders'", "did you mean 'public.orders'?"),
        (":told", ":empty", "consumers.told.handler is of the type Pipeline, not a function", ""),
        (":Order", ":told", "consumers.told.row is of the type function, not a class", ""),
        (":Order", ":Search", "consumers.told: row of consumer 'told' is not a msgspec.Struct class", ""),
        ('["insert"]', '["inserts"]', "asks for the action 'inserts', which does not exist", "the actions are"),
        ('"never"', '"always"', "consumers.told: snapshot='always' does not exist for one consumer", ""),
        ("shop_slot", "Shop", "pipeline: 'Shop' cannot be the name of a replication slot", "small letters"),
        ("host=localhost", "host", "pipeline.dsn: the DSN is not a connection string", "postgresql://"),
        (
            "[consumers.search]",
            '[positions]\nstore = "sqlit"\n[consumers.search]',
            "positions.store is not a",
            "sqlite",
        ),
        ("[consumers.search]", '[positions]\nstore = "sqlite"\n[consumers.search]', "positions.options.path is m", ""),
        (
            "[consumers.search]",
            '[positions]\nstore = "shop_for_tests:NoSink"\n[consumers.search]',
            "positions.store has no method 'open'",
            "see pgcdc.pipeline.PositionStore",
        ),
        (
            "[consumers.search]",
            '[positions]\nstore = "shop_for_tests:empty"\n[consumers.search]',
            "positions names something of the type Pipeline, not a class",
            "",
        ),
    ],
)
def test_a_file_that_is_wrong(place: Path, before: str, after: str, message: str, hint: str) -> None:
    assert before in FILE
    with pytest.raises(ConfigError) as caught:
        built_file(place, FILE.replace(before, after, 1))
    assert str(caught.value).startswith("pgcdc.toml: ")
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_where_python_is_told_not_to(tmp_path: Path) -> None:
    """`python -P`: the current directory is no place for modules then."""
    import subprocess

    (tmp_path / "shop_for_tests.py").write_text(MODULE)
    program = "from pgcdc.cli import main; raise SystemExit(main(['run', '--check', 'shop_for_tests:make']))"
    codes = [
        subprocess.run(
            [sys.executable, *more, "-c", program], cwd=tmp_path, capture_output=True, check=False
        ).returncode
        for more in ([], ["-P"])
    ]
    assert codes == [0, 2]
