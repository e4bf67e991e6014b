"""Names in a target that are made of a table's name and a row's key: `"orders:{id}"`, `"{schema}.{table}:{key}"`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import Formatter
from typing import Final

from pgcdc.errors import ConfigError

__all__ = ["KEY", "SCHEMA", "TABLE", "Template"]

SCHEMA: Final = "schema"
TABLE: Final = "table"
KEY: Final = "key"
_OWN: Final = (SCHEMA, TABLE, KEY)
_SEPARATOR: Final = ":"
"""What stands between the values where `{key}` is several columns."""


class Template:
    """A text with names in braces: of columns, or `schema`, `table` and `key`, which is all columns of the table's key.

    Two rows never get the same name unless they have the same values: where another value follows, those characters of
    a value that stand between two values of the template are written as `%3A`, and `%` as `%25`. The last one is as it
    is.

    Args:
        text: The text; braces that are no names are doubled.
        what: What it is for, for errors: `"key"`.

    Attributes:
        text: The text.
        parts: Its parts in order: what stands before a name, and the name; None behind the last one.

    Raises:
        ConfigError: When it is none.
    """

    def __init__(self, text: str, what: str) -> None:
        self.text = text
        self.parts: list[tuple[str, str | None]] = []
        try:
            for literal, name, spec, conversion in Formatter().parse(text):
                if name == "" or spec or conversion:
                    raise ValueError
                self.parts.append((literal, name))
        except ValueError:
            raise ConfigError(
                f"{what}={text!r} is no template", hint='names of columns in braces, as in "orders:{id}"'
            ) from None
        for (_, before), (literal, name) in zip(self.parts, self.parts[1:], strict=False):
            if before is not None and name is not None and not literal:
                raise ConfigError(
                    f"{what}={text!r} has nothing between two names, so that rows could get the same one",
                    hint='put a character between them, as in "{a}:{b}"',
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names in it, in order."""
        return tuple(name for _, name in self.parts if name is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(dict.fromkeys(name for name in self.names if name not in _OWN))

    @property
    def beginning(self) -> str:
        """What all names begin with."""
        return self.parts[0][0] if self.parts else ""

    def key(self, of_table: Sequence[str]) -> tuple[str, ...]:
        """The columns whose values it needs.

        Args:
            of_table: The columns of the table's key.
        """
        wanted = [column for name in self.names for column in (of_table if name == KEY else (name,))]
        return tuple(dict.fromkeys(column for column in wanted if column not in (SCHEMA, TABLE)))

    def filler(
        self, schema: str, table: str, columns: Sequence[str], of_table: Sequence[str]
    ) -> Callable[[Sequence[str]], str]:
        """Prepare it for a table.

        Args:
            schema: The name of the table's schema.
            table: The table's name.
            columns: The columns whose values will be given.
            of_table: Those of the table's key, of which `{key}` is made.

        Returns:
            A function that is given the values and returns the name.
        """
        pieces: list[str | int] = []
        for literal, name in self.parts:
            pieces.append(literal)
            if name == KEY:
                for number, column in enumerate(of_table):
                    pieces += (_SEPARATOR, columns.index(column)) if number else (columns.index(column),)
            elif name is not None:
                pieces.append(-1 if name == SCHEMA else -2 if name == TABLE else columns.index(name))
        if sum(isinstance(piece, int) for piece in pieces) == 1 and not {SCHEMA, TABLE}.intersection(self.names):
            return _one_value(pieces)
        places = [at for at, piece in enumerate(pieces) if isinstance(piece, int)]
        between = (
            "".join(str(piece) for piece in pieces[places[0] : places[-1]] if isinstance(piece, str)) if places else ""
        )
        escapes = str.maketrans({one: "".join(f"%{byte:02X}" for byte in one.encode()) for one in {*between, "%"}})
        last = places[-1] if places else -1

        def fill(values: Sequence[str]) -> str:
            made = []
            for at, piece in enumerate(pieces):
                if isinstance(piece, str):
                    made.append(piece)
                    continue
                value = schema if piece == -1 else table if piece == -2 else values[piece]
                made.append(value if at == last else value.translate(escapes))
            return "".join(made)

        return fill

    def __repr__(self) -> str:
        return f"Template({self.text!r})"


def _one_value(pieces: Sequence[str | int]) -> Callable[[Sequence[str]], str]:
    """The short way for names with one value, which is as it is."""
    [(at, place)] = [(at, piece) for at, piece in enumerate(pieces) if isinstance(piece, int)]
    before, after = ("".join(map(str, part)) for part in (pieces[:at], pieces[at + 1 :]))
    return lambda values: f"{before}{values[place]}{after}"
