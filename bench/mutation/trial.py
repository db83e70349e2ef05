"""One mutant on trial: a forked process in which one module is another, and the tests that pass through its line."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

Verdict = Literal["killed", "survived", "timed out"]


class MutatedModule(MetaPathFinder, Loader):
    """Gives the module of ``path`` (from the root) the code of ``tree``; every other module is as it is."""

    def __init__(self, root: Path, path: str, tree: ast.Module) -> None:
        self._name, self._file = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"), root / path
        self._tree = tree

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the one module."""
        if fullname != self._name:
            return None
        package = [str(self._file.parent)] if self._file.name == "__init__.py" else None
        return spec_from_file_location(fullname, self._file, loader=self, submodule_search_locations=package)

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutated code."""
        exec(compile(self._tree, str(self._file), "exec"), module.__dict__)


def start(root: Path, *, path: str, tree: ast.Module, tests: Sequence[str]) -> int:
    """Fork a process that runs ``tests`` against the mutant and ends with pytest's exit status; return its id.

    The modules that are mutated must not be imported yet in the calling process; everything heavy may be.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        with suppress(OSError):  # it has done so itself, or is over
            os.setpgid(process, process)
        return process
    status = 70
    try:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        os.chdir(root)
        sys.meta_path.insert(0, MutatedModule(root, path, tree))
        quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--no-header", "--tb=no"]
        status = int(pytest.main([*quiet, *tests]))
    finally:
        os._exit(status)


def judge(process: int, *, deadline: float) -> Verdict | None:
    """Return how the process ended, or None while it runs; past ``deadline`` (monotonic seconds) it is killed.

    A mutant under which a test fails, or under which the tests cannot even be collected, is killed.
    """
    done, status = os.waitpid(process, os.WNOHANG)
    if done:
        code = os.waitstatus_to_exitcode(status)
        return "survived" if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) else "killed"
    if time.monotonic() < deadline:
        return None
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "timed out"
