"""What coded messages of the student save, and what that costs in Dice: bytes planned and measured, side by side.

    python -m bench.traffic [--presets phantom_cpu_demo] [--arms plain,zstd,fp16,int8,topk25_int8,topk10_int8]
                            [--seeds 1337,1338,1339] [--rounds 20] [--folder bench_traffic] [--data data]
                            [--set KEY=VALUE]
    python -m bench.traffic --scale paper --dry [--presets prostate_paper] [--set KEY=VALUE]

An arm is a preset's federated rounds (FedTinySAM: nothing else crosses) with the steps of ``federation.codec`` and
``federation.codec_down``; ``--rounds`` takes the place of the preset's. Dice is that of the last average: on the sites'
validation images, and on the unseen site. Differences are to the same seed with plain arrays. Nothing is chosen by a
figure of the unseen site. A finished arm is kept in the folder, and a second call goes on where the first stopped; one
that was stopped on the way begins anew. ``--data`` is the folder that holds ``nuclei_dsb2018`` and ``polypgen``.

With ``--dry`` nothing is trained: the whole of DSFedMed is planned, for one site over all rounds of the preset, and
what crosses is added up by kind; models that go down to be measured for the results table are no part of training. The
sizes of the paper's models are those of the real ones, which the tests compare.
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
from bench.traffic_plan import ARMS, MIB, Arm, print_dry
from engine.cli.options import edit_config
from engine.config import RunConfig, load_config, parse_config
from engine.errors import UserError
from engine.planning.plan import plan
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.evaluation import ROWS_FILE, Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import read_json, write_json
from engine.types import MEAN_CLASS, Traffic

ARM_FILE = "arm.json"
SHOWN = "plain,zstd,fp16,int8,topk25_int8,topk10_int8"


class Counting(ConsoleReporter):
    """Keeps the student's bytes of each site, and the federation's last validation Dice."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self.sites: dict[str, dict[str, int]] = {}
        self.val_dice: float | None = None

    def traffic(self, record: Traffic) -> None:
        """Add up what is of the student."""
        super().traffic(record)
        if record.kind == "student":
            sums = self.sites.setdefault(record.site, {"down": 0, "up": 0})
            sums[record.direction] += record.payload_bytes

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Keep the newest mean over the sites."""
        if name == "val_dice" and site is None:
            self.val_dice = value


def arm_config(preset: str, arm: Arm, *, seed: int, data: Path, rounds: int | None) -> RunConfig:
    """Return a preset's federated rounds, all of them, with coded messages."""
    values = load_config(preset).model_dump(mode="json") | {"seed": seed, "method": "fedtinysam"}
    values["federation"] |= {"patience": None, **arm.values} | ({} if rounds is None else {"rounds": rounds})
    values["export"]["site_models"] = False
    if values["data"]["root"] is not None:
        values["data"]["root"] = str(data / Path(values["data"]["root"]).name)
    return parse_config(values)


def run_arm(config: RunConfig, folder: Path, *, label: str) -> dict[str, Any]:
    """Train and measure; return the Dice in [0, 1] and, of one site, the student's bytes planned and measured."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reporter = Counting(label)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=folder, reporter=reporter, checkpoints=checkpoints)
    for stage in (FederatedTraining(), Evaluation()):
        stage.run(context)
    rows = [r for r in read_json(folder / ROWS_FILE) if (r["model"], r["split"]) == ("fedavg_student", "test")]
    site = min(reporter.sites)
    return {
        "planned": planned_bytes(config, site=site, home=folder.parent),
        "measured": reporter.sites[site],
        "val_dice": reporter.val_dice,
        "dice": next((r for r in rows if r["class_name"] == MEAN_CLASS), rows[0])["dice"],
    }


def planned_bytes(config: RunConfig, *, site: str, home: Path) -> dict[str, int]:
    """Return what a plan says of the student's bytes of ``site``, by direction."""
    rows = [row for row in plan(config, home=home).traffic if (row.site, row.kind) == (site, "student")]
    return {row.direction: row.payload_bytes for row in rows}


def finished(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what has been measured of a preset, by arm and seed."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"*/*/{ARM_FILE}")):
        found.setdefault(path.parent.parent.name, {})[path.parent.name] = read_json(path)
    return found


def print_table(preset: str, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Print bytes and Dice of the arms, in the order of ARMS; differences are to plain arrays, seed by seed."""
    print(f"\n{preset}: MiB of one site (planned, at the most where zstd packs; measured), and Dice points of the last")
    print("average, mean ± 95 % t interval over seeds, with the difference to plain arrays")
    print(f"{'arm':<12} seeds {'planned':>8} {'measured':>8}  {'validation':>12} {'differs':>12}  "
          f"{'unseen site':>12} {'differs':>12}")  # fmt: skip
    plain = found.get("plain", {})
    for name in (name for name in ARMS if name in found):
        seeds = found[name]
        planned, measured = (np.mean([_total(c[k]) for c in seeds.values()]) / MIB for k in ("planned", "measured"))
        figures = ""
        for key in ("val_dice", "dice"):
            both = [(cell[key], plain[s][key]) for s, cell in seeds.items() if s in plain and cell[key] is not None]
            figures += f"  {interval([c[key] for c in seeds.values()]):>12} {interval([a - b for a, b in both]):>12}"
        print(f"{name:<12} {len(seeds):>5} {planned:8.2f} {measured:8.2f}{figures}")


def main() -> None:
    """Run every arm that is missing and print the table; or print what is planned."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets")
    parser.add_argument("--arms", default=SHOWN, help=", ".join(ARMS))
    parser.add_argument("--seeds", default="1337,1338,1339")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--scale", choices=("mini", "paper"), default="mini")
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("bench_traffic"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    presets = (chosen.presets or ("prostate_paper" if chosen.scale == "paper" else "phantom_cpu_demo")).split(",")
    if chosen.dry:
        for preset in presets:
            print_dry(preset, chosen.set)
        return
    for seed in chosen.seeds.split(","):
        for preset in presets:
            for name in chosen.arms.split(","):
                folder = chosen.folder / preset / name / seed
                config = arm_config(preset, ARMS[name], seed=int(seed), data=chosen.data, rounds=chosen.rounds)
                if not (folder / ARM_FILE).is_file():
                    label = f"{preset} {name} {seed}"
                    write_json(folder / ARM_FILE, run_arm(edit_config(config, chosen.set), folder, label=label))
                print_table(preset, finished(chosen.folder / preset))


def _total(of_site: Mapping[str, int]) -> int:
    return sum(of_site.values())


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
