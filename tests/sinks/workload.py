"""Random changes of a table of orders: short and long values, changes of key, deletes and now and then a TRUNCATE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

    from tests.conftest import Database

ORDERS: Final = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, user_id bigint, note text, total numeric)",
    "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL",
)


def work(database: Database, chance: random.Random, count: int) -> None:
    """Random changes, some together."""
    with database.connect() as connection:
        for _ in range(count):
            key, user, other = chance.randrange(40), chance.randrange(5), chance.randrange(40)
            with connection.transaction():
                for _ in range(chance.randrange(1, 4)):
                    what = chance.choice(["insert", "insert", "update", "status", "key", "delete", "truncate"])
                    if what == "insert":
                        text = "n" * chance.choice([0, 5, 9000])
                        connection.execute(
                            "INSERT INTO orders VALUES (%s, %s, %s, 1.5) ON CONFLICT (id) DO UPDATE SET user_id = %s",
                            (key, user, text, user),
                        )
                    elif what == "update":
                        connection.execute("UPDATE orders SET user_id = %s WHERE id = %s", (user, key))
                    elif what == "status":
                        connection.execute("UPDATE orders SET total = total + 1 WHERE user_id = %s", (user,))
                    elif what == "key":
                        connection.execute(
                            "UPDATE orders SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM orders WHERE id = %s)",
                            (other, key, other),
                        )
                    elif what == "delete":
                        connection.execute("DELETE FROM orders WHERE id = %s", (key,))
                    elif chance.random() < 0.1:
                        connection.execute("TRUNCATE orders")
