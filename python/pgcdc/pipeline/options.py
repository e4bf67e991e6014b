"""What may be said of any consumer, handler or sink, beside what it gets: the names, their meaning, and the checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypedDict

from pgcdc.errors import ConfigError

__all__ = ["ConsumerOptions", "Options", "check_options"]


class ConsumerOptions(TypedDict, total=False):
    """The keyword arguments that `Pipeline.on` and `Pipeline.add` have in common.

    Attributes:
        name: The consumer's name, which its stored position belongs to.
        snapshot: `"never"`: no part in the initial copy; changes from the slot's beginning on, or from now on where the
            pipeline runs already.
    """

    name: str | None
    snapshot: Literal["never"] | None


@dataclass(frozen=True)
class Options:
    """The same, checked; the name has become the subscription's.

    Attributes:
        snapshot: See `ConsumerOptions`.
    """

    snapshot: Literal["never"] | None = None


def check_options(consumer: str, given: Mapping[str, object]) -> Options:
    """Check what was said of a consumer.

    Args:
        consumer: Its name, for the error.
        given: What was said, by name.

    Returns:
        The options, with defaults for what was not said.

    Raises:
        ConfigError: When an option does not exist, or has a value that does not.
    """
    known = ConsumerOptions.__annotations__
    for option in given:
        if option not in known:
            similar = get_close_matches(option, known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"the options are {', '.join(known)}"
            raise ConfigError(f"consumer {consumer!r} has no option {option!r}", hint=hint)
    snapshot = given.get("snapshot")
    if snapshot not in (None, "never"):
        raise ConfigError(f"snapshot={snapshot!r} does not exist for one consumer", hint='only "never" does')
    return Options(snapshot="never" if snapshot == "never" else None)
