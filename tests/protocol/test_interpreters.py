"""More than one interpreter in a process: the second one is told that the module is not for it, and nothing breaks."""

from __future__ import annotations

import importlib
import subprocess
import sys

PROGRAM = """
import sys
import pgcdc
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
try:
    number = interpreters.create("legacy")
except (TypeError, AttributeError):
    number = interpreters.create()
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


def test_a_second_interpreter_is_refused_clearly() -> None:
    """In a process of its own: an ImportError in the second interpreter, and the first goes on."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    refused, here = done.stdout.splitlines()
    assert refused.startswith("refused: ") and "subinterpreters" in refused
    assert here == "here: 0"


def test_the_module_says_whether_it_needs_the_lock() -> None:
    """On a build of Python without the global lock, importing pgcdc must not bring the lock back."""
    importlib.import_module("pgcdc")
    is_enabled = getattr(sys, "_is_gil_enabled", None)
    assert is_enabled is None or not hasattr(sys, "abiflags") or "t" not in sys.abiflags or not is_enabled()
