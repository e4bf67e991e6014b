"""Shapes of tables over time: versions, what differs between two of them, and what a consumer does about it."""

from pgcdc.schema.change import ChangeKind, SchemaChange, change_of, named_as_now
from pgcdc.schema.history import History, SchemaColumn, SchemaVersion, fingerprint_of
from pgcdc.schema.policy import Policy, PolicyWord, check_policy, reaction_to

__all__ = [
    "ChangeKind",
    "History",
    "Policy",
    "PolicyWord",
    "SchemaChange",
    "SchemaColumn",
    "SchemaVersion",
    "change_of",
    "check_policy",
    "fingerprint_of",
    "named_as_now",
    "reaction_to",
]
