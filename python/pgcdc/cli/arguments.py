"""What several verbs take alike: the database and its tables."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Dsn", "Tables"]

Dsn = Annotated[str, typer.Argument(metavar="DSN", help="The database; PG* variables are used for what is not in it.")]
Tables = Annotated[
    list[str] | None,
    typer.Option("--table", help="Only this table; several times. Else all.", show_default=False),
]
