"""From a publication that is there to one that is wanted: the statements, each with a sentence; no I/O.

Source: PostgreSQL manual, "CREATE PUBLICATION", "ALTER PUBLICATION"; server file `publicationcmds.c`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pgcdc.errors import ConfigError
from pgcdc.replication.plan import PlanStep, PlanWarning, named_some, printed
from pgcdc.replication.publication_catalog import RowFilter, TableFacts
from pgcdc.replication.publication_definition import Publication, PublicationTable, in_parentheses, listed, options_sql
from pgcdc.replication.publication_meaning import PublicationMeaning
from pgcdc.replication.quoting import identifier

__all__ = ["PublicationPlan", "check_tables", "plan_drop", "plan_publication", "same", "with_filters"]


class PublicationPlan(msgspec.Struct, frozen=True):
    """What would change, before it changes; made by `Connection.plan_publication` and `plan_drop_publication`.

    `str(plan)` is for a terminal, `msgspec.json.encode(plan)` for a program.

    Attributes:
        publication: The publication's name.
        wanted: What it becomes; None when it is dropped.
        found: What it was when the plan was made; None when there was none.
        steps: The statements in their order, each with a sentence.
        warnings: What follows from them that is easily overlooked.
        tables_seen: Tells the tables apart from what they were, should they change before the plan is applied.
    """

    publication: str
    wanted: Publication | None
    found: Publication | None
    steps: tuple[PlanStep, ...]
    warnings: tuple[PlanWarning, ...]
    tables_seen: str

    def __str__(self) -> str:
        return printed(f'publication "{self.publication}"', self.steps, self.warnings)


def same(one: Publication, other: Publication) -> bool:
    """Whether two publications publish the same under the same name; the text of row filters is not compared.

    Args:
        one: A publication.
        other: Another.

    Returns:
        Whether they do.
    """
    return _comparable(one) == _comparable(other)


def _comparable(publication: Publication) -> tuple[object, ...]:
    return (
        publication.name,
        [(t.name, None if t.columns is None else set(t.columns), t.where is None) for t in publication.tables],
        publication.schemas,
        publication.all_tables,
        publication.publish,
        publication.publish_via_partition_root,
        publication.publish_generated_columns,
    )


def with_filters(wanted: Publication, filters: Mapping[str, RowFilter]) -> Publication:
    """Write row filters as the server does.

    Args:
        wanted: A publication.
        filters: By table, how the server reads them; those that it was not asked for stay as they are.

    Returns:
        The publication.
    """
    tables = [
        msgspec.structs.replace(table, where=filters[table.table].where) if table.table in filters else table
        for table in wanted.tables
    ]
    return msgspec.structs.replace(wanted, tables=tables)


def check_tables(wanted: Publication, facts: Sequence[TableFacts]) -> None:
    """Refuse tables and columns that are not there, or that cannot be published like this.

    Args:
        wanted: What is wanted.
        facts: The tables.

    Raises:
        ConfigError: When one is not there or cannot be published.
    """
    by_name = {(fact.schema, fact.name): fact for fact in facts}
    for table in wanted.tables:
        fact = by_name.get(table.name)
        if fact is None:
            raise ConfigError(
                f"table {table.table} does not exist",
                hint="correct the name (letters are not folded, the schema is public when none is given)",
                sqlstate="42P01",
                table=table.table,
                publication=wanted.name,
            )
        if fact.kind not in ("r", "p") or not fact.lasting:
            raise ConfigError(
                f"{table.table} cannot be published: it is not a permanent table",
                hint="publish the tables behind a view; make an unlogged table LOGGED",
                table=table.table,
                publication=wanted.name,
            )
        present = {column for column, _ in fact.columns}
        if missing := [column for column in table.columns or () if column not in present]:
            raise ConfigError(
                f'table {table.table} has no column "{missing[0]}"',
                hint="correct the name (letters are not folded)",
                sqlstate="42703",
                table=table.table,
                publication=wanted.name,
            )
        narrowed = table.columns is not None or table.where is not None
        if narrowed and fact.kind == "p" and not wanted.publish_via_partition_root:
            raise ConfigError(
                f"partitioned table {table.table} cannot have a list of columns or a row filter unless its rows are"
                " published as its own",
                hint="publish_via_partition_root=True, or name the partitions",
                table=table.table,
                publication=wanted.name,
            )


def plan_publication(
    found: Publication | None,
    wanted: Publication,
    facts: Sequence[TableFacts],
    filters: Mapping[str, RowFilter],
    server_version: int,
) -> tuple[tuple[PlanStep, ...], tuple[PlanWarning, ...]]:
    """Find the way from what is there to what is wanted.

    Args:
        found: What is there; None when there is none of this name.
        wanted: What is wanted, with row filters as the server writes them.
        facts: The tables of both.
        filters: By table, which columns are in its wanted row filter; a table that is missing could not be asked for.
        server_version: The server's version as a number.

    Returns:
        The statements and the warnings.
    """
    if found is None:
        steps = [_creation(wanted)]
    elif found.all_tables != wanted.all_tables:
        now, then = ("all tables", "some") if found.all_tables else ("some tables", "all")
        steps = [
            PlanStep(
                f"it is dropped, to be made anew: it publishes {now}, and cannot be altered to {then}", _drop(found)
            ),
            _creation(wanted),
            PlanStep(
                f"it belongs to {found.owner}, as before",
                f"ALTER PUBLICATION {identifier(found.name)} OWNER TO {identifier(found.owner or '')}",
            ),
        ]
    else:
        steps = _alterations(found, wanted)
    if not steps:
        return (), ()
    meaning = PublicationMeaning(facts, filters, server_version)
    return tuple(steps), tuple(meaning.warnings(found, wanted))


def plan_drop(found: Publication) -> tuple[tuple[PlanStep, ...], tuple[PlanWarning, ...]]:
    """Say what dropping a publication means.

    Args:
        found: The publication.

    Returns:
        The statement and the warnings.
    """
    warning = PlanWarning(
        "rows_lost",
        "a stream that names it stops at the next change for good (14 to 17), or goes on without its changes (18)",
        hint="first stop the consumers that name it; with a publication made again their slots are of no use",
    )
    return (PlanStep("it is dropped", _drop(found)),), (warning,)


def _drop(found: Publication) -> str:
    return f"DROP PUBLICATION {identifier(found.name)}"


def _creation(wanted: Publication) -> PlanStep:
    what = " FOR ALL TABLES" if wanted.all_tables else f" FOR {listed(wanted.tables, wanted.schemas)}"
    options = options_sql(wanted, Publication(wanted.name))
    command = f"CREATE PUBLICATION {identifier(wanted.name)}{what}" + (f" WITH ({options})" if options else "")
    what = "all tables" if wanted.all_tables else _said(wanted.tables, wanted.schemas)
    return PlanStep(f"it is made, and publishes {what}{_kinds(wanted)}", command)


def _kinds(wanted: Publication) -> str:
    return "" if len(wanted.publish) == 4 else f" ({', '.join(wanted.publish)} only)"


def _said(tables: Sequence[PublicationTable], schemas: Sequence[str] = ()) -> str:
    """Tables and schemas as part of a sentence."""
    parts = [_narrowed(table) for table in tables] + [f"every table of schema {schema}" for schema in schemas]
    return named_some(parts)


def _narrowed(table: PublicationTable) -> str:
    text = table.table
    if table.columns is not None:
        text += f" ({', '.join(table.columns)})"
    if table.where is not None:
        text += f" where {in_parentheses(table.where)}"
    return text


def _alterations(found: Publication, wanted: Publication) -> list[PlanStep]:
    """The statements that make one publication of another, both for all tables or both for some."""
    alter = f"ALTER PUBLICATION {identifier(wanted.name)}"
    before = {table.name: table for table in found.tables}
    after = {table.name: table for table in wanted.tables}
    gone = [table for name, table in before.items() if name not in after]
    new = [table for name, table in after.items() if name not in before]
    changed = [table for name, table in after.items() if name in before and _differ(before[name], table)]
    gone_schemas = [schema for schema in found.schemas if schema not in wanted.schemas]
    new_schemas = [schema for schema in wanted.schemas if schema not in found.schemas]
    steps = []
    if changed:
        # One statement: between DROP and ADD the server would look at a publication that nobody wants.
        says = [f"{_narrowed(before[table.name])} becomes {_narrowed(table)}" for table in changed]
        says += [f"{table.table} is published" for table in new] + [f"{table.table} is not" for table in gone]
        says += [f"every table of schema {schema} is published" for schema in new_schemas]
        says += [f"tables of schema {schema} are not for its sake" for schema in gone_schemas]
        steps.append(PlanStep(named_some(says), f"{alter} SET {listed(wanted.tables, wanted.schemas)}"))
    else:
        if gone or gone_schemas:  # first: a list of columns and a whole schema exclude each other
            bare = [PublicationTable(table.table) for table in gone]
            steps.append(
                PlanStep(
                    f"not published any more: {_said(bare, gone_schemas)}",
                    f"{alter} DROP {listed(gone, gone_schemas, bare=True)}",
                )
            )
        if new or new_schemas:
            steps.append(
                PlanStep(f"published from now on: {_said(new, new_schemas)}", f"{alter} ADD {listed(new, new_schemas)}")
            )
    if options := options_sql(wanted, found):
        step = PlanStep(_options_said(found, wanted), f"{alter} SET ({options})")
        # What partitioned tables may have depends on it: it is on before they get it, and off after they lost it.
        steps.insert(0 if wanted.publish_via_partition_root else len(steps), step)
    return steps


def _differ(one: PublicationTable, other: PublicationTable) -> bool:
    columns = [None if table.columns is None else set(table.columns) for table in (one, other)]
    return columns[0] != columns[1] or one.where != other.where


def _options_said(found: Publication, wanted: Publication) -> str:
    says = []
    if wanted.publish != found.publish:
        says.append(f"it publishes {', '.join(wanted.publish)}, before it was {', '.join(found.publish) or 'nothing'}")
    if wanted.publish_via_partition_root != found.publish_via_partition_root:
        name = "the partitioned table's" if wanted.publish_via_partition_root else "each partition's own"
        says.append(f"rows of partitions come under {name} name")
    if wanted.publish_generated_columns != found.publish_generated_columns:
        says.append(
            f"generated columns are {'' if wanted.publish_generated_columns == 'stored' else 'not '}published,"
            " where there is no list of columns"
        )
    return "; ".join(says)
