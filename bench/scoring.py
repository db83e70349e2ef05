"""How well scores on kept SAM features stand in for exact ones, and what they cost, epoch by epoch.

    python -m bench.scoring [--tasks phantom_fundus,phantom_nuclei] [--folder bench_scoring] [--images 40] [--epochs 16]

Each task is the preset of ``bench.gain`` at a small size. Its federated student, generators, synthetic set and
fine-tuned SAM are made once. Then both models are distilled with ``scoring = "reuse"``; before every choice the pool is
also scored exactly, by the same models, and the two are compared: Spearman's rank correlation of the scores, and the
share of the chosen set that exact scores would have chosen too. ``older`` compares exact scores with the exact ones of
the choice before; ``held`` compares, in epochs that go on with the last choice, its scores with exact ones. Times are
CPU seconds of this process, which other work does not lengthen: scoring and training, and distillation in proportion
to distilling on every sample without scores. What is finished is kept in the folder: a second call goes on with the
next task, or prints.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from bench.gain import PHANTOM_NUCLEI, TASKS
from bench.reporting import ConsoleReporter
from engine.config import RunConfig, load_config, parse_config
from engine.distillation.choice import learnability
from engine.distillation.mutual import MutualDistillation
from engine.distillation.scoring import PoolScorer
from engine.distillation.selection import num_selected, select_top_k
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import read_json, write_json
from engine.stages.foundation_finetuning import FoundationFinetuning
from engine.stages.generation import Generation
from engine.stages.generator_training import GeneratorTraining
from engine.stages.synthetic_set import load_pool

STAGES = (FederatedTraining(), GeneratorTraining(), Generation(), FoundationFinetuning())
SMALL: dict[str, dict[str, Any]] = {
    "federation": {"rounds": 8, "patience": None},
    "generator": {"steps": 30},
    "generation": {"sampler_steps": 8},
    "foundation": {"epochs": 8},
}
"""What makes a task small; everything else is the preset's."""


def task_config(task: str, *, images: int, epochs: int) -> RunConfig:
    """Return the task's preset at a small size, on one thread."""
    values = load_config(TASKS[task]).model_dump(mode="json")
    for section, changes in (PHANTOM_NUCLEI if task == "phantom_nuclei" else {}).items():
        values[section] |= changes
    for section, changes in SMALL.items():
        values[section] |= changes
    values["data"]["images_per_site"] = images
    values["distillation"] |= {"epochs": epochs, "scoring": "reuse"}
    return parse_config(values | {"name": task, "threads": 1})


def prepare(config: RunConfig, folder: Path) -> RunContext:
    """Run the stages before distillation, those that are not done yet."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    context = RunContext(config=config, run_dir=folder, reporter=ConsoleReporter(config.name), checkpoints=checkpoints)
    for stage in STAGES:
        done = folder / f"{stage.name}.done"
        if not done.is_file():
            stage.run(context)
            done.touch()
    return context


def begin(context: RunContext) -> MutualDistillation:
    """Return distillation at its start."""
    return MutualDistillation(
        teacher=context.load_model("teacher", "finetuned_teacher"),
        student=context.load_model("student", "fedavg_student"),
        pool=load_pool(context),
        config=context.config,
        grid_px=context.grid_px,
        device=context.device,
    )


def exact_scores(loop: MutualDistillation) -> tuple[np.ndarray, float]:
    """Return the exact scores (N,) of the models as they are, and the CPU seconds that they took."""
    part = loop.config
    values = loop.run_config.model_dump(mode="json")
    values["distillation"]["scoring"] = "exact"
    scorer = PoolScorer(
        teacher=loop.teacher,
        student=loop.student,
        pool=loop.pool,
        config=parse_config(values),
        grid_px=loop.grid_px,
        device=loop.device,
        fixed_features=None,
    )
    started = time.process_time()
    terms = scorer.score(epoch=loop.epoch, on_batch=lambda: None)
    spent = time.process_time() - started
    return learnability(terms.l_gt, terms.l_kl, weight=part.learnability_lambda, scaling=part.score_scaling), spent


def compare(first: np.ndarray, second: np.ndarray, *, rate: float) -> tuple[float, float]:
    """Return the rank correlation of two scores of one pool, and the share of the first's choice in the second's."""
    chosen = [set(select_top_k(scores, rate=rate).tolist()) for scores in (first, second)]
    return float(stats.spearmanr(first, second).statistic), len(chosen[0] & chosen[1]) / len(chosen[0])


def measure(loop: MutualDistillation) -> list[dict[str, float]]:
    """Distil, and return one row an epoch."""
    rows: list[dict[str, float]] = []
    before: np.ndarray | None = None
    rate = loop.config.selection_rate
    while loop.epoch < loop.config.epochs:
        exact, exact_s = exact_scores(loop)
        started = time.process_time()
        records = loop.begin_epoch(on_batch=lambda: None)
        scored = time.process_time()
        for indices in loop.batches():
            loop.train_step(indices)
        trained = time.process_time()
        correlation, overlap = compare(np.array([record.score for record in records]), exact, rate=rate)
        older = (1.0, 1.0) if before is None else compare(before, exact, rate=rate)
        is_choice = loop.epoch % loop.config.scoring_interval == 0
        rows.append(
            {
                "is_choice": float(is_choice),
                "correlation": correlation,
                "overlap": overlap,
                "older_correlation": older[0],
                "older_overlap": older[1],
                "exact_s": exact_s,
                "reuse_s": scored - started,
                "train_s": trained - scored,
            }
        )
        before = exact if is_choice else before
        loop.end_epoch()
        print(f"  epoch {loop.epoch}: correlation {correlation:.3f}, overlap {overlap:.2f}", flush=True)
    return rows


def summary(name: str, rows: list[dict[str, float]], *, num_samples: int, rate: float) -> str:
    """Return the lines for one task; the first epoch, exact in both, is left out of the agreement."""
    choices = [row for row in rows[1:] if row["is_choice"]]
    held = [row for row in rows[1:] if not row["is_choice"]]
    total = {key: sum(row[key] for row in rows) for key in ("reuse_s", "train_s")}
    total["exact_s"] = sum(row["exact_s"] for row in rows if row["is_choice"])
    everything = total["train_s"] * num_samples / num_selected(num_samples, rate)
    lines = [f"{name}: {num_samples} samples, {len(rows)} epochs; mean (least) over the epochs after the first"]
    parts = (("reuse against exact", "", choices), ("older against exact", "older_", choices), ("held", "", held))
    for label, prefix, chosen in parts:
        if not chosen:
            continue
        correlation, overlap = (
            np.array([row[f"{prefix}{key}"] for row in chosen]) for key in ("correlation", "overlap")
        )
        lines.append(
            f"  {label}: rank correlation {correlation.mean():.3f} ({correlation.min():.3f}), "
            f"same choice {overlap.mean():.2f} ({overlap.min():.2f})"
        )
    lines.append(
        f"  CPU seconds: scoring {total['reuse_s']:.1f} (exact {total['exact_s']:.1f}: "
        f"{total['reuse_s'] / total['exact_s']:.2f} of it), training {total['train_s']:.1f}; of distilling on every "
        f"sample: {(total['reuse_s'] + total['train_s']) / everything:.2f} "
        f"(exact {(total['exact_s'] + total['train_s']) / everything:.2f})"
    )
    return "\n".join(lines)


def main() -> int:
    """Measure what is not there yet and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="phantom_fundus,phantom_nuclei")
    parser.add_argument("--folder", type=Path, default=Path("bench_scoring"))
    parser.add_argument("--images", type=int, default=40, help="phantoms at each site")
    parser.add_argument("--epochs", type=int, default=16, help="epochs of distillation")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for task in chosen.tasks.split(","):
        config = task_config(task, images=chosen.images, epochs=chosen.epochs)
        file = chosen.folder / task / "rows.json"
        context = prepare(config, chosen.folder / task)
        if not file.is_file():
            write_json(file, measure(begin(context)))
        pool_size = len(load_pool(context))
        print(summary(task, read_json(file), num_samples=pool_size, rate=config.distillation.selection_rate))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
