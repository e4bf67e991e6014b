"""Words for kinds of changes: the gravest that fits, and mistakes that say what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from pgcdc import ConfigError
from pgcdc.schema import change_of, check_policy, reaction_to
from tests.schema.test_history import shape


def test_nothing_said_follows_all_but_another_name() -> None:
    policy = check_policy("search", None)
    assert reaction_to(change_of(shape("a", "b"), shape("a", ("c", 23), "d")), policy) == "follow"
    assert reaction_to(change_of(shape("a"), shape("a", name="other")), policy) == "stop"
    assert reaction_to(change_of(shape("a"), shape("a")), policy) == "follow"


def test_the_gravest_word_counts() -> None:
    policy = check_policy("search", {"add": "warn", "drop": "stop"})
    assert reaction_to(change_of(shape("a"), shape("a", "b")), policy) == "warn"
    assert reaction_to(change_of(shape("a", "b"), shape("a", ("c", 23))), policy) == "stop"
    assert reaction_to(change_of(shape("a"), shape(("a", 23))), policy) == "follow"
    assert set(check_policy("search", "warn").values()) == {"warn"}


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("stopp", "did you mean 'stop'"),
        ({"adds": "warn"}, "did you mean 'add'"),
        ({"add": "ignore"}, "it is one of follow, warn, stop"),
        (["stop"], "on_schema_change="),
    ],
)
def test_mistakes(given: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match="'search'") as raised:
        check_policy("search", given)
    assert hint in (raised.value.hint or "")
