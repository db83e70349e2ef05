"""SIGTERM ends the page in order, also where Python passes over the exit that it raises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.patience import WAIT_S

SETUP = """
import atexit, os, signal, sys, time
from app.ending import ends_on_sigterm

class Cleared:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass

atexit.register(lambda: print("cleared away", flush=True))
with ends_on_sigterm(again_s=0.2):
"""
LOST = """
    thing = Cleared()
    del thing
    print("passed over", flush=True)
"""
OTHERS = """
    def heard(*_):
        print("heard", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    signal.signal(signal.SIGTERM, heard)
    time.sleep(0.6)
    print("went on", flush=True)
"""


def said(program: str) -> tuple[int, list[str]]:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=WAIT_S)
    return done.returncode, done.stdout.splitlines()


def test_a_signal_while_an_object_is_cleared_away_is_given_again() -> None:
    assert said(f"{SETUP}{LOST}    time.sleep({WAIT_S})") == (0, ["passed over", "cleared away"])


def test_it_is_given_again_to_whoever_handles_it_then() -> None:
    assert said(f"{SETUP}{LOST}{OTHERS}")[1] == ["passed over", "heard", "went on", "cleared away"]


def test_it_ends_at_once_elsewhere() -> None:
    program = f"{SETUP}    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep({WAIT_S})"
    assert said(program) == (0, ["cleared away"])


def test_nothing_is_given_again_once_the_program_has_left() -> None:
    program = SETUP.replace("with ends", "try:\n  with ends") + "    os.kill(os.getpid(), signal.SIGTERM)"
    program += "\nexcept SystemExit:\n    time.sleep(0.6)\n    print('in order', flush=True)"
    assert said(program) == (0, ["in order", "cleared away"])
