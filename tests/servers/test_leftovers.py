"""What a session leaves that was killed: its servers and their folders, which the next one ends and removes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.judge import until
from tests.servers.leftovers import new_folder, started_in

_ROOT = Path(__file__).resolve().parents[2]
_SESSION = """
import os, signal, subprocess, sys
from tests.servers.leftovers import new_folder
folder = new_folder()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd=folder, stdout=subprocess.DEVNULL)
print(folder, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def test_what_a_killed_session_leaves_is_removed() -> None:
    """And what a session has that goes on is left alone."""
    killed = subprocess.run([sys.executable, "-c", _SESSION, "killed"], cwd=_ROOT, stdout=subprocess.PIPE, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = Path(killed.stdout.decode().strip())
    [server] = started_in(left)
    with subprocess.Popen(
        [sys.executable, "-c", _SESSION, "goes on"], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as session:
        assert session.stdout is not None and session.stdin is not None
        kept = Path(session.stdout.readline().decode().strip())
        assert not left.exists(), "the session that came then has removed it"
        until(lambda: server not in started_in(left))
        folder = new_folder()
        try:
            assert kept.exists()
            assert len(started_in(kept)) == 1
        finally:
            folder.rmdir()
            session.stdin.close()
            session.wait(60)
            shutil.rmtree(new_folder())
    assert not kept.exists()
