"""``python -m bench.mutation``: how many deliberate errors in the method's code turn a test red.

Two sets. The *known* ones are errors that once stayed green, each an entry of ``known.py``: all must be killed. The
others are a sample, drawn with a seed, of all small errors that ``operators.py`` makes: the share killed is the score.
Each mutant runs the tests that pass through its line until one fails, those first whose file imports the module;
``trial.py`` says why a busy machine kills none.

What was measured is kept below ``build/mutation`` and used again while neither the code nor the tests have changed: a
run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.mutation import trial
from bench.mutation.known import KNOWN
from bench.mutation.operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "mutation"
PACKAGES = ("distillation", "federation", "generation", "evaluation", "site")
HEAVY = (
    "torch",
    "torchvision",
    "monai.losses",
    "monai.metrics",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.controlnet.pipeline_controlnet",
    "transformers.models.clip.modeling_clip",
    "timm",
    "flwr.serverapp",
    "flwr.clientapp",
    "scipy.ndimage",
    "pydantic",
    "sqlalchemy",
    "hypothesis.strategies",
    "onnx",
    "onnxruntime",
    "highdicom",
)
"""Imported once, before forking: they take longer than most tests, and none of them is mutated."""
TEST_BUDGET_S = 240.0
"""Tests of a mutant, likeliest files first, until so many unmutated CPU seconds are filled (ours)."""
AIM = 0.9


Drawn = tuple[str, Mutant, bool]
"""A mutant, the package that it is in, and whether it is one of the known."""


@dataclass(frozen=True)
class Result:
    """One mutant's fate: ``code`` is the digest of its module, ``known`` is for the errors of the table."""

    code: str
    package: str
    told: str
    verdict: str
    known: bool


def main() -> int:
    """Parse the command line, try the mutants, print the score; return 1 below the aim."""
    parser = argparse.ArgumentParser(prog="python -m bench.mutation", description=__doc__)
    parser.add_argument("--per-package", type=int, default=40, help="mutants drawn of each package (0: the known only)")
    parser.add_argument("--seed", type=int, default=0, help="which mutants are drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants on trial at a time")
    parser.add_argument("--package", choices=PACKAGES, action="append", help="only these packages")
    chosen = parser.parse_args()
    packages = tuple(chosen.package or PACKAGES)
    seen = baseline()
    if seen["failed"]:
        print(f"These tests fail without any mutation: {', '.join(seen['failed'])}", file=sys.stderr)
        return 2
    drawn = [*known(packages), *sample(packages, count=chosen.per_package, seed=chosen.seed)]
    import_heavy()
    return tell(list(tried(drawn, seen, jobs=chosen.jobs, kept=KEPT / f"verdicts-{digest()}.jsonl")))


def import_heavy() -> None:
    """Import what no mutant changes, with the one thread that the tests have: torch reads their number when it comes.

    Two threads of each of two processes on two cores wait for each other most of the time.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in HEAVY:
        importlib.import_module(name)


def digest() -> str:
    """Return the name of the code and the tests as they are."""
    sha = hashlib.sha256()
    for file in sorted(
        file for folder in ("engine", "tests", "bench/mutation") for file in (ROOT / folder).rglob("*.py")
    ):
        sha.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:16]


def baseline() -> dict:
    """Return the tests of every line and their CPU seconds; measured anew where code or tests have changed."""
    tests = [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if _concerned(file)]
    kept = KEPT / f"lines-{digest()}.json"
    if not kept.is_file():
        print(f"Measuring which of {len(tests)} files of tests pass through which lines ...", flush=True)
        folders = ",".join(sorted({*(f"engine/{package}" for package in PACKAGES), *(entry.folder for entry in KNOWN)}))
        command = [sys.executable, "-m", "bench.mutation.baseline", str(ROOT), str(kept), folders, *map(str, tests)]
        subprocess.run(command, cwd=ROOT, check=False)
    return json.loads(kept.read_text(encoding="utf-8"))


def _concerned(file: Path) -> bool:
    text = file.read_text(encoding="utf-8")
    names = (*(f"engine.{package}" for package in PACKAGES), "engine.stages", "federation_world")
    return "tests/ui" not in file.as_posix() and any(name in text for name in names)


def known(packages: Sequence[str]) -> list[Drawn]:
    """Return the errors of the table, each made in its file."""
    everything = set(packages) == set(PACKAGES)
    return [(entry.package, entry.mutant(ROOT), True) for entry in KNOWN if everything or entry.package in packages]


def sample(packages: Sequence[str], *, count: int, seed: int) -> list[Drawn]:
    """Return ``count`` mutants of each package, drawn without replacement."""
    drawn = []
    for package in packages:
        everything = [m for file in sorted((ROOT / "engine" / package).rglob("*.py")) for m in _mutants_of(file)]
        rng = np.random.Generator(np.random.PCG64([seed, *package.encode()]))
        chosen = rng.permutation(len(everything))[:count]
        drawn += [(package, everything[index], False) for index in sorted(chosen)]
    return drawn


def _mutants_of(file: Path) -> Iterator[Mutant]:
    return mutants(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))


def tests_of(mutant: Mutant, seen: dict) -> list[str]:
    """Return the tests that pass through the mutant's line (for a module's constant: its file), likeliest files first.

    The other tests of their files come last: what a fixture of the whole file computes counts for its first test only.
    """
    lines = seen["lines"].get(mutant.path, {})
    passing = set(lines.get(str(mutant.line), ())) or {test for tests in lines.values() for test in tests}
    files = {test.partition("::")[0] for test in passing}
    others = {test for test in seen["seconds"] if test.partition("::")[0] in files} - passing
    kept, filled = [], 0.0
    for group in (passing, others):
        for test in _likeliest_first(group, seen, module=mutant.path.removesuffix(".py").replace("/", ".")):
            filled += seen["seconds"].get(test, 0.0)
            if kept and filled > TEST_BUDGET_S:
                return kept
            kept.append(test)
    return kept


def _likeliest_first(tests: set[str], seen: dict, *, module: str) -> list[str]:
    """Return ``tests`` file by file, as files are collected: first those that import the module, and quick ones."""
    files: dict[str, list[str]] = {}
    for test in sorted(tests, key=lambda name: (seen["seconds"].get(name, math.inf), name)):
        files.setdefault(test.partition("::")[0], []).append(test)

    def rank(file: str) -> tuple[bool, float]:
        imports_it = f"from {module} import" in (ROOT / file).read_text(encoding="utf-8")
        return not imports_it, sum(seen["seconds"].get(test, 0.0) for test in files[file])

    return [test for file in sorted(files, key=rank) for test in files[file]]


def tried(drawn: Sequence[Drawn], seen: dict, *, jobs: int, kept: Path) -> Iterator[Result]:
    """Put ``jobs`` mutants on trial at a time and yield their results as they come, telling each survivor.

    Each verdict is a line of ``kept``; those that are there already are taken from it.
    """
    before = [Result(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    over = {(result.known, result.code): result for result in before}
    waiting: list[Drawn] = []
    for package, mutant, is_known in reversed(drawn):
        if (is_known, mutant.code) in over:
            yield over[is_known, mutant.code]
        else:
            waiting.append((package, mutant, is_known))
    running: dict[trial.Trial, Drawn] = {}
    try:
        yield from _try_all(waiting, running, seen, jobs=jobs, kept=kept)
    finally:  # whoever stops this run ends what it has started
        for on_trial in running:
            on_trial.stop()


def _try_all(
    waiting: list[Drawn], running: dict[trial.Trial, Drawn], seen: dict, *, jobs: int, kept: Path
) -> Iterator[Result]:
    total, done, begun = len(waiting), 0, time.monotonic()
    while waiting or running:
        while waiting and len(running) < jobs:
            one = waiting.pop()
            running[_trial(one[1], seen)] = one
        for on_trial, (package, mutant, is_known) in list(running.items()):
            verdict = on_trial.judge()
            if verdict is None:
                continue
            del running[on_trial]
            done += 1
            if verdict == "survived":
                print(f"  survived{'' if on_trial.tests else ' (no test)'}: {mutant.told}", flush=True)
            if done % 20 == 0:
                left = (time.monotonic() - begun) / done * (total - done)
                print(f"  {done} of {total} tried, about {left / 60:.0f} min left", flush=True)
            result = Result(mutant.code, package, mutant.told, verdict, is_known)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            yield result
        time.sleep(0.05)


def _trial(mutant: Mutant, seen: dict) -> trial.Trial:
    tests = tests_of(mutant, seen)
    limit = 120 + 10 * sum(seen["seconds"].get(test, 0.0) for test in tests)
    return trial.Trial(ROOT, mutant.path, mutant.tree, tests, limit).start()


def tell(results: Sequence[Result]) -> int:
    """Print the score of each package and of all, with Wilson's 95 % interval; return the exit status."""
    table = [r for r in results if r.known]
    drawn = [r for r in results if not r.known]
    for result in results:
        if result.verdict != "killed":
            print(f"  {result.verdict}: {result.told}")
    print(f"\nKnown errors: {sum(r.verdict != 'survived' for r in table)} of {len(table)} killed")
    killed, tried_ = Counter(r.package for r in drawn if r.verdict != "survived"), Counter(r.package for r in drawn)
    for package in tried_:
        print(f"  {package:14s} {_share(killed[package], tried_[package])}")
    total = sum(killed.values())
    if drawn:
        print(f"  {'all':14s} {_share(total, len(drawn))}   aim {100 * AIM:.0f} %")
    enough = total >= AIM * len(drawn) and all(r.verdict != "survived" for r in table)
    return 0 if enough else 1


def _share(killed: int, total: int) -> str:
    z, share = 1.96, killed / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    interval = f"[{100 * (centre - half):.1f}, {100 * (centre + half):.1f}]"
    return f"{killed:4d} of {total:4d} killed: {100 * share:5.1f} % {interval}"


if __name__ == "__main__":
    sys.exit(main())
