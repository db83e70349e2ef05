"""A command that is tied to its supervisor ends with it, however that ends, and never begins without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import WAIT_S, is_over, wait

TIED = [sys.executable, "-m", "engine.deployment.tied"]
SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
SUPERVISOR = f"""
import os, subprocess, sys
child = subprocess.Popen({TIED!r} + [str(os.getpid()), sys.executable, "-c", {SLEEPER!r}])
child.wait()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")


@pytest.mark.parametrize("how", ["kill", "terminate"])
def test_it_ends_when_its_supervisor_does(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        tied = int(supervisor.stdout.readline())
        assert not is_over(tied)
        getattr(supervisor, how)()
        wait(lambda: is_over(tied))


def test_it_is_the_command_itself(tmp_path: Path) -> None:
    """No process stands between: a signal to it reaches the command, and its exit status is the command's."""
    words = [*TIED, str(os.getpid()), sys.executable, "-c", "import os, sys; print(os.getppid()); sys.exit(7)"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 7 and int(done.stdout) == os.getpid()


def test_without_its_supervisor_it_does_not_begin() -> None:
    words = [*TIED, "1", sys.executable, "-c", "print('begun')"]  # as where the supervisor has been killed meanwhile
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1 and done.stdout == "" and "the supervisor is gone" in done.stderr
