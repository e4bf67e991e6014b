"""What a consumer does when a table changes shape: follow, warn or stop, for each kind of change."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeAlias, get_args

from pgcdc.errors import ConfigError
from pgcdc.schema.change import ChangeKind, SchemaChange

__all__ = ["Policy", "PolicyWord", "check_policy", "reaction_to"]

PolicyWord: TypeAlias = Literal["follow", "warn", "stop"]
"""`follow`: go on; `warn`: go on, and say so in the log; `stop`: end with SchemaError before the first change."""
Policy: TypeAlias = Mapping[ChangeKind, PolicyWord]

DEFAULT: Final[Policy] = {
    "add": "follow",
    "drop": "follow",
    "rename": "follow",
    "retype": "follow",
    "key": "follow",
    # The consumer is registered for a name that the table does not have any more.
    "rename_table": "stop",
}
_GRAVITY: Final = get_args(PolicyWord)


def check_policy(consumer: str, given: Any) -> Policy:
    """Check what was said, and fill in what was not.

    Args:
        consumer: The consumer's name, for the error.
        given: A word for all kinds, or a word for some; None for none.

    Returns:
        A word for each kind.

    Raises:
        ConfigError: When a kind or a word does not exist.
    """
    if given is None:
        return DEFAULT
    if isinstance(given, str):
        given = dict.fromkeys(DEFAULT, given)
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"on_schema_change of consumer {consumer!r} is neither a word nor a mapping",
            hint='on_schema_change="warn", or {"drop": "stop", "retype": "warn"}',
        )
    for kind, word in given.items():
        for what, known in ((kind, list(DEFAULT)), (word, list(_GRAVITY))):
            if what not in known:
                similar = get_close_matches(str(what), known, n=1)
                raise ConfigError(
                    f"on_schema_change of consumer {consumer!r}: {what!r} does not exist",
                    hint=f"did you mean {similar[0]!r}?" if similar else f"it is one of {', '.join(known)}",
                )
    return {**DEFAULT, **given}


def reaction_to(change: SchemaChange, policy: Policy) -> PolicyWord:
    """Find the gravest word for what happened.

    Args:
        change: What happened.
        policy: A word for each kind.

    Returns:
        The word; `"follow"` where nothing happened.
    """
    return max((policy[kind] for kind in change.kinds), key=_GRAVITY.index, default="follow")
