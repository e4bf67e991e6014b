"""What a search index is made with for a table: a field for each column, and those that the sink needs itself.

An index refuses a document for a value that its field cannot hold. PostgreSQL's types hold more than an index's do
(NaN, infinity, dates before our era, numbers of a thousand digits), so fields leave such a value out of the index
(`ignore_malformed`, `ignore_above`) and keep it in the document, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pgcdc.errors import ConfigError
from pgcdc.event_text import TYPE_NAMES
from pgcdc.events import Column, Relation

__all__ = ["DELETED", "FILTER", "KEPT", "POSITION", "field", "index_name", "mapping"]

POSITION: Final = "pgcdc_position"
"""The position of the change that wrote the document, as text that compares as positions do."""
DELETED: Final = "pgcdc_deleted"
"""When a row was deleted whose document is only there to say so."""
KEPT: Final = "pgcdc_kept"
"""What a document keeps of rows that were here and have another key now, by the change that took them there: where they
are now may be written after this, and changes may come again."""

FILTER: Final = {"bool": {"must_not": {"exists": {"field": DELETED}}}}
"""What a search is to leave out."""

_LONGEST_TERM: Final = 32766
"""In bytes; a character has at most four. Source: Lucene, `IndexWriter.MAX_TERM_LENGTH`."""
_KEYWORD: Final = {"type": "keyword", "ignore_above": _LONGEST_TERM // 4}
_TEXT: Final = {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}}
_STORED: Final = {"type": "object", "enabled": False}
_LONG: Final = {"type": "long", "ignore_malformed": True}
_DOUBLE: Final = {"type": "double", "ignore_malformed": True}
_DATE: Final = {"type": "date", "ignore_malformed": True}
_UNSEARCHED: Final = {"type": "keyword", "index": False, "doc_values": False}

# Whole numbers are long and others double, whatever their size: a column that becomes wider keeps its field.
_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "bool": {"type": "boolean"},
    "int2": _LONG,
    "int4": _LONG,
    "int8": _LONG,
    "oid": _LONG,
    "float4": _DOUBLE,
    "float8": _DOUBLE,
    "numeric": _DOUBLE,
    "money": _DOUBLE,
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "xml": _TEXT,
    "date": _DATE,
    "timestamp": _DATE,
    "timestamptz": _DATE,
    "inet": {"type": "ip", "ignore_malformed": True},
    "bytea": _UNSEARCHED,
    "json": _STORED,
    "jsonb": _STORED,
}

_RESERVED: Final = {
    *("_id", "_index", "_source", "_routing", "_type", "_field_names", "_ignored", "_seq_no", "_version"),
    *("_doc_count", "_size", "_tier", "_nested_path", "_primary_term", "_parent", "_uid", "_all"),
    *(POSITION, DELETED, KEPT),
}
_FORBIDDEN: Final = frozenset('\\/*?"<>| ,#:')


def field(column: Column) -> dict[str, Any] | None:
    """What a column is in the index.

    Args:
        column: The column.

    Returns:
        The field; None for a type of the user's own: the index decides by the first value that it gets.
    """
    if column.type_oid >= 16384:  # FirstNormalObjectId, server file access/transam.h
        return None
    # An array of a field is the same field.
    return _FIELDS.get(TYPE_NAMES.get(column.type_oid, "").removesuffix("[]"), _KEYWORD)


def mapping(relation: Relation, chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a table.

    Args:
        relation: The table.
        chosen: Fields by column, instead of those that follow from the types.

    Returns:
        The mapping of an index.

    Raises:
        ConfigError: When a column has a name that an index keeps for itself.
    """
    fields: dict[str, Any] = {}
    for column in relation.columns:
        if column.name in _RESERVED:
            raise ConfigError(
                f"the column {column.name} of {relation.schema}.{relation.name} cannot be in a search index",
                hint="give it another name with a transform, or leave it out with columns=",
                table=f"{relation.schema}.{relation.name}",
            )
        known = chosen.get(column.name, field(column))
        if known is not None:
            fields[column.name] = dict(known)
    return {
        # Strings of unknown types stay strings, whatever the first of them looks like.
        "date_detection": False,
        "properties": {
            **fields,
            POSITION: {"type": "keyword"},
            DELETED: {"type": "date"},
            KEPT: {"type": "object", "enabled": False},
        },
    }


def index_name(template: str, relation: Relation) -> str:
    """The name of a table's index.

    Args:
        template: The name, with `{schema}` and `{table}` where these come.
        relation: The table.

    Returns:
        The name, in small letters.

    Raises:
        ConfigError: When it cannot be the name of an index.
    """
    name = template.replace("{schema}", relation.schema).replace("{table}", relation.name).lower()
    bad = not name or name[0] in "-_+." or len(name.encode()) > 240 or not _FORBIDDEN.isdisjoint(name)
    if bad or not name.isprintable() or "{" in name or "}" in name:
        raise ConfigError(
            f"{name!r} cannot be the name of an index, for the table {relation.schema}.{relation.name}",
            hint='write another template: index="shop-{table}"',
            table=f"{relation.schema}.{relation.name}",
        )
    return name
