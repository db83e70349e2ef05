"""Pre-training of the mini SAM and the mini TinySAM on generic phantoms of all six tasks.

Four of five batches are prompt-free (the task's first class is the target), the fifth has points or a box on a random
class. Each image is drawn at 128 px, one in five batches at 256 px (800 more images a task), with changes of tone,
colour, grain and direction; nearly half are stretched to their percentiles, as runs with ``normalise = "per_image"``
do.

The mini SAM has no million images to learn from, so TinySAM-mini helps it to start: it takes over its decoder and, for
the first ``MATCH_STEPS`` steps, also learns to match its features. The roles of the method are untouched: the mini SAM
is the larger model, and it goes on where the help ends.

Shape legend: B images, H = W pixels, K classes, h = w the decoder's grid, N points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.data.transforms import mask_to_grid, percentile_range
from engine.models.objective import supervised_loss
from engine.models.prompts import Prompts
from engine.models.registry import build_model
from engine.models.segmenter import Segmenter
from engine.models.weights import load_weights
from engine.pretraining.corpus import Corpus, load_corpora
from engine.pretraining.settings import Settings
from engine.seeding import numpy_generator

BATCH = {128: 24, 256: 6}
"""Images in a batch by side in pixels."""
LARGE_SHARE = 0.2
PROMPTED_SHARE = 0.2
MAX_POINTS = 3
MATCH_STEPS = 2500
MATCH_WEIGHT = 2.0
HELD_OUT = {128: 60, 256: 20}
LARGE_CORPUS = 800


@dataclass(frozen=True)
class _Pair:
    image_3HW: np.ndarray
    mask_HW: np.ndarray


class SegmenterPretraining:
    """The recipe of one model; ``name`` is ``tinysam`` or ``sam``."""

    weight_decay = 0.05
    ema_decay = 0.998

    def __init__(self, settings: Settings, *, name: str) -> None:
        self.settings, self.name = settings, name
        self.learning_rate = 1e-3
        model = build_model(name, size="mini", seed=settings.seed)
        assert isinstance(model, Segmenter)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._guide: Segmenter | None = None
        if name == "sam":
            self._guide = self._load_guide()
        small = settings.training_corpora()
        large = load_corpora(image_px=256, count=LARGE_CORPUS, seed=settings.corpus_seed)
        self._corpora = {128: list(small.values()), 256: list(large.values())}
        self._held_out = {
            px: load_corpora(image_px=px, count=count, seed=settings.corpus_seed, held_out=True)
            for px, count in HELD_OUT.items()
        }

    def loss(self, step: int) -> Tensor:
        """Return BCE (pos_weight 2) + soft Dice of one batch, plus the feature match while the mini SAM is guided."""
        rng = numpy_generator(self.settings.seed, "pretraining", self.name, step)
        image_px = 256 if rng.random() < LARGE_SHARE else 128
        prompted = bool(rng.random() < PROMPTED_SHARE)
        pairs = [self._draw(image_px, prompted=prompted, rng=rng) for _ in range(BATCH[image_px])]
        image = torch.from_numpy(np.stack([pair.image_3HW for pair in pairs]))
        image = image.contiguous(memory_format=torch.channels_last)
        masks = np.stack([pair.mask_HW[None] for pair in pairs])
        mask = torch.from_numpy(mask_to_grid(masks, image_px // self.model.mask_stride)).float()
        prompts = draw_prompts(masks[:, 0], rng=rng) if prompted else None
        with self.settings.autocast():
            features = self.model.encode(image)
            logits = self.model.decode(features, prompts=prompts)
        loss = supervised_loss(logits, mask, pos_weight=2.0, dice_weight=1.0)
        weight = MATCH_WEIGHT * max(0.0, 1.0 - step / MATCH_STEPS)
        if self._guide is not None and weight > 0:
            with torch.no_grad(), self.settings.autocast():
                target = self._guide.encode(image)
            loss = loss + weight * (features.float() - target.float()).square().mean()
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return the prompt-free Dice of each task's first class on held-out generic phantoms, by side in pixels."""
        measures = {}
        for image_px, corpora in self._held_out.items():
            for task, corpus in corpora.items():
                image = torch.from_numpy(np.asarray(corpus.images_NHW3).transpose(0, 3, 1, 2).astype(np.float32) / 255)
                logits = torch.cat([self.model(image[start : start + 10]) for start in range(0, len(image), 10)])
                grid = mask_to_grid(np.asarray(corpus.masks_NKHW[:, :1]), logits.shape[-1])
                predicted, true = logits > 0, torch.from_numpy(grid).bool()
                overlap = (predicted & true).sum(dim=(1, 2, 3))
                area = predicted.sum(dim=(1, 2, 3)) + true.sum(dim=(1, 2, 3))
                measures[f"dice_{task}_{image_px}"] = float(((2 * overlap + 1e-4) / (area + 1e-4)).mean())
        return measures

    def _load_guide(self) -> Segmenter:
        guide = build_model("tinysam", size="mini", seed=self.settings.seed)
        assert isinstance(guide, Segmenter)
        load_weights(guide, "tinysam-mini", strict=True)
        guide = guide.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.mask_decoder.load_state_dict(guide.mask_decoder.state_dict())
        self.model.prompt_encoder.load_state_dict(guide.prompt_encoder.state_dict())
        return guide

    def _draw(self, image_px: int, *, prompted: bool, rng: np.random.Generator) -> _Pair:
        corpora: list[Corpus] = self._corpora[image_px]
        corpus = corpora[rng.integers(len(corpora))]
        index = int(rng.integers(len(corpus)))
        class_index = int(rng.integers(corpus.masks_NKHW.shape[1])) if prompted else 0
        image = change_tone(np.asarray(corpus.images_NHW3[index]), rng=rng)
        mask = np.asarray(corpus.masks_NKHW[index, class_index])
        turns = int(rng.integers(4))
        image, mask = np.rot90(image, turns), np.rot90(mask, turns)
        if rng.random() < 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return _Pair(np.ascontiguousarray(image.transpose(2, 0, 1)), np.ascontiguousarray(mask))


def change_tone(image_HW3: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 image as float32 (H, W, 3) in [0, 1] with random stretch, gain, offset, gamma, grey and grain."""
    image = image_HW3.astype(np.float32) / 255
    if rng.random() < 0.45:
        low, high = percentile_range(image)
        image = np.clip((image - low) / max(high - low, 1e-3), 0, 1)
    if rng.random() < 0.7:
        gain = rng.uniform(0.7, 1.3, size=3 if rng.random() < 0.5 else 1)
        image = np.clip(image * gain + rng.uniform(-0.1, 0.1), 0, 1)
    if rng.random() < 0.5:
        image = image ** rng.uniform(0.6, 1.6)
    if rng.random() < 0.15:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:
        image = image + rng.normal(0, rng.uniform(0.01, 0.06), size=image.shape)
    return np.clip(image, 0, 1).astype(np.float32)


def draw_prompts(mask_BHW: np.ndarray, *, rng: np.random.Generator) -> Prompts:
    """Return points inside the masks, or boxes around them jittered by up to 3 px, for a whole batch.

    An empty mask gets one background point, or a box around the whole image.
    """
    side = mask_BHW.shape[-1]
    points = np.zeros((len(mask_BHW), MAX_POINTS, 2), dtype=np.float32)
    labels = np.full((len(mask_BHW), MAX_POINTS), -1, dtype=np.int64)
    boxes = np.tile(np.array([0, 0, side, side], dtype=np.float32), (len(mask_BHW), 1))
    for row, mask in enumerate(mask_BHW):
        y, x = np.nonzero(mask)
        if not len(y):
            points[row, 0], labels[row, 0] = rng.uniform(0, side, size=2), 0
            continue
        chosen = rng.integers(len(y), size=rng.integers(1, MAX_POINTS + 1))
        points[row, : len(chosen)] = np.stack([x[chosen], y[chosen]], axis=1) + 0.5
        labels[row, : len(chosen)] = 1
        boxes[row] = (x.min(), y.min(), x.max() + 1, y.max() + 1)
    if rng.random() < 0.5:
        return Prompts(points_BN2=torch.from_numpy(points), labels_BN=torch.from_numpy(labels))
    boxes += rng.uniform(-3, 3, size=boxes.shape).astype(np.float32)
    return Prompts(boxes_B4=torch.from_numpy(boxes))
