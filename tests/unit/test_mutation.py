"""The mutation run: which errors it makes, that the known ones still have a place, and that it tells red from green."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.mutation.__main__ import Result, tried
from bench.mutation.known import KNOWN, KnownError
from bench.mutation.operators import mutants
from tests.patience import RUN_S

ROOT = Path(__file__).resolve().parents[2]

SOURCE_AND_CHANGES = [
    ("x = a + b", ["a + b -> a - b"]),
    ("x = a ** b", ["a ** b -> a * b"]),
    ("x += y", ["x += y -> x -= y"]),
    ("x = a < b", ["a < b -> a >= b"]),
    ("x = a in b", ["a in b -> a not in b"]),
    ("x = a and b", ["a and b -> a or b"]),
    ("x = -a", ["-a -> a"]),
    ("x = not a", ["not a -> a"]),
    ("x = 3", ["3 -> 4"]),
    ("x = 0.5", ["0.5 -> 1.0"]),
    ("x = 1e-8", []),
    ("x = True", ["True -> False"]),
    ("x = a if b else c", ["a if b else c -> a if not b else c"]),
    ("model.train()", ["model.train() -> pass", "model.train() -> model.eval()"]),
    ("x = a.train()", ["a.train() -> a.eval()"]),
    ("x = a.b().mean()", ["a.b().mean() -> a.b().sum()"]),
    ("x = a.b().detach()", ["a.b().detach() -> a.b()"]),
    ("x = kl(teacher, student)", ["kl(teacher, student) -> kl(student, teacher)"]),
    ('"""What it does."""', []),
    ("raise ValueError(a + b)", []),
    ("assert a < b", []),
    ("import a", []),
    ("on_batch()", []),
    ('x = UserError("code", what=a + b)', []),
    ('x = f"{a + b}"', []),
    ('x = "a" + b', []),
    ("x: Annotated[int, 3] = y", []),
]


@pytest.mark.parametrize(("source", "changes"), SOURCE_AND_CHANGES)
def test_each_error_is_made_and_messages_are_left_alone(source: str, changes: list[str]) -> None:
    """One line of code, and every change that is made to it."""
    assert [f"{m.before} -> {m.after}" for m in mutants("engine/part.py", source)] == changes


def test_a_mutant_differs_from_its_module_in_one_place_only() -> None:
    source = "def f(a, b):\n    c = a + b\n    return c * (a + b)\n"
    made = [ast.unparse(m.tree) for m in mutants("engine/part.py", source)]
    assert made == [
        "def f(a, b):\n    c = a - b\n    return c * (a + b)",
        "def f(a, b):\n    c = a + b\n    return c / (a + b)",
        "def f(a, b):\n    c = a + b\n    return c * (a - b)",
    ]
    assert [m.line for m in mutants("engine/part.py", source)] == [2, 3, 3]


@pytest.mark.parametrize("error", KNOWN, ids=lambda error: error.name)
def test_every_known_error_still_has_its_place(error: KnownError) -> None:
    mutant = error.mutant(ROOT)
    assert ast.dump(mutant.tree) != ast.dump(ast.parse((ROOT / error.path).read_text(encoding="utf-8")))
    compile(mutant.tree, error.path, "exec")


DRIVER = """
import ast, json, psutil, sys, time
sys.path.insert(0, {folder!r})
from pathlib import Path
from bench.mutation import trial
from bench.mutation.operators import mutants
def verdict(code, *tests):
    trial.LATE_S, trial.STILL_S = 0.5, 5.0
    tree = ast.parse(code) if isinstance(code, str) else code
    one = trial.Trial(Path({folder!r}), "part.py", tree, ["test_part.py::" + test for test in tests], 5.0).start()
    while (found := one.judge()) is None:
        time.sleep(0.01)
    return found
print(json.dumps({asked}))
"""
PART = "def add(a, b):\n    return a + b\ndef take(a, b):\n    return a - b\n"
TESTS = """
import time
import part
def test_add(): assert part.add(2, 3) == 5
def test_add_late():
    time.sleep(0.6)
    assert part.add(2, 3) == 5
def test_of_a_clock():
    time.sleep(0.6)
    assert part.take(3, 2) == 7, "as a limit of its own that a busy machine exceeds"
"""


def _verdicts(folder: Path, asked: str) -> list[str]:
    """Return what ``asked``, an expression, says in a process that has not imported the module yet."""
    (folder / "part.py").write_text(PART)
    (folder / "test_part.py").write_text(TESTS)
    driver = DRIVER.format(folder=str(folder), asked=asked)
    command = [sys.executable, "-c", driver]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=RUN_S)
    return json.loads(told.stdout)


def test_a_mutant_is_killed_by_a_test_that_notices_it_and_by_no_other(tmp_path: Path) -> None:
    """Two wrong lines of a small module, of which its one test asks for the first only."""
    asked = f"[[m.line, verdict(m.tree, 'test_add')] for m in mutants('part.py', {PART!r})]"
    assert _verdicts(tmp_path, asked) == [[2, "killed"], [4, "survived"]]


@pytest.mark.slow
def test_a_mutant_that_runs_or_waits_for_ever_is_stopped(tmp_path: Path) -> None:
    """The first uses more CPU seconds than it has; the second uses none for longer than it may."""
    waiting = f"import time\n{PART.replace('return a + b', 'time.sleep(1000)')}"
    assert _verdicts(tmp_path, f"[verdict('while True: pass', 'test_add'), verdict({waiting!r}, 'test_add')]") == [
        "timed out",
        "timed out",
    ]


def test_what_is_on_trial_when_the_run_is_stopped_ends_with_it(tmp_path: Path) -> None:
    """Ctrl-C in the middle: the process of the mutant has a group of its own and would go on."""
    asked = "(lambda one: [one.stop(), psutil.pid_exists(one.process)])(trial.Trial({}).start())".format(
        f"Path({str(tmp_path)!r}), 'part.py', ast.parse('while True: pass'), ['test_part.py'], 60.0"
    )
    assert _verdicts(tmp_path, asked) == [None, False]


@pytest.mark.slow
def test_a_busy_machine_kills_no_mutant(tmp_path: Path) -> None:
    """A late failure counts if the test passes without the mutation; if not, the tests after it decide."""
    wrong = PART.replace("a + b", "a * b")
    asked = (
        f"[verdict({wrong!r}, 'test_add_late'), verdict({wrong!r}, 'test_of_a_clock'),"
        f" verdict({wrong!r}, 'test_of_a_clock', 'test_add')]"
    )
    assert _verdicts(tmp_path, asked) == ["killed", "survived", "killed"]


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """One verdict is in the file: no process is started for it, and what the file says is the result."""
    (mutant,) = mutants("part.py", "x = a + b")
    kept = tmp_path / "verdicts.jsonl"
    result = Result(mutant.code, "distillation", mutant.told, "killed", False)
    kept.write_text(json.dumps(asdict(result)) + "\n")
    assert list(tried([("distillation", mutant, False)], {"lines": {}, "seconds": {}}, jobs=1, kept=kept)) == [result]
    known = list(tried([("distillation", mutant, True)], {"lines": {}, "seconds": {}}, jobs=1, kept=kept))
    assert [(r.known, r.verdict) for r in known] == [(True, "survived")], "no test passes there"
    assert len(kept.read_text().splitlines()) == 2


def test_a_test_that_only_the_measurement_fails_is_no_fault(tmp_path: Path) -> None:
    """One that keeps to a time fails while its lines are traced; it is run again without."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    timed = "import sys\nfrom part.sums import add\n\ndef test_timed():\n    assert add(1, 2) == 3\n"
    timed += "    assert sys.gettrace() is None\n\ndef test_wrong():\n    assert add(1, 2) == 4\n"
    (tmp_path / "test_sums.py").write_text(timed)
    command = [sys.executable, "-m", "bench.mutation.baseline", str(tmp_path), str(tmp_path / "seen.json"), "part"]
    path = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    subprocess.run([*command, "test_sums.py"], cwd=tmp_path, env=path, capture_output=True, timeout=RUN_S, check=False)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["failed"] == ["test_sums.py::test_wrong"]
    assert "test_sums.py::test_timed" in seen["lines"]["part/sums.py"]["2"]


def test_a_mutant_has_one_thread() -> None:
    said = "from bench.mutation.__main__ import import_heavy as i; i(); import torch; print(torch.get_num_threads())"
    without = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(
        [sys.executable, "-c", said], cwd=ROOT, env=without, capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == "1", told.stderr
