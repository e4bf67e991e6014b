"""Events as types: a class for each, known by its name and version, with what makes old payloads new ones.

A class is checked when its module is imported: a chain of upcasters with a hole is an error there, not at the first old
event that is met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, dataclass_transform

import msgspec

from pgcdc.errors import ConfigError

__all__ = ["Event", "EventType", "Registry", "UnknownEvent", "Upcaster", "default_registry", "upcast"]

_FORBIDDEN: Final = "@"  # stands between name and version in a replay's lines
Payload = dict[str, Any]


class Upcaster:
    """What makes a payload of one version one of the next; made by `upcast`.

    Args:
        version: The version that it takes.
        function: From a payload to a payload.
    """

    def __init__(self, version: int, function: Callable[[Payload], Payload]) -> None:
        self.version = version
        self.function = function

    def __call__(self, payload: Payload) -> Payload:
        """Take one step; in a class it is a static method."""
        return self.function(payload)


def upcast(version: int) -> Callable[[Callable[[Payload], Payload]], Upcaster]:
    """Mark a static method of an event's class as what makes a payload of `version` one of `version + 1`.

    A class of version n has one for each of 1 to n - 1. It takes and returns the payload as JSON has it: a dict of str,
    int, float, bool, None, list and dict.

    Args:
        version: The version that it takes.

    Returns:
        The decorator.

    Example:
        ::

            class OrderPaid(Event, tag="OrderPaid", version=2):
                amount: int
                currency: str

                @upcast(1)
                @staticmethod
                def with_currency(payload: dict[str, Any]) -> dict[str, Any]:
                    return payload | {"currency": "EUR"}
    """

    def mark(function: Callable[[Payload], Payload]) -> Upcaster:
        return Upcaster(version, function.__func__ if isinstance(function, staticmethod) else function)

    return mark


class Registry:
    """The classes of events by their name.

    Two classes may have the same name as long as a store knows which is meant (`EventStore(…, events=…)`, or because it
    has appended one of them); a class that is defined again in its place takes the place of the first.

    Attributes:
        generation: A number that changes with each class that is added.
    """

    def __init__(self) -> None:
        self._types: dict[str, dict[tuple[str, str], type[Event]]] = {}
        self.generation = 0

    def __repr__(self) -> str:
        return "Registry()"

    def add(self, event_type: type[Event]) -> None:
        """Add a class; done by the class statement itself.

        Args:
            event_type: The class.
        """
        known = self._types.setdefault(event_type.__event_type__, {})
        known[event_type.__module__, event_type.__qualname__] = event_type
        self.generation += 1

    def of(self, name: str) -> list[type[Event]]:
        """All classes of a name.

        Args:
            name: The event's name, as in `event_type`.

        Returns:
            The classes; none when the name is not known.
        """
        return list(self._types.get(name, {}).values())

    def names(self) -> list[str]:
        """All names that are known, sorted."""
        return sorted(self._types)


default_registry: Final = Registry()
"""Where classes are known that name no other registry."""


@dataclass_transform(field_specifiers=(msgspec.field,), frozen_default=True)
class EventType(msgspec.StructMeta):
    """The class of event classes: `class OrderPaid(Event, tag="OrderPaid", version=1)`.

    Args:
        tag: The event's name. A class without one is a base for others.
        version: Its version, from 1.
        registry: Where it is known; subclasses inherit it.
    """

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        tag: str | None = None,
        version: int = 1,
        registry: Registry | None = None,
        **options: Any,
    ) -> Any:
        """Make a class, check its upcasters, make it known."""
        upcasters: dict[int, Callable[[Payload], Payload]] = {}
        for key, value in list(namespace.items()):
            if isinstance(value, Upcaster):
                if value.version in upcasters:
                    raise _wrong(name, f"two upcasters take version {value.version}", "keep one")
                upcasters[value.version] = value.function
                namespace[key] = staticmethod(value.function)
        if tag is None:
            if upcasters or version != 1:
                raise _wrong(name, "a version belongs to a tag", f'class {name}(…, tag="{name}", version=…)')
        else:
            _check(name, tag, version, upcasters)
            options["tag"] = tag
            namespace["__event_type__"] = tag
            namespace["__event_version__"] = version
            namespace["__upcasters__"] = upcasters
        if registry is not None:
            namespace["__registry__"] = registry
        made = super().__new__(mcls, name, bases, namespace, **options)
        if tag is not None:
            made.__registry__.add(made)  # type: ignore[attr-defined]
        return made


def _check(name: str, tag: object, version: object, upcasters: dict[int, Callable[[Payload], Payload]]) -> None:
    if not isinstance(tag, str) or not tag or _FORBIDDEN in tag or not tag.isprintable():
        raise _wrong(name, f"a tag is printable text without {_FORBIDDEN}", f'tag="{name}"')
    if not isinstance(version, int) or version < 1:
        raise _wrong(name, "a version is a whole number from 1 on", "version=1")
    if beyond := sorted(number for number in upcasters if not 1 <= number < version):
        raise _wrong(
            name,
            f"there is an upcaster from version {beyond[0]} in a class of version {version}",
            f"an upcaster leads to the next version: version={beyond[-1] + 1}, or take it out",
        )
    if missing := [number for number in range(1, version) if number not in upcasters]:
        raise _wrong(
            name,
            f"no upcaster leads from version {missing[0]} to {missing[0] + 1}",
            f"add a static method with @upcast({missing[0]}); what was never stored may return its payload as it is",
        )


def _wrong(name: str, what: str, hint: str) -> ConfigError:
    return ConfigError(f"the event class {name} cannot be: {what}", hint=hint)


class Event(
    msgspec.Struct, metaclass=EventType, frozen=True, gc=False, tag_field="event_type", registry=default_registry
):
    """Base of all events: `class OrderPaid(Event, tag="OrderPaid", version=1)`, with fields as msgspec has them.

    An event is frozen, and the garbage collector does not follow it: it is not meant to be part of a cycle.

    Attributes:
        __event_type__: The name (`tag`), stored as `event_type`.
        __event_version__: The version, stored as `event_version`.

    Source:
        msgspec, "Structs".
    """

    __event_type__: ClassVar[str]
    __event_version__: ClassVar[int]
    __upcasters__: ClassVar[dict[int, Callable[[Payload], Payload]]]
    __registry__: ClassVar[Registry]


class UnknownEvent(msgspec.Struct, frozen=True):
    """An event that no class is known for; folds let it pass.

    Attributes:
        event_type: Its name.
        event_version: Its version.
        payload: Its payload, as JSON has it.
    """

    event_type: str
    event_version: int
    payload: Any
