"""What `pgcdc tail` makes of a line: whether it is wanted, and the text that is printed of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

import msgspec

from pgcdc.config import meant
from pgcdc.errors import ConfigError
from pgcdc.protocol.json_columns import REFUSED, decode_columns, loads

__all__ = ["Condition", "Template", "parse_condition", "parse_line", "parse_template"]

_FIELDS: Final = (
    "action", "schema", "table", "row", "new", "old", "position", "commit_lsn", "index", "commit_time", "lsn",
    "relations", "cascade", "restart_identity", "prefix", "content", "transactional",
)  # fmt: skip
"""What a template may name: what a line of JSON has, and `row`, the new row or else the old one."""
_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}\[\]]*)(?:\[([^\]{}]*)\])?\}|[{}]")
_CONDITION: Final = re.compile(
    r"\s*(.+?)\s*(?:(!=|<=|>=|=|<|>|~)\s*(.*?)|\s(is\s+not\s+null|is\s+null))\s*", re.IGNORECASE | re.DOTALL
)
_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": lambda one, other: one == other,
    "!=": lambda one, other: one != other,
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}
_exact = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


class Condition(NamedTuple):
    """What a column of the row must be.

    Attributes:
        column: Its name.
        operator: `=`, `!=`, `<`, `<=`, `>`, `>=`, `~` (a regular expression is found), `is null`, `is not null`.
        value: What it is compared with, as text.
    """

    column: str
    operator: str
    value: str

    def holds(self, line: dict[str, Any]) -> bool:
        """Whether it is so in the new row, or in the old one where there is no new one; a column not sent is not.

        Args:
            line: What `parse_line` gave.
        """
        row = _row(line)
        if self.column not in row:
            return False
        cell = row[self.column]
        if self.operator in ("is null", "is not null"):
            return (cell is None) == (self.operator == "is null")
        if cell is None:
            return False
        text = _text(cell)
        if self.operator == "~":
            return re.search(self.value, text) is not None
        numbers = (_number(text), _number(self.value))
        if None not in numbers:
            return _COMPARE[self.operator](*numbers)
        return _COMPARE[self.operator](text, self.value)


class Template(NamedTuple):
    """A text with places for values.

    Attributes:
        pieces: Texts, and pairs of a field and a column of it, or None.
    """

    pieces: Sequence[str | tuple[str, str | None]]

    def fill(self, line: dict[str, Any]) -> str:
        """The text of a line; what a line does not have is left out.

        Args:
            line: What `parse_line` gave.
        """
        return "".join(piece if isinstance(piece, str) else _value(line, *piece) for piece in self.pieces)


def parse_condition(text: str, columns: Collection[str] | None = None) -> Condition:
    """Read a condition.

    Args:
        text: As in `status=paid`, `total >= 100`, `note ~ ^urgent`, `note is null`.
        columns: Those that there are; None when that is not known.

    Raises:
        ConfigError: When it is none, or names a column that no table has.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--where {text!r} is no condition",
            hint="--where 'status=paid', --where 'total >= 100', --where 'note is null'",
        )
    column, operator, value, null = found.groups()
    if columns is not None and column not in columns:
        raise ConfigError(f"--where: no table has a column {column!r}", hint=meant(column, columns, "columns"))
    if operator == "~":
        try:
            re.compile(value)
        except re.error as error:
            raise ConfigError(f"--where: {value!r} is no regular expression: {error}") from None
    return Condition(column, operator or " ".join(null.lower().split()), value or "")


def parse_template(text: str) -> Template:
    """Read a template.

    Args:
        text: As in `{table} {action} {row[id]}`; `{{` stands for a brace.

    Raises:
        ConfigError: When a place is none.
    """
    pieces: list[str | tuple[str, str | None]] = []
    at = 0
    for found in _PIECE.finditer(text):
        pieces.append(text[at : found.start()])
        at = found.end()
        if found[0] in ("{{", "}}"):
            pieces.append(found[0][0])
        elif found[1] in _FIELDS and (found[2] is None or found[1] in ("row", "new", "old")):
            pieces.append((found[1], found[2]))
        elif found[1] is None:
            raise ConfigError(f"--template has a {found[0]!r} that stands alone", hint="{{ and }} stand for braces")
        else:
            hint = meant(found[1], _FIELDS, "fields") if found[1] not in _FIELDS else "of a row: {row[id]}"
            raise ConfigError(f"--template: {found[0]} is no field", hint=hint)
    return Template([*pieces, text[at:]])


def parse_line(line: bytes) -> dict[str, Any]:
    """Read a line of JSON; numbers keep their digits.

    Args:
        line: A line of `Batch.to_json`.
    """
    try:
        found = _exact.decode(line)
    except REFUSED:
        rows = {"new", "old"}
        found = {
            name: {column: _parsed(one) for column, one in decode_columns(value).items()}
            if name in rows
            else _parsed(value)
            for name, value in decode_columns(line).items()
        }
    return dict(found)


def _parsed(value: msgspec.Raw) -> Any:
    return loads(bytes(value).decode(), parse_float=Decimal)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    return line.get("new") or line.get("old") or {}


def _value(line: dict[str, Any], field: str, column: str | None) -> str:
    if field == "row":
        found: Any = _row(line)
    elif field == "table" and "table" not in line:
        found = ",".join(str(relation["table"]) for relation in line.get("relations", ()))
    else:
        found = line.get(field, "")
    if column is not None:
        found = found.get(column, "") if isinstance(found, dict) else ""
    return _text(found)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return _encoder.encode(value).decode()
    except (UnicodeEncodeError, RecursionError):
        return _json(value)


def _json(value: Any) -> str:
    """JSON of what no encoder takes that knows Decimal: text that is none. Numbers by their digits."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_json(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
