"""Which tests pass through which lines of the mutated packages, and their CPU seconds: measured once, unmutated."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage


class LineMap:
    """A pytest plugin: one coverage context a test, and each test's outcome and CPU seconds."""

    def __init__(self, root: Path, packages: tuple[str, ...]) -> None:
        self.root = root
        self.coverage = Coverage(
            data_file=None, source=[str(root / package) for package in packages], config_file=False
        )
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.traces = True

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Give the lines that run from here on to ``item``."""
        if self.traces:
            self.coverage.switch_context(item.nodeid)
        begun = _cpu_s()
        yield
        self.seconds[item.nodeid] = _cpu_s() - begun

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test that fails without any mutation: it tells nothing."""
        if report.failed:
            self.failed.append(report.nodeid)

    def tests_of_lines(self) -> dict[str, dict[int, list[str]]]:
        """Return path (from the root) -> line -> tests that ran it; import time counts for none."""
        data = self.coverage.get_data()
        found = {}
        for file in sorted(data.measured_files()):
            lines = data.contexts_by_lineno(file)
            found[Path(file).relative_to(self.root).as_posix()] = {
                line: sorted(test for test in tests if test) for line, tests in lines.items()
            }
        return found


def _cpu_s() -> float:
    """Return the CPU seconds of this process and of those that it started and that ended: load does not add to them."""
    return sum(os.times()[:4])


def measure(root: Path, *, packages: tuple[str, ...], tests: list[str], out: Path) -> int:
    """Run ``tests`` and write what was seen to ``out`` as JSON; return pytest's exit status."""
    plugin = LineMap(root, packages)
    plugin.coverage.start()
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", "--timeout=1800"]
    status = int(pytest.main([*options, *tests], plugins=[plugin]))
    plugin.coverage.stop()
    if plugin.failed:  # once more, alone: a busy machine is no mutation, and to be traced is to be slow
        again, plugin.failed, plugin.traces = sorted(set(plugin.failed)), [], False
        status = int(pytest.main([*options, *again], plugins=[plugin]))
    seen = {"lines": plugin.tests_of_lines(), "seconds": plugin.seconds, "failed": plugin.failed}
    out.parent.mkdir(parents=True, exist_ok=True)
    passing = out.with_suffix(".part")
    passing.write_text(json.dumps(seen), encoding="utf-8")
    passing.replace(out)
    return status


if __name__ == "__main__":
    os.chdir(Path(sys.argv[1]))
    sys.exit(
        measure(Path(sys.argv[1]), packages=tuple(sys.argv[3].split(",")), tests=sys.argv[4:], out=Path(sys.argv[2]))
    )
