"""How long a click takes where features are kept: ``python -m bench.click_times [--tinysam] [--repeats N]``.

Bundles of random weights are written and run as the page does: TinySAM's mini at 256 px, and TinySAM at 1024 px with
``--tinysam``. Times are of the server's side, for an image of the model's side: the first answer (encoder, decoder
without prompts), and a click that adds, at a new place each time. Times are those of this machine as busy as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.config import parse_config
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.seeding import numpy_generator
from export.clicks import Click, change
from export.package import BundleContent, write_bundle
from export.prompting import key_of, load_prompter
from export.runtime import load_bundle

LIMITS_MS = {"mini": 100.0, "5m": 300.0}
SIZES = (("mini", 256), ("5m", 1024))
REACH = 0.15


def measure(size: str, image_px: int, *, repeats: int, threads: int | None) -> tuple[list[float], list[float]]:
    """Return the milliseconds of first answers and of clicks."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder) / "bundle", size, image_px)
        session = load_bundle(Path(folder) / "bundle", threads=threads)
        prompter = load_prompter(Path(folder) / "bundle", session, threads=threads)
    assert prompter is not None
    rng = numpy_generator(0, "bench", "clicks", image_px)
    image = rng.integers(0, 256, (image_px, image_px, 3), dtype=np.uint8)
    size_hw, key, firsts, clicks = (image_px, image_px), key_of(image), [], []
    logits = prompter.first(image, key)
    for _ in range(max(3, repeats // 10)):
        began = time.perf_counter()
        prompter.first(image, key_of(image))
        firsts.append(1000 * (time.perf_counter() - began))
    own_HW = session.at_own_size(logits, size_hw=size_hw)[0]
    for row, column in rng.integers(0, image_px, (repeats + 1, 2)).tolist():
        mask_HW, click = np.zeros(size_hw, np.uint8), Click("add", 0, row, column, round(REACH * image_px))

        def ask(given: Sequence[Click], rows: slice, columns: slice) -> tuple[np.ndarray, slice, slice]:
            return prompter.logits(
                given, 0, rows=rows, columns=columns, image_key=key, size_hw=size_hw, looks="whole", read=lambda: image
            )

        began = time.perf_counter()
        change(mask_HW, own_HW, click, ask=ask, clicks=[click])
        clicks.append(1000 * (time.perf_counter() - began))
    return firsts, clicks[1:]


def _write(folder: Path, size: str, image_px: int) -> None:
    config = parse_config({"data": {"image_px": image_px}})
    model = build_model("tinysam", size=size, num_classes=1, image_px=image_px, seed=0)
    assert isinstance(model, Segmenter)
    content = BundleContent(
        name=size, role="distilled_student", task="nuclei", modality="microscopy", classes=("nucleus",),
        model=config.student.model_copy(update={"size": size}), config=config, metrics=(), run_id="bench",
        prompted=model, prompt_steps=1,
    )  # fmt: skip
    write_bundle(folder, model, content=content)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; return 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.click_times", description=__doc__)
    parser.add_argument("--tinysam", action="store_true", help="also TinySAM at 1024 px")
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--threads", type=int, help="all cores when left out")
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before")
    missed = 0
    for size, image_px in SIZES[: 1 + given.tinysam]:
        firsts, clicks = measure(size, image_px, repeats=given.repeats, threads=given.threads)
        p50, p95 = (float(np.percentile(clicks, share)) for share in (50, 95))
        first = float(np.percentile(firsts, 50))
        print(
            f"tinysam/{size} at {image_px} px: click p50 {p50:.0f} ms, p95 {p95:.0f} ms (limit {LIMITS_MS[size]:.0f}); "
            f"first answer p50 {first:.0f} ms"
        )
        missed += p95 > LIMITS_MS[size]
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
