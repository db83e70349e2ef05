"""Federated training written out in numpy, float64: forward, backward, Adam, the averages, validation.

It shares with the engine the pictures, the named random streams (they are a contract) and nothing else.
The model is logits = gamma * normalised(w . pixel) + beta on every other pixel: small enough to differentiate by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.models.segmenter import Segmenter
from engine.seeding import numpy_generator
from tests.unit.federation_world import SITES, SIZES, Discs

BN_EPS, BN_MOMENTUM = 1e-5, 0.1
VALIDATION = {"north": 2, "south": 3, "west": 1}
Weights = dict[str, np.ndarray]


class OneLayer(Segmenter):
    """The same model in torch; ``Segmenter`` decides what BatchNorm does in train mode."""

    def __init__(self, *, keeps_statistics: bool) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(1)
        self.keeps_statistics = keeps_statistics
        state = {name: torch.from_numpy(value.astype(np.float32)) for name, value in first_weights().items()}
        self.load_state_dict(state, strict=False)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.norm(self.conv(image_B3HW[..., ::2, ::2]))


def first_weights() -> Weights:
    """Return the weights that both begin with; statistics that no batch has."""
    return {
        "conv.weight": np.array([0.9, -0.5, 0.7]).reshape(1, 3, 1, 1),
        "norm.weight": np.array([1.3]),
        "norm.bias": np.array([-0.4]),
        "norm.running_mean": np.array([0.2]),
        "norm.running_var": np.array([0.05]),
    }


@dataclass(frozen=True)
class Switches:
    """What the configuration says, by other names."""

    rounds: int = 2
    epochs: int = 1
    batch: int = 2
    rate: float = 0.05
    pos_weight: float = 2.0
    dice_weight: float = 0.0
    shares: Mapping[str, float] = field(default_factory=lambda: {site: SIZES[site] / 12 for site in SITES})
    averages_buffers: bool = True
    keeps: bool = False
    decay: float = 0.0
    seed: int = 11
    mu: float = 0.0
    momentum: float = 0.0
    is_median: bool = False
    local: tuple[str, ...] = ()
    """What each site keeps as its own; the model that goes on has its first weights there, or with ``mean_once`` their
    mean."""
    mean_once: bool = False


@dataclass
class Result:
    """Loss and validation Dice by (site, round), the averages by round, what goes on, and what is each site's own."""

    loss: dict[tuple[str, int], float]
    dice: dict[tuple[str, int], float]
    averages: list[Weights]
    goes_on: Weights
    own: dict[str, Weights] = field(default_factory=dict)


def train(switches: Switches) -> Result:
    """Return what federated training has to give."""
    theta, states = first_weights(), {site: _Adam(switches.rate) for site in SITES}
    result = Result({}, {}, [theta], theta)
    mean: Weights | None = None
    velocity: Weights = {}
    own = {site: {name: theta[name] for name in switches.local} for site in SITES}
    for number in range(1, switches.rounds + 1):
        local = {}
        for site in SITES:
            there = {**theta, **own[site]}
            result.dice[site, number - 1] = validate(there, site)
            local[site], result.loss[site, number] = _at_site(there, states[site], site, number, switches)
            own[site] = {name: local[site][name] for name in switches.local}
        averaged = {name: sum(switches.shares[site] * local[site][name] for site in SITES) for name in theta}
        if switches.is_median:
            averaged = {name: np.median([local[site][name] for site in SITES], axis=0) for name in theta}
        if switches.momentum:
            for name in ("conv.weight", "norm.weight", "norm.bias"):
                velocity[name] = switches.momentum * velocity.get(name, 0.0) + theta[name] - averaged[name]
                averaged[name] = theta[name] - velocity[name]
        kept = {name: theta[name] for name in theta if "running" in name and not switches.averages_buffers}
        theta = {**averaged, **kept, **{name: first_weights()[name] for name in switches.local}}
        result.averages.append(theta)
        share = min(switches.decay, (number - 1) / number)
        mean = theta if mean is None else {n: share * mean[n] + (1 - share) * theta[n] for n in theta}
    result.dice.update({(site, switches.rounds): validate({**theta, **own[site]}, site) for site in SITES})
    result.own = own
    result.goes_on = dict(mean) if switches.decay and mean is not None else theta
    if switches.mean_once:
        result.goes_on |= {n: sum(switches.shares[site] * own[site][n] for site in SITES) for n in switches.local}
    return result


def validate(theta: Weights, site: str) -> float:
    """Return the mean over a site's validation images of Dice at logit 0, by stored statistics."""
    pixels, truth = _pixels(Discs(f"{site}-validation", VALIDATION[site]), np.arange(VALIDATION[site]))
    hat = (pixels @ theta["conv.weight"].reshape(3) - theta["norm.running_mean"]) / np.sqrt(
        theta["norm.running_var"] + BN_EPS
    )
    found = theta["norm.weight"] * hat + theta["norm.bias"] > 0
    dices = [
        (2 * (f & t).sum() + 1e-4) / (f.sum() + t.sum() + 1e-4) for f, t in zip(found, truth.astype(bool), strict=True)
    ]
    return float(np.mean(dices))


class _Adam:
    def __init__(self, rate: float) -> None:
        self.rate, self.step, self.m, self.v = rate, 0, {}, {}  # type: ignore[var-annotated]

    def update(self, theta: Weights, gradient: Weights) -> Weights:
        self.step += 1
        new = dict(theta)
        for name, g in gradient.items():
            self.m[name] = 0.9 * self.m.get(name, 0.0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0.0) + 0.001 * g * g
            m, v = self.m[name] / (1 - 0.9**self.step), self.v[name] / (1 - 0.999**self.step)
            new[name] = theta[name] - self.rate * m / (np.sqrt(v) + 1e-8)
        return new


def _at_site(theta: Weights, adam: _Adam, site: str, number: int, switches: Switches) -> tuple[Weights, float]:
    images, total, received = Discs(site, SIZES[site]), 0.0, theta
    for epoch in range(switches.epochs):
        order = numpy_generator(switches.seed, "federation", site, number, epoch).permutation(len(images))
        for start in range(0, len(order), switches.batch):
            chosen = order[start : start + switches.batch]
            loss, gradient, statistics = _step(theta, *_pixels(images, chosen), switches)
            gradient = {name: g + switches.mu * (theta[name] - received[name]) for name, g in gradient.items()}
            theta = {**adam.update(theta, gradient), **statistics}
            total += loss * len(chosen)
    return theta, total / (len(images) * switches.epochs)


def _pixels(images: Discs, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image, mask = images.batch(chosen)
    return image[..., ::2, ::2].transpose(0, 2, 3, 1).astype(np.float64), mask[:, 0, 1::2, 1::2].astype(np.float64)


def _step(theta: Weights, pixels: np.ndarray, truth: np.ndarray, switches: Switches) -> tuple[float, Weights, Weights]:
    z = pixels @ theta["conv.weight"].reshape(3)
    kept = theta["norm.running_mean"], theta["norm.running_var"]
    mean, variance = kept if switches.keeps else (z.mean(), z.var())
    scale = 1 / np.sqrt(variance + BN_EPS)
    hat = (z - mean) * scale
    logit = theta["norm.weight"] * hat + theta["norm.bias"]
    p = 1 / (1 + np.exp(-logit))
    weight = switches.pos_weight
    loss = -(weight * truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    by_logit = ((weight * truth + 1 - truth) * p - weight * truth) / p.size
    if switches.dice_weight:
        above, below = 2 * (p * truth).sum() + 1e-5, p.sum() + truth.sum() + 1e-5
        loss += switches.dice_weight * (1 - above / below)
        by_logit += switches.dice_weight * (above - 2 * truth * below) / below**2 * p * (1 - p)
    by_hat = by_logit * theta["norm.weight"]
    centred = by_hat if switches.keeps else by_hat - by_hat.mean() - hat * (by_hat * hat).mean()
    gradient = {
        "conv.weight": np.einsum("bhw,bhwc->c", centred * scale, pixels).reshape(1, 3, 1, 1),
        "norm.weight": np.array([(by_logit * hat).sum()]),
        "norm.bias": np.array([by_logit.sum()]),
    }
    if switches.keeps:
        return float(loss), gradient, {}
    unbiased = variance * z.size / (z.size - 1)
    moved: dict[str, Any] = {
        "norm.running_mean": 0.9 * kept[0] + BN_MOMENTUM * mean,
        "norm.running_var": 0.9 * kept[1] + BN_MOMENTUM * unbiased,
    }
    return float(loss), gradient, moved
