"""One step of every stage at the paper's sizes, on random weights: wall time and peak memory of each.

    python -m bench.paper_scale [--stages federated_training,...] [--json]

SAM ViT-B, TinySAM 5M, 1024 px; Stable Diffusion 1.5 with its ControlNet, 512 px; batch 1, and gradient checkpointing in
the generator. Every stage runs in a process of its own, so that its peak memory is its own. It shows that nothing in a
paper-scale run is out of the code's reach; it says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
from engine.seeding import numpy_generator
from engine.site.local_training import train_site

SITES = ("a", "b")
SAMPLER_STEPS = 2


class Images:
    """Two random images with a square mask each, at any side; what every stage reads."""

    names = ("0", "1")
    groups = ("0", "1")

    def __init__(self, image_px: int) -> None:
        self._image_px = image_px

    def __len__(self) -> int:
        return 2

    def batch(self, indices, *, rng=None) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        """Return (B, 3, H, W) float32 in [0, 1] and (B, 1, H, W) uint8."""
        side = self._image_px
        image = numpy_generator(0, "paper scale").random((len(indices), 3, side, side), dtype=np.float32)
        mask = np.zeros((len(indices), 1, side, side), dtype=np.uint8)
        mask[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1
        return image, mask


def paper_config() -> RunConfig:
    """Return the prostate preset with batches of one image and one step of everything."""
    values = load_config("prostate_paper").model_dump(mode="json")
    for section in ("federation", "generator", "foundation", "distillation", "evaluation"):
        values[section]["batch_size"] = 1
    values["generator"] |= {"accumulation": 1, "steps": 1}
    values["distillation"] |= {"epochs": 2, "scoring": "exact"}
    return parse_config(values)


def federated_training(config: RunConfig) -> None:
    """Take two local steps (one an image) of TinySAM, then average two sites."""
    device = resolve_device("auto")
    model = place_model(build_model("tinysam", size="5m", seed=1), device)
    with tempfile.TemporaryDirectory() as folder:
        train_site(
            model,
            Images(1024),
            config=config.federation,
            objective=Objective(),
            seed=1,
            site="a",
            round_number=1,
            state_dir=Path(folder),
            placement=Placement(device=device.type, precision="auto", channels_last=True),
            check_cancelled=lambda: None,
        )
    arrays = model_arrays(model)
    federated_average({site: SiteReply(arrays, {}, 2) for site in SITES}, arrays)


def generator_training(config: RunConfig) -> None:
    """Take one step of a Stable Diffusion 1.5 ControlNet."""
    device = resolve_device("auto")
    backbone = freeze(build_backbone("sd15", seed=1), device=device)
    training = ControlNetTraining(
        backbone,
        new_controlnet(backbone, source=None, seed=1, device=device),
        images=Images(512),
        config=config.generator,
        prompt="axial T2-weighted prostate MRI",
        site="a",
        seed=1,
    )
    training.step()


def generation(config: RunConfig) -> None:
    """Generate one image of 512 px in SAMPLER_STEPS denoising steps with guidance."""
    device = resolve_device("auto")
    backbone = freeze(build_backbone("sd15", seed=1), device=device)
    controlnet = new_controlnet(backbone, source=None, seed=1, device=device).requires_grad_(False)
    _, mask = Images(512).batch([0])
    generate(backbone, controlnet, mask, seeds=[1], prompt="x", steps=SAMPLER_STEPS, guidance=7.5, batch_size=1)


def foundation_finetuning(config: RunConfig) -> None:
    """Take one step of SAM ViT-B."""
    device = resolve_device("auto")
    training = SupervisedTraining(
        place_model(build_model("sam", size="vit_b", seed=1), device),
        pool=Images(1024),
        config=config,
        stage="foundation_finetuning",
        epochs=2,
        batch_size=1,
        learning_rate=1e-4,
        grid_px=256,
        device=device,
    )
    training.train_step(np.array([0]))


def mutual_distillation(config: RunConfig) -> None:
    """Score the pool, select, and take one joint step of SAM ViT-B and TinySAM."""
    device = resolve_device("auto")
    loop = MutualDistillation(
        teacher=place_model(build_model("sam", size="vit_b", seed=1), device),
        student=place_model(build_model("tinysam", size="5m", seed=1), device),
        pool=Images(1024),
        config=config,
        grid_px=256,
        device=device,
    )
    loop.begin_epoch(on_batch=lambda: None)
    loop.train_step(loop.batches()[0])


def evaluation(config: RunConfig) -> None:
    """Measure TinySAM on two images."""
    evaluate_model(
        build_model("tinysam", size="5m", seed=1),
        Images(1024),
        classes=("prostate",),
        model_name="distilled_student",
        site="a",
        split="test",
        config=config.evaluation,
        seed=1,
        device=resolve_device("auto"),
    )


def export(config: RunConfig) -> None:
    """Export TinySAM at 1024 px and hold it to PyTorch."""
    from export.onnx_export import export_model
    from export.parity import check_parity

    model = build_model("tinysam", size="5m", seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_model(model, path, image_px=1024, opset=config.export.opset)
        check_parity(model, path, image_px=1024, tolerance=config.export.parity_tolerance, seed=1)


STAGES: dict[str, Callable[[RunConfig], None]] = {
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


def measure(stage: str) -> dict[str, float | str]:
    """Run one stage in this process and return its figures."""
    started = time.monotonic()
    STAGES[stage](paper_config())
    figures: dict[str, float | str] = {"stage": stage, "wall_s": round(time.monotonic() - started, 1)}
    figures["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    if torch.cuda.is_available():
        figures["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return figures


def main() -> int:
    """Measure every stage in its own process and print a table; exit 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--only", choices=sorted(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.only)))
        return 0
    rows, failed = [], 0
    for stage in chosen.stages.split(","):
        command = [sys.executable, "-m", "bench.paper_scale", "--only", stage]
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
