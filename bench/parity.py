"""Three equalities that the README claims, measured.

    python -m bench.parity [--kills 10] [--preset phantom_cpu_smoke] [--home FOLDER]
    python -m bench.parity --mode reference --authors DSFEDMED --official TINYSAM

1. TinySAM against the official implementation with the same random state dict at 1024 px (recorded tensors).
2. The mini models' ONNX files against PyTorch, largest difference of the logits.
3. A run whose worker is killed with SIGKILL at random moments and resumed, against the same run undisturbed: largest
   difference over every tensor of every model and generator, every synthetic image and every row of the results.

With ``--mode reference`` instead: reference mode beside the authors' own loop, see ``bench.reference_parity``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.reference_parity import reference_parity
from bench.tinysam_parity import differences_from_golden
from engine.config import RunConfig, load_config
from engine.models.registry import build_model
from engine.models.weights import load_weights
from engine.runs import lifecycle
from engine.runs.store import RunStore
from engine.seeding import numpy_generator
from engine.stages.files import read_json
from export.onnx_export import export_model
from export.parity import check_parity

POLL_S = 0.05
LONGEST_WORK_S = 3.0
"""A worker is killed at a uniformly random moment of its first so many seconds in a stage: ten such span the run."""


def onnx_differences(folder: Path) -> dict[str, float]:
    """Return the largest |ONNX - torch| of the logits of both shipped mini models at 128 px."""
    differences = {}
    for name in ("tinysam", "sam"):
        model = build_model(name, size="mini", seed=1)
        load_weights(model, f"{name}-mini")
        path = folder / f"{name}.onnx"
        export_model(model, path, image_px=128, opset=18)
        parity = check_parity(model, path, image_px=128, tolerance=1e-4, seed=1)
        differences[f"{name}-mini"] = parity.max_abs_difference
    return differences


def run_to_end(
    store: RunStore, config: RunConfig, *, kills: int, longest_work_s: float = LONGEST_WORK_S
) -> tuple[str, int]:
    """Run ``config``, killing its worker up to ``kills`` times; return the run's id and how often it was killed."""
    rng = numpy_generator(7, "kill moments")
    run_id = lifecycle.submit(store, config)
    killed = 0
    while True:
        moment = float("inf")
        while (record := store.get(run_id)).active and time.monotonic() < moment:
            stage = next((s for s in store.stages(run_id) if s.status == "running"), None)
            if killed < kills and stage is not None and moment == float("inf"):
                moment = time.monotonic() + rng.uniform(0.0, longest_work_s)
            lifecycle.reap(store)
            time.sleep(POLL_S)
        if not record.active:
            break
        if record.pid is None:
            continue
        os.kill(record.pid, signal.SIGKILL)
        killed += 1
        where = f"{stage.name}, step {stage.step} of {stage.total}" if stage else "between two stages"
        print(f"  kill {killed}: {where}", file=sys.stderr, flush=True)
        while store.get(run_id).status == "running":
            lifecycle.reap(store)
            time.sleep(POLL_S)
        lifecycle.resume(store, run_id)
    if record.status != "finished":
        raise SystemExit(f"the run {run_id} is {record.status}: {record.error}")
    return run_id, killed


def largest_difference(first: Path, second: Path) -> tuple[float, int]:
    """Return the largest difference between the results of two run folders, and how many files were compared."""
    worst, count = 0.0, 0
    for pattern in ("models/*.safetensors", "generators/*/*.safetensors"):
        for path in sorted(first.glob(pattern)):
            one, two = load_file(path), load_file(second / path.relative_to(first))
            if one.keys() != two.keys():
                return float("inf"), count
            worst = max([worst, *(float((one[k].double() - two[k].double()).abs().max()) for k in one)])
            count += 1
    for path in sorted(first.glob("samples/*/*.png")):
        with Image.open(path) as one, Image.open(second / path.relative_to(first)) as two:
            worst = max(worst, float(np.abs(np.asarray(one, dtype=float) - np.asarray(two, dtype=float)).max()))
        count += 1
    rows = [read_json(folder / "evaluation" / "rows.json") for folder in (first, second)]
    return (worst if rows[0] == rows[1] else float("inf")), count + 1


def main() -> int:
    """Measure, print, and exit 1 when an equality does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--preset", default="phantom_cpu_smoke")
    parser.add_argument("--home", type=Path)
    parser.add_argument("--mode", choices=("claims", "reference"), default="claims")
    parser.add_argument("--authors", type=Path, help="a clone of github.com/LMIAPC/DSFedMed (mode reference)")
    parser.add_argument("--official", type=Path, help="a clone of github.com/xinghaochen/TinySAM (mode reference)")
    chosen = parser.parse_args()
    if chosen.mode == "reference":
        if chosen.authors is None or chosen.official is None:
            parser.error("--mode reference needs --authors and --official")
        return 0 if reference_parity(chosen.authors, chosen.official) else 1
    with torch.no_grad():
        return measure(kills=chosen.kills, preset=chosen.preset, home=chosen.home)


def measure(*, kills: int, preset: str, home: Path | None) -> int:
    """Measure and print every equality; return 1 where one does not hold."""
    official = differences_from_golden()
    print("TinySAM against the official one: " + ", ".join(f"{k} {v:.1e}" for k, v in official.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        onnx = onnx_differences(Path(folder))
        print("ONNX against torch: " + ", ".join(f"{k} {v:.1e}" for k, v in onnx.items()), flush=True)
        store = RunStore(home or Path(folder) / "home")
        config = load_config(preset)
        whole, _ = run_to_end(store, config, kills=0)
        resumed, killed = run_to_end(store, config, kills=kills)
        difference, count = largest_difference(store.run_dir(whole), store.run_dir(resumed))
        store.close()
    print(f"resumed after {killed} SIGKILLs against undisturbed: {difference:g} over {count} files")
    holds = max(official.values()) <= 1e-5 and max(onnx.values()) <= 1e-4 and difference == 0 and killed == kills
    print("all hold" if holds else "NOT ALL HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
