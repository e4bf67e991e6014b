"""What a user does where a consumer cannot go on from what its group has stored: it begins anew."""

from __future__ import annotations

__all__ = ["begin_anew"]


def begin_anew(group: str, what: str = "empty the target") -> str:
    """Say how, as part of a hint.

    Args:
        group: The group. To forget its offsets of the topic is not enough: it has the ids of its topics elsewhere, and
            takes the new topic for one that was made behind its back.
        what: What is to be done with the target.
    """
    return (
        f"stop all processes of the consumer, {what}, delete the group (kafka-consumer-groups --delete --group {group})"
        " and the topic, and let the pipeline that writes it copy existing rows again (pgcdc consumer forget)"
    )
