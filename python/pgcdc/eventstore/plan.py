"""What making a store's tables would do, as a value for `print`."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

__all__ = ["INDEXES", "Plan", "Profile", "Step"]

Profile = Literal["full", "lean"]
INDEXES: Final[dict[str, dict[str, str]]] = {
    "full": {
        "events_stream_type_occurred": "(stream_type, occurred_at)",
        "events_event_type_occurred": "(event_type, occurred_at)",
    },
    "lean": {"events_occurred_brin": "USING brin (occurred_at)"},
}
"""The indexes beside the one that a store needs. Those of "full" take a third of the server's time for an append."""


class Step(msgspec.Struct, frozen=True):
    """One thing that is done.

    Attributes:
        what: In words.
        sql: In SQL.
    """

    what: str
    sql: str


class Plan(msgspec.Struct, frozen=True):
    """All that is missing.

    Attributes:
        schema: The store's schema.
        steps: What is done, in this order, and in one transaction but for the indexes of another profile; empty when
            nothing is missing.
    """

    schema: str
    steps: list[Step]

    def __str__(self) -> str:
        """A line for each step."""
        if not self.steps:
            return f"the event store in the schema {self.schema} is complete"
        return "\n".join([f"event store in the schema {self.schema}:", *(f"  {step.what}" for step in self.steps)])
