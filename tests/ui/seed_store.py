"""Fills a real RunStore with plausible records, so that layouts can be looked at and tested without a long run.

Only tests and screenshots use it: ``python tests/ui/seed_store.py HOME``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from engine.config import load_config, parse_config
from engine.data.phantoms import TASKS, render
from engine.data.phantoms.base import Phantom
from engine.methods import catalogue
from engine.models.registry import build_model
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import (
    EvaluationRow,
    ModelDifference,
    SampleScore,
    SiteActivity,
    SiteFailure,
    SyntheticSample,
    Traffic,
)
from export.package import BundleContent, write_bundle

STAGES = catalogue.method("dsfedmed").stage_names

TASK = "fundus"
SITES = TASKS[TASK].sites[:3]
NUM_SAMPLES = 60
EPOCHS = 4


def _sites(reporter: StoreReporter, stage: str, *, working: bool) -> None:
    task = "train.student" if stage == "federated_training" else "train.generator"
    for index, site in enumerate(SITES):
        now = SiteActivity(site, 34, 6, 0, task=task, state="answered", round=11, step=8, total=8, seen_at=1.8e9)
        if working:
            now = replace(now, state=("failed", "working", "asked")[index], step=5, seen_at=1.8e9 + index)
        reporter.site(now)
    what = f"The process that worked for site {SITES[0]} ended: The actor died unexpectedly before finishing this task."
    for attempt, outcome in ((1, "asked_again"), (0, "left_out")):
        reporter.site_failure(
            SiteFailure(SITES[0], 11, attempt, 1.8e9 - attempt, "federation.worker_died", what, outcome)
        )


def fill(
    home: Path,
    *,
    status: str = "finished",
    until: str = "export",
    settings: Mapping[str, Any] | None = None,
    gain: float = 0.0,
) -> str:
    """Make a run whose stages are done up to ``until`` and return its id.

    ``settings`` are dotted keys of its configuration; ``gain`` is added to its Dice of every image.
    """
    store = RunStore(home)
    own = {"name": f"layout {status}", "data.task": TASK, "data.held_out": TASKS[TASK].sites[-1]}
    config = load_config("phantom_cpu_smoke", overrides={**own, **(settings or {})})
    run_id = store.create_run(config, planned_s=dict.fromkeys(STAGES, 60.0)).run_id
    rng = np.random.default_rng(3)
    store.update_run(run_id, status="running", attempt=1, started_at=1.8e9, heartbeat_at=1.8e9)
    done = STAGES[: STAGES.index(until) + 1]
    for stage in done:
        reporter = StoreReporter(store, run_id, stage, attempt=1)
        store.set_stage_status(run_id, stage, "running")
        _WRITERS.get(stage, _curve)(reporter, store.run_dir(run_id), rng)
        if stage in ("federated_training", "generator_training"):
            _sites(reporter, stage, working=stage == until and status == "running")
        reporter.log("info", f"{stage} has run on {len(SITES)} sites.")
        reporter.flush()
        if stage == "evaluation":
            _figures_of_images(store, run_id, gain=gain)
        store.update_stage(run_id, stage, wall_s=42.0)
        if stage != until or status == "finished":
            store.set_stage_status(run_id, stage, "finished")
        else:
            store.update_stage(run_id, stage, step=55, total=100, eta_s=75.0, message="round 11 of 20, " + SITES[0])
    error = {
        "code": "training.nan",
        "what": "The loss is not a number at step 12, site " + SITES[0] + ".",
        "why": "w",
        "fix": "f",
    }
    store.set_status(run_id, status, error=error if status == "failed" else None)
    store.close()
    return run_id


def _federated(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    for step in range(1, 21):
        for offset, site in enumerate(SITES):
            reporter.metric("loss", float(0.9 / step + 0.05 * rng.random()), step=step, site=site)
            reporter.metric("val_dice", float(0.85 - 0.6 / step - 0.03 * offset), step=step, site=site)
            for direction in ("up", "down"):
                reporter.traffic(Traffic(site, direction, "student", 4_200_000, step))
        reporter.metric("val_dice", float(0.82 - 0.6 / step), step=step)


def _generator(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    for site in SITES:
        for step in range(10, 101, 10):
            reporter.metric("loss", float(0.3 + 0.4 / step + 0.05 * rng.random()), step=step, site=site)
        reporter.traffic(Traffic(site, "up", "generator", 18_000_000))
        reporter.traffic(Traffic(site, "up", "masks", 240_000))


def _generation(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    reporter.samples([_sample(run_dir, index, rng, predicted=False) for index in range(NUM_SAMPLES)])


@cache
def _drawn(site: str, index: int) -> Phantom:
    """Return a phantom, drawn once for all runs that are filled in."""
    return render(TASK, site=site, index=index, image_px=128)


def _sample(run_dir: Path, index: int, rng: np.random.Generator, *, predicted: bool) -> SyntheticSample:
    site = SITES[index % len(SITES)]
    drawn = _drawn(site, index)
    folder = Path("samples") / site
    (run_dir / folder).mkdir(parents=True, exist_ok=True)
    planes = np.zeros((128, 128, 3), np.uint8)
    planes[..., : len(drawn.mask)] = drawn.mask.transpose(1, 2, 0) * 255
    Image.fromarray(drawn.image).save(run_dir / folder / f"{index:04d}.png")
    Image.fromarray(planes).save(run_dir / folder / f"{index:04d}_mask.png")
    paths: dict[str, Path] = {}
    for name in ("teacher", "student") if predicted else ():
        shift = int(rng.integers(-3, 4))
        grid = np.roll(planes[::2, ::2] // 255 * 230, (shift, -shift), (0, 1))
        paths[f"{name}_path"] = folder / f"{index:04d}_{name}.png"
        Image.fromarray(grid).save(run_dir / paths[f"{name}_path"])
    return SyntheticSample(
        sample_id=f"{site}/{index:04d}", site=site, index=index, seed=int(rng.integers(1 << 30)),
        source_mask=f"{site}/train/{index:03d}", mask_sharing="real", image_path=folder / f"{index:04d}.png",
        mask_path=folder / f"{index:04d}_mask.png", faithfulness_dice=float(rng.uniform(0.6, 0.95)), **paths,
    )  # fmt: skip


def _distillation(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    samples = [_sample(run_dir, index, rng, predicted=True) for index in range(NUM_SAMPLES)]
    reporter.samples(samples)
    for epoch in range(EPOCHS):
        l_gt, l_kl = rng.gamma(2.0, 0.2, NUM_SAMPLES), rng.gamma(2.0, 0.1, NUM_SAMPLES)
        score = 0.5 * (l_kl - l_gt)
        rank = np.empty(NUM_SAMPLES, int)
        rank[np.argsort(-score)] = np.arange(1, NUM_SAMPLES + 1)
        reporter.scores(
            [
                SampleScore(
                    s.sample_id, epoch, l_gt[i], l_kl[i], score[i], int(rank[i]), bool(rank[i] <= NUM_SAMPLES // 2)
                )
                for i, s in enumerate(samples)
            ]
        )
        for name in ("teacher_loss", "student_loss", "kl"):
            reporter.metric(name, float(0.5 / (epoch + 1)), step=epoch + 1)


def _evaluation(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    site = TASKS[TASK].sites[-1]
    models = ("fedavg_student", "finetuned_teacher", "distilled_teacher", "distilled_student")
    reporter.evaluation(
        [
            EvaluationRow(
                model, split_site, split, name, 40, dice, dice - 0.04, dice + 0.03,
                dice - 0.1, dice - 0.02, dice - 0.12, 7.3 - index, 12, 37 - index, 3 - index // 2, index, 19.4 - index,
            )
            for split, split_site in (("test", site), ("validation", SITES[0]))
            for index, model in enumerate(models)
            for name, dice in zip(TASKS[TASK].classes, (0.7 + 0.05 * index, 0.6 + 0.04 * index), strict=False)
        ]
    )  # fmt: skip
    reporter.differences(
        [
            ModelDifference("distilled_student", model, site, "test", name, 40, 12, 0.05 * index, -0.01, 0.09)
            for index, model in enumerate(models[:-1])
            for name in TASKS[TASK].classes
        ]
    )


def _figures_of_images(store: RunStore, run_id: str, *, gain: float) -> None:
    """Write the Dice of every image that the table of results is the mean of, and which images these are."""
    folder, rows = store.run_dir(run_id), store.evaluation(run_id)
    store.write_evaluation(
        run_id, [replace(r, dice=r.dice + gain, dice_low=r.dice_low + gain, dice_high=r.dice_high + gain) for r in rows]
    )
    images = []
    for row in store.evaluation(run_id):
        about = {"model": row.model, "site": row.site, "class_name": row.class_name}
        noise = np.random.default_rng(list(run_id.encode())).normal(0, 0.02, row.num_images)
        for number, value in enumerate(row.dice + noise - noise.mean()):
            group = f"{number * row.num_groups // row.num_images + 1:05d}"
            has_hd95 = row.num_hd95 is None or number < row.num_hd95
            figures = {
                "dice": float(value),
                "iou": float(value) - 0.1,
                "hd95_px": 16 * (1 - value) if has_hd95 else None,
            }
            images.append(about | {"name": f"{number:05d}", "group": group, **figures})
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "images.json").write_text(json.dumps(images), encoding="utf-8")
    known = {f"{row.split} {row.site}": "0" * 64 for row in rows}
    (folder / "data").mkdir()
    (folder / "data" / "identity.json").write_text(json.dumps(known), encoding="utf-8")


def _curve(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    for step in range(1, 6):
        reporter.metric("loss", 0.4 / step, step=step)


def _export(reporter: StoreReporter, run_dir: Path, rng: np.random.Generator) -> None:
    """Write a real bundle of an untrained model: its masks are nonsense, its files are not."""
    config = parse_config({"data": {"image_px": 64, "task": TASK}})
    classes = TASKS[TASK].classes
    model = build_model("tinysam", size="mini", num_classes=len(classes), image_px=64, seed=1)
    content = BundleContent(
        name=TASK, role="distilled_student", task=TASK, modality=TASKS[TASK].modality, classes=classes,
        model=config.student, config=config, metrics=(), run_id=run_dir.name,
    )  # fmt: skip
    write_bundle(run_dir / "bundle", model, content=content)
    reporter.artefact("bundle", run_dir / "bundle")


_WRITERS = {
    "export": _export,
    "federated_training": _federated,
    "generator_training": _generator,
    "generation": _generation,
    "mutual_distillation": _distillation,
    "evaluation": _evaluation,
}


if __name__ == "__main__":
    print(fill(Path(sys.argv[1]), status="failed", until="generator_training"))
    print(fill(Path(sys.argv[1])))
