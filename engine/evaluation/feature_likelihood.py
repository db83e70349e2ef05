"""Feature likelihood divergence (FLD, Jiralerspong et al., NeurIPS 2023, arXiv 2302.04440), in float64.

A mixture of isotropic Gaussians sits on the drawn images' features; only their variances are fitted, to the training
images, and the likelihood of unseen real images is the score. A drawn image that copies a training image gets a tiny
variance, and so gives no likelihood to what is unseen: novelty counts beside fidelity and diversity.

Shape legend: N images, n Gaussians, D features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from engine.seeding import numpy_generator

MAX_DRAWN = 10_000
BATCH = 10_000
EPOCHS = 50
LEARNING_RATE = 0.5
LOG_VARIANCE = 40.0
"""Log variances stay within minus and plus this."""
STILL, PATIENCE = 5e-4, 5
"""Fitting ends when the loss has moved by less than ``STILL`` against each of the ``PATIENCE`` before."""
BACKGROUND_SCALE = 0.81
"""Of squared distances to the training mean, in the Gaussian that keeps likelihoods from vanishing while fitting."""
SMALLEST_DISTANCE = 1e-3
SMALLEST_SD = 1e-6
"""Added to a feature's deviation: one that is constant over the unseen images would divide by zero (ours)."""


def feature_likelihood_divergence(
    train_ND: np.ndarray, unseen_ND: np.ndarray, drawn_ND: np.ndarray, *, seed: int
) -> float:
    """Return 100 (nll - baseline): 0 is as good as real images, lower is better.

    Parameters
    ----------
    train_ND, unseen_ND, drawn_ND
        Features of training images (4 or more), of real images that no training saw (2 or more), and drawn ones.
    seed
        Chooses which half of the training images the baseline's Gaussians sit on.
    """
    mean, sd = unseen_ND.mean(axis=0, dtype=np.float64), unseen_ND.std(axis=0, dtype=np.float64) + SMALLEST_SD
    train, unseen, drawn = (
        torch.from_numpy((np.asarray(found, np.float64) - mean) / sd) for found in (train_ND, unseen_ND, drawn_ND)
    )
    drawn = drawn[:MAX_DRAWN]
    order = torch.from_numpy(numpy_generator(seed, "fld", "baseline").permutation(len(train)))
    half = min(len(drawn), len(train) // 2)
    centres, rest = train[order[:half]], train[order[half:]]
    score = negative_log_likelihood(unseen, drawn, fit_log_variances(drawn, train))
    baseline = negative_log_likelihood(unseen, centres, fit_log_variances(centres, rest))
    return 100.0 * (score - baseline)


def negative_log_likelihood(points_ND: Tensor, centres_nD: Tensor, log_variances_n: Tensor) -> float:
    """Return the mean of -log p(x) / D over the points, p the equal mixture of the Gaussians."""
    distances = _squared_distances(points_ND, centres_nD)
    logs = _log_densities(distances, log_variances_n, num_features=points_ND.shape[1])
    likelihood = torch.logsumexp(logs, dim=1) - math.log(len(centres_nD))
    return float(-likelihood.mean() / points_ND.shape[1])


def fit_log_variances(centres_nD: Tensor, train_ND: Tensor) -> Tensor:
    """Return the log variance of each Gaussian, fitted to the training features by Adam."""
    num_features = train_ND.shape[1]
    to_mean = BACKGROUND_SCALE * (train_ND - train_ND.mean(dim=0)).square().sum(dim=1, keepdim=True)
    distances = torch.cat([_squared_distances(train_ND, centres_nD), to_mean], dim=1)
    begun = ((distances.min(dim=0).values + SMALLEST_DISTANCE) / num_features).log()
    logs = begun.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([logs], lr=LEARNING_RATE)
    losses: list[float] = []
    for _ in range(EPOCHS):
        total = 0.0
        for part in distances.split(BATCH):
            likelihood = torch.logsumexp(_log_densities(part, logs, num_features=num_features), dim=1)
            loss = -(likelihood - math.log(distances.shape[1])).mean() / num_features
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                logs.clamp_(-LOG_VARIANCE, LOG_VARIANCE)
            total += loss.item() * len(part) / len(distances)
        if len(losses) >= PATIENCE and all(abs(total - before) < STILL for before in losses[-PATIENCE:]):
            break
        losses.append(total)
    return logs.detach()[:-1]


def _squared_distances(points_ND: Tensor, centres_nD: Tensor) -> Tensor:
    return torch.cdist(points_ND, centres_nD, compute_mode="donot_use_mm_for_euclid_dist").square()


def _log_densities(distances_Nn: Tensor, log_variances_n: Tensor, *, num_features: int) -> Tensor:
    """Return log N(x; c, v I) of each point and Gaussian."""
    spread = num_features * (math.log(2 * math.pi) + log_variances_n)
    return -0.5 * (distances_Nn * (-log_variances_n).exp() + spread)
