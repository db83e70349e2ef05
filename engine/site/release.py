"""A site measures its own generator before it leaves: figures go up, pictures stay on the site's disk.

The generator that is measured is the one that would be sent, in half precision. It draws from the masks of training
images and of held-out ones. What is told:

- memorisation, in pixels: membership inference (an image is guessed to be a training image where what is drawn from its
  mask is near it; area under the curve, and its interval over patients), copies of training images, and the distance
  to the nearest training image over that to the nearest held-out one;
- quality, as features of SAM's mini encoder (Inception's beside them where its weights are given): Fréchet and kernel
  distance between held-out images and what is drawn from their masks, and FLD of all drawn images;
- faithfulness: Dice of the federated student on what is drawn from held-out masks, and on the held-out images.

Shape legend: N images, K classes, H W pixels.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from engine.data.imagesets import ImageSet
from engine.data.transforms import mask_to_grid
from engine.evaluation.feature_likelihood import feature_likelihood_divergence
from engine.evaluation.fidelity import frechet_distance, kernel_distance
from engine.evaluation.image_features import inception_features, sam_features
from engine.evaluation.measures import dice
from engine.evaluation.memorisation import Copy, area_interval, area_under_curve, distance_ratio, find_copies
from engine.federation import release as names
from engine.federation.release import Limits, reason_to_withhold
from engine.federation.tasks import Arrays
from engine.generation.generators import Generator, kind_of
from engine.generation.images import read_scaled
from engine.models.arrays import load_arrays
from engine.models.execution import autocast
from engine.seeding import derive_seed, numpy_generator
from engine.site.checks import FOLDER, REPORT
from engine.site.context import SiteContext

FEWEST = 2
"""Held-out and training images below which nothing can be told."""
FEWEST_FOR_FLD = 4
"""Training images of which half can hold the baseline's Gaussians."""


@dataclass(frozen=True, eq=False)
class _Side:
    """Real images of one kind and what the generator draws from their masks: float32 (N, 3, H, W) in [0, 1]."""

    images: ImageSet
    real: np.ndarray
    drawn: np.ndarray
    mask_NKHW: np.ndarray

    def distances(self) -> np.ndarray:
        """Return how far each image is from what is drawn from its mask, root mean square of pixels (N,)."""
        return np.sqrt(np.square(self.real - self.drawn, dtype=np.float64).mean(axis=(1, 2, 3)))


def check_generator(site: SiteContext, arrays: Arrays, *, student: Arrays, limits: Limits) -> dict[str, float]:
    """Return the figures of the generator that ``arrays`` are, ``withheld`` among them: 1 where it may not leave."""
    started, most = monotonic(), site.config.release.images
    counts = {name: min(len(images), most) for name, images in _sets(site).items()}
    figures = {names.MEMBERS: float(counts["train"]), names.HELD_OUT: float(counts["held_out"]), **limits.figures()}
    copies: tuple[Copy, ...] = ()
    if min(counts.values()) >= FEWEST:
        generator = kind_of(site.config).rebuild(arrays, site.generators)
        sides = {name: _side(site, generator, name, count=count) for name, count in counts.items()}
        remembered, copies = _memorisation(site, sides["train"], sides["held_out"])
        figures |= remembered | _quality(site, sides["train"], sides["held_out"])
        if student:
            figures |= _faithfulness(site, sides["held_out"], student)
        _keep_copies(site, copies, sides["train"], sides["held_out"])
    figures[names.WITHHELD] = float(reason_to_withhold(figures, limits) is not None)
    _write_report(site, figures, wall_s=monotonic() - started)
    return figures


def _sets(site: SiteContext) -> dict[str, ImageSet]:
    return {"train": site.data.train, "held_out": site.data.validation}


def _side(site: SiteContext, generator: Generator, name: str, *, count: int) -> _Side:
    """Return ``count`` images of a set, chosen by the run's seed, and one that is drawn from the mask of each."""
    config, whole = site.config, _sets(site)[name]
    order = numpy_generator(config.seed, "release", "choice", name, site.site).permutation(len(whole))
    images = whole.subset(np.sort(order[:count]))
    px = config.generator.image_px
    pairs = list(read_scaled(images, px, device=torch.device("cpu")))
    mask_NKHW = np.concatenate([mask for _, mask in pairs])
    seeds = [derive_seed(config.seed, "release", name, site.site, index) for index in range(count)]
    drawn = generator.sample(mask_NKHW, seeds=seeds, check_cancelled=site.listener.check_cancelled)
    real = torch.cat([image for image, _ in pairs]).numpy() / 2 + 0.5
    return _Side(images, real.clip(0, 1), drawn.transpose(0, 3, 1, 2).astype(np.float32) / 255, mask_NKHW)


def _memorisation(site: SiteContext, train: _Side, held_out: _Side) -> tuple[dict[str, float], tuple[Copy, ...]]:
    members, others = -train.distances(), -held_out.distances()
    low, high = area_interval(
        members,
        others,
        member_groups=train.images.groups,
        other_groups=held_out.images.groups,
        num_samples=site.config.evaluation.bootstrap_samples,
        rng=numpy_generator(site.config.seed, "release", "bootstrap", site.site),
    )
    real_train, real_held_out, drawn = (_flat(part) for part in (train.real, held_out.real, _drawn(train, held_out)))
    copies = find_copies(drawn, real_train, held_out_HD=real_held_out)
    same = min(len(real_train), len(real_held_out))
    return {
        names.AUC: area_under_curve(members, others),
        names.AUC_LOW: low,
        names.AUC_HIGH: high,
        names.COPIES: float(len(copies)),
        names.RATIO: distance_ratio(drawn, real_train[:same], real_held_out[:same]),
    }, copies


def _quality(site: SiteContext, train: _Side, held_out: _Side) -> dict[str, float]:
    device, weights = site.models.device, site.config.release.inception
    parts = []
    for part in (held_out.real, held_out.drawn, train.real, train.drawn):
        site.listener.check_cancelled()
        parts.append(sam_features(part, device=device))
    real, drawn, of_train, drawn_train = parts
    figures = {names.FRECHET: frechet_distance(real, drawn), names.KERNEL: kernel_distance(real, drawn)}
    if len(of_train) >= FEWEST_FOR_FLD:
        every = np.concatenate([drawn_train, drawn])
        figures[names.FLD] = feature_likelihood_divergence(of_train, real, every, seed=site.config.seed)
    if weights is not None:
        pair = [inception_features(part, weights=weights, device=device) for part in (held_out.real, held_out.drawn)]
        figures[names.INCEPTION_FRECHET] = frechet_distance(*pair)
        figures[names.INCEPTION_KERNEL] = kernel_distance(*pair)
    return figures


def _faithfulness(site: SiteContext, held_out: _Side, student: Arrays) -> dict[str, float]:
    """Return the student's mean Dice on drawn and on real images against the masks that both belong to."""
    model = site.models.of("student")
    load_arrays(model, student)
    model.eval()
    side, found = site.config.data.image_px, {}
    for name, images in ((names.FAITHFULNESS, held_out.drawn), (names.FAITHFULNESS_REAL, held_out.real)):
        image = torch.from_numpy(np.ascontiguousarray(images))
        if image.shape[-1] != side:
            image = functional.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        with torch.inference_mode(), autocast(site.models.device, "fp32"):
            parts = [model(part.to(site.models.device)).float().cpu() for part in image.split(16)]
        logits = torch.cat(parts)
        truth = torch.from_numpy(mask_to_grid(held_out.mask_NKHW, logits.shape[-1])).bool()
        found[name] = float(dice(logits > 0, truth).mean())
    return found


def _drawn(train: _Side, held_out: _Side) -> np.ndarray:
    return np.concatenate([train.drawn, held_out.drawn])


def _flat(image_N3HW: np.ndarray) -> np.ndarray:
    return image_N3HW.reshape(len(image_N3HW), -1).astype(np.float64)


def _keep_copies(site: SiteContext, copies: tuple[Copy, ...], train: _Side, held_out: _Side) -> None:
    """Write each copy, on the left, beside its original; what an earlier check has left goes."""
    folder = site.state.folder / FOLDER
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700, parents=True)
    drawn = _drawn(train, held_out)
    for copy in copies:
        pair = np.concatenate([drawn[copy.drawn], train.real[copy.original]], axis=2)
        levels = (pair.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        Image.fromarray(levels).save(folder / f"copy_{copy.drawn:05d}.png")


def _write_report(site: SiteContext, figures: dict[str, float], *, wall_s: float) -> None:
    folder: Path = site.state.folder / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    report = {"site": site.site, "figures": figures, "wall_s": round(wall_s, 2)}
    (folder / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")
