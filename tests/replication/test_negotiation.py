"""What a stream asks for."""

from __future__ import annotations

import pytest

import pgcdc
from pgcdc.replication.negotiation import protocol_version, start_command


def test_the_command() -> None:
    command = start_command(180004, "shop", ["p", "a,\"b'c"], start_lsn=0x16_B374D848, binary=True)
    assert command == (
        'START_REPLICATION SLOT "shop" LOGICAL 16/B374D848 ("proto_version" \'1\','
        ' "publication_names" \'"p","a,""b\'\'c"\', "messages" \'true\', "binary" \'true\')'
    )
    assert "binary" not in start_command(140000, "shop", ["p"], start_lsn=0, binary=False)


def test_origin() -> None:
    assert "\"origin\" 'none'" in start_command(160000, "s", ["p"], start_lsn=0, binary=False, origin="none")
    with pytest.raises(pgcdc.ConfigError, match="PostgreSQL 16"):
        start_command(150000, "s", ["p"], start_lsn=0, binary=False, origin="none")


def test_old_servers_are_refused() -> None:
    with pytest.raises(pgcdc.ConfigError, match="PostgreSQL 14"):
        protocol_version(130000)
