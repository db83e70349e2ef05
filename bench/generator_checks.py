"""What sites measure of their generators before they leave, for a preset and kinds of generator.

    python -m bench.generator_checks [--preset phantom_cpu_smoke] [--kinds controlnet,controlnet_lora,pix2pix,ddpm]
        [--set KEY=VALUE] [--folder bench_generator_checks]

The federated student is trained once, as the preset says, and judges how faithful drawn images are. Then each kind is
trained at the preset's sites and measured there as with ``release.check``; all are sent, so that the limit can be read
from the table. ``MB`` is what a site sends; intervals are over patients; N are training and held-out images that were
drawn for. What is finished is kept in the folder: a second call goes on, or prints.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from bench.reporting import ConsoleReporter
from engine.cli.options import parse_settings
from engine.config import RunConfig, load_config
from engine.config_generators import GENERATORS
from engine.federation import release as names
from engine.planning.generator_costs import generator_work
from engine.runs.checkpoint import CheckpointStore
from engine.runs.generator_checks import read_checks
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.generator_training import STUDENT, GeneratorTraining

MEASURED = {"release.check": True, "release.most_membership_auc": 1.0, "release.on_withheld": "skip"}


def main() -> None:
    """Measure what is missing and print a line for each kind and site."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="phantom_cpu_smoke")
    parser.add_argument("--kinds", default=",".join(GENERATORS))
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=Path("bench_generator_checks"))
    arguments = parser.parse_args()
    settings = parse_settings(arguments.set)
    print(f"{'kind':16}{'MB':>6}  {'site':20}{'N':>9}{'AUC':>20}{'copies':>7}{'nearest':>8}{'faithful':>9}"
          f"{'(real)':>8}{'Fréchet':>9}{'kernel':>8}{'FLD':>8}")  # fmt: skip
    for kind in arguments.kinds.split(","):
        config = load_config(arguments.preset, overrides=settings | MEASURED | _of_kind(kind))
        folder = arguments.folder / arguments.preset / kind
        for site, check in sorted(measure(config, folder, student=folder.parent).items()):
            megabytes = 2e-6 * generator_work(config).sent_parameters
            print(f"{kind:16}{megabytes:6.2f}  {_line(site, check['figures'])}", flush=True)


def measure(config: RunConfig, folder: Path, *, student: Path) -> dict[str, dict[str, Any]]:
    """Return what each site has measured; the federated student is made once, in ``student``, and copied."""
    shared = _context(config, student)
    if not shared.model_path(STUDENT).is_file():
        FederatedTraining().run(shared)
    context = _context(config, folder)
    if not context.model_path(STUDENT).is_file():
        context.model_path(STUDENT).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(shared.model_path(STUDENT), context.model_path(STUDENT))
    GeneratorTraining().run(context)
    return read_checks(folder)


def _of_kind(kind: str) -> dict[str, Any]:
    without = {} if GENERATORS[kind].has_backbone else {"generation.released_share": 0.0}
    return {"generator.kind": kind, **without}


def _context(config: RunConfig, folder: Path) -> RunContext:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return RunContext(config=config, run_dir=folder, reporter=ConsoleReporter(folder.name), checkpoints=checkpoints)


def _line(site: str, figures: dict[str, float]) -> str:
    def shown(name: str, width: int, digits: int = 2) -> str:
        return f"{figures[name]:{width}.{digits}f}" if name in figures else f"{'-':>{width}}"

    count = f"{figures[names.MEMBERS]:.0f}/{figures[names.HELD_OUT]:.0f}"
    auc = "-"
    if names.AUC in figures:
        auc = f"{figures[names.AUC]:.2f} ({figures[names.AUC_LOW]:.2f}-{figures[names.AUC_HIGH]:.2f})"
    faithful = f"{shown(names.FAITHFULNESS, 9)}{shown(names.FAITHFULNESS_REAL, 8)}"
    quality = f"{shown(names.FRECHET, 9)}{shown(names.KERNEL, 8, 3)}{shown(names.FLD, 8, 1)}"
    memorised = f"{auc:>20}{shown(names.COPIES, 7, 0)}{shown(names.RATIO, 8)}"
    return f"{site:20}{count:>9}{memorised}{faithful}{quality}"


if __name__ == "__main__":
    main()
