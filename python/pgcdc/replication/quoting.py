"""Identifiers and literals, written so that any name is safe, in SQL and in replication commands.

The grammar of replication commands knows `"…"` and `'…'` with doubled quotes and nothing else (no `E'…'`), and SQL with
`standard_conforming_strings = on`, which settings.py pins, reads the same; so one pair of functions serves both.

Source: PostgreSQL manual, "Lexical Structure"; server file `replication/repl_scanner.l`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgcdc.errors import ConfigError

__all__ = ["identifier", "literal", "literals", "qualified"]


def identifier(name: str) -> str:
    """Quote a name.

    Args:
        name: The name as it stands in the catalog.

    Returns:
        The name in double quotes.

    Raises:
        ConfigError: When no object can have this name.
    """
    if not name:
        raise ConfigError("a name is empty", hint="PostgreSQL's names have at least one character")
    return '"' + _sendable(name).replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string.

    Args:
        text: Any text without a NUL character.

    Returns:
        The text in single quotes.

    Raises:
        ConfigError: When the text holds a NUL character or a lone surrogate, which PostgreSQL cannot store.
    """
    return "'" + _sendable(text).replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """Quote several strings for an `IN (…)`.

    Args:
        texts: The strings; none gives a list that nothing is in.

    Returns:
        The strings in single quotes, separated by commas.
    """
    return ", ".join(literal(text) for text in texts) or "NULL"


def qualified(schema: str, name: str) -> str:
    """Quote a name together with its schema.

    Args:
        schema: The schema's name.
        name: The object's name.

    Returns:
        `"schema"."name"`.
    """
    return f"{identifier(schema)}.{identifier(name)}"


def _sendable(text: str) -> str:
    """Refuse what cannot be part of a command at all."""
    try:
        text.encode("utf-8", "surrogateescape")  # as names of a database in SQL_ASCII are given
    except UnicodeEncodeError:
        raise ConfigError(f"{text!r} is not valid Unicode text") from None
    if "\0" in text:
        raise ConfigError(f"{text!r} holds a NUL character, which no name in PostgreSQL can")
    return text
