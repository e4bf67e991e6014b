"""What the server said no with (its SQLSTATE) to the exception that tells the caller what to do next.

The text of an error depends on the server's version and language; its SQLSTATE does not, but what a code means depends
on what was being done: 42704 while a stream starts is a missing slot, while it runs a missing publication.

Source: PostgreSQL manual, "PostgreSQL Error Codes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from pgcdc.errors import (
    ConfigError,
    ConnectionLost,
    Error,
    PublicationNotFound,
    ReplicationError,
    SlotInUse,
    SlotLost,
    SlotNotFound,
)
from pgcdc.replication.libpq import pq
from pgcdc.replication.quoting import identifier, qualified

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = [
    "NOBODY",
    "ON_STANDBY",
    "RUNNING",
    "Doing",
    "Who",
    "connect_error",
    "connection_lost",
    "field",
    "missing_slot_hint",
    "server_error",
]


class Doing(msgspec.Struct, frozen=True):
    """What was being done when the server said no.

    Attributes:
        what: As the beginning of a sentence: `creating slot "orders"`.
        kind: `"slot"`: creating, dropping or starting from one; `"stream"`: streaming; else `"statement"`.
        slot: The slot concerned.
        publications: The publications concerned.
        table: The table concerned, as `schema.name`.
        schema: The schema in that, which may have a full stop in its own name.
    """

    what: str
    kind: Literal["statement", "slot", "stream"] = "statement"
    slot: str | None = None
    publications: tuple[str, ...] = ()
    table: str | None = None
    schema: str | None = None

    @property
    def publication(self) -> str | None:
        """The publication, when there is only one it can be."""
        return self.publications[0] if len(self.publications) == 1 else None


_WITHOUT_VALUES = frozenset({"22P05", "22021"})
"""Of class 22, those whose sentence has no more of a value than the bytes of one character: what is to be corrected."""

RUNNING = Doing("running a statement")


class Who(msgspec.Struct, frozen=True):
    """As whom and where it was being done, so that a hint can be run as it stands.

    Attributes:
        role: The role whose privileges count; None when it is not known.
        database: The database; None when it is not known.
    """

    role: str | None = None
    database: str | None = None

    @property
    def quoted_role(self) -> str:
        """The role as SQL has it."""
        return identifier(self.role) if self.role else "…"

    @property
    def quoted_database(self) -> str:
        """The database as SQL has it."""
        return identifier(self.database) if self.database else "…"


NOBODY = Who()


def field(result: PGresult, code: pq.DiagnosticField) -> str:
    """One field of an error or notice.

    Args:
        result: The result that carries it.
        code: Which field.

    Returns:
        The field's text, empty when the server did not send it.
    """
    return (result.error_field(code) or b"").decode("utf-8", "replace")


def server_error(result: PGresult, doing: Doing, who: Who = NOBODY) -> Error:
    """Choose the exception for an ErrorResponse.

    Args:
        result: The failed result.
        doing: What was being done.
        who: As whom.

    Returns:
        The exception, to be raised.
    """
    sqlstate = field(result, pq.DiagnosticField.SQLSTATE)
    said = field(result, pq.DiagnosticField.MESSAGE_PRIMARY)
    if not sqlstate:  # libpq made this result itself, because the connection broke
        return connection_lost(doing, " ".join(result.get_error_message("utf-8").split()))
    if sqlstate.startswith("22") and sqlstate not in _WITHOUT_VALUES:
        said = "a value does not fit"  # class 22 quotes the value, which belongs in no message
    kind, hint = _meaning(sqlstate, doing, who)
    return kind(
        f"{doing.what} failed: {said} (SQLSTATE {sqlstate})",
        hint=hint or field(result, pq.DiagnosticField.MESSAGE_HINT) or None,
        sqlstate=sqlstate or None,
        slot=doing.slot,
        publication=doing.publication,
        table=doing.table,
    )


def connection_lost(doing: Doing, reason: str = "", *, hint: str | None = None) -> ConnectionLost:
    """The exception for a connection that ended without an ErrorResponse.

    Args:
        doing: What was being done.
        reason: Why, as far as is known.
        hint: What to do about it.

    Returns:
        The exception, to be raised.
    """
    because = f": {reason}" if reason else ""
    return ConnectionLost(
        f"{doing.what} ended because the connection was lost{because}",
        hint=hint or "connect again and resume: what was confirmed stays confirmed",
        slot=doing.slot,
        publication=doing.publication,
        table=doing.table,
    )


def connect_error(target: str, said: str, *, needs_password: bool, who: Who = NOBODY) -> Error:
    """Choose the exception for a connection that could not be made.

    libpq keeps no SQLSTATE of a failed connect, only the sentence; so the sentences that ask for another setting (in
    English, as nearly all servers log) are looked for here, and everything else is worth another attempt.

    Args:
        target: Where to, without secrets: `database "shop" at db.example.org:5432`.
        said: libpq's error message.
        needs_password: Whether the server asked for a password and there was none.
        who: As whom and to which database.

    Returns:
        The exception, to be raised.
    """
    sentence = " ".join(said.split())
    lower = sentence.lower()
    message = f"connecting to {target} failed: {sentence}"
    if needs_password:
        return ConfigError(message, hint="give a password by PGPASSWORD, a .pgpass file or the DSN", sqlstate="28P01")
    for words, sqlstate, hint in _REFUSALS:
        if all(word in lower for word in words):
            filled = hint.format(role=who.quoted_role, database=who.quoted_database)
            return ConfigError(message, hint=filled, sqlstate=sqlstate)
    if "max_wal_senders" in lower or "too many clients" in lower or "connection slots are reserved" in lower:
        return ConnectionLost(message, hint=_TOO_MANY, sqlstate="53300")
    if "the database system is" in lower:
        return ConnectionLost(message, hint="the server is starting up or shutting down: try again", sqlstate="57P03")
    if "root certificate file" in lower:
        return ConnectionLost(message, hint="say sslrootcert=FILE, or sslrootcert=system for what this machine trusts")
    return ConnectionLost(message, hint="is the server running there, and does it accept connections from here?")


_TOO_MANY = (
    "raise max_wal_senders (and max_connections) and restart the server, or stop a connection that is not needed"
)
ON_STANDBY = (
    "this server is a standby: connect to its primary, if you mean that one; where the DSN names several servers, put"
    " target_session_attrs=read-write into it"
)
"""What to do when a slot cannot be used on a standby: nothing is wrong with it, as a rule."""
_ALL_SLOTS = "SELECT slot_name FROM pg_replication_slots;"
_REPLICATION_ROLE = "ALTER ROLE {role} REPLICATION; as a superuser (on Amazon RDS: GRANT rds_replication TO {role};)"
_REFUSALS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("authentication failed",), "28P01", "check the user and its password: PGUSER, PGPASSWORD, .pgpass or the DSN"),
    (
        ("no pg_hba.conf entry",),
        "28000",
        "add a line for this user and host to pg_hba.conf, then SELECT pg_reload_conf()",
    ),
    (("pg_hba.conf rejects",), "28000", "change the line for this user and host in pg_hba.conf"),
    (("role", "does not exist"), "28000", "CREATE ROLE {role} LOGIN REPLICATION; or correct the user"),
    (("role", "not permitted to log in"), "28000", "ALTER ROLE {role} LOGIN;"),
    (("database", "does not exist"), "3D000", "correct the database's name in the DSN, or CREATE DATABASE {database};"),
    (("replication role",), "42501", _REPLICATION_ROLE),
    (("permission denied to start wal sender",), "42501", _REPLICATION_ROLE),
    (("permission denied for database",), "42501", "GRANT CONNECT ON DATABASE {database} TO {role};"),
)


def missing_slot_hint(slot: str) -> str:
    """What to do about a slot that does not exist: it may never have been made, or have been dropped.

    Args:
        slot: Its name.

    Returns:
        The hint.
    """
    return (
        f'connection.snapshot("{slot}") makes it and gives the rows that exist, connection.create_slot("{slot}") only'
        " what is committed from then on: after a slot was dropped that leaves a gap, and a new snapshot does not;"
        f" all names: {_ALL_SLOTS}"
    )


def _meaning(sqlstate: str, doing: Doing, who: Who) -> tuple[type[Error], str | None]:
    """The exception's class, and a hint that is better than the server's own."""
    if sqlstate == "42704" and doing.kind != "statement":
        if doing.kind == "stream":
            return PublicationNotFound, (
                "changes from before a publication was created cannot be read with it, not even after it was created"
                " again: drop the slot, create the publication, then a new slot with a new snapshot"
            )
        return (
            SlotNotFound,
            missing_slot_hint(doing.slot or "…"),
        )
    if sqlstate in _MEANINGS:
        return _MEANINGS[sqlstate]
    if sqlstate == "42501":
        return ConfigError, _privilege_hint(doing, who)
    if sqlstate[:2] in ("08", "57") and sqlstate != "57014":
        return ConnectionLost, "connect again and resume: what was confirmed stays confirmed"
    if sqlstate[:2] in ("28", "3D"):
        return ConfigError, None
    return ReplicationError, None


_MEANINGS: dict[str, tuple[type[Error], str | None]] = {
    "55006": (
        SlotInUse,
        "another process streams from it: SELECT active_pid FROM pg_replication_slots; wait for it or stop it",
    ),
    "58P01": (SlotLost, "drop the slot, create a new one and take a new snapshot; raise max_slot_wal_keep_size"),
    "42710": (ConfigError, "use the existing one (if_not_exists=True), or drop it first"),
    "42602": (ConfigError, "the name of a slot has only the letters a to z, digits and underscores, at most 63"),
    "53400": (
        ConfigError,
        "drop a slot that is not needed (SELECT pg_drop_replication_slot(…);), or raise max_replication_slots and"
        " restart the server",
    ),
    "53300": (ConnectionLost, _TOO_MANY),
    "42P01": (ConfigError, "correct the table's name, or create the table"),
    "3F000": (ConfigError, "correct the schema's name, or create the schema"),
    "0A000": (ConfigError, None),
    "42883": (
        ReplicationError,
        "a published column's type has no binary send function: stream with binary=False",
    ),
    "22P05": (
        ReplicationError,
        "a value has a character that UTF-8 cannot be made from: correct the value in the database",
    ),
    "22021": (
        ReplicationError,
        "the database holds text that is not in its own encoding: correct the value in the database",
    ),
    "55000": (ConfigError, None),
}


def _privilege_hint(doing: Doing, who: Who) -> str:
    """What to grant; each statement can be run as it stands."""
    role = who.quoted_role
    if doing.table is not None:
        schema, name = doing.schema, doing.table
        if schema is not None:
            name = name.removeprefix(f"{schema}.")
        elif "." in name:
            schema, _, name = name.partition(".")
        # Which of the two is missing only the sentence tells, in the server's language.
        usage = f"GRANT USAGE ON SCHEMA {identifier(schema)} TO {role}; " if schema else ""
        table = qualified(schema, name) if schema else identifier(name)
        return (
            f"{usage}GRANT SELECT ON {table} TO {role}; where row-level security hides rows also"
            f" ALTER ROLE {role} BYPASSRLS;"
        )
    if doing.kind == "slot":
        return _REPLICATION_ROLE.format(role=role)
    if doing.publications and doing.kind == "statement":
        return f"GRANT CREATE ON DATABASE {who.quoted_database} TO {role}; the tables must belong to the role"
    return f"grant the role {role} what the sentence names" if who.role else "grant the role what the sentence names"
