"""What is asked of each version, as text."""

from __future__ import annotations

import pytest

import pgcdc
from pgcdc.replication.negotiation import protocol_version, start_command
from pgcdc.replication.stream_options import Reconnect, StreamOptions


def test_the_command() -> None:
    command = start_command(180000, StreamOptions("s", ["p", 'q"']), start_lsn=0x1_0000_0002, binary=True)
    assert command == (
        'START_REPLICATION SLOT "s" LOGICAL 1/2 ("proto_version" \'4\', "publication_names" \'"p","q"""\','
        " \"messages\" 'true', \"binary\" 'true')"
    )
    assert '"binary"' not in start_command(140000, StreamOptions("s", ["p"]), start_lsn=0, binary=False)
    assert '"messages"' not in start_command(
        140000, StreamOptions("s", ["p"], messages=False), start_lsn=0, binary=True
    )


@pytest.mark.parametrize(("version", "protocol"), [(140023, 2), (150018, 3), (160014, 4), (170010, 4), (180004, 4)])
def test_the_highest_protocol_that_the_server_knows(version: int, protocol: int) -> None:
    assert protocol_version(version) == protocol


def test_a_server_that_is_too_old() -> None:
    with pytest.raises(pgcdc.ConfigError, match="14 or later"):
        protocol_version(130000)


def test_streaming() -> None:
    def asked(version: int, streaming: str) -> str:
        options = StreamOptions("s", ["p"], streaming=streaming)  # type: ignore[arg-type]
        return start_command(version, options, start_lsn=0, binary=False)

    assert '"streaming"' not in asked(180000, "off")
    assert "\"streaming\" 'on'" in asked(140000, "on")
    assert "\"streaming\" 'parallel'" in asked(160000, "parallel")
    assert "\"streaming\" 'on'" in asked(150000, "parallel"), "a version that has none gives what it has"
    with pytest.raises(pgcdc.ConfigError, match="none of off, on, parallel"):
        asked(180000, "yes")


def test_what_needs_a_newer_server() -> None:
    none = StreamOptions("s", ["p"], origin="none")
    assert "\"origin\" 'none'" in start_command(160000, none, start_lsn=0, binary=False)
    with pytest.raises(pgcdc.ConfigError, match="PostgreSQL 16"):
        start_command(150000, none, start_lsn=0, binary=False)
    two_phase = StreamOptions("s", ["p"], two_phase=True)
    assert "\"two_phase\" 'on'" in start_command(150000, two_phase, start_lsn=0, binary=False)
    with pytest.raises(pgcdc.ConfigError, match="PostgreSQL 15"):
        start_command(140000, two_phase, start_lsn=0, binary=False)
    with pytest.raises(pgcdc.ConfigError, match="neither any nor none"):
        StreamOptions("s", ["p"], origin="some")  # type: ignore[arg-type]


def test_pauses_grow_and_are_not_all_the_same() -> None:
    policy = Reconnect(first=0.1, longest=2.0)
    for attempt, whole in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]):
        pauses = [policy.pause(attempt) for _ in range(50)]
        assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert len(set(pauses)) > 1
    assert policy.pause(10_000) <= 2.0
