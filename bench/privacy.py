"""What differentially private rounds cost: Dice against epsilon on phantoms, client-level and central noise.

    python -m bench.privacy [--preset phantom_cpu_demo] [--seeds 1337,1338,1339] [--rounds 10] [--folder bench_privacy]
                            [--arms first,off,central/1/0.01,...] [--quick] [--set KEY=VALUE]

An arm is the preset's federated rounds (FedTinySAM: nothing else crosses) with MECHANISM/CLIP_NORM/NOISE_MULTIPLIER
under ``[privacy]``; ``off`` has none, and ``first`` is the model before any round, which tells no site's images at all.
What private training is worth is the difference to ``first``. Dice is that of the model that goes on, on the unseen
site; intervals are 95 % t intervals over seeds. Epsilon is that of the run's own record. An arm in which the noise
leaves no model (a figure of a site is not a number) has no Dice and says so. A finished arm is kept in the folder, and
a second call goes on where the first stopped. ``--quick`` is the smoke preset, one seed and three arms: it shows that
everything works.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.gain import interval
from bench.reporting import ConsoleReporter
from engine.accounting import epsilon_words
from engine.cli.options import edit_config
from engine.config import RunConfig, load_config, parse_config
from engine.errors import UserError
from engine.federation.checks import BAD_REPLY
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.evaluation import ROWS_FILE, Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import read_json, write_json
from engine.stages.privacy_account import EPSILON
from engine.types import MEAN_CLASS

ARM_FILE, MODEL = "arm.json", "fedavg_student"
FIRST, OFF = "first", "off"
SHOWN = (
    FIRST, OFF, "central/1/0.0001", "central/1/0.01", "central/1/0.1", "central/0.01/1", "central/0.003/3",
    "client/1/0.01", "client/0.01/1",
)  # fmt: skip
QUICK = ("first", "off", "central/0.01/1")


class Spending(ConsoleReporter):
    """Keeps the largest epsilon of the sites."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.epsilon: float | None = None

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Keep an epsilon."""
        super().metric(name, value, step=step, site=site)
        if name == EPSILON:
            self.epsilon = max(value, self.epsilon or 0.0)


def arm_config(preset: str, arm: str, *, seed: int, rounds: int | None) -> RunConfig:
    """Return the preset's rounds, all of them, with an arm's privacy."""
    values = load_config(preset).model_dump(mode="json") | {"seed": seed, "method": "fedtinysam"}
    values["federation"] |= {"patience": None} | ({} if rounds is None else {"rounds": rounds})
    values["export"]["site_models"] = False
    if arm not in (FIRST, OFF):
        mechanism, clip_norm, multiplier = arm.split("/")
        values["privacy"] |= {
            "mechanism": mechanism, "clip_norm": float(clip_norm), "noise_multiplier": float(multiplier),
        }  # fmt: skip
    return parse_config(values)


def run_arm(config: RunConfig, folder: Path, *, label: str, trains: bool) -> dict[str, Any]:
    """Train (or not) and measure; return the Dice in [0, 1], epsilon, and why there is no Dice where there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reporter = Spending(label)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
    try:
        if trains:
            FederatedTraining().run(context)
        else:
            context.save_model(context.new_model("student"), MODEL)
        Evaluation().run(context)
    except UserError as error:
        if error.code != BAD_REPLY:
            raise
        return {"dice": None, "epsilon": reporter.epsilon, "why": error.what}
    rows = [row for row in read_json(folder / ROWS_FILE) if (row["model"], row["split"]) == (MODEL, "test")]
    dice = next((row for row in rows if row["class_name"] == MEAN_CLASS), rows[0])["dice"]
    for name in ("checkpoints", "sites", "models"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return {"dice": dice, "epsilon": reporter.epsilon, "why": ""}


def finished(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what has been measured, by arm and seed."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"*/*/{ARM_FILE}")):
        found.setdefault(path.parent.parent.name.replace("_", "/"), {})[path.parent.name] = read_json(path)
    return found


def print_table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the arms, those with the most privacy last; differences are to ``off`` and ``first``, seed by seed."""
    print("\nDice points on the unseen site, mean ± 95 % t interval over seeds; epsilon of each site at delta 1e-5")
    print(f"{'arm':<20} seeds {'epsilon':>9}  {'Dice':>12} {'to off':>12} {'to first':>12}")
    for name in sorted(found, key=lambda arm: _order(arm, found[arm])):
        cells = {seed: cell for seed, cell in found[name].items() if cell["dice"] is not None}
        spent = [cell["epsilon"] for cell in found[name].values() if cell["epsilon"] is not None]
        epsilon = epsilon_words(max(spent)) if spent else {FIRST: "0"}.get(name, "none")
        columns = [interval([cell["dice"] for cell in cells.values()]) if cells else "no model"]
        for other in (OFF, FIRST):
            there = found.get(other, {})
            both = [(cell["dice"], there[seed]["dice"]) for seed, cell in cells.items() if seed in there]
            columns.append(interval([one - base for one, base in both]) if both and other != name else "")
        print(f"{name:<20} {len(cells)}/{len(found[name]):<3} {epsilon:>9}  " + " ".join(f"{c:>12}" for c in columns))


def _order(arm: str, cells: Mapping[str, Mapping[str, Any]]) -> tuple[int, float]:
    spent = [cell["epsilon"] for cell in cells.values() if cell["epsilon"] is not None]
    place = {OFF: 0, FIRST: 2}.get(arm, 1)
    return place, -float(np.mean(spent)) if spent else 0.0


def main() -> None:
    """Run every arm that is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="phantom_cpu_demo")
    parser.add_argument("--arms", default=",".join(SHOWN))
    parser.add_argument("--seeds", default="1337,1338,1339")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("bench_privacy"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.preset, chosen.arms, chosen.seeds, chosen.rounds = "phantom_cpu_smoke", ",".join(QUICK), "1337", 2
    for seed in chosen.seeds.split(","):
        for arm in chosen.arms.split(","):
            folder = chosen.folder / chosen.preset / arm.replace("/", "_") / seed
            config = arm_config(chosen.preset, arm, seed=int(seed), rounds=chosen.rounds)
            if not (folder / ARM_FILE).is_file():
                edited = edit_config(config, chosen.set)
                write_json(folder / ARM_FILE, run_arm(edited, folder, label=f"{arm} {seed}", trains=arm != FIRST))
            print_table(finished(chosen.folder / chosen.preset))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
