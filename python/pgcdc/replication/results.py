"""What the server says: results as rows or as errors, and notices beside them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgcdc.errors import ReplicationError
from pgcdc.replication import generators
from pgcdc.replication.libpq import pq
from pgcdc.replication.sqlstate import Doing, Who, field, server_error

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

__all__ = ["GOOD", "Notices", "StatementTimeout", "raise_first_error", "rows_of"]

logger = logging.getLogger("pgcdc.replication")

GOOD = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY, *generators.COPY_STATES)
"""The states of a result that is no error."""


class StatementTimeout(ReplicationError):
    """A command did not end in the time it was given; it was cancelled and has left nothing."""


class Notices:
    """What the server says beside the results; an object of its own, so that libpq's handler keeps no session alive."""

    def __init__(self) -> None:
        self.skipped_publication: str | None = None

    def __call__(self, notice: PGresult) -> None:
        """Take one notice.

        Args:
            notice: What the server sent; fields as of an error.
        """
        sqlstate = field(notice, pq.DiagnosticField.SQLSTATE)
        said = field(notice, pq.DiagnosticField.MESSAGE_PRIMARY)
        # PostgreSQL 18 goes on without a publication that does not exist, and the changes are gone. In a walsender
        # nothing else gives a warning with this code.
        if sqlstate == "55000":
            self.skipped_publication = said
        logger.warning("the server says: %s (SQLSTATE %s)", said, sqlstate)


def rows_of(result: PGresult) -> list[tuple[str | None, ...]]:
    """All rows of a result as text.

    Args:
        result: The result.

    Returns:
        The rows.
    """
    columns = range(result.nfields)
    return [
        tuple(
            None if (value := result.get_value(row, column)) is None else value.decode("utf-8", "surrogateescape")
            for column in columns
        )
        for row in range(result.ntuples)
    ]


def raise_first_error(results: list[PGresult], doing: Doing, who: Who) -> None:
    """Raise for the first result that is an error.

    Args:
        results: What a command gave.
        doing: What it was for.
        who: As whom it ran.

    Raises:
        Error: Which one is told by sqlstate.py.
    """
    for result in results:
        if result.status not in GOOD:
            raise server_error(result, doing, who)
