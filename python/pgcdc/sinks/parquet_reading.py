"""What is in a folder of Parquet files, for DuckDB as SQL and for Polars as frames: the change log, the current state.

The current state of a table is made from its log: the last change of each key counts, above the last TRUNCATE. What an
update did not send (unchanged TOAST) is found where it was sent last, also under an earlier key of the same row: from
one *life* of a key (from an insert, or a move to it, until it is gone) to the one that the row had before.

Over 400 lines because both readers say the same rule, each in its language.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pgcdc.errors import ConfigError
from pgcdc.sinks.manifest import DataFile, Shape, read_manifest, table_key
from pgcdc.sinks.objects import open_objects
from pgcdc.tables import Table, parse_table

if TYPE_CHECKING:
    import polars

__all__ = ["change_log_sql", "current_state", "current_state_sql", "files", "scan_changes"]

MESSAGES = "messages"
"""What logical messages are called among tables, as `Batch.to_arrow` calls them."""
_OURS = ("_action", "_position", "_commit_lsn", "_commit_time", "_unset", "_old")


class _Piece(NamedTuple):
    """The files of one shape of a table.

    Attributes:
        shape: The shape.
        paths: The files, for a reader.
        names: By the names of the columns that the table has now, those that they have in this shape; None for those
            that it lacks.
    """

    shape: Shape
    paths: list[str]
    names: dict[str, str | None]

    def own(self, name: str) -> str:
        """What a column of ours is called there: with an underscore more for as long as the table has that name."""
        while name in self.shape.names:
            name = f"_{name}"
        return name


def files(
    url: str | os.PathLike[str],
    table: str | Table | None,
    *,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Find the files of a table that count.

    Args:
        url: As for `Parquet`.
        table: `"table"`, `"schema.table"`, or a pair of names; None: logical messages.
        config: As for `Parquet`.
        client_options: Likewise.

    Returns:
        Their paths or URLs, in the order of their changes.

    Raises:
        ConfigError: When the table has none.
        SinkUnavailable: When the place cannot be used.
    """
    objects = open_objects(url, config=config, client_options=client_options)
    return [f"{objects.url}/{file.path}" for file in _files_of(read_manifest(objects).of(_key(table)), table)]


def change_log_sql(
    url: str | os.PathLike[str],
    table: str | Table,
    *,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> str:
    """Write a query for DuckDB that gives all changes of a table, by the names that columns had and have.

    It names the files that count now: make it again to see what has come since.

    Args:
        url: As for `Parquet`.
        table: `"table"`, `"schema.table"`, or a pair of names.
        config: As for `Parquet`, to read the manifest; DuckDB has secrets of its own.
        client_options: Likewise.

    Returns:
        A SELECT, not ordered: `_position` has the order.

    Raises:
        ConfigError: When the table has no files.
        SinkUnavailable: When the place cannot be used.
    """
    pieces = _pieces(url, table, config, client_options)
    keys = list(dict.fromkeys(name for piece in pieces for name in piece.shape.identity))
    names = list(dict.fromkeys(name for piece in pieces for name in piece.shape.names))
    selects = []
    for piece in pieces:
        columns = [f"{_quoted(piece.own(name))} AS {_quoted(_free(name, names))}" for name in _OURS[:-1]]
        if keys:
            old = _quoted(piece.own("_old"))
            fields = ", ".join(
                f"{_quoted(name)} := {f'{old}.{_quoted(name)}' if name in piece.shape.identity else 'NULL'}"
                for name in keys
            )
            packed = f"CASE WHEN {old} IS NOT NULL THEN struct_pack({fields}) END" if piece.shape.identity else "NULL"
            columns.append(f"{packed} AS {_quoted(_free('_old', names))}")
        columns += [_quoted(name) for name in piece.shape.names]
        selects.append(f"SELECT {', '.join(columns)} FROM {_source(piece)}")  # noqa: S608 (all is quoted)
    return "\nUNION ALL BY NAME\n".join(selects)


def current_state_sql(
    url: str | os.PathLike[str],
    table: str | Table,
    *,
    key: Collection[str] | None = None,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
) -> str:
    """Write a query for DuckDB that gives the rows of a table as they are after the last change.

    It names the files that count now: make it again to see what has come since. Columns are those that the table has
    now, under the names that they have now. One whose type was changed has a type that holds the old values and the
    new ones.

    Args:
        url: As for `Parquet`.
        table: `"table"`, `"schema.table"`, or a pair of names.
        key: The columns of the key; None: the primary key, or the columns of the replica identity. An empty list: the
            table is only inserted into.
        config: As for `Parquet`, to read the manifest; DuckDB has secrets of its own.
        client_options: Likewise.

    Returns:
        A SELECT.

    Raises:
        ConfigError: When the table has no files, or no key that is known throughout.
        SinkUnavailable: When the place cannot be used.
    """
    pieces = _pieces(url, table, config, client_options)
    names = pieces[-1].shape.names
    keys = _keys(pieces, table, key)
    changes = "\n  UNION ALL BY NAME\n  ".join(_changes_sql(piece, keys) for piece in pieces)
    columns = ", ".join(map(_quoted, names))
    # All names and texts are quoted; ours begin with a tilde, and nobody's do by chance.
    live = f"""changes AS MATERIALIZED (
  {changes}
),
live AS (
  SELECT * FROM changes
  WHERE "~action" <> 'truncate'
    AND "~position" >= coalesce((SELECT max("~position") FROM changes WHERE "~action" = 'truncate'), '')
)"""  # noqa: S608
    if not keys:
        return f"WITH {live}\nSELECT {columns} FROM live WHERE \"~action\" = 'insert'"
    key_list = ", ".join(map(_quoted, keys))
    olds = ", ".join(f"{_quoted(f'~old {number}')} AS {_quoted(name)}" for number, name in enumerate(keys))

    def same(one: str, other: str) -> str:
        return " AND ".join(f"{one}.{_quoted(name)} IS NOT DISTINCT FROM {other}.{_quoted(name)}" for name in keys)

    starts = ", ".join(f"partial.{_quoted(name)} AS {_quoted(f'~row {number}')}" for number, name in enumerate(keys))
    rows = ", ".join(f"walk.{_quoted(f'~row {number}')}" for number in range(len(keys)))
    is_row = " AND ".join(
        f"filled.{_quoted(f'~row {number}')} IS NOT DISTINCT FROM latest.{_quoted(name)}"
        for number, name in enumerate(keys)
    )
    others = [name for name in names if name not in keys]
    sent = ", ".join(
        f"arg_max({{'v': events.{_quoted(name)}}}, events.\"~position\")"
        f' FILTER (WHERE NOT list_contains(events."~unset", {_literal(name)})).v AS {_quoted(name)}'
        for name in others
    )
    chosen = ", ".join(
        f"latest.{_quoted(name)}"
        if name in keys
        else f'CASE WHEN list_contains(latest."~unset", {_literal(name)}) THEN filled.{_quoted(name)}'
        f" ELSE latest.{_quoted(name)} END AS {_quoted(name)}"
        for name in names
    )
    return f"""WITH RECURSIVE {live},
happened AS (
  SELECT *, "~action" = 'delete' AS "~gone", "~action" = 'insert' OR "~moved" AS "~born" FROM live
  UNION ALL BY NAME
  SELECT {olds}, "~position", true AS "~gone", false AS "~born" FROM live WHERE "~moved"
),
events AS MATERIALIZED (
  SELECT *, count(*) FILTER (WHERE "~born") OVER (PARTITION BY {key_list} ORDER BY "~position") AS "~life"
  FROM happened
),
latest AS MATERIALIZED (
  SELECT * FROM (
    SELECT *, row_number() OVER (PARTITION BY {key_list} ORDER BY "~position" DESC) AS "~rank" FROM events
  ) WHERE "~rank" = 1 AND NOT "~gone"
),
partial AS (SELECT * FROM latest WHERE len("~unset") > 0),
moves AS MATERIALIZED (
  SELECT {key_list}, "~position", "~life", "~gone" FROM events WHERE "~moved" OR "~action" IS NULL
),
walk AS (
  SELECT {starts}, {", ".join(f"partial.{_quoted(name)}" for name in keys)}, "~life" FROM partial
  UNION
  SELECT {rows}, {", ".join(f"former.{_quoted(name)}" for name in keys)}, former."~life"
  FROM walk
  JOIN moves AS present ON {same("present", "walk")} AND present."~life" = walk."~life" AND NOT present."~gone"
  JOIN moves AS former ON former."~position" = present."~position" AND former."~gone"
),
filled AS (
  SELECT {rows}{", " + sent if sent else ""}
  FROM walk JOIN events ON {same("events", "walk")} AND events."~life" = walk."~life" AND NOT events."~gone"
  GROUP BY {rows}
)
SELECT {chosen}
FROM latest LEFT JOIN filled ON {is_row}"""  # noqa: S608


def scan_changes(
    url: str | os.PathLike[str],
    table: str | Table,
    *,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> polars.LazyFrame:
    """Give all changes of a table to Polars, by the names that columns had and have.

    Args:
        url: As for `Parquet`.
        table: `"table"`, `"schema.table"`, or a pair of names.
        config: As for `Parquet`, to read the manifest.
        client_options: Likewise.
        storage_options: For Polars, to read the files.

    Returns:
        A frame that reads the files that count now when it is collected; `_position` has the order.

    Raises:
        ConfigError: When the table has no files.
        SinkUnavailable: When the place cannot be used.
    """
    import polars

    pieces = _pieces(url, table, config, client_options)
    frames = [polars.scan_parquet(piece.paths, storage_options=storage_options) for piece in pieces]
    return frames[0] if len(frames) == 1 else polars.concat(frames, how="diagonal_relaxed")


def current_state(
    url: str | os.PathLike[str],
    table: str | Table,
    *,
    key: Collection[str] | None = None,
    config: Mapping[str, Any] | None = None,
    client_options: Mapping[str, Any] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> polars.DataFrame:
    """Give Polars the rows of a table as they are after the last change; see `current_state_sql`.

    Args:
        url: As for `Parquet`.
        table: `"table"`, `"schema.table"`, or a pair of names.
        key: The columns of the key; see `current_state_sql`.
        config: As for `Parquet`, to read the manifest.
        client_options: Likewise.
        storage_options: For Polars, to read the files.

    Returns:
        The rows.

    Raises:
        ConfigError: When the table has no files, or no key that is known throughout.
        SinkUnavailable: When the place cannot be used.
    """
    import polars
    from polars import col

    pieces = _pieces(url, table, config, client_options)
    names, keys = pieces[-1].shape.names, _keys(pieces, table, key)
    changes = polars.concat(
        [_changes_frame(piece, keys, storage_options) for piece in pieces], how="diagonal_relaxed"
    ).collect()
    floor = changes.filter(col("~action") == "truncate")["~position"].max()
    live = changes.filter((col("~action") != "truncate") & (col("~position") >= polars.lit(floor or "")))
    if not keys:
        return live.filter(col("~action") == "insert").select(names)
    olds = [col(f"~old {number}").alias(name) for number, name in enumerate(keys)]
    false, true = polars.lit(False), polars.lit(True)
    born = ((col("~action") == "insert") | col("~moved")).alias("~born")
    events = polars.concat(
        [
            live.with_columns((col("~action") == "delete").alias("~gone"), born),
            live.filter("~moved").select(*olds, "~position", true.alias("~gone"), false.alias("~born")),
        ],
        how="diagonal_relaxed",
    ).sort("~position", maintain_order=True)
    events = events.with_columns(col("~born").cum_sum().over(keys).alias("~life"))
    latest = events.unique(keys, keep="last", maintain_order=True).filter(~col("~gone"))
    walk = latest.filter(col("~unset").list.len() > 0).select(*keys, "~life").with_row_index("~row")
    rows = walk.drop("~life")
    born_by_move = events.filter(col("~moved") & ~col("~gone")).select(*keys, "~life", "~position")
    left_by_move = events.filter(col("~action").is_null()).select(*keys, "~life", "~position")
    lives = [walk]
    while len(walk):
        moved = walk.join(born_by_move, on=[*keys, "~life"], nulls_equal=True).select("~row", "~position")
        walk = moved.join(left_by_move, on="~position").select(walk.columns)
        lives.append(walk)
    if not len(rows):
        return latest.select(names)
    parts = polars.concat(lives).join(events.filter(~col("~gone")), on=[*keys, "~life"], nulls_equal=True)
    sent = [col(name).filter(~col("~unset").list.contains(name)).last() for name in names if name not in keys]
    filled = (
        parts.sort("~position", maintain_order=True)
        .group_by("~row", maintain_order=True)
        .agg(sent)
        .join(rows, on="~row")
    )
    joined = latest.join(filled, on=keys, how="left", nulls_equal=True, suffix="~filled")
    return joined.select(
        name
        if name in keys
        else polars.when(col("~unset").list.contains(name)).then(f"{name}~filled").otherwise(name).alias(name)
        for name in names
    )


def _key(table: str | Table | None) -> str:
    return MESSAGES if table is None else table_key(*parse_table(table))


def _files_of(found: list[DataFile], table: str | Table | None) -> list[DataFile]:
    if not found:
        raise ConfigError(f"table {_key(table)} has no files there", table=_key(table))
    return found


def _pieces(
    url: str | os.PathLike[str],
    table: str | Table,
    config: Mapping[str, Any] | None,
    client_options: Mapping[str, Any] | None,
) -> list[_Piece]:
    objects = open_objects(url, config=config, client_options=client_options)
    known = read_manifest(objects)
    found = _files_of(known.of(_key(table)), table)
    pieces: list[_Piece] = []
    names: dict[str, str | None] = {}
    shapes = known.shapes[_key(table)]
    aside = {shape.number: shape.beside for shape in shapes if shape.beside is not None}
    last = max(aside.get(file.shape, file.shape) for file in found)
    for shape in reversed([one for one in shapes if one.beside is None and one.number <= last]):
        if not pieces and not names:
            names = {name: name for name in shape.names}
        for one in (shape, *(other for other in shapes if other.beside == shape.number)):
            paths = [f"{objects.url}/{file.path}" for file in found if file.shape == one.number]
            if paths:
                pieces.append(_Piece(one, paths, dict(names) if one is shape else _aside(one, names)))
        # What the columns are called in the shape before.
        before = {column.name: column.name if column.before is None else column.before for column in shape.columns}
        names = {now: (before.get(then) or None) if then is not None else None for now, then in names.items()}
    return pieces[::-1]


def _aside(shape: Shape, names: Mapping[str, str | None]) -> dict[str, str | None]:
    """What the columns are called in a shape that only dead letters had."""
    own = {column.name if column.before is None else column.before: column.name for column in shape.columns}
    return {now: own.get(then) if then else None for now, then in names.items()}


def _keys(pieces: list[_Piece], table: str | Table, key: Collection[str] | None) -> list[str]:
    last = pieces[-1].shape
    # Without a replica identity nothing is updated or deleted, or the server would refuse it.
    only_inserts = not any(piece.shape.identity for piece in pieces)
    keys = list(last.key if key is None else key)
    if key is None and only_inserts:
        keys = []
    elif key is None and not keys:
        raise ConfigError(
            f"the key of table {_key(table)} is not known: its replica identity is the whole row",
            hint='key=["id"]',
            table=_key(table),
        )
    if unknown := [name for name in keys if name not in last.names]:
        raise ConfigError(f"table {_key(table)} has no column {unknown[0]!r}", table=_key(table))
    for piece in pieces if keys else ():
        if any(piece.names[name] not in piece.shape.identity for name in keys):
            raise ConfigError(
                f"the replica identity of table {_key(table)} has not had the columns {', '.join(keys)} all the time",
                hint="its deletes do not say which rows they are about; read the change log",
                table=_key(table),
            )
    return keys


def _changes_sql(piece: _Piece, keys: list[str]) -> str:
    action, position, unset, old = (_quoted(piece.own(name)) for name in ("_action", "_position", "_unset", "_old"))
    renamed = [(then, now) for now, then in piece.names.items() if then is not None and then != now]
    if renamed:
        cases = " ".join(f"WHEN {_literal(then)} THEN {_literal(now)}" for then, now in renamed)
        unset = f"list_transform({unset}, lambda x: CASE x {cases} ELSE x END)"
    columns = [f'{action} AS "~action"', f'{position} AS "~position"', f'{unset} AS "~unset"']
    moved = []
    for number, name in enumerate(keys):
        then = _quoted(piece.names[name] or name)
        columns.append(f"{old}.{then} AS {_quoted(f'~old {number}')}")
        moved.append(f"{old}.{then} IS DISTINCT FROM {then}")
    if keys:
        columns.append(f"{action} = 'update' AND {old} IS NOT NULL AND ({' OR '.join(moved)}) AS \"~moved\"")
    columns += [f"{_quoted(then)} AS {_quoted(now)}" for now, then in piece.names.items() if then is not None]
    columns += [f"NULL AS {_quoted(now)}" for now, then in piece.names.items() if then is None]
    return f"SELECT {', '.join(columns)} FROM {_source(piece)}"  # noqa: S608


def _changes_frame(piece: _Piece, keys: list[str], storage_options: dict[str, Any] | None) -> polars.LazyFrame:
    import polars
    from polars import col

    action, position, unset, old = (piece.own(name) for name in ("_action", "_position", "_unset", "_old"))
    renamed = {then: now for now, then in piece.names.items() if then is not None and then != now}
    present = {now: then for now, then in piece.names.items() if then is not None}
    moved = polars.lit(False)
    for name in keys:
        moved = moved | col(old).struct.field(present[name]).ne_missing(col(present[name]))
    is_moved = (col(action) == "update") & col(old).is_not_null() & moved if keys else polars.lit(False)
    names = col(unset).list.eval(polars.element().replace(renamed)) if renamed else col(unset)
    return polars.scan_parquet(piece.paths, storage_options=storage_options).select(
        col(action).alias("~action"),
        col(position).alias("~position"),
        names.alias("~unset"),
        is_moved.alias("~moved"),
        *(col(old).struct.field(present[name]).alias(f"~old {number}") for number, name in enumerate(keys)),
        *(col(then).alias(now) for now, then in present.items()),
    )


def _source(piece: _Piece) -> str:
    return f"read_parquet([{', '.join(map(_literal, piece.paths))}], hive_partitioning = false)"


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name = f"_{name}"
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
