"""Names made of keys: as written, and never the same for two rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcdc.errors import ConfigError
from pgcdc.sinks.template import Template


@pytest.mark.parametrize(
    ("text", "values", "name"),
    [
        ("orders:{id}", {"id": "1:2%"}, "orders:1:2%"),
        ("{table}:{id}", {"id": "7"}, "t:7"),
        ("{schema}.{table}:{key}", {"a": "x", "b": "y"}, "s.t:x:y"),
        ("{{tag}}:{id}", {"id": "7"}, "{tag}:7"),
        ("{a}:{b}:", {"a": "1:2", "b": "3:4"}, "1%3A2:3:4:"),
        ("{a}--{b}", {"a": "1-2%:", "b": "-%"}, "1%2D2%25:---%"),
        ("{a}→{b}", {"a": "→", "b": ""}, "%E2%86%92→"),
        ("plain", {}, "plain"),
    ],
)
def test_names(text: str, values: dict[str, str], name: str) -> None:
    key = [column for column in ("a", "b") if column in values]
    columns = list(values)
    template = Template(text, "key")
    assert set(template.key(key)) == set(columns)
    assert template.filler("s", "t", columns, key)(list(values.values())) == name


@given(
    st.lists(st.text(":%-3A", max_size=4), min_size=3, max_size=3),
    st.lists(st.text(":%-3A", max_size=4), min_size=3, max_size=3),
)
def test_two_rows_never_have_the_same_name(one: list[str], other: list[str]) -> None:
    for text in ("x{a}:{b}-{c}", "{key}", "{c}:{key}"):
        fill = Template(text, "key").filler("s", "t", ["a", "b", "c"], ["a", "b", "c"])
        assert (fill(one) == fill(other)) == (one == other)


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a!r}", "{a:x}", "{a}{b}", "{table}{key}"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ConfigError):
        Template(text, "key")


def test_what_is_in_it() -> None:
    template = Template("orders:{schema}:{a}:{key}:{a}", "key")
    assert template.names == ("schema", "a", "key", "a")
    assert template.columns == ("a",)
    assert template.beginning == "orders:"
    assert template.key(["b", "a"]) == ("a", "b")
    assert Template("", "key").beginning == ""
    assert repr(template) == "Template('orders:{schema}:{a}:{key}:{a}')"
