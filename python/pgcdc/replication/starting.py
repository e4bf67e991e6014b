# Made from starting_async.py by ./dev lint --fix: change that file, not this one.
"""How a stream begins: what is checked first, and that the errors of the server say what they mean.

Source: PostgreSQL manual, "Streaming Replication Protocol", START_REPLICATION SLOT … LOGICAL.
"""

# ruff: noqa: S608 (a hint is for a person to read and run)

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple

from pgcdc.errors import ConfigError, Error, PositionError, SlotInUse, SlotNotFound
from pgcdc.lsn import format_lsn, parse_lsn
from pgcdc.protocol import RowFormat
from pgcdc.protocol.catalog import CATALOG_SQL, Catalog, add_rows
from pgcdc.replication import publications, slots, waits
from pgcdc.replication.link import Link
from pgcdc.replication.negotiation import choose_binary, start_command
from pgcdc.replication.new_types import TypeWatch
from pgcdc.replication.progress import Progress
from pgcdc.replication.slot import check_slot, lost, synchronised
from pgcdc.replication.sqlstate import ON_STANDBY, Doing, connection_lost, missing_slot_hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgcdc.replication.session import Session
    from pgcdc.replication.stream_options import StreamOptions

__all__ = ["check_start", "start"]

logger = logging.getLogger("pgcdc.replication")

_WAL_END = """SELECT CASE WHEN recovers THEN pg_catalog.pg_last_wal_replay_lsn()
ELSE pg_catalog.pg_current_wal_flush_lsn() END, recovers FROM pg_catalog.pg_is_in_recovery() recovers"""
_LATE_SECONDS: Final = 60.0
"""How long a standby may take to replay the WAL up to where a stream is to start."""


def check_start(slot: str, start_lsn: object) -> None:
    """Make sure that a place to begin at is one.

    Args:
        slot: The slot's name, for the error.
        start_lsn: What was given.

    Raises:
        ConfigError: When it is no LSN.
    """
    if not isinstance(start_lsn, int) or not 0 <= start_lsn < 2**64:
        raise ConfigError(
            f"start_lsn={start_lsn!r} is no LSN", hint="give an int (pgcdc.parse_lsn reads one), or 0", slot=slot
        )


def start(
    walsender: Session,
    session: Session,
    database: str,
    options: StreamOptions,
    *,
    start_lsn: int,
    format: RowFormat | None,
    progress: Progress | None,
    sender_timeout: float,
    ask: Callable[[], Session],
) -> tuple[Link, RowFormat, Progress]:
    """Check everything that can be checked and start to stream; the contract is `Connection.stream`'s.

    Args:
        walsender: Streams from here on.
        session: Asked before.
        database: The database's name.
        options: What is asked for.
        start_lsn: Where to start, 0 for where the slot is.
        format: How rows are given; learns the database's types.
        progress: How far a stream is that goes on.
        sender_timeout: The server's `wal_sender_timeout` in seconds, 0 for none.
        ask: Makes a session for questions.

    Returns:
        What was started; the format; how far it is.
    """
    slot, names = options.slot, options.publications
    found = slots.state(session, slot)
    if found is None:
        raise SlotNotFound(
            f'slot "{slot}" does not exist',
            hint=ON_STANDBY if _wal_end(session).standby else missing_slot_hint(slot),
            slot=slot,
            sqlstate="42704",
        )
    check_slot(found, database)
    if found.synced and _wal_end(session).standby:
        raise synchronised(slot)
    if found.lost:
        raise lost(slot, found)
    confirmed = found.confirmed_flush_lsn or 0
    if options.reconnect is not None and found.temporary:
        raise ConfigError(
            f'the stream from slot "{slot}" cannot reconnect: a temporary slot lasts only as long as its session',
            hint="use a permanent slot, or leave reconnect out",
            slot=slot,
        )
    if progress is not None and confirmed > start_lsn:
        # The server would go on there without a word.
        raise PositionError(
            f'the stream from slot "{slot}" cannot go on at {format_lsn(start_lsn)}: the slot is at'
            f" {format_lsn(confirmed)}, and not by what this stream confirmed",
            hint="another client used the slot, or it was dropped and created again: changes in between are missing;"
            " take a new snapshot, or start another stream where the slot is",
            slot=slot,
            lsn=start_lsn,
        )
    if start_lsn:
        _check_start(session, slot, start_lsn, confirmed, again=progress is not None)
    publications.check_publications(session, names)
    types = session.execute(CATALOG_SQL)
    catalog = Catalog.of(types)
    if format is None:
        format = RowFormat(catalog=catalog)
    else:
        add_rows(format.catalog, types)
    binary = options.binary
    if binary is None:
        binary = choose_binary(publications.tables_of(session, names), catalog)
    doing = Doing(f'streaming from slot "{slot}"', kind="slot", slot=slot, publications=tuple(names))
    command = start_command(walsender.server_version, options, start_lsn=start_lsn, binary=binary)
    try:
        walsender.results(command, doing=doing)
    except SlotInUse as error:
        raise slots.in_use(session, slot, error) from None
    except Error as error:
        # 55000 is said of several things, in other words by each version; the catalog knows whether the slot is lost.
        if error.sqlstate == "55000" and (now := slots.state(session, slot)) is not None and now.lost:
            raise lost(slot, now) from None
        raise
    if progress is None:
        progress = Progress(slot, max(start_lsn, confirmed))
    watch = TypeWatch(format.catalog, ask, chosen=options.binary is None) if binary else None
    link = Link(walsender, doing, binary, format, options, progress, sender_timeout, watch)
    return link, format, progress


def _check_start(session: Session, slot: str, start_lsn: int, confirmed: int, *, again: bool) -> None:
    """Refuse a start that the server has not reached: it would stay silent for ever (or until it gets there).

    A standby may only be late: its WAL ends where its primary's does, as soon as it has it.
    """
    deadline = monotonic() + _LATE_SECONDS
    pause = 0.0
    while start_lsn > (end := _wal_end(session)).lsn:
        if end.standby and again:
            raise connection_lost(
                Doing(f'streaming from slot "{slot}"', kind="stream", slot=slot),
                f"the standby has replayed WAL up to {format_lsn(end.lsn)}, it goes on at {format_lsn(start_lsn)}",
                hint="a standby that is behind is tried again",
            )
        if not end.standby or monotonic() >= deadline:
            ends = "server's WAL ends at"
            hint = "is this the server that the position comes from? It may have been restored from an older backup"
            if end.standby:
                ends = f"standby has in {_LATE_SECONDS:g} s replayed its WAL only up to"
                hint = f"SELECT status FROM pg_stat_wal_receiver; says whether it receives WAL; {hint}"
            raise PositionError(
                f'slot "{slot}" cannot start at {format_lsn(start_lsn)}: the {ends} {format_lsn(end.lsn)}',
                hint=hint,
                slot=slot,
                lsn=start_lsn,
            )
        if not pause:
            logger.warning(
                "slot %s is to start at %s, and the standby has replayed WAL up to %s: waiting for it",
                slot,
                format_lsn(start_lsn),
                format_lsn(end.lsn),
            )
        pause = min(1.0, 2 * pause or 0.05)
        waits.sleep(pause)
    if start_lsn < confirmed:
        logger.info(
            "slot %s is confirmed up to %s: the server starts there, not at %s",
            slot,
            format_lsn(confirmed),
            format_lsn(start_lsn),
        )


class _WalEnd(NamedTuple):
    """Where the WAL ends that a server can send."""

    lsn: int
    standby: bool


def _wal_end(session: Session) -> _WalEnd:
    [(lsn, standby)] = session.execute(_WAL_END)
    return _WalEnd(parse_lsn(lsn or "0/0"), standby == "t")
