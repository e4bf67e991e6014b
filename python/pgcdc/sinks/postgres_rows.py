"""The SQL that brings the rows of one shape into their table, from a temporary table that COPY fills or one by one.

`Batch.to_copy` says what the rows are. Plans are made once (prepared statements) and have to hold while the table
grows, so the session has no other joins than by index; see `SESSION`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias

from psycopg import sql

from pgcdc.events import Relation
from pgcdc.sinks.postgres_tables import Connection, Target, types_of
from pgcdc.sinks.postgres_wire import Step

__all__ = ["MERGE", "SESSION", "RowTable", "What"]

SESSION: Final = (
    "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET enable_material = off;"
    " SET plan_cache_mode = force_generic_plan"
)
"""A plan is kept, and the target may have been empty when it was made."""

What: TypeAlias = Literal["fill", "delete", "upsert", "upsert unset", "append", "remove", "clear"]
"""What is done with the rows that were copied: take what was not sent of rows that changed their key from the rows of
their old keys; remove those that are to be gone; write those that are to be; likewise, where something of one was not
sent; append those that are to be; remove one row for each that is to be gone, of a table without key; forget all."""

MERGE: Final = 150_000
"""The first version that has MERGE."""
_MOST_DEAD: Final = 2_000
"""So many rows are deleted from the temporary table before it is truncated: that takes milliseconds, and so does ON
COMMIT DELETE ROWS, for each such table of the session in each transaction."""


class RowTable:
    """The statements that apply the rows of one shape, and the temporary table that they take many from.

    Args:
        connection: To the target, in autocommit mode.
        number: Makes names that no other shape has.
        target: The table.
        relation: The shape.
        text: Which of its columns come as text.
        key: The columns that its rows are known by; none when there are none.
    """

    def __init__(
        self,
        connection: Connection,
        number: int,
        target: Target,
        relation: Relation,
        text: Sequence[bool],
        key: Sequence[str],
    ) -> None:
        self._connection = connection
        self._number = number
        self._target = target
        self._key = key
        self._prepared: dict[tuple[What, bool], list[bytes]] = {}
        self._runs: dict[What, bytes] = {}
        self._copy: bytes | None = None
        self._name = f"pgcdc_rows_{number}"
        self._stage = sql.Identifier("pg_temp", self._name)
        own = types_of(connection, relation.columns, lengths=False)
        self._types = ["text" if as_text else kind for as_text, kind in zip(text, own, strict=True)]
        # Where a column is in a row, and whether it comes as text; those that the target computes stay away.
        self._columns = {
            column.name: (at, as_text)
            for at, (column, as_text) in enumerate(zip(relation.columns, text, strict=True))
            if not target.columns[column.name].generated
        }
        self._dead = 0
        self._names_made = 0

    @property
    def copy(self) -> bytes:
        """The COPY that fills the temporary table, which is made when this is first asked for."""
        if self._copy is None:
            definitions: list[sql.Composable] = [sql.SQL('pgcdc_n integer, pgcdc_mark "char", pgcdc_unset bytea')]
            definitions += [
                sql.SQL("{} {}").format(sql.Identifier(f"c{at}"), sql.SQL(kind)) for at, kind in enumerate(self._types)
            ]
            self._connection.execute(
                sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
                    sql.Identifier(self._name), sql.SQL(", ").join(definitions)
                )
            )
            self._copy = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(self._stage).as_bytes(self._connection)
        return self._copy

    def statement(self, what: What) -> bytes:
        """Give what does something with the rows that were copied by `copy`; prepared when it is first asked for.

        Args:
            what: What it does.

        Returns:
            The statement, or several.
        """
        if what not in self._runs:
            runs = [b'EXECUTE "%s"' % name for name in self._statements(what, one=False)]
            if what == "remove":
                # It meets all rows of the table: by number, and not by index.
                runs = [b"SET LOCAL enable_hashjoin = on", *runs, b"SET LOCAL enable_hashjoin = off"]
            self._runs[what] = b"; ".join(runs)
        return self._runs[what]

    def one_by_one(self, rows: Iterable[Sequence[bytes | None]], *, prepare: bool = True) -> list[Step]:
        """Give what applies rows without copying them; none of them may be marked `m`, and none `d` if there is no key.

        Args:
            rows: The values of each, as for the temporary table.
            prepare: Whether statements that are needed for the first time may be prepared now.

        Returns:
            The steps.

        Raises:
            LookupError: When one is not prepared, and may not be.
        """
        steps: list[Step] = []
        for _, mark, *parameters in rows:
            what: What = "upsert" if parameters[0] is None else "upsert unset"
            if not self._key:
                what = "append"
            elif mark == b"d":
                what = "delete"
            names = self._prepared.get((what, True))
            if names is None:
                if not prepare:
                    raise LookupError(what)
                names = self._statements(what, one=True)
            steps += [Step(name, None, parameters) for name in names]
        return steps

    def _statements(self, what: What, *, one: bool) -> list[bytes]:
        """The names of the statements, which are prepared when they are first asked for."""
        known = self._prepared.get((what, one))
        if known is None:
            known = []
            for body in self._bodies(what, one=one):
                self._names_made += 1
                name = f"pgcdc_{self._number}_{what}_{self._names_made}" + "_one" * one
                self._connection.execute(sql.SQL("PREPARE {} AS ").format(sql.Identifier(name)) + body, prepare=False)
                known.append(name.encode())
            self._prepared[what, one] = known  # not before all are there: what was interrupted begins anew
        return known

    def cleared(self, rows: int) -> bytes:
        """Give what empties the temporary table, when all is done with the rows.

        Args:
            rows: How many were copied.

        Returns:
            The statement.
        """
        self._dead += rows
        if self._dead < _MOST_DEAD:
            return self.statement("clear")
        self._dead = 0
        return sql.SQL("TRUNCATE {}").format(self._stage).as_bytes(self._connection)

    def _bodies(self, what: What, *, one: bool) -> list[sql.Composed]:
        rows = self._row() if one else self._rows("d" if what == "delete" else "um")
        match what:
            case "fill":
                return [self._fill()]
            case "delete":
                return [self._delete(rows)]
            case "append":
                return [self._insert(rows, sql.SQL(""))]
            case "remove":
                return [self._remove()]
            case "clear":
                return [sql.SQL("DELETE FROM {}").format(self._stage)]
            case "upsert" | "upsert unset":
                unset = what == "upsert unset"
                merges = self._connection.info.server_version >= MERGE
                return [self._merge(rows, unset)] if merges else self._upsert(rows, unset)

    # What they are made of; s is where the rows are, t the target.

    def _rows(self, marks: str) -> sql.Composed:
        those = sql.SQL(", ").join(map(sql.Literal, marks))
        return sql.SQL("(SELECT * FROM {} WHERE pgcdc_mark IN ({})) s").format(self._stage, those)

    def _row(self) -> sql.Composed:
        values: list[sql.Composable] = [sql.SQL("$1::bytea AS pgcdc_unset")]
        for at, kind in enumerate(self._types):
            value = sql.SQL(f"${at + 2}::" + kind + " AS ")  # no literals: a number, and the name of a type
            values.append(value + sql.Identifier(f"c{at}"))
        return sql.SQL("(SELECT {}) s").format(sql.SQL(", ").join(values))

    def _value(self, name: str, alias: str = "s") -> sql.Composed:
        """A column of the temporary table as the target has it."""
        at, as_text = self._columns[name]
        value = sql.Identifier(alias, f"c{at}")
        # Without the length: what is too long is refused, where an explicit cast would cut it off.
        kind = sql.SQL("::" + self._target.columns[name].type if as_text else "")
        return value + kind

    def _on_key(self, alias: str = "s") -> sql.Composed:
        pairs = [sql.Identifier("t", name) + sql.SQL(" = ") + self._value(name, alias) for name in self._key]
        return sql.SQL(" AND ").join(pairs)

    def _settings(self, unset: bool) -> sql.Composed:
        settings = []
        for name, (at, _) in self._columns.items():
            if self._target.columns[name].always:
                continue
            value = self._value(name)
            if unset:
                value = sql.SQL(
                    "CASE WHEN s.pgcdc_unset IS NULL OR get_bit(s.pgcdc_unset, {}) = 0 THEN {} ELSE {} END"
                ).format(sql.Literal(at), value, sql.Identifier("t", name))
            settings.append(sql.Identifier(name) + sql.SQL(" = ") + value)
        return sql.SQL(", ").join(settings)

    def _names(self) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, self._columns))

    def _values(self) -> sql.Composed:
        return sql.SQL(", ").join(map(self._value, self._columns))

    def _merge(self, rows: sql.Composed, unset: bool) -> sql.Composed:
        settings = self._settings(unset)
        return sql.SQL(
            "MERGE INTO {} t USING {} ON {} WHEN MATCHED THEN {}"
            " WHEN NOT MATCHED THEN INSERT ({}) OVERRIDING SYSTEM VALUE VALUES ({})"
        ).format(
            self._target.identifier,
            rows,
            self._on_key(),
            sql.SQL("UPDATE SET ") + settings if settings.as_string() else sql.SQL("DO NOTHING"),
            self._names(),
            self._values(),
        )

    def _upsert(self, rows: sql.Composed, unset: bool) -> list[sql.Composed]:
        update = sql.SQL("UPDATE {} t SET {} FROM {} WHERE {}").format(
            self._target.identifier, self._settings(unset), rows, self._on_key()
        )
        missing = sql.SQL(" WHERE NOT EXISTS (SELECT FROM {} t WHERE {})")
        insert = self._insert(rows, missing.format(self._target.identifier, self._on_key()))
        return [update, insert]

    def _insert(self, rows: sql.Composed, condition: sql.Composable) -> sql.Composed:
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}{}").format(
            self._target.identifier, self._names(), self._values(), rows, condition
        )

    def _delete(self, rows: sql.Composed) -> sql.Composed:
        return sql.SQL("DELETE FROM {} t USING {} WHERE {}").format(self._target.identifier, rows, self._on_key())

    def _fill(self) -> sql.Composed:
        settings = []
        for name, (at, as_text) in self._columns.items():
            if name in self._key:
                continue
            theirs = sql.Identifier("t", name) + sql.SQL("::text" if as_text else "")
            settings.append(
                sql.SQL("{0} = CASE WHEN get_bit(s.pgcdc_unset, {1}) = 1 THEN {2} ELSE s.{0} END").format(
                    sql.Identifier(f"c{at}"), sql.Literal(at), theirs
                )
            )
        settings.append(sql.SQL("pgcdc_unset = NULL").format())
        return sql.SQL(
            "UPDATE {0} s SET {1} FROM {0} o, {2} t"
            " WHERE s.pgcdc_mark = 'm' AND o.pgcdc_mark = 'o' AND o.pgcdc_n = s.pgcdc_n - 1 AND {3}"
        ).format(self._stage, sql.SQL(", ").join(settings), self._target.identifier, self._on_key("o"))

    def _remove(self) -> sql.Composed:
        """As many of equal rows as are to be gone: rows without a key are told apart by nothing."""
        theirs = sql.SQL(", ").join(sql.Identifier("t", name) for name in self._columns)
        return sql.SQL(
            """
            DELETE FROM {target} WHERE (tableoid, ctid) IN (
                SELECT t.tableoid, t.ctid
                FROM (SELECT t.tableoid, t.ctid, ROW({theirs})::text AS whole,
                        row_number() OVER (PARTITION BY ROW({theirs})::text) AS number FROM {target} t) t
                JOIN (SELECT ROW({ours})::text AS whole, count(*) AS gone FROM {stage} s WHERE s.pgcdc_mark = 'd'
                        GROUP BY 1) s USING (whole)
                WHERE t.number <= s.gone)
            """
        ).format(target=self._target.identifier, theirs=theirs, ours=self._values(), stage=self._stage)

    def drop(self) -> None:
        """Remove the temporary table and what was prepared for it."""
        for names in self._prepared.values():
            for name in names:
                self._connection.execute(b'DEALLOCATE "%s"' % name)
        self._prepared.clear()
        self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._stage))
