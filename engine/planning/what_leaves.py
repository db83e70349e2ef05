"""Sentences of a plan on what leaves a site besides student weights, and on pooled images, which are no federation."""

from __future__ import annotations

MASKS_LEAVE = {
    "real": "The sites' real masks go up (generation.mask_sharing 'real', as in the paper): outlines of patients' "
    "anatomy leave the site, without images, names or identifiers.",
    "deformed": "Randomly deformed masks go up (generation.mask_sharing 'deformed'): no patient's own outline leaves "
    "the site.",
}
CHECKED = (
    "Each site measures its generator first and withholds one that has learnt its images by heart; the figures go up, "
    "no picture does."
)
LOOK_LEAVES = (
    "What each site's images look like goes up once, as means and covariances of brightness, colour and texture over "
    "all of them: the exported model warns of images of another kind with it."
)
POOLED_LEAVE = (
    "All sites' images lie at one place and are trained on as one (data.pooled): the ceiling that federations are "
    "compared with, and no federation. What is counted as traffic goes between the server and that place."
)
STATISTICS_LEAVE = "Means and variances of the student's layers over each site's training images go up once."
