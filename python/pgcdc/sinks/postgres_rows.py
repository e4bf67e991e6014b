"""The SQL that brings the rows of one shape into their table, by way of a temporary table that COPY fills.

`Batch.to_copy` says what the rows are. Plans are made once (prepared statements without parameters) and have to hold
while the table grows, so the session has no other joins than by index; see `SESSION`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from psycopg import sql

from pgcdc.events import Relation
from pgcdc.sinks.postgres_tables import Connection, Target, types_of

__all__ = ["SESSION", "RowTable", "What"]

SESSION: Final = (
    "SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off; SET enable_material = off"
)
"""A plan is kept, and the target may have been empty when it was made."""

What: TypeAlias = Literal["fill", "delete", "upsert", "upsert unset", "append", "remove", "clear"]
"""What is done with the rows that were copied: take what was not sent of rows that changed their key from the rows of
their old keys; remove those that are to be gone; write those that are to be; likewise, where something of one was not
sent; append those that are to be; remove one row for each that is to be gone, of a table without key; forget all."""

_MERGE: Final = 150_000
"""The first version that has MERGE."""
_MOST_DEAD: Final = 2_000
"""So many rows are deleted from the temporary table before it is truncated: that takes milliseconds, and so does ON
COMMIT DELETE ROWS, for each such table of the session in each transaction."""


class RowTable:
    """A temporary table for the rows of one shape, and the statements that apply them.

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
        self._prepared: dict[What, bytes] = {}
        self._stage = sql.Identifier("pg_temp", f"pgcdc_rows_{number}")
        own = types_of(connection, relation.columns, lengths=False)
        types = ["text" if as_text else kind for as_text, kind in zip(text, own, strict=True)]
        # Where a column is in a row, and whether it comes as text; those that the target computes stay away.
        self._columns = {
            column.name: (at, as_text)
            for at, (column, as_text) in enumerate(zip(relation.columns, text, strict=True))
            if not target.columns[column.name].generated
        }
        definitions: list[sql.Composable] = [sql.SQL('pgcdc_n integer, pgcdc_mark "char", pgcdc_unset bytea')]
        definitions += [
            sql.SQL("{} {}").format(sql.Identifier(f"c{at}"), sql.SQL(kind)) for at, kind in enumerate(types)
        ]
        connection.execute(
            sql.SQL("CREATE TEMPORARY TABLE {} ({})").format(
                sql.Identifier(f"pgcdc_rows_{number}"), sql.SQL(", ").join(definitions)
            )
        )
        self.copy = sql.SQL("COPY {} FROM STDIN (FORMAT binary)").format(self._stage).as_bytes(connection)
        self._dead = 0

    def statement(self, what: What) -> bytes:
        """Give what does something with the rows that were copied; prepared when it is first asked for.

        Args:
            what: What it does.

        Returns:
            The statement, or several.
        """
        if what not in self._prepared:
            runs = []
            for part, body in enumerate(self._bodies(what)):
                name = sql.Identifier(f"pgcdc_{self._number}_{what}_{part}")
                self._connection.execute(sql.SQL("PREPARE {} AS ").format(name) + body, prepare=False)
                runs.append(sql.SQL("EXECUTE {}").format(name).as_bytes(self._connection))
            if what == "remove":
                # It meets all rows of the table: by number, and not by index.
                runs = [b"SET LOCAL enable_hashjoin = on", *runs, b"SET LOCAL enable_hashjoin = off"]
            self._prepared[what] = b"; ".join(runs)
        return self._prepared[what]

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

    def _bodies(self, what: What) -> list[sql.Composed]:
        match what:
            case "fill":
                return [self._fill()]
            case "delete":
                return [self._delete()]
            case "append":
                return [self._insert(sql.SQL(""))]
            case "remove":
                return [self._remove()]
            case "clear":
                return [sql.SQL("DELETE FROM {}").format(self._stage)]
            case "upsert" | "upsert unset":
                unset = what == "upsert unset"
                return [self._merge(unset)] if self._connection.info.server_version >= _MERGE else self._upsert(unset)

    # What they are made of; s is the temporary table, t the target.

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

    def _merge(self, unset: bool) -> sql.Composed:
        settings = self._settings(unset)
        return sql.SQL(
            "MERGE INTO {} t USING (SELECT * FROM {} WHERE pgcdc_mark IN ('u', 'm')) s ON {} WHEN MATCHED THEN {}"
            " WHEN NOT MATCHED THEN INSERT ({}) OVERRIDING SYSTEM VALUE VALUES ({})"
        ).format(
            self._target.identifier,
            self._stage,
            self._on_key(),
            sql.SQL("UPDATE SET ") + settings if settings.as_string() else sql.SQL("DO NOTHING"),
            self._names(),
            self._values(),
        )

    def _upsert(self, unset: bool) -> list[sql.Composed]:
        update = sql.SQL("UPDATE {} t SET {} FROM {} s WHERE s.pgcdc_mark IN ('u', 'm') AND {}").format(
            self._target.identifier, self._settings(unset), self._stage, self._on_key()
        )
        missing = sql.SQL(" AND NOT EXISTS (SELECT FROM {} t WHERE {})")
        insert = self._insert(missing.format(self._target.identifier, self._on_key()))
        return [update, insert]

    def _insert(self, condition: sql.Composable) -> sql.Composed:
        return sql.SQL(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} s WHERE s.pgcdc_mark IN ('u', 'm'){}"
        ).format(self._target.identifier, self._names(), self._values(), self._stage, condition)

    def _delete(self) -> sql.Composed:
        return sql.SQL("DELETE FROM {} t USING {} s WHERE s.pgcdc_mark = 'd' AND {}").format(
            self._target.identifier, self._stage, self._on_key()
        )

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
        for runs in self._prepared.values():
            for one in runs.split(b"; "):
                if one.startswith(b"EXECUTE "):
                    self._connection.execute(b"DEALLOCATE " + one.removeprefix(b"EXECUTE "))
        self._prepared.clear()
        self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._stage))
