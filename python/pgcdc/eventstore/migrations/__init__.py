"""The numbered SQL files of the event store, in the order in which they are run; a released one is not changed."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Migration", "migrations"]


class Migration(NamedTuple):
    """One file.

    Attributes:
        number: Its number, from 1.
        name: Its name without number and ending.
        text: Its SQL, with {schema} where the schema's name belongs.
        checksum: Of the text.
    """

    number: int
    name: str
    text: str
    checksum: str


def migrations() -> list[Migration]:
    """All files, in their order."""
    found = []
    for entry in sorted(files(__name__).iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            text = entry.read_text(encoding="utf-8")
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, text, hashlib.sha256(text.encode()).hexdigest()))
    return found
