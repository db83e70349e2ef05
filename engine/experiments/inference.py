"""How long the exported model of a run takes for one image, batch 1, after a warm-up: in ONNX Runtime, and in PyTorch.

Torch-free: PyTorch is asked in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.runs.store import RunStore

WARM_UP, REPEATS = 3, 30


def bundle_seconds(store: RunStore, run_id: str) -> tuple[float, ...] | None:
    """Return the seconds of ``REPEATS`` passes of the run's bundle; ``None`` where it has exported none.

    The time is the model's alone, from an image prepared at its own side to logits: what the paper's table gives, with
    a warm-up, which its authors' code leaves out.
    """
    bundles = store.artefacts(run_id, kind="bundle")
    return _seconds(store.run_dir(run_id) / bundles[0].path) if bundles else None


@lru_cache(maxsize=64)
def _seconds(folder: Path) -> tuple[float, ...]:
    from export.runtime import load_bundle

    session = load_bundle(folder)
    side_px = session.manifest.image_px
    image_HW3 = np.zeros((side_px, side_px, 3), dtype=np.uint8)
    passes = [session.predict(image_HW3).inference_ms / 1000 for _ in range(WARM_UP + REPEATS)]
    return tuple(passes[WARM_UP:])


def torch_seconds(store: RunStore, run_id: str) -> tuple[float, ...] | None:
    """Return the seconds of ``REPEATS`` passes of the same model in PyTorch; ``None`` where no model was exported.

    Float32 on the CPU, as the bundle is served. Raises ``UserError`` ``experiment.no_speed``.
    """
    bundles = store.artefacts(run_id, kind="bundle")
    if not bundles:
        return None
    from export.runtime import load_bundle

    classes = load_bundle(store.run_dir(run_id) / bundles[0].path).manifest.classes
    return _torch_seconds(run_id, store.get(run_id).config_json, len(classes))


@lru_cache(maxsize=64)
def _torch_seconds(run_id: str, config_json: str, num_classes: int) -> tuple[float, ...]:
    request = {"config": json.loads(config_json), "num_classes": num_classes, "passes": WARM_UP + REPEATS}
    command = [sys.executable, "-m", "engine.evaluation.torch_speed"]
    told = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if told.returncode:
        raise UserError(
            "experiment.no_speed",
            what=f"The model of {run_id} could not be timed: {(told.stderr.strip().splitlines() or ['no word'])[-1]}",
            why="Inference is timed in a process of its own, with PyTorch.",
            fix="Install the pinned requirements, or leave torch_inference_s out of the experiment's measures.",
        )
    return tuple(json.loads(told.stdout)[WARM_UP:])
