"""How long the exported model of a run takes for one image: ONNX Runtime, batch 1, after a warm-up. Torch-free."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

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
