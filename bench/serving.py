"""One image through TinySAM: the official code in PyTorch beside this project's ONNX variants, and a bundle's own.

    python -m bench.serving --official CHECKOUT [--sides 1024 512] [--threads 1 2] [--repeats 9]
    python -m bench.serving --bundle FOLDER [--threads 1 2]

CHECKOUT is a clone of github.com/xinghaochen/TinySAM, which is no part of this project; without it our own PyTorch
model stands in its place. Weights are random, the same for all: they change no time, and no Dice is told of them. What
a variant costs in Dice is measured by the sites of a run, and stands in its bundle: --bundle prints it with times of
this machine.

All rows of one count of threads take turns, so that other work on the machine meets all of them alike. Told are the
median and the 95th percentile of the wall time, and the processor time of all threads (the median), which other work
lengthens less. The model alone, without reading and resizing the image.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from bench.tinysam_parity import _build_official
from engine.models.registry import build_model
from export.manifest import INPUT_NAME, OUTPUT_NAME
from export.onnx_export import export_model
from export.parity import sample_images
from export.runtime import load_bundle, session_options
from export.variants import quantise

CALIBRATION = 2
"""Images that 8 bits are calibrated on here: times do not depend on them."""
OFFICIAL_PX = 1024
"""The official code takes this side alone."""


@dataclass(frozen=True)
class Took:
    """What repeats of one row took, in seconds."""

    p50: float
    p95: float
    processor: float


def in_turn(steps: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, Took]:
    """Return what each step took over ``repeats`` rounds of all, after one round to warm up."""
    walls: dict[str, list[float]] = {name: [] for name in steps}
    processor: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(repeats + 1):
        for name, step in steps.items():
            began, used = time.perf_counter(), time.process_time()
            step()
            if number:
                walls[name].append(time.perf_counter() - began)
                processor[name].append(time.process_time() - used)
    return {
        name: Took(statistics.median(found), float(np.percentile(found, 95)), statistics.median(processor[name]))
        for name, found in walls.items()
    }


def run_file(path: Path, *, side: int, threads: int) -> Callable[[], Any]:
    """Return a step that runs an ONNX file on one image of its side."""
    session = onnxruntime.InferenceSession(str(path), session_options(threads), providers=["CPUExecutionProvider"])
    image = sample_images(1, image_px=side, seed=1)
    return lambda: session.run([OUTPUT_NAME], {INPUT_NAME: image})


def in_torch(official: Path | None) -> Callable[[], Any]:
    """Return a step of the official model's encoder and prompt-free decoder, or of ours where there is no checkout."""
    image = torch.from_numpy(sample_images(1, image_px=OFFICIAL_PX, seed=1))
    if official is None:
        ours = build_model("tinysam", size="5m", seed=1, image_px=OFFICIAL_PX).eval()
        return lambda: ours(image)
    model = _build_official(official).eval()
    sparse, dense = model.prompt_encoder(points=None, boxes=None, masks=None)

    def step() -> Any:
        return model.mask_decoder.predict_masks(
            image_embeddings=model.image_encoder(image),
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=torch.zeros_like(dense),
        )

    return step


def write_files(folder: Path, sides: Sequence[int]) -> dict[str, tuple[Path, int]]:
    """Write TinySAM 5m at each side, in float32 and in 8 bits; return file and side by row."""
    files = {}
    for side in sides:
        model = build_model("tinysam", size="5m", seed=1, image_px=side)
        path, small = folder / f"{side}.onnx", folder / f"{side}_int8.onnx"
        export_model(model, path, image_px=side, opset=18)
        quantise(path, small, images_N3HW=sample_images(CALIBRATION, image_px=side, seed=2))
        files[f"ONNX, {side} px, float32"] = (path, side)
        files[f"ONNX, {side} px, int8"] = (small, side)
    return files


def table(took: dict[str, Took], *, threads: int, first: str) -> str:
    """Return the rows as Markdown; times are compared with the row ``first``, by wall and by processor time."""
    base = took[first]
    head = ("Model", "Threads", "p50, ms", "p95, ms", "Processor, ms", "Times as fast", "by processor")
    lines = [head, ("---", *["---:"] * 6)]
    for name, one in took.items():
        times = (f"{base.p50 / one.p50:.1f}", f"{base.processor / one.processor:.1f}")
        lines.append((name, str(threads), *map(_ms, (one.p50, one.p95, one.processor)), *times))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if seconds >= 0.1 else 1}f}"


def of_bundle(folder: Path, *, threads: int, repeats: int) -> None:
    """Print the variants of a bundle: what its manifest says, and times of this machine."""
    manifest = load_bundle(folder, device="cpu").manifest
    steps = {v.name: run_file(folder / v.file, side=v.image_px, threads=threads) for v in manifest.every_variant}
    print(table(in_turn(steps, repeats=repeats), threads=threads, first="full"))
    for v in manifest.every_variant:
        size = manifest.files[v.file].size_bytes / 1e6
        cost = (
            ""
            if v.measured is None
            else (f", Dice {v.measured.dice:.3f} ({v.measured.points:+.1f} points, {v.measured.num_images} images)")
        )
        print(f"{v.name}: {v.image_px} px, {v.precision}, {size:.1f} MB, {v.parity.max_abs_difference:.1e} from "
              f"PyTorch (logits; masks differ in {100 * v.parity.mask_disagreement:.2f} %){cost}")  # fmt: skip
    print(f"By itself '{manifest.quickest('whole').name}' answers.")


def main() -> None:
    """Print a table for each count of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="a clone of github.com/xinghaochen/TinySAM")
    parser.add_argument("--bundle", type=Path, help="a bundle folder, in place of TinySAM 5m")
    parser.add_argument("--sides", type=int, nargs="+", default=[1024, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.bundle is not None:
        for threads in options.threads:
            of_bundle(options.bundle, threads=threads, repeats=options.repeats)
        return
    first = "official PyTorch, 1024 px" if options.official else "our PyTorch, 1024 px"
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        files = write_files(Path(scratch), options.sides)
        reference = in_torch(options.official)
        for threads in options.threads:
            torch.set_num_threads(threads)
            steps = {first: reference}
            steps |= {name: run_file(path, side=side, threads=threads) for name, (path, side) in files.items()}
            print(table(in_turn(steps, repeats=options.repeats), threads=threads, first=first), flush=True)


if __name__ == "__main__":
    main()
