"""One mutant on trial: a forked process in which one module is another, and the tests that pass through its line.

No limit is of the wall's clock: beside other work everything takes longer, and a mutant that was only late would count
as killed. A mutant has CPU seconds; one that waits for ever stands still; and a test that failed after long enough to
have run into a limit of its own has to pass without the mutation, at once and on the same machine, to be believed.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Literal

import psutil
import pytest

Verdict = Literal["killed", "survived", "timed out"]
STILL_S = 900.0
"""A process that used no CPU for so long waits for what does not come (ours): longer than tests wait by themselves."""
PASSED = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
LATE_S = 4.0
"""A test that failed sooner ran into no limit of its own: the least of these is 5 s (ours)."""


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


class FirstFailure:
    """A pytest plugin: writes which test failed first, and after how many seconds of the wall's clock."""

    def __init__(self, out: int) -> None:
        self._out, self._begun, self._said = out, 0.0, False

    def pytest_runtest_logstart(self) -> None:
        """Begin a test's time."""
        self._begun = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the first failure."""
        if report.failed and not self._said:
            self._said = True
            os.write(self._out, json.dumps([report.nodeid, time.monotonic() - self._begun]).encode())


@dataclass(eq=False)
class Trial:
    """A mutant (``tree`` in the place of ``path``; None: no mutation) and the tests that it still has before it."""

    root: Path
    path: str
    tree: ast.Module | None
    tests: list[str]
    cpu_limit_s: float
    process: int = 0
    _told: int = -1
    _cpu: float = 0.0
    _moved: float = 0.0
    _doubt: Trial | None = field(default=None, repr=False)

    def start(self) -> Trial:
        """Fork the process that runs the tests and return this trial.

        The modules that are mutated must not be imported yet in the calling process; everything heavy may be.
        """
        if not self.tests:
            return self
        sys.stdout.flush()
        self._told, telling = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            self._run(telling)
        os.close(telling)
        with suppress(OSError):  # it has done so itself, or is over
            os.setpgid(self.process, self.process)
        self._cpu, self._moved = 0.0, time.monotonic()
        return self

    def _run(self, telling: int) -> None:
        status = 70
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (int(self.cpu_limit_s), int(self.cpu_limit_s) + 5))
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(silence, stream)
            os.chdir(self.root)
            if self.tree is not None:
                sys.meta_path.insert(0, MutatedModule(self.root, self.path, self.tree))
            quiet = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--no-header", "--tb=no"]
            by_file = groupby(self.tests, key=lambda test: test.partition("::")[0])
            for _, tests in by_file:  # what is not needed is not even collected
                status = int(pytest.main([*quiet, *tests], plugins=[FirstFailure(telling)]))
                if status not in PASSED:
                    break
        finally:
            os._exit(status)

    def judge(self) -> Verdict | None:
        """Return what became of the mutant, or None while that is open.

        A mutant under which a test fails, or under which the tests cannot even be collected, is killed.
        """
        if not self.tests:
            return "survived"
        if self._doubt is not None:
            return self._settle(self._doubt)
        done, status = os.waitpid(self.process, os.WNOHANG)
        if not done:
            if not self._stands_still():
                return None
            self.stop()
            return "timed out"
        code = os.waitstatus_to_exitcode(status)
        failure = os.read(self._told, 65536)  # empty: no test failed
        os.close(self._told)
        if code == -signal.SIGXCPU:
            return "timed out"
        if code in PASSED:
            return "survived"
        test, seconds = json.loads(failure) if failure else ("", 0.0)
        if seconds < LATE_S or self.tree is None:
            return "killed"
        self._doubt = Trial(self.root, self.path, None, [test], self.cpu_limit_s).start()
        return None

    def _settle(self, doubt: Trial) -> Verdict | None:
        """Believe a late failure if its test passes without the mutation; else go on with the tests after it."""
        verdict = doubt.judge()
        if verdict is None or verdict == "survived":
            return None if verdict is None else "killed"
        self.tests = [test for test in self.tests if test != doubt.tests[0]]
        self._doubt = None
        self.start()
        return None

    def _stands_still(self) -> bool:
        """Return whether the process and those that it started have used no CPU for ``STILL_S``."""
        try:
            process = psutil.Process(self.process)
            times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
        except psutil.NoSuchProcess:  # one of them ended between two looks
            return False
        cpu = sum(sum(each[:4]) for each in times)  # user, system, and both of the children that ended
        if abs(cpu - self._cpu) > 0.05:
            self._cpu, self._moved = cpu, time.monotonic()
        return time.monotonic() - self._moved > STILL_S

    def stop(self) -> None:
        """End what runs."""
        if self._doubt is not None:
            self._doubt.stop()
        elif self.tests:
            with suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
            os.close(self._told)
