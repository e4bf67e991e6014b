"""What a stream asks the server for: protocol, binary or text, options.

Source: PostgreSQL manual, "Logical Streaming Replication Parameters".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError
from pgcdc.lsn import format_lsn
from pgcdc.replication.quoting import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgcdc.protocol import TypeCatalog
    from pgcdc.replication.publication import PublishedTable
    from pgcdc.replication.stream_options import StreamOptions

__all__ = ["choose_binary", "protocol_version", "start_command"]

logger = logging.getLogger("pgcdc.replication")


def protocol_version(server_version: int) -> int:
    """The version of pgoutput's protocol to ask for: the highest that the server knows.

    Args:
        server_version: The server's version as a number: 180004.

    Returns:
        2 for PostgreSQL 14, 3 for 15, 4 since 16. What they add comes only when it is asked for besides.

    Raises:
        ConfigError: When the server is older than PostgreSQL 14.
    """
    if server_version < 140000:
        raise ConfigError("pgcdc needs PostgreSQL 14 or later", hint="upgrade the server")
    return 2 if server_version < 150000 else 3 if server_version < 160000 else 4


def choose_binary(tables: Iterable[PublishedTable], catalog: TypeCatalog) -> bool:
    """Whether every published column can be had in binary and read from it; if not, one log line says why.

    Args:
        tables: What the publications publish.
        catalog: What is known of user-defined types.

    Returns:
        True for binary.
    """
    for table in tables:
        for column, sends, type_name in zip(
            table.relation.columns, table.binary_columns, table.column_types, strict=True
        ):
            if sends and catalog.knows(column.type_oid):
                continue
            why = "is not decoded from binary" if sends else "has no binary form"
            logger.warning(
                "streaming in text: type %s of column %s.%s.%s %s",
                type_name,
                table.schema,
                table.name,
                column.name,
                why,
            )
            return False
    return True


def start_command(server_version: int, options: StreamOptions, *, start_lsn: int, binary: bool) -> str:
    """Write the START_REPLICATION command.

    Args:
        server_version: The server's version as a number.
        options: What is asked for.
        start_lsn: Where to start; the server takes the slot's own position when that is later.
        binary: Whether to ask for binary values.

    Returns:
        The command.

    Raises:
        ConfigError: When the server does not know an option.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", START_REPLICATION SLOT … LOGICAL.
    """
    asked = {
        "proto_version": str(protocol_version(server_version)),
        "publication_names": ",".join(map(identifier, options.publications)),
    }
    if options.messages:
        asked["messages"] = "true"
    if binary:
        asked["binary"] = "true"
    if options.streaming != "off":
        # Before 16 there is nothing but on, and what comes out in the end is the same.
        asked["streaming"] = "parallel" if options.streaming == "parallel" and server_version >= 160000 else "on"
    if options.two_phase:
        if server_version < 150000:
            raise ConfigError("two-phase decoding by pgoutput needs PostgreSQL 15", hint="leave two_phase out")
        asked["two_phase"] = "on"
    if options.origin is not None:
        if server_version < 160000:
            raise ConfigError("the origin option needs PostgreSQL 16", hint="leave origin out")
        asked["origin"] = options.origin
    listed = ", ".join(f"{identifier(name)} {literal(value)}" for name, value in asked.items())
    return f"START_REPLICATION SLOT {identifier(options.slot)} LOGICAL {format_lsn(start_lsn)} ({listed})"
