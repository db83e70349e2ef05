"""Stage: SAM and TinySAM teach each other on the most learnable synthetic samples (Eq. 6-8).

With ``distillation.gate`` the sites judge every epoch (``engine.stages.student_gate``); the teacher that is saved is
the last epoch's all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from engine.distillation.exclusion import without
from engine.distillation.mutual import MutualDistillation, Pool
from engine.models.execution import autocast, place_images
from engine.runs.pace import Pace
from engine.stages.context import RunContext
from engine.stages.delivery import deliver_student
from engine.stages.student_gate import StudentGate, StudentMix, StudentWatch
from engine.stages.synthetic_set import keep_features, load_pool, read_samples, write_samples
from engine.types import MAX_MASK_CLASSES


class MutualDistillationStage:
    """Eq. 6-8 in the mode, with the selector and at the rate that the configuration names."""

    name = "mutual_distillation"
    begins_with = ("finetuned_teacher", "fedavg_student")
    """Names of the models that it begins with."""
    models = ("distilled_teacher", "distilled_student")
    """Names of those that it makes."""

    def __init__(self, *, pool: Callable[[RunContext], Pool] = load_pool) -> None:
        self._load_pool = pool
        self._is_synthetic = pool is load_pool

    def run(self, context: RunContext) -> None:
        """Distil for ``distillation.epochs``; save the models."""
        (before_teacher, before_student), (teacher, student) = self.begins_with, self.models
        whole = self._load_pool(context)
        pool = without(whole, context.config.distillation.excluded_samples)
        loop = MutualDistillation(
            teacher=context.load_model("teacher", before_teacher),
            student=context.load_model("student", before_student),
            pool=pool,
            config=context.config,
            grid_px=context.grid_px,
            device=context.device,
            keep_features=partial(
                keep_features, context, pool=pool, batch_size=context.config.distillation.batch_size * 2
            ),
        )
        gates = {"best": StudentGate, "mix": StudentMix, "watch": StudentWatch}
        made = gates.get(context.config.distillation.gate)
        gate = made(context, loop) if made is not None else None
        state = context.checkpoints.load(self.name)
        if state is not None:
            loop.load_state_dict(state)
            if gate is not None:
                gate.load_state_dict(state["gate"])
        self._train(context, loop, gate)
        loop.finish()
        if gate is not None:
            gate.settle(began_with=before_student, model=student)
        deliver_student(context, loop.student)
        if self._is_synthetic:
            self._store_predictions(context, loop, whole)
        context.save_model(loop.student, student)
        context.save_model(loop.teacher, teacher)

    def _train(self, context: RunContext, loop: MutualDistillation, gate: StudentGate | None) -> None:
        epochs = context.config.distillation.epochs
        pace = Pace(
            context.reporter,
            checkpoints=context.checkpoints,
            name=self.name,
            total=epochs * 100,
            state=partial(_state_of, loop, gate),
        )
        check = context.reporter.check_cancelled
        if gate is not None:
            gate.judge(save=pace.save)
        while loop.epoch < epochs:
            if loop.selected is None:
                context.reporter.scores(loop.begin_epoch(on_batch=check))
            batches = loop.batches()
            for indices in batches[loop.step :]:
                loop.train_step(indices)
                done = loop.epoch * 100 + 100 * loop.step // len(batches)
                pace.step(done, message=f"epoch {loop.epoch + 1} of {epochs}, {len(loop.selected)} samples selected")
            context.reporter.scores(loop.picked_records())
            means = loop.end_epoch()
            for name, value in asdict(means).items():
                context.reporter.metric(name, value, step=loop.epoch)
            if gate is not None:
                gate.judge(save=pace.save)
        pace.save()

    def _store_predictions(self, context: RunContext, loop: MutualDistillation, pool: Pool) -> None:
        """Store both models' probability maps of every sample, those that are left out too, for the page."""
        samples = read_samples(context.run_dir)
        loop.teacher.eval()
        loop.student.eval()
        for start in range(0, len(pool), 16):
            context.reporter.check_cancelled()
            indices = np.arange(start, min(start + 16, len(pool)))
            image, _ = pool.batch(indices)
            with torch.no_grad(), autocast(context.device, context.config.precision):
                images = place_images(image, context.device)
                maps = {"sam": loop.teacher(images), "tinysam": loop.student(images)}
            for row, index in enumerate(indices):
                paths = {
                    name: _write_map(context.run_dir, samples[index].image_path, name, logits[row])
                    for name, logits in maps.items()
                }
                samples[index] = replace(samples[index], teacher_path=paths["sam"], student_path=paths["tinysam"])
        write_samples(context.run_dir, samples)
        context.reporter.samples(samples)


def _state_of(loop: MutualDistillation, gate: StudentGate | None) -> dict[str, Any]:
    """Return what a checkpoint holds; without a gate it is the loop's state alone, as ever."""
    return loop.state_dict() if gate is None else {**loop.state_dict(), "gate": gate.state_dict()}


def _write_map(run_dir: Path, image_path: Path, name: str, logits_KHW: torch.Tensor) -> Path:
    """Write probabilities as levels 0 to 255 in the planes of a mask picture: grey for one class, else a plane each."""
    levels = logits_KHW.float().sigmoid().mul(255).round().to(torch.uint8).cpu().numpy()
    planes = np.zeros((MAX_MASK_CLASSES, *levels.shape[1:]), dtype=np.uint8)
    planes[: len(levels)] = levels
    picture = levels[0] if len(levels) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
    path = image_path.with_name(f"{image_path.stem}_{name}.png")
    temporary = (run_dir / path).with_suffix(".part")
    Image.fromarray(picture).save(temporary, format="PNG")
    temporary.replace(run_dir / path)  # not in place: a fork may share the file of before
    return path
