"""The pre-training corpus: phantoms of the generic site, rendered once and kept memory-mapped on disk.

No demo, benchmark or test draws from these streams, so the mini foundation weights have never seen a site's image.

Shape legend: N images, H = W = image_px, K classes of the task.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from engine.data import phantoms
from engine.data.phantoms import TASKS, render_generic

HELD_OUT_FIRST = 1_000_000
"""Index of the first held-out phantom: no training corpus reaches it, so no patient is shared."""
_CHUNK = 50


@dataclass(frozen=True)
class Corpus:
    """One task's images (N, H, W, 3) uint8 and masks (N, K, H, W) uint8 in {0, 1}, both memory-mapped read-only."""

    task: str
    images_NHW3: np.ndarray
    masks_NKHW: np.ndarray

    def __len__(self) -> int:
        return len(self.images_NHW3)


def cache_folder() -> Path:
    """Return where rendered corpora are kept: ``DSFEDMED_CACHE``, or ``~/.cache/dsfedmed``."""
    return Path(os.environ.get("DSFEDMED_CACHE", Path.home() / ".cache" / "dsfedmed")) / "corpus"


def drawing_version() -> str:
    """Return 8 hexadecimal digits of the SHA-256 over the code that draws phantoms: other code, other corpus."""
    digest = hashlib.sha256()
    for path in sorted(Path(phantoms.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def load_corpora(*, image_px: int, count: int, seed: int, held_out: bool = False) -> dict[str, Corpus]:
    """Return ``count`` generic phantoms of each of the six tasks, rendering what is not on disk yet."""
    first = HELD_OUT_FIRST if held_out else 0
    return {task: load_corpus(task, image_px=image_px, count=count, seed=seed, first=first) for task in TASKS}


def load_corpus(task: str, *, image_px: int, count: int, seed: int, first: int = 0) -> Corpus:
    """Return phantoms ``first`` .. ``first + count - 1`` of the generic site of ``task``.

    The files are written under a temporary name and renamed, so an interrupted rendering is never taken for a corpus;
    their name holds ``drawing_version``, so a corpus of other code is never taken for this one's.
    """
    stem = cache_folder() / f"{task}-{image_px}px-{first}-{count}-seed{seed}-{drawing_version()}"
    paths = stem.with_suffix(".images.npy"), stem.with_suffix(".masks.npy")
    if not all(path.is_file() for path in paths):
        _render(task, image_px=image_px, count=count, seed=seed, first=first, paths=paths)
    images, masks = (np.load(path, mmap_mode="r") for path in paths)
    return Corpus(task=task, images_NHW3=images, masks_NKHW=masks)


def _render(task: str, *, image_px: int, count: int, seed: int, first: int, paths: tuple[Path, Path]) -> None:
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    partial_paths = [path.with_suffix(f".partial-{os.getpid()}") for path in paths]
    shapes = (count, image_px, image_px, 3), (count, len(TASKS[task].classes), image_px, image_px)
    images, masks = (
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        for path, shape in zip(partial_paths, shapes, strict=True)
    )
    draw = partial(_draw_chunk, task=task, image_px=image_px, seed=seed, first=first, count=count)
    starts = range(0, count, _CHUNK)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        for start, (image_chunk, mask_chunk) in zip(starts, pool.map(draw, starts), strict=True):
            images[start : start + len(image_chunk)] = image_chunk
            masks[start : start + len(mask_chunk)] = mask_chunk
    images.flush()
    masks.flush()
    for source, target in zip(partial_paths, paths, strict=True):
        source.rename(target)


def _draw_chunk(
    start: int, *, task: str, image_px: int, seed: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    phantoms = [
        render_generic(task, index=first + index, image_px=image_px, seed=seed)
        for index in range(start, min(start + _CHUNK, count))
    ]
    return np.stack([phantom.image for phantom in phantoms]), np.stack([phantom.mask for phantom in phantoms])
