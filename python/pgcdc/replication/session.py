# Made from session_async.py by ./dev lint --fix: change that file, not this one.
"""One connection at libpq's level: made, pinned, asked, interrupted and closed; what walsenders and snapshots share.

Ctrl-C is not psycopg's here: `Connection.wait` there cancels the running command and waits again, which a stream would
never notice. Here KeyboardInterrupt comes out at once, and what was running is cancelled behind it so that the session
stays usable, or closed when that does not work.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pgcdc.errors import ConnectionLost
from pgcdc.replication import generators, waits
from pgcdc.replication.connecting import make_connection
from pgcdc.replication.libpq import pq, psycopg
from pgcdc.replication.results import GOOD, Notices, StatementTimeout, raise_first_error, rows_of
from pgcdc.replication.settings import pin
from pgcdc.replication.sqlstate import NOBODY, RUNNING, Doing, Who, connection_lost

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from psycopg.pq.abc import PGconn, PGresult

__all__ = ["Session", "Slow", "StatementTimeout"]

T = TypeVar("T")
_SLICE_SECONDS: Final = 0.1
"""The longest single wait, as in psycopg: its compiled `wait` looks at signals only in between."""
_CANCEL_SECONDS: Final = 5.0
"""How long a cancelled command may take to end before the connection is given up."""


class Slow(NamedTuple):
    """What to do when a command takes long; it goes on meanwhile.

    Attributes:
        seconds: After how long.
        say: Called once; must not raise because of a server.
    """

    seconds: float
    say: Callable[[], None]


class Session:
    """One connection to a server, with the settings of settings.py.

    Made by `connect`.

    Args:
        pgconn: The connection.

    Attributes:
        server_version: The server's version as a number: 180004.
        notices: What the server says beside the results.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self.pgconn = pgconn
        self.notices = Notices()
        self.pgconn.notice_handler = self.notices
        self.server_version: int = self.pgconn.server_version
        self._who = NOBODY

    @classmethod
    def connect(
        cls, dsn: str, *, replication: bool, connect_timeout: float = 10.0, beside: Session | None = None
    ) -> Self:
        """Connect, and pin the settings.

        Args:
            dsn: A connection string or URI; what it leaves open libpq takes from PG* variables and service files.
            replication: Whether the server gives a walsender, which takes SQL and replication commands.
            connect_timeout: Seconds for each host; a `connect_timeout` in the DSN or PGCONNECT_TIMEOUT comes first.
            beside: A session to the same server, where the DSN has several.

        Returns:
            The session.

        Raises:
            ConfigError: When the DSN is malformed or the server refuses this role, database or host.
            ConnectionLost: When there is no server, or it cannot take a connection now.

        Source:
            PostgreSQL manual, "libpq: Database Connection Control Functions".
        """
        other = None if beside is None else beside.pgconn
        session = cls(make_connection(dsn, replication=replication, connect_timeout=connect_timeout, beside=other))
        try:
            session._pin()
        except BaseException:
            session.close()
            raise
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self.pgconn.status == pq.ConnStatus.BAD

    @property
    def idle(self) -> bool:
        """Whether the session is there and takes a command: no command runs, no transaction is open."""
        return bool(self.pgconn.transaction_status == pq.TransactionStatus.IDLE)

    @property
    def on_standby(self) -> bool:
        """Whether the server takes no writes because it is a standby, as it says itself whenever that changes."""
        return self.pgconn.parameter_status(b"in_hot_standby") == b"on"

    def _pin(self) -> None:
        # Asked here, where it costs no round trip: after an error in a transaction nothing can be asked.
        encoding = (self.pgconn.parameter_status(b"server_encoding") or b"").decode()
        asking = f"{pin(self.server_version, encoding)}, current_user::pg_catalog.text, pg_catalog.current_database()"
        *_, role, database = self.execute(asking, doing=Doing("pinning the session's settings"))[0]
        self._who = Who(role, database)

    def close(self) -> None:
        """End the connection; the server rolls back what was open. Closing twice is no error."""
        self.pgconn.finish()

    def wait(self, generator: generators.Waiting[T], seconds: float, doing: Doing = RUNNING) -> T:
        """Drive one generator for a while; when it returned without what is wanted, begin it again.

        Args:
            generator: One of generators.py; it returns when the time is over.
            seconds: How long the socket may stay silent; a tenth of a second at most, so that Ctrl-C comes through.
            doing: What is being done, for errors.

        Returns:
            What the generator returned.

        Raises:
            ConnectionLost: When the connection broke.
        """
        try:
            return waits.wait(generator, self.pgconn.socket, min(max(seconds, 0.0), _SLICE_SECONDS))
        except (psycopg.Error, OSError) as error:
            raise self.lost(doing, error) from None

    def lost(self, doing: Doing, error: Exception | None = None) -> ConnectionLost:
        """The exception for a connection that broke.

        Args:
            doing: What was being done.
            error: What psycopg raised.

        Returns:
            The exception, to be raised.
        """
        return connection_lost(doing, " ".join(str(error or "").split()))

    def execute(
        self, sql: str, *, timeout: float | None = None, doing: Doing = RUNNING, slow: Slow | None = None
    ) -> list[tuple[str | None, ...]]:
        """Run a statement by the simple query protocol, the only one that a walsender speaks.

        Args:
            sql: SQL, or a replication command.
            timeout: Seconds until it is cancelled; None for no limit.
            doing: What this is for, for errors.
            slow: What to do, once, when it takes long.

        Returns:
            The rows of the last statement that gave any, every value as text.

        Raises:
            StatementTimeout: When it was cancelled because of `timeout`.
            ReplicationError: When the server refused; which kind, and ConfigError, is told by sqlstate.py.
            ConnectionLost: When the connection broke.
        """
        rows: list[tuple[str | None, ...]] = []
        for result in self.results(sql, timeout=timeout, doing=doing, slow=slow):
            if result.status == pq.ExecStatus.TUPLES_OK:
                rows = rows_of(result)
        return rows

    def results(
        self, sql: str, *, timeout: float | None = None, doing: Doing = RUNNING, slow: Slow | None = None
    ) -> list[PGresult]:
        """Run statements and give libpq's results, all of them good; the last may be a COPY that has begun.

        Args:
            sql: SQL, or a replication command.
            timeout: Seconds until it is cancelled; None for no limit.
            doing: What this is for, for errors.
            slow: What to do, once, when it takes long.

        Returns:
            The results.

        Raises:
            Error: As `execute`.
        """
        if self.closed:
            raise connection_lost(doing, "it was closed before")
        deadline = None if timeout is None else monotonic() + timeout
        results: list[PGresult] = []
        try:
            self.pgconn.send_query(sql.encode("utf-8", "surrogateescape"))
        except psycopg.Error as error:
            raise self.lost(doing, error) from None

        def collect() -> generators.Waiting[bool]:
            return generators.collect(self.pgconn, results)

        try:
            ended = self.drive(deadline, lambda: generators.flush(self.pgconn), doing)
            if ended and slow is not None and (timeout is None or slow.seconds < timeout):
                ended = self.drive(monotonic() + slow.seconds, collect, doing)
                if not ended:
                    slow.say()
                    ended = self.drive(deadline, collect, doing)
            elif ended:
                ended = self.drive(deadline, collect, doing)
        except ConnectionLost:
            # An ErrorResponse that came before the end says more than the end.
            raise_first_error(results, doing, self._who)
            raise
        except BaseException:
            self._abandon()
            raise
        if not ended:
            self._abandon(results)
            # Between the deadline and the cancel the command may have ended by itself.
            if not results or results[-1].status not in GOOD:
                raise StatementTimeout(f"{doing.what} did not end within {timeout:g} s", slot=doing.slot)
        raise_first_error(results, doing, self._who)
        return results

    def drive(self, deadline: float | None, begin: Callable[[], generators.Waiting[bool]], doing: Doing) -> bool:
        """Drive one generator after the other.

        Args:
            deadline: When to give up, in seconds of `time.monotonic`; None for never.
            begin: Makes a generator that goes on where the last one stopped.
            doing: What is being done, for errors.

        Returns:
            True when one said that it is done, False when the deadline has passed.

        Raises:
            ConnectionLost: When the connection broke.
        """
        while True:
            left = _SLICE_SECONDS if deadline is None else deadline - monotonic()
            if self.wait(begin(), left, doing):
                return True
            if deadline is not None and monotonic() >= deadline:
                return False

    def finish_copy(self, doing: Doing, results: list[PGresult] | None = None) -> None:
        """Take the results after a COPY has ended.

        Args:
            doing: What is being done, for errors.
            results: Where results are put; who is cancelled and asks again gives the same.

        Raises:
            Error: When the COPY ended with an error.
        """
        results = [] if results is None else results
        try:
            self.drive(None, lambda: generators.collect(self.pgconn, results), doing)
        except ConnectionLost:
            raise_first_error(results, doing, self._who)
            raise
        raise_first_error(results, doing, self._who)

    def _abandon(self, results: list[PGresult] | None = None) -> None:
        """Cancel what is running and read to its end, so that the session can be used again; else close it."""
        results = [] if results is None else results
        ended = False
        try:
            self.cancel()
            deadline = monotonic() + _CANCEL_SECONDS
            ended = self.drive(deadline, lambda: generators.collect(self.pgconn, results), RUNNING)
        except ConnectionLost:
            pass
        finally:
            if not ended or (results and results[-1].status in generators.COPY_STATES):
                self.close()

    def cancel(self) -> None:
        """Ask the server to stop what this session is running; the session itself then gets an error, or has ended."""
        with suppress(psycopg.Error):
            if psycopg.capabilities.has_cancel_safe():
                request = self.pgconn.cancel_conn()
                try:
                    waits.connecting(generators.cancel(request, monotonic() + _CANCEL_SECONDS), _SLICE_SECONDS)
                finally:
                    request.finish()
            else:
                waits.blocking(self.pgconn.get_cancel().cancel)
