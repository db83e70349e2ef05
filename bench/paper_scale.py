"""One step of every stage at the paper's sizes, on random weights: wall time and peak memory of each.

    python -m bench.paper_scale [--stages federated_training,...] [--repeats 10] [--preset-batches] [--json]

SAM ViT-B, TinySAM 5M, 1024 px; Stable Diffusion 1.5 with its ControlNet, 512 px; batch 1, or with ``--preset-batches``
those of the prostate preset; gradient checkpointing in the generator. Every stage runs in a process of its own, so that
its peak memory is its own. ``--repeats`` takes that many further steps and gives their median, and the TFLOP/s that
this is by the plan's count of GFLOP. It shows that nothing in a paper-scale run is out of the code's reach, and what a
step costs; it says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from engine.config import RunConfig, load_config, parse_config
from engine.distillation.mutual import MutualDistillation
from engine.distillation.supervised import SupervisedTraining
from engine.evaluation.segmentation import evaluate_model
from engine.federation.aggregation import federated_average
from engine.federation.tasks import SiteReply
from engine.generation.backbone import build_backbone, freeze
from engine.generation.controlnet import ControlNetTraining, new_controlnet
from engine.generation.sampling import generate
from engine.models.arrays import model_arrays
from engine.models.execution import Placement, place_model, resolve_device
from engine.models.objective import Objective
from engine.models.registry import build_model
from engine.planning.costs import GENERATORS, MODELS, TRAIN_PASSES
from engine.seeding import numpy_generator
from engine.site.local_training import train_site

SITES = ("a", "b")
SAMPLER_STEPS = 2


SAM, TINYSAM = MODELS["sam", "vit_b"], MODELS["tinysam", "5m"]
SD = GENERATORS["sd15"]


@dataclass(frozen=True)
class Work:
    """What one call of ``step`` does: to how many images, and the GFLOP that the plan counts for it."""

    step: Callable[[], object]
    images: int
    gflop: float


class Images:
    """Random images with a square mask each, at any side; what every stage reads."""

    def __init__(self, image_px: int, count: int = 2) -> None:
        self._image_px = image_px
        self._image = numpy_generator(0, "paper scale").random((1, 3, image_px, image_px), dtype=np.float32)
        self.names = self.groups = tuple(str(index) for index in range(count))

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices, *, rng=None) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        """Return (B, 3, H, W) float32 in [0, 1] and (B, 1, H, W) uint8: one image again and again."""
        side = self._image_px
        image = np.broadcast_to(self._image, (len(indices), 3, side, side)).copy()
        mask = np.zeros((len(indices), 1, side, side), dtype=np.uint8)
        mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
        return image, mask

    def content(self, indices) -> np.ndarray:  # type: ignore[no-untyped-def]
        """Return uint8 ones (B, 1, H, W): all of every image is picture."""
        return np.ones((len(indices), 1, self._image_px, self._image_px), dtype=np.uint8)


def paper_config(*, preset_batches: bool = False) -> RunConfig:
    """Return the prostate preset with one step of everything, and with batches of one image or its own."""
    values = load_config("prostate_paper").model_dump(mode="json")
    if not preset_batches:
        for section in ("federation", "generator", "foundation", "distillation", "evaluation"):
            values[section]["batch_size"] = 1
        values["generator"]["accumulation"] = 1
    values["generator"]["steps"] = 1
    values["distillation"] |= {"epochs": 2, "scoring": "exact"}
    return parse_config(values)


def federated_training(config: RunConfig, cleanup: ExitStack) -> Work:
    """A local epoch of TinySAM at a site (2 batches, or 16), then the average of two sites."""
    device = resolve_device("auto")
    model = place_model(build_model("tinysam", size="5m", seed=1), device)
    folder = cleanup.enter_context(tempfile.TemporaryDirectory())
    images = 2 if config.federation.batch_size == 1 else 16 * config.federation.batch_size
    rounds = iter(range(1, 10_000))

    def step() -> None:
        train_site(
            model,
            Images(1024, images),
            config=config.federation,
            objective=Objective(),
            seed=1,
            site="a",
            round_number=next(rounds),
            state_dir=Path(folder),
            placement=Placement(device=device.type, precision="auto", channels_last=True),
            check_cancelled=lambda: None,
        )
        arrays = model_arrays(model)
        federated_average({site: SiteReply(arrays, {}, 2) for site in SITES}, arrays)

    return Work(step, images, images * TRAIN_PASSES * TINYSAM.gflop)


def generator_training(config: RunConfig, cleanup: ExitStack) -> Work:
    """One optimiser step of a Stable Diffusion 1.5 ControlNet."""
    device = resolve_device("auto")
    backbone = freeze(build_backbone("sd15", seed=1), device=device)
    training = ControlNetTraining(
        backbone,
        new_controlnet(backbone, source=None, seed=1, device=device),
        images=Images(512, 8),
        config=config.generator,
        prompt="axial T2-weighted prostate MRI",
        site="a",
        seed=1,
    )
    images = config.generator.batch_size * config.generator.accumulation
    return Work(training.step, images, images * (2 * SD.unet_gflop + TRAIN_PASSES * SD.controlnet_gflop))


def generation(config: RunConfig, cleanup: ExitStack) -> Work:
    """One batch of images of 512 px in SAMPLER_STEPS denoising steps with guidance."""
    device = resolve_device("auto")
    backbone = freeze(build_backbone("sd15", seed=1), device=device)
    controlnet = new_controlnet(backbone, source=None, seed=1, device=device)
    images = 4 if config.federation.batch_size > 1 else 1
    _, mask = Images(512, images).batch(range(images))

    def step() -> None:
        generate(
            backbone,
            controlnet,
            mask,
            seeds=list(range(images)),
            prompt="x",
            steps=SAMPLER_STEPS,
            guidance=7.5,
            batch_size=images,
        )

    passes = 2 * SAMPLER_STEPS
    return Work(step, images, images * (passes * (SD.unet_gflop + SD.controlnet_gflop) + SD.decode_gflop))


def foundation_finetuning(config: RunConfig, cleanup: ExitStack) -> Work:
    """One step of SAM ViT-B."""
    device = resolve_device("auto")
    batch = config.foundation.batch_size
    training = SupervisedTraining(
        place_model(build_model("sam", size="vit_b", seed=1), device),
        pool=Images(1024, batch),
        config=config,
        stage="foundation_finetuning",
        epochs=2,
        batch_size=batch,
        learning_rate=1e-4,
        grid_px=256,
        device=device,
    )
    return Work(lambda: training.train_step(np.arange(batch)), batch, batch * TRAIN_PASSES * SAM.gflop)


def mutual_distillation(config: RunConfig, cleanup: ExitStack) -> Work:
    """The pool is scored and selected from, then: one joint step of SAM ViT-B and TinySAM."""
    device = resolve_device("auto")
    batch = config.distillation.batch_size
    loop = MutualDistillation(
        teacher=place_model(build_model("sam", size="vit_b", seed=1), device),
        student=place_model(build_model("tinysam", size="5m", seed=1), device),
        pool=Images(1024, 2 * batch),
        config=config,
        grid_px=256,
        device=device,
    )
    loop.begin_epoch(on_batch=lambda: None)
    chosen = loop.batches()[0]
    return Work(lambda: loop.train_step(chosen), len(chosen), len(chosen) * TRAIN_PASSES * (SAM.gflop + TINYSAM.gflop))


def evaluation(config: RunConfig, cleanup: ExitStack) -> Work:
    """TinySAM measured on two images, or on a batch."""
    images = max(2, config.evaluation.batch_size)
    model = build_model("tinysam", size="5m", seed=1)

    def step() -> None:
        evaluate_model(
            model,
            Images(1024, images),
            classes=("prostate",),
            model_name="distilled_student",
            site="a",
            split="test",
            config=config.evaluation,
            seed=1,
            device=resolve_device("auto"),
        )

    return Work(step, images, images * TINYSAM.gflop)


def export(config: RunConfig, cleanup: ExitStack) -> Work:
    """TinySAM exported at 1024 px and held to PyTorch."""
    from export.onnx_export import export_model
    from export.parity import check_parity

    model = build_model("tinysam", size="5m", seed=1)
    path = Path(cleanup.enter_context(tempfile.TemporaryDirectory())) / "model.onnx"

    def step() -> None:
        export_model(model, path, image_px=1024, opset=config.export.opset)
        check_parity(model, path, image_px=1024, tolerance=config.export.parity_tolerance, seed=1)

    return Work(step, 1, 0.0)


STAGES: dict[str, Callable[[RunConfig, ExitStack], Work]] = {
    function.__name__: function
    for function in (
        federated_training,
        generator_training,
        generation,
        foundation_finetuning,
        mutual_distillation,
        evaluation,
        export,
    )
}


def walls(step: Callable[[], object], repeats: int) -> Iterator[float]:
    """Yield the seconds of each call of ``step``, until the GPU has done it too where there is one."""
    for _ in range(repeats):
        started = time.perf_counter()
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield time.perf_counter() - started


def measure(stage: str, *, repeats: int, preset_batches: bool) -> dict[str, float | str]:
    """Run one stage in this process and return its figures."""
    started = time.monotonic()
    with ExitStack() as cleanup:
        work = STAGES[stage](paper_config(preset_batches=preset_batches), cleanup)
        list(walls(work.step, 1))
        figures: dict[str, float | str] = {"stage": stage, "wall_s": round(time.monotonic() - started, 1)}
        if repeats:
            step_s = median(walls(work.step, repeats))
            figures |= {
                "step_s": round(step_s, 4),
                "images": work.images,
                "tflops": round(work.gflop / step_s / 1e3, 2),
            }
    figures["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    if torch.cuda.is_available():
        figures["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return figures


def main() -> int:
    """Measure every stage in its own process and print a table; exit 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--repeats", type=int, default=0, help="further steps to time")
    parser.add_argument("--preset-batches", action="store_true", help="the prostate preset's batch sizes")
    parser.add_argument("--only", choices=sorted(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only, repeats=chosen.repeats, preset_batches=chosen.preset_batches)))
        return 0
    options = ["--repeats", str(chosen.repeats), *(["--preset-batches"] if chosen.preset_batches else [])]
    rows, failed = [], 0
    for stage in chosen.stages.split(","):
        command = [sys.executable, "-m", "bench.paper_scale", "--only", stage, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        failed += done.returncode != 0
        rows.append(json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"stage": stage})
        if not chosen.json:
            figures = ", ".join(f"{key} {value}" for key, value in rows[-1].items() if key != "stage") or "FAILED"
            print(f"{stage:<24} {figures}", flush=True)
    if chosen.json:
        print(json.dumps(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
