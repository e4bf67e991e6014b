"""No password in any output: whatever it is made of, wherever it stands in the file, whoever words the text."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgcdc import ConfigError
from pgcdc.cli.building import build
from pgcdc.cli.logs import JsonLines, Lines
from pgcdc.cli.redaction import Redactor
from pgcdc.cli.run import _Teller
from pgcdc.config import read_configuration

if TYPE_CHECKING:
    from collections.abc import Callable

# Long and unlike any word of ours, so that one that is found was printed; with everything that is escaped somewhere.
passwords = st.text(st.sampled_from("qQ7é \t'\"\\@:/?#%&=$[]{}+;,*"), min_size=8, max_size=16).filter(
    lambda text: text.strip() == text and "${" not in text and sum(map(str.isalnum, text)) > 2
)


def in_uri(password: str) -> str:
    return f"postgresql://app:{quote(password, safe='')}@localhost:1/shop"


def in_pairs(password: str) -> str:
    escaped = password.replace("\\", "\\\\").replace("'", "\\'")
    return f"host=localhost port=1 password='{escaped}' dbname=shop"


def toml(dsn: str, **options: str) -> str:
    """A file whose sink takes any options and tells them in the error that it raises."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())
    return (
        f'[pipeline]\nname = "shop"\ndsn = {json.dumps(dsn)}\ntables = ["orders"]\n'
        f'[consumers.told]\nsink = "tests.cli.telltale:Telltale"\n[consumers.told.options]\n{lines}'
    )


def outputs(redactor: Redactor, error: Exception, texts: list[str]) -> str:
    """Everything that `pgcdc run` would write of an error and of what others log."""
    written = io.StringIO()
    for formatter in (Lines(redactor), JsonLines(redactor)):
        for text in texts:
            for message in ("%s", "%r", "%a"):
                record = logging.LogRecord("driver", logging.ERROR, __file__, 1, message, (text,), None)
                written.write(formatter.format(record) + "\n")
        try:
            raise RuntimeError(*texts) from error
        except RuntimeError:
            record = logging.LogRecord("driver", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
        written.write(formatter.format(record) + "\n")
    return written.getvalue()


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(password=passwords, form=st.sampled_from([in_uri, in_pairs]), from_environment=st.booleans())
@example(password="pq'7\\ Q@x:/%41", form=in_pairs, from_environment=True)
@example(password="p@ss:w/rd?#%41", form=in_uri, from_environment=False)
def test_no_password_in_any_output(
    tmp_path_factory: pytest.TempPathFactory, password: str, form: Callable[[str], str], from_environment: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "redaction.toml"
    url = f"redis://user:{quote(password, safe='')}@cache:6379/0"
    with pytest.MonkeyPatch.context() as patch:
        if from_environment:
            # The whole DSN, as platforms give it.
            patch.setenv("SOURCE", form(password))
            patch.setenv("SEARCH_API_KEY", password)
            text = toml("${SOURCE}", api_key="${SEARCH_API_KEY}", url=url, note="of ${SEARCH_API_KEY}")
        else:
            text = toml(form(password), api_key=password, url=url)
        path.write_text(text, encoding="utf-8")
        redactor = Redactor({})
        with pytest.raises(ConfigError) as caught:
            build(str(path), redactor)
        assert "cannot use" in str(caught.value)
        stderr = io.StringIO()
        patch.setattr(sys, "stderr", stderr)
        teller = _Teller(redactor, json=False)
        teller.tell(caught.value)
        teller.tell_defect(caught.value)
        written = stderr.getvalue() + outputs(
            redactor, caught.value, [password, form(password), url, f"<{password}>", json.dumps([password])]
        )
        configuration = read_configuration(path, os.environ)
    assert "***" in written
    written += repr(configuration)
    for shape in (password, quote(password, safe=""), repr(password)[1:-1], json.dumps(password)[1:-1]):
        assert shape not in written


def test_what_the_environment_has_is_kept_out() -> None:
    redactor = Redactor(
        {
            "PGPASSWORD": "abcd",
            "SHOP_SECRET": "from-a-vault",
            "DATABASE_URL": "postgresql://app:p%40ss@db/shop?sslpassword=also-this",
            "SOME_TOKEN": "true",
            "PWD": "/srv/shop",
            "USER": "somebody",
        }
    )
    assert redactor("abcd from-a-vault p%40ss p@ss also-this") == "*** *** *** *** ***"
    assert redactor("true /srv/shop somebody abc") == "true /srv/shop somebody abc"


def test_a_dsn_that_libpq_does_not_understand_is_kept_out_as_a_whole() -> None:
    redactor = Redactor({})
    redactor.learn_dsn("postgresql://app:half@escaped@host/shop")
    assert redactor("half half@escaped postgresql://app:half@escaped@host/shop") == "*** *** ***"


def test_what_only_libpq_reads() -> None:
    redactor = Redactor({})
    redactor.learn_dsn(r"host=x password=two\ words")
    assert redactor("two words") == "***"


def test_whose_error_it_is_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError("the index is read-only", hint="open it")
    error.add_note("consumer 'search'")
    _Teller(Redactor({}), json=False).tell(error)
    assert capsys.readouterr().err == "error: the index is read-only (consumer 'search')\nhint: open it\n"


def test_options_of_any_depth() -> None:
    redactor = Redactor({})
    redactor.learn_options({"servers": [{"url": "amqp://me:deep-down@mq"}, "host=x password='two words'"], "n": 1})
    assert redactor("deep-down, two words, host=x") == "***, ***, host=x"


def test_of_two_that_begin_alike_nothing_is_left() -> None:
    redactor = Redactor({})
    redactor.learn("secret", "secret-and-more")
    assert redactor("secret-and-more secret") == "*** ***"


def test_a_line_of_json_has_what_a_program_wants_to_know() -> None:
    redactor = Redactor({})
    redactor.learn("hush-hush")
    record = logging.LogRecord("driver", logging.WARNING, __file__, 1, "%s of %d", ("hush-hush", 2), None)
    record.hint = "not hush-hush"
    record.statistics = {"name": "shop", "numbers": [1, "hush-hush"]}
    line = msgspec.json.decode(JsonLines(redactor).format(record))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "driver",
        "message": "*** of 2",
        "hint": "not ***",
        "statistics": {"name": "shop", "numbers": [1, "***"]},
    }
