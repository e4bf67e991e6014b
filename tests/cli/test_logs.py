"""Where the log of `pgcdc run` goes, and what does not belong into it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYS = """
import logging
from pgcdc.cli.logs import log_to_stderr
from pgcdc.cli.redaction import Redactor

log_to_stderr({level!r}, False, Redactor({{}}))
for name in ("httpx2", "httpx", "pgcdc.run"):
    logging.getLogger(name).info("a request of %s", name)
    logging.getLogger(name).warning("a refusal of %s", name)
"""


@pytest.mark.parametrize(
    ("level", "requests"), [("info", ["pgcdc.run"]), ("debug", ["httpx2", "httpx", "pgcdc.run"]), ("warning", [])]
)
def test_requests_of_libraries_are_for_who_looks_for_them(level: str, requests: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", SAYS.format(level=level)], capture_output=True, text=True, check=True)
    said = ran.stderr.splitlines()
    assert [line.rpartition(" ")[2] for line in said if "a request of" in line] == requests
    assert [line.rpartition(" ")[2] for line in said if "a refusal of" in line] == ["httpx2", "httpx", "pgcdc.run"]
