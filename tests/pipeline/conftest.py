"""Databases with one small table that has a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pipeline.shop import ORDERS

if TYPE_CHECKING:
    from tests.conftest import Database


@pytest.fixture
def orders(database: Database) -> Database:
    database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'old')")
    return database


@pytest.fixture
def new_orders(newest_database: Database) -> Database:
    newest_database.execute(ORDERS, "INSERT INTO orders VALUES (1, 'old')")
    return newest_database
