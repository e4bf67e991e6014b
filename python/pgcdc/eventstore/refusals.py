"""What the server said no with, as the exception that tells the caller what to do next.

Source: PostgreSQL manual, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg

from pgcdc.errors import (
    ConcurrencyConflict,
    ConfigError,
    ConnectionLost,
    Error,
    EventStoreError,
    InvalidEvent,
    PayloadTooLarge,
)

if TYPE_CHECKING:
    from pgcdc.eventstore.statements import Statements

__all__ = ["answered", "conflict", "hole", "is_away", "known_already", "refused", "see_encoding"]

_UNREADABLE: Final = {
    "events_payload_object": "a payload that is no JSON object",
    "events_metadata_object": "metadata that are no JSON object",
    "events_occurred_finite": "an occurred_at that is no moment",
}
"""The constraints of a row, and what they refuse."""


def see_encoding(connection: psycopg.pq.abc.PGconn) -> None:
    """See that what comes on a caller's connection is text.

    Args:
        connection: The caller's.

    Raises:
        ConfigError: When it is not: psycopg makes bytes of it then.
    """
    if connection.parameter_status(b"client_encoding") == b"SQL_ASCII":
        raise ConfigError(
            "the connection's client_encoding is SQL_ASCII, in which nothing is text",
            hint="psycopg.connect(…, client_encoding='UTF8'), or SET client_encoding = 'UTF8'",
        )


def refused(
    error: psycopg.Error | UnicodeEncodeError,
    statements: Statements,
    stream: str = "",
    expected: int | str | None = None,
) -> Error:
    """The exception for what psycopg raised.

    Args:
        error: What it raised.
        statements: Of the store.
        stream: The stream, where it was about one.
        expected: The version that the append expected.

    Returns:
        The exception, to be raised.
    """
    if isinstance(error, UnicodeEncodeError):  # what was to be sent
        return _not_in_encoding(None)
    sqlstate = error.sqlstate or ""
    constraint = error.diag.constraint_name or ""
    if (sqlstate == "23505" and constraint == "events_stream_sequence") or sqlstate == "40001":
        return conflict(stream, expected, None, sqlstate)
    if sqlstate == "23514" and constraint == "events_payload_size":
        return PayloadTooLarge(
            "the payload of an event is larger than the database takes",
            hint="store the document elsewhere, and a reference and a hash of it in the event; the limit is that of"
            " store.init(max_payload_bytes=…)",
            sqlstate=sqlstate,
        )
    if sqlstate == "23514" and constraint in _UNREADABLE:
        return InvalidEvent(
            f"an event has {_UNREADABLE[constraint]}, so no program could read it again",
            hint="payload and metadata are JSON objects, and occurred_at is a moment of the years 1 to 9999",
            sqlstate=sqlstate,
        )
    if sqlstate == "22P05" and error.diag.source_function == "report_untranslatable_char":
        return _not_in_encoding(sqlstate)
    if sqlstate == "22P05":
        return InvalidEvent(
            "an event has text with the character U+0000, which jsonb cannot hold",
            hint="take it out, or store the document elsewhere and a reference in the event",
            sqlstate=sqlstate,
        )
    if isinstance(error, psycopg.DataError) and not sqlstate:  # psycopg's own: nothing was sent, or all has come
        if "NUL" in str(error):
            return ConfigError(
                "a stream's id or type has the character U+0000, which PostgreSQL cannot hold", hint="take it out"
            )
        return EventStoreError(
            "an event has an occurred_at that Python cannot hold",
            hint="infinity, or a year that is not one of 1 to 9999: pgcdc has not taken such since its seventh"
            " migration; set it right under pgcdc.maintenance",
        )
    if sqlstate == "22003":
        return ConfigError(
            "a version is larger than a stream can have", hint="the version that load has returned", sqlstate=sqlstate
        )
    if sqlstate == "25006":
        return EventStoreError(
            f"the event store's server refused: {primary(error)}",
            hint="what writes needs a transaction that may, on the primary: connection.read_only = False, and no"
            " default_transaction_read_only of the connection's",
            sqlstate=sqlstate,
        )
    if sqlstate == "40P01":
        return EventStoreError(
            "the transaction met another one that waited for it, and was chosen to give way: deadlock detected",
            hint="roll it back and do it again; of several append_many none has to give way: they lock in one order",
            sqlstate=sqlstate,
        )
    if sqlstate == "26000":
        return EventStoreError(
            f"the event store's server does not know what was prepared: {primary(error)}",
            hint="a pooler of transactions has to follow prepared statements, as PgBouncer does from 1.21 on with"
            " max_prepared_statements; nothing was done",
            sqlstate=sqlstate,
        )
    if sqlstate == "55P03":
        return EventStoreError(
            f"the event store's tables are in use: {primary(error)}",
            hint="somebody has a transaction open that has read or written there: end it, or try again;"
            " pg_stat_activity shows it by its xact_start",
            sqlstate=sqlstate,
        )
    if sqlstate == "55000" and constraint in ("streams_state", "streams_no_hole"):
        return EventStoreError(
            f"the stream {stream} did not take the event: {primary(error)}",
            hint="read the stream again; a sequence follows the last one",
            sqlstate=sqlstate,
        )
    if sqlstate == "22023" and constraint == "streams_type":
        return _other_type(stream)
    if sqlstate in ("42P01", "3F000", "42883", "42703"):
        return ConfigError(
            f"the event store is not there, or not of this version: {primary(error)}",
            hint=f"store.init(), or pgcdc events init --schema {statements.schema}",
            sqlstate=sqlstate,
        )
    if sqlstate == "42501" and "for database" in primary(error):
        return ConfigError(
            f"the event store cannot be made: {primary(error)}",
            hint=f"GRANT CREATE ON DATABASE … TO …; or, as who may: CREATE SCHEMA {statements.quoted} AUTHORIZATION …;",
            sqlstate=sqlstate,
        )
    if sqlstate == "42501" and ("table migrations" in primary(error) or "must be owner" in primary(error)):
        return ConfigError(
            f"the event store cannot be made or changed by this role: {primary(error)}",
            hint=f"call init as the owner of the schema {statements.schema}, or a member of that role",
            sqlstate=sqlstate,
        )
    if sqlstate == "42501":
        return ConfigError(
            f"the event store may not be used: {primary(error)}",
            hint=f"GRANT USAGE ON SCHEMA {statements.quoted} TO …;"
            f" GRANT SELECT, INSERT ON {statements.quoted}.events TO …;"
            f" GRANT SELECT, INSERT, UPDATE ON {statements.quoted}.streams, {statements.quoted}.snapshots TO …;"
            f" GRANT USAGE ON SEQUENCE {statements.quoted}.events_id_seq TO …;"
            f" GRANT SELECT ON {statements.quoted}.archived_streams, {statements.quoted}.archive_segments TO …;"
            f" GRANT SELECT ON ALL TABLES IN SCHEMA {statements.quoted} TO …; -- for who looks at a whole store",
            sqlstate=sqlstate,
        )
    if (
        sqlstate[:2] in ("08", "53")
        or sqlstate[:3] == "57P"
        or (not sqlstate and isinstance(error, psycopg.OperationalError))
    ):
        return ConnectionLost(
            f"the event store's server cannot be reached: {primary(error)}",
            hint="whether the append was done is not known: with event_ids it can be repeated"
            if expected is not None
            else "is it running, and do host and port name it? nothing was changed",
            sqlstate=error.sqlstate,
        )
    return EventStoreError(f"the event store's server refused: {primary(error)}", sqlstate=error.sqlstate)


def conflict(
    stream: str, expected: int | str | None, version: int | None, sqlstate: str | None = None
) -> ConcurrencyConflict:
    """The exception for an append that came too late.

    Args:
        stream: The stream.
        expected: What was expected.
        version: What is, where it is known.
        sqlstate: The server's code, when it refused an INSERT.

    Returns:
        The exception, to be raised.
    """
    wanted = (
        "" if expected is None else f", expected {expected if isinstance(expected, str) else f'version {expected}'}"
    )
    found = (
        "another writer was first"
        if version is None
        else f"it is at version {version}"
        if version
        else "it does not exist"
    )
    return ConcurrencyConflict(
        f"the stream {stream} is not as expected: {found}{wanted}",
        hint="read the stream again, decide again, append again: store.retry(…) does",
        stream=stream,
        expected=expected,
        version=version,
        sqlstate=sqlstate,
    )


def answered(status: str, version: int, stream: str, expected: int | str) -> int:
    """What the append function has said, as a version or an exception.

    Args:
        status: Its word.
        version: Its version.
        stream: The stream.
        expected: What was expected.

    Returns:
        The version.

    Raises:
        ConcurrencyConflict: When another writer was first.
        EventStoreError: When the stream is closed or of another type, or only some of the events were appended before.
    """
    if status in ("ok", "duplicate"):
        return version
    if status == "conflict":
        raise conflict(stream, expected, version)
    if status == "closed":
        raise EventStoreError(f"the stream {stream} is closed", hint="begin another stream")
    if status == "type":
        raise _other_type(stream)
    if status == "partial":
        raise EventStoreError(
            f"some of these events are in the stream {stream} already, and others are not",
            hint="repeat an append with the same events and ids as the first time",
        )
    raise EventStoreError(
        f"the append to the stream {stream} was answered by a word that this program does not know",
        hint="was the event store brought up to date by a newer program? read the stream again",
    )


def known_already(stream: str) -> EventStoreError:
    """The exception for a plain INSERT of events that the stream has.

    Args:
        stream: The stream.

    Returns:
        The exception, to be raised.
    """
    return EventStoreError(
        f"events of these ids are in the stream {stream} already",
        hint="store.append(…, event_ids=…) does not append again what was appended before",
    )


def _not_in_encoding(sqlstate: str | None) -> ConfigError:
    return ConfigError(
        "an event has a character that the encoding of the connection, or of the database, does not have",
        hint="client_encoding=UTF8 for the connection; only a database whose encoding is UTF8 has every character",
        sqlstate=sqlstate,
    )


def _other_type(stream: str) -> EventStoreError:
    return EventStoreError(
        f"the stream {stream} is of another stream_type", hint="leave stream_type out, or name the stream differently"
    )


def is_away(error: BaseException) -> bool:
    """Whether something failed because the server, or what it needs, is not to be had now: it is done again then.

    Args:
        error: What was raised.

    Returns:
        False for all that comes from what was written. That a row is too large for an index, or a statement too
        complex, is an OperationalError, too, and would be one for ever. So is what a pipeline says of statements behind
        one that has failed: whoever went past that error meets it again.
    """
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    if isinstance(error, psycopg.errors.PipelineAborted):
        return False
    return not (error.sqlstate or "").startswith("54")


def primary(error: psycopg.Error) -> str:
    """The server's sentence alone, because details can hold values; libpq's first line when there was no server.

    Args:
        error: What psycopg raised.

    Returns:
        The sentence.
    """
    if error.diag.message_primary:
        return error.diag.message_primary
    text = str(error).partition("\n")[0]
    return text if isinstance(error, psycopg.OperationalError) and "invalid" not in text else type(error).__name__


def hole(stream: str, sequence: int) -> EventStoreError:
    """The exception for a stream of which an event is missing.

    Args:
        stream: The stream.
        sequence: The event before.
    """
    return EventStoreError(
        f"of the stream {stream} an event behind {sequence} is missing",
        hint="was it deleted under pgcdc.maintenance, or table or archive restored in part? pgcdc events check --deep"
        " looks at all of them; restore from a backup",
    )
