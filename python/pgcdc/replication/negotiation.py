"""How a stream begins: what is checked first, and what it asks the server for (protocol, binary or text, options).

Source: PostgreSQL manual, "Logical Streaming Replication Parameters".
"""

# ruff: noqa: S608 (walsenders take no parameters: values are written into SQL by quoting.py)

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgcdc.errors import ConfigError, Error, PositionError, SlotInUse, SlotNotFound
from pgcdc.lsn import format_lsn, parse_lsn
from pgcdc.protocol import RowFormat
from pgcdc.protocol.catalog import Catalog, fill
from pgcdc.replication import publications, server, slots
from pgcdc.replication.new_types import TypeWatch
from pgcdc.replication.quoting import identifier, literal
from pgcdc.replication.sqlstate import Doing
from pgcdc.replication.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Literal

    from pgcdc.protocol import TypeCatalog
    from pgcdc.replication.publications import PublishedTable
    from pgcdc.replication.session import Session

__all__ = ["choose_binary", "protocol_version", "start", "start_command"]

logger = logging.getLogger("pgcdc.replication")

_WAL_END = """SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
ELSE pg_catalog.pg_current_wal_flush_lsn() END"""


def protocol_version(server_version: int) -> int:
    """The version of pgoutput's protocol to ask for.

    Args:
        server_version: The server's version as a number: 180004.

    Returns:
        1, which every server speaks and which sends only committed transactions. The highest is 2 on PostgreSQL 14, 3
        on 15 and 4 since 16; what those add (transactions streamed before their commit, prepared ones) is asked for
        once there is an assembler for it.

    Raises:
        ConfigError: When the server is older than PostgreSQL 14.
    """
    if server_version < 140000:
        raise ConfigError("pgcdc needs PostgreSQL 14 or later", hint="upgrade the server")
    return 1


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


def start_command(
    server_version: int,
    slot: str,
    names: Sequence[str],
    *,
    start_lsn: int,
    binary: bool,
    origin: Literal["any", "none"] | None = None,
) -> str:
    """Write the START_REPLICATION command.

    Args:
        server_version: The server's version as a number.
        slot: The slot's name.
        names: The publications' names.
        start_lsn: Where to start; the server takes the slot's own position when that is later.
        binary: Whether to ask for binary values.
        origin: `"none"` leaves out changes that were themselves replicated; None asks for nothing.

    Returns:
        The command.

    Raises:
        ConfigError: When the server does not know an option.

    Source:
        PostgreSQL manual, "Streaming Replication Protocol", START_REPLICATION SLOT … LOGICAL.
    """
    options = {
        "proto_version": str(protocol_version(server_version)),
        "publication_names": ",".join(map(identifier, names)),
        "messages": "true",
    }
    if binary:
        options["binary"] = "true"
    if origin is not None:
        if server_version < 160000:
            raise ConfigError("the origin option needs PostgreSQL 16", hint="leave origin out")
        options["origin"] = origin
    listed = ", ".join(f"{identifier(name)} {literal(value)}" for name, value in options.items())
    return f"START_REPLICATION SLOT {identifier(slot)} LOGICAL {format_lsn(start_lsn)} ({listed})"


def start(
    walsender: Session,
    session: Session,
    database: str,
    slot: str,
    names: Sequence[str],
    *,
    start_lsn: int,
    binary: bool | None,
    format: RowFormat | None,
    sender_timeout: float,
    ask: Callable[[], Session],
) -> Stream:
    """Check everything that can be checked and start a stream; the contract is `Connection.stream`'s."""
    found = slots.state(session, slot)
    if found is None:
        raise SlotNotFound(
            f'slot "{slot}" does not exist',
            hint=f'connection.create_slot("{slot}"), or correct the name: SELECT slot_name FROM pg_replication_slots;',
            slot=slot,
            sqlstate="42704",
        )
    slots.check_slot(found, database)
    if found.lost:
        raise server.lost(slot, found)
    confirmed = found.confirmed_flush_lsn or 0
    _check_start(session, slot, start_lsn, confirmed)
    publications.check_publications(session, names)
    catalog = Catalog.load(session)
    if format is None:
        format = RowFormat(catalog=catalog)
    else:
        fill(format.catalog, session)
    chosen = binary is None
    if binary is None:
        binary = choose_binary(publications.tables_of(session, names), catalog)
    doing = Doing(f'streaming from slot "{slot}"', kind="slot", slot=slot, publications=tuple(names))
    command = start_command(walsender.server_version, slot, names, start_lsn=start_lsn, binary=binary)
    try:
        walsender.results(command, doing=doing)
    except SlotInUse as error:
        raise slots.in_use(session, slot, error) from None
    except Error as error:
        # 55000 is said of several things, in other words by each version; the catalog knows whether the slot is lost.
        if error.sqlstate == "55000" and (now := slots.state(session, slot)) is not None and now.lost:
            raise server.lost(slot, now) from None
        raise
    watch = TypeWatch(format.catalog, ask, chosen=chosen) if binary else None
    return Stream(walsender, doing, binary, format, sender_timeout, floor=max(start_lsn, confirmed), watch=watch)


def _check_start(session: Session, slot: str, start_lsn: int, confirmed: int) -> None:
    """Refuse a start that the server has not reached: it would stay silent for ever (or until it gets there)."""
    if not start_lsn:
        return
    end = parse_lsn(session.execute(_WAL_END)[0][0] or "0/0")
    if start_lsn > end:
        raise PositionError(
            f'slot "{slot}" cannot start at {format_lsn(start_lsn)}: the server\'s WAL ends at {format_lsn(end)}',
            hint="is this the server that the position comes from? It may have been restored from an older backup",
            slot=slot,
            lsn=start_lsn,
        )
    if start_lsn < confirmed:
        logger.info(
            "slot %s is confirmed up to %s: the server starts there, not at %s",
            slot,
            format_lsn(confirmed),
            format_lsn(start_lsn),
        )
