"""How far drawn images are from real ones in a space of features: Fréchet distance and kernel distance (KID).

torch-fidelity's arithmetic, in float64. Both depend on the number of images, the Fréchet distance strongly (methods.md
6.1), so sets of one size are compared and the size is stated.

Shape legend: N images, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kernel_poly, mmd2


def frechet_distance(real_ND: np.ndarray, drawn_ND: np.ndarray) -> float:
    """Return ||mu_r - mu_g||^2 + Tr(S_r + S_g - 2 (S_r S_g)^(1/2)) (Heusel et al., NeurIPS 2017); N at least 2."""
    moments = [fid_features_to_statistics(torch.from_numpy(_wide(found))) for found in (real_ND, drawn_ND)]
    return max(0.0, float(fid_statistics_to_metric(*moments, verbose=False)[KEY_METRIC_FID]))


def kernel_distance(real_ND: np.ndarray, drawn_ND: np.ndarray) -> float:
    """Return the unbiased squared MMD with the kernel (x y / D + 1)^3 of two sets of one size, N at least 2.

    Bińkowski et al., ICLR 2018; over all images at once, for a site has fewer than their subsets of 1,000. It can be
    below 0, and is 0 in the mean for sets of one distribution.
    """
    real, drawn = _wide(real_ND), _wide(drawn_ND)
    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": 1.0 / real.shape[1], "kid_kernel_poly_coef0": 1.0}
    kernels = (kernel_poly(a, b, **settings) for a, b in ((real, real), (real, drawn), (drawn, drawn)))
    return float(mmd2(*kernels))


def _wide(features_ND: np.ndarray) -> np.ndarray:
    return np.asarray(features_ND, dtype=np.float64)
