"""More than one interpreter in a process: the second one is told that the module is not for it, and nothing breaks."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import pgcdc
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    number = interpreters.create(sys.argv[1])
else:
    import _xxsubinterpreters as interpreters
    number = interpreters.create(isolated=sys.argv[1] == "isolated")
inside = '''
import sys
sys.path[:] = PATH
try:
    import pgcdc
except ImportError as error:
    print("refused:", error, flush=True)
else:
    print("decoded:", pgcdc.Decoder().decode(b"B" + bytes(20)).xid, flush=True)
'''.replace("PATH", repr(sys.path))
interpreters.run_string(number, inside)
interpreters.destroy(number)
print("here:", pgcdc.Decoder().decode(b"B" + bytes(20)).xid, flush=True)
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_second_interpreter_is_refused_clearly(kind: str) -> None:
    """In a process of its own: an ImportError in the second interpreter, from us or from Python; the first goes on."""
    command = [sys.executable, "-c", PROGRAM, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    refused, here = done.stdout.splitlines()
    assert refused.startswith("refused: ")
    if (
        kind == "legacy"
    ):  # into an isolated one Python lets no extension module that does not ask for it, be it ours or not
        assert "pgcdc can be imported in one interpreter" in refused
    assert here == "here: 0"
