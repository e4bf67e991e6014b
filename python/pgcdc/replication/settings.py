"""The session settings that every connection of pgcdc pins, whatever the role, the database or the DSN says.

Values come as text in the session's own style, a time-out kills a walsender that exports a snapshot, and row security
would leave rows out of a copy without a word; none of that may depend on somebody's `ALTER ROLE … SET`.

Source: PostgreSQL manual, "Client Connection Defaults"; server function `set_config`.
"""

from __future__ import annotations

from typing import Final

from pgcdc.replication.quoting import literal

__all__ = ["PINNED", "pin"]

PINNED: Final[tuple[tuple[str, str, int], ...]] = (
    # The form of values that are sent as text.
    ("client_encoding", "UTF8", 0),
    ("DateStyle", "ISO, YMD", 0),
    ("IntervalStyle", "postgres", 0),
    ("TimeZone", "UTC", 0),
    ("bytea_output", "hex", 0),
    ("extra_float_digits", "1", 0),
    ("lc_monetary", "C", 0),
    # How our own SQL is read and how the server writes expressions and names back.
    ("standard_conforming_strings", "on", 0),
    ("search_path", "", 0),
    ("quote_all_identifiers", "off", 0),
    # A copy that row security would shorten fails instead.
    ("row_security", "off", 0),
    # Nothing ends a long copy or a walsender that waits.
    ("statement_timeout", "0", 0),
    ("lock_timeout", "0", 0),
    ("idle_in_transaction_session_timeout", "0", 0),
    ("idle_session_timeout", "0", 140000),
    ("transaction_timeout", "0", 170000),
    # Warnings are surfaced, chatter is not; the stream relies on seeing "skipped loading publication".
    ("client_min_messages", "warning", 0),
)
"""Name, value, and the first `server_version_num` that knows the setting."""


def pin(server_version: int, server_encoding: str = "UTF8") -> str:
    """Write the statement that pins all settings at once.

    Args:
        server_version: The server's version as a number: 180004.
        server_encoding: The database's encoding. One in SQL_ASCII holds any bytes; asked for UTF-8, the server would
            refuse to send those that are not, at every attempt. So it is asked for what it has.

    Returns:
        One SELECT; it works on walsender connections too.
    """
    any_bytes = {"client_encoding": "SQL_ASCII"} if server_encoding == "SQL_ASCII" else {}
    calls = (
        f"pg_catalog.set_config({literal(name)}, {literal(any_bytes.get(name, value))}, false)"
        for name, value, since in PINNED
        if server_version >= since
    )
    return "SELECT " + ", ".join(calls)
