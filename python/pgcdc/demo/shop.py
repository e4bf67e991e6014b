"""The shop of the demo: its three tables, the rows that exist before the pipeline starts, and one step of the writer.

Every statement makes its rows in the server, from the ids alone, so that the writing costs this machine little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, LiteralString

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "ADD_DISCOUNT",
    "TABLES",
    "USERS",
    "create",
    "delete_orders",
    "discount_orders",
    "insert_orders",
    "move_orders",
    "statement",
]

TABLES: Final = ("orders", "order_items", "order_status_history")
USERS: Final = 500

_CREATE: Final[tuple[LiteralString, ...]] = (
    """
    CREATE TABLE {schema}.orders (
        id bigint PRIMARY KEY,
        user_id bigint NOT NULL,
        status text NOT NULL,
        total numeric(12,2) NOT NULL,
        shipping_address jsonb,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE {schema}.order_items (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id bigint NOT NULL,
        sku text NOT NULL,
        category text NOT NULL,
        quantity integer NOT NULL,
        price numeric(12,2) NOT NULL
    )
    """,
    "CREATE INDEX ON {schema}.order_items (order_id)",
    """
    CREATE TABLE {schema}.order_status_history (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        order_id bigint NOT NULL,
        status text NOT NULL,
        changed_by text,
        changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    "CREATE INDEX ON {schema}.order_status_history (order_id)",
)

# One order in 50 has no address yet: NULL has to arrive as NULL.
_ORDERS: Final[LiteralString] = """
    INSERT INTO {schema}.orders (id, user_id, status, total, shipping_address, created_at)
    SELECT id, 1 + mod(id * 7919, {users}), 'pending', mod(id * 613, 500000) / 100.0,
           CASE WHEN mod(id, 50) <> 0 THEN jsonb_build_object(
               'city', (ARRAY['Århus', 'Bordeaux', 'Córdoba', 'Dresden', 'Edinburgh', 'Łódź', '京都'])[1 + mod(id, 7)],
               'street', 'High Street ' || mod(id, 97), 'floor', mod(id, 5), 'gift', mod(id, 3) = 0) END,
           clock_timestamp()
    FROM generate_series(%s::bigint, %s::bigint) AS id
"""
_ITEMS: Final[LiteralString] = """
    INSERT INTO {schema}.order_items (order_id, sku, category, quantity, price)
    SELECT id, 'SKU-' || mod(id * 31 + n, 9973), (ARRAY['books', 'garden', 'music', 'tools'])[1 + mod(id + n, 4)],
           1 + mod(id + n, 4), mod(id * 97 + n * 1009, 100000) / 100.0
    FROM generate_series(%s::bigint, %s::bigint) AS id, generate_series(1, 1 + mod(id, 3)) AS n
"""
_HISTORY: Final[LiteralString] = """
    INSERT INTO {schema}.order_status_history (order_id, status, changed_by)
    SELECT id, status, CASE WHEN status <> 'pending' THEN 'clerk-' || mod(id, 9) END
    FROM {schema}.orders WHERE id BETWEEN %s AND %s
"""
_MOVE: Final[LiteralString] = """
    UPDATE {schema}.orders
    SET status = CASE status WHEN 'pending' THEN 'paid' WHEN 'paid' THEN 'shipped' ELSE 'returned' END,
        user_id = CASE WHEN mod(id, 20) = 0 THEN 1 + mod(user_id + 7, {users}) ELSE user_id END
    WHERE id BETWEEN %s AND %s
"""
_DISCOUNT: Final[LiteralString] = (
    "UPDATE {schema}.orders SET discount = round(total * (1 + mod(id, 20)) / 100, 2) WHERE id BETWEEN %s AND %s"
)
_DELETES: Final[tuple[LiteralString, ...]] = (
    "DELETE FROM {schema}.order_items WHERE order_id BETWEEN %s AND %s",
    "DELETE FROM {schema}.order_status_history WHERE order_id BETWEEN %s AND %s",
    "DELETE FROM {schema}.orders WHERE id BETWEEN %s AND %s",
)
ADD_DISCOUNT: Final[LiteralString] = "ALTER TABLE {schema}.orders ADD COLUMN discount numeric(10,2)"


def create(connection: psycopg.Connection[Any], schema: str, orders: int) -> int:
    """Make the tables and fill them with what the shop sold before.

    Args:
        connection: Where; the caller commits.
        schema: An existing schema.
        orders: How many orders there are, with one to three items and one line of history each.

    Returns:
        The number of rows in all three tables.
    """
    for text in _CREATE:
        connection.execute(statement(text, schema))
    return insert_orders(connection, schema, 1, orders)


def insert_orders(connection: psycopg.Connection[Any], schema: str, first: int, last: int) -> int:
    """Write new orders, with their items and the first line of their history.

    Args:
        connection: Where; the caller commits.
        schema: The shop's schema.
        first: The lowest new order id.
        last: The highest new order id.

    Returns:
        The number of rows written.
    """
    return _run(connection, schema, (_ORDERS, _ITEMS, _HISTORY), first, last)


def move_orders(connection: psycopg.Connection[Any], schema: str, first: int, last: int) -> int:
    """Give orders their next status, with a line of history; some go to another user.

    Args:
        connection: Where; the caller commits.
        schema: The shop's schema.
        first: The lowest order id; those that were deleted are left out.
        last: The highest order id.

    Returns:
        The number of rows changed and written.
    """
    return _run(connection, schema, (_MOVE, _HISTORY), first, last)


def discount_orders(connection: psycopg.Connection[Any], schema: str, first: int, last: int) -> int:
    """Give orders a discount; only after `ADD_DISCOUNT`.

    Args:
        connection: Where; the caller commits.
        schema: The shop's schema.
        first: The lowest order id.
        last: The highest order id.

    Returns:
        The number of rows changed.
    """
    return _run(connection, schema, (_DISCOUNT,), first, last)


def delete_orders(connection: psycopg.Connection[Any], schema: str, first: int, last: int) -> int:
    """Delete orders with their items and history.

    Args:
        connection: Where; the caller commits.
        schema: The shop's schema.
        first: The lowest order id.
        last: The highest order id.

    Returns:
        The number of rows deleted.
    """
    return _run(connection, schema, _DELETES, first, last)


def statement(text: LiteralString, schema: str) -> sql.Composed:
    """Put the shop's schema into one of its statements.

    Args:
        text: SQL with `{schema}`.
        schema: The schema's name, not quoted.

    Returns:
        The statement, with the name quoted as needed.
    """
    return sql.SQL(text).format(schema=sql.Identifier(schema), users=sql.Literal(USERS))


def _run(
    connection: psycopg.Connection[Any], schema: str, texts: tuple[LiteralString, ...], first: int, last: int
) -> int:
    return sum(connection.execute(statement(text, schema), (first, last)).rowcount for text in texts)
