"""How a stream got where it is: what each event has changed."""

from __future__ import annotations

from typing import Any

import msgspec

from pgcdc.eventstore.folding import Fold
from pgcdc.eventstore.recorded import HistoryEntry, Recorded

__all__ = ["history_of", "plain"]


def history_of(events: list[Recorded], fold: Fold[Any] | None) -> list[HistoryEntry]:
    """Tell what each event has changed.

    Args:
        events: All events of a stream, from the first.
        fold: How they become a state; without it the payloads are told.

    Returns:
        An entry for each event.
    """
    entries = []
    state = None if fold is None else fold.begin()
    before = {} if fold is None else _flat(plain(state))
    for recorded in events:
        if fold is None:
            payload = plain(recorded.event)
            after = _flat(payload.get("payload", payload) if isinstance(payload, dict) else payload)
            changes = {path: (None, value) for path, value in after.items() if path != "event_type"}
        else:
            state = fold(state, recorded.event, recorded.sequence, recorded.stream_id, recorded.occurred_at)
            after = _flat(plain(state))
            paths = [*after, *(path for path in before if path not in after)]
            changes = {
                path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)
            }
            before = after
        actor = recorded.metadata.get("actor")
        entries.append(
            HistoryEntry(
                sequence=recorded.sequence,
                event_type=recorded.event_type,
                occurred_at=recorded.occurred_at,
                actor=None if actor is None else str(actor),
                changes=changes,
                recorded=recorded,
            )
        )
    return entries


def plain(value: Any) -> Any:
    """A state or an event as JSON has it.

    Args:
        value: Of any class.

    Returns:
        dict, list, str and so on.
    """
    try:
        return msgspec.to_builtins(value)
    except TypeError:
        return msgspec.to_builtins(vars(value), enc_hook=repr)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dicts by the path of each value; a list is one value."""
    if not isinstance(value, dict):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        at = f"{path}.{key}" if path else str(key)
        flat |= _flat(inner, at) if isinstance(inner, dict) and inner else {at: inner}
    return flat
