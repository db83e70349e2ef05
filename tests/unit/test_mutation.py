"""The mutation run: which errors it makes, that the known ones still have a place, and that it tells red from green."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from bench.mutation.known import KNOWN, KnownError
from bench.mutation.operators import mutants

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


def test_a_mutant_is_killed_by_a_test_that_notices_it_and_by_no_other(tmp_path: Path) -> None:
    """Two wrong lines of a small module, of which its one test asks for the first only."""
    (tmp_path / "part.py").write_text("def add(a, b):\n    return a + b\ndef take(a, b):\n    return a - b\n")
    (tmp_path / "test_part.py").write_text("import part\ndef test_add():\n    assert part.add(2, 3) == 5\n")
    driver = f"""
import sys, time
sys.path.insert(0, {str(tmp_path)!r})
from pathlib import Path
from bench.mutation import trial
from bench.mutation.operators import mutants
root = Path({str(tmp_path)!r})
for mutant in mutants("part.py", (root / "part.py").read_text()):
    process = trial.start(root, path=mutant.path, tree=mutant.tree, tests=["test_part.py"])
    verdict = None
    while verdict is None:
        verdict = trial.judge(process, deadline=time.monotonic() + 240)
        time.sleep(0.01)
    print(mutant.line, verdict)
process = trial.start(root, path="part.py", tree=__import__("ast").parse("while True: pass"), tests=["test_part.py"])
verdict = None
while verdict is None:
    verdict = trial.judge(process, deadline=time.monotonic() - 1)
print(verdict)
"""
    told = subprocess.run(
        [sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, check=True, timeout=280
    )
    assert told.stdout.split("\n")[:3] == ["2 killed", "4 survived", "timed out"]
