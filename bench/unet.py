"""A plain federated U-Net on the sites, splits and resolution of the CPU presets: the README's U-Net column.

    python -m bench.unet [--presets phantom_cpu_demo,nuclei_cpu,polyp_cpu] [--seeds 1337,1338,1339]
                         [--folder bench_unet] [--data data] [--set KEY=VALUE]

MONAI's residual U-Net from random weights, by the engine's own FedAvg, for 120 rounds; the round with the best
validation Dice at the sites counts. It is not stopped before: from random weights that Dice can fall for the first
rounds, and rise for a hundred after them. Images, splits, augmentation, loss and step size are the preset's. It is
scored on the unseen site on the grid on which the preset's TinySAM is scored. A finished seed is kept in the folder,
and a second call goes on where the first stopped. ``--data`` is the folder that holds ``nuclei_dsb2018`` and
``polypgen``; ``--set`` wants a ``--folder`` of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.gain import CELL_FILE, MAX_ROUNDS, Cell, converged_config, finished_cells, interval
from engine.cli.options import edit_config
from engine.config import RunConfig, load_config
from engine.errors import UserError
from engine.models.registry import model_sizes
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import write_json

PRESETS = ("phantom_cpu_demo", "nuclei_cpu", "polyp_cpu")


def unet_config(preset: str, *, seed: int, data: Path) -> RunConfig:
    """Return the preset with a U-Net of random weights for its student, scored on the student's own grid."""
    replaced = load_config(preset)
    changes = {
        "student": {"name": "unet", "size": "mini", "weights": None, "batch_norm": "batch"},
        "evaluation": {"mask_px": scored_px(replaced)},
        "federation": {"patience": MAX_ROUNDS},
    }
    return converged_config(preset, name=f"unet_{preset}", seed=seed, data=data, changes=changes)


def scored_px(config: RunConfig) -> int:
    """Return the side of the grid on which the configuration's student is scored, pixels."""
    if config.evaluation.mask_px is not None:
        return config.evaluation.mask_px
    chosen = (config.student.name, config.student.size)
    return config.data.image_px // next(row.mask_stride for row in model_sizes() if (row.name, row.size) == chosen)


def run_seed(config: RunConfig, folder: Path) -> float:
    """Train and score one seed below ``folder``; return the mean Dice on the unseen site in [0, 1]."""
    cell = Cell(config, folder)
    cell.arm("unet", (FederatedTraining(), Evaluation()))
    return cell.dice("unet", "fedavg_student")


def print_table(folder: Path) -> None:
    """Print mean and 95 % t interval over the seeds that are finished, a line a preset."""
    print("\nDice points of the federated U-Net on the unseen site, mean ± 95 % t interval over seeds")
    for preset, cells in finished_cells(folder).items():
        print(f"{preset:<18} {len(cells)} seeds  {interval([cell['unet'] for cell in cells.values()])}")


def main() -> None:
    """Run every seed that is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--seeds", default="1337,1338,1339")
    parser.add_argument("--folder", type=Path, default=Path("bench_unet"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", metavar="KEY=VALUE")
    chosen = parser.parse_args()
    for seed in chosen.seeds.split(","):
        for preset in chosen.presets.split(","):
            folder = chosen.folder / preset / seed
            config = edit_config(unet_config(preset, seed=int(seed), data=chosen.data), chosen.set)
            if not (folder / CELL_FILE).is_file():
                write_json(folder / CELL_FILE, {"unet": run_seed(config, folder)})
            print_table(chosen.folder)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
