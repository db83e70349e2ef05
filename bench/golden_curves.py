"""The loss of every step of three toy trainings, as recorded: what a change of the arithmetic moves.

    python -m bench.golden_curves            # compare with tests/golden/curves.json
    python -m bench.golden_curves --record   # write it anew, after a change that was meant

SAM's fine-tuning, a ControlNet's training and the distillation of both kinds, on the mini models from random weights
and on phantoms of 64 pixels, float32 on one CPU thread. Another CPU rounds otherwise: curves are equal where no loss
differs by more than ``TOLERANCE`` of itself.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import torch

from engine.config import DataConfig, DistillationConfig, GeneratorConfig, RunConfig
from engine.data.datasets import load_federation, pool_sets
from engine.data.imagesets import ImageSet
from engine.distillation.mutual import MutualDistillation
from engine.distillation.supervised import SupervisedTraining
from engine.generation.backbone import build_backbone, freeze
from engine.generation.controlnet import ControlNetTraining, new_controlnet
from engine.models.registry import build_model

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden" / "curves.json"
TOLERANCE = 1e-3
"""Relative (ours): another order of summation moves them by less, a weight of the objective by much more."""
PX, SEED, LEARNING_RATE = 64, 3, 3e-4
CPU = torch.device("cpu")

Curves = dict[str, list[list[float]]]


def make_pool() -> ImageSet:
    """Return twelve fundus phantoms of several sites, augmented where training asks for it."""
    data = DataConfig(task="fundus", images_per_site=5, image_px=PX, augment="flips_colour")
    sites = load_federation(data, seed=SEED).sites.values()
    return pool_sets([site.train for site in sites]).subset(range(12))


def fine_tuning_curve(pool: ImageSet) -> list[list[float]]:
    """Return SAM's L_sup at each step of three epochs."""
    model = build_model("sam", size="mini", image_px=PX, num_classes=pool.num_classes, seed=SEED)
    training = SupervisedTraining(
        model,
        pool=pool,
        config=RunConfig(seed=SEED, precision="fp32", dice_weight=0.5),
        stage="foundation_finetuning",
        epochs=3,
        batch_size=4,
        learning_rate=LEARNING_RATE,
        grid_px=PX // model.mask_stride,
        device=CPU,
    )
    losses = []
    while training.epoch < training.epochs:
        losses += [[training.train_step(indices)] for indices in training.batches()]
        training.end_epoch()
    return losses


def distillation_curve(pool: ImageSet, **changes: object) -> list[list[float]]:
    """Return L_sup(SAM), L_sup(TinySAM) and the divergence at each step of three epochs."""
    teacher, student = (
        build_model(name, size="mini", image_px=PX, num_classes=pool.num_classes, seed=SEED)
        for name in ("sam", "tinysam")
    )
    part = DistillationConfig.model_validate(
        {"epochs": 3, "batch_size": 3, "student_learning_rate": LEARNING_RATE, "supervision_weight": 0.7, **changes}
    )
    loop = MutualDistillation(
        teacher=teacher,
        student=student,
        pool=pool,
        config=RunConfig(seed=SEED, precision="fp32", distillation=part),
        grid_px=PX // student.mask_stride,
        device=CPU,
    )
    losses = []
    while loop.epoch < part.epochs:
        loop.begin_epoch(on_batch=lambda: None)
        losses += [list(astuple(loop.train_step(indices))) for indices in loop.batches()]
        loop.end_epoch()
    return losses


def controlnet_curve(pool: ImageSet) -> list[list[float]]:
    """Return the denoising loss of eight steps at one site."""
    backbone = freeze(build_backbone("mini", seed=SEED), device=CPU)
    training = ControlNetTraining(
        backbone,
        new_controlnet(backbone, source=None, seed=SEED),
        images=pool,
        config=GeneratorConfig(image_px=PX, batch_size=4, learning_rate=1e-3, empty_prompt_fraction=0.3),
        prompt="fundus photograph",
        site="north",
        seed=SEED,
        precision="fp32",
    )
    return [[training.step()] for _ in range(8)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside: several add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_curves() -> Curves:
    """Return every curve: a list of steps, each with its losses."""
    pool = make_pool()
    with one_thread(), torch.enable_grad():
        return {
            "fine_tuning": fine_tuning_curve(pool),
            "controlnet": controlnet_curve(pool),
            "distillation_paper": distillation_curve(pool),
            "distillation_reference": distillation_curve(pool, mode="reference", selector="in_batch_quantile"),
        }


def largest_difference(curve: list[list[float]], golden: list[list[float]]) -> float:
    """Return the largest |new - old| / |old| over all losses; infinite where the steps are not as many."""
    if [len(step) for step in curve] != [len(step) for step in golden]:
        return float("inf")
    pairs = [(new, old) for a, b in zip(curve, golden, strict=True) for new, old in zip(a, b, strict=True)]
    return max(abs(new - old) / abs(old) for new, old in pairs)


def read_golden() -> Curves:
    """Return the recorded curves."""
    curves: Curves = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return curves


def main() -> int:
    """Record or compare; the exit code is 1 where a curve has moved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true", help="write the curves anew")
    chosen = parser.parse_args()
    curves = compute_curves()
    if chosen.record:
        rounded = {name: [[float(f"{x:.7g}") for x in step] for step in curve] for name, curve in curves.items()}
        lines = (f' "{name}": {json.dumps(curve)}' for name, curve in rounded.items())
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    golden = read_golden()
    differences = {name: largest_difference(curve, golden[name]) for name, curve in curves.items()}
    for name, difference in differences.items():
        print(f"{name:24s} largest relative difference {difference:.1e} over {len(curves[name])} steps")
    return int(max(differences.values()) > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
