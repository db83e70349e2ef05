"""The Gaussian mechanism on a site's update: what both sides of the border work out alike, by Flower's arithmetic.

Only float parameters are clipped and noised. Statistics and counters of BatchNorm go back as they came, so that they
say nothing of a site: noise would carry a variance below 0, and their changes would use up the norm.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from flwr.supercore.differential_privacy import compute_clip_model_update, compute_stdv

from engine.config import RunConfig
from engine.federation.tasks import Arrays
from engine.seeding import numpy_generator
from engine.system_randomness import Numbers, SystemNumbers

STREAM = "privacy"


def noise_of(config: RunConfig, who: str, round_number: int) -> Numbers:
    """Return the noise of a round for ``who``, a site's name or ``server``: from the run's seed, or the system's.

    A stream of the seed is the same whenever the round is run again; the system's never is.
    """
    if config.privacy.system_noise(config.backend):
        return SystemNumbers()
    return numpy_generator(config.seed, STREAM, config.privacy.mechanism, who, round_number)


def noise_std(*, noise_multiplier: float, clip_norm: float, num_sites: int = 1) -> float:
    """Return the standard deviation of the noise on a mean of ``num_sites`` clipped updates: z C / num_sites."""
    return compute_stdv(noise_multiplier, clip_norm, num_sites)


def clipped(arrays: Arrays, received: Arrays, *, clip_norm: float, buffers: Collection[str]) -> dict[str, np.ndarray]:
    """Return ``received`` plus the update to ``arrays``, shortened to the L2 norm ``clip_norm`` over all of it.

    The norm is that of all float parameters together, in float64. ``buffers`` (names) and integers are those of
    ``received``. Names, shapes and dtypes are those of ``received``.
    """
    names = _parameters(received, buffers)
    before = [received[name].astype(np.float64) for name in names]
    after = [arrays[name].astype(np.float64) for name in names]
    if any(not np.array_equal(one, other) for one, other in zip(after, before, strict=True)):
        compute_clip_model_update(after, before, clip_norm)  # it would divide by the norm of no update
    moved = {name: new.astype(received[name].dtype) for name, new in zip(names, after, strict=True)}
    return {name: moved.get(name, np.array(array)) for name, array in received.items()}


def noised(arrays: Arrays, *, std: float, noise: Numbers, buffers: Collection[str]) -> dict[str, np.ndarray]:
    """Return ``arrays`` with N(0, std^2) added to every number of the float parameters, drawn in order of the names."""
    result = {name: np.array(array) for name, array in arrays.items()}
    for name in sorted(_parameters(arrays, buffers)):  # a message may have brought them in another order
        drawn = noise.standard_normal(arrays[name].size).reshape(arrays[name].shape)
        result[name] = (arrays[name] + std * drawn).astype(arrays[name].dtype)
    return result


def _parameters(arrays: Arrays, buffers: Collection[str]) -> list[str]:
    return [name for name, array in arrays.items() if array.dtype.kind == "f" and name not in buffers]
