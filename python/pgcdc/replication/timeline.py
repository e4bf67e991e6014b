"""Where one timeline of a server's WAL ended and the next began.

Source: PostgreSQL manual, "Streaming Replication Protocol", TIMELINE_HISTORY.
"""

from __future__ import annotations

from pgcdc.lsn import parse_lsn

__all__ = ["switch_point"]


def switch_point(history: str, timeline: int) -> int | None:
    """Find in a timeline history file where a timeline ended.

    Args:
        history: The file's text.
        timeline: The timeline.

    Returns:
        The LSN of the switch; None when the timeline is not an ancestor.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", TIMELINE_HISTORY; server function `readTimeLineHistory`.
    """
    for line in history.splitlines():
        fields = line.split("#", 1)[0].split()
        if len(fields) >= 2 and fields[0].isdecimal() and int(fields[0]) == timeline:
            return parse_lsn(fields[1])
    return None
