"""The masks that a site shares for generation: its training masks, or deformed copies (Eq. 2)."""

from __future__ import annotations

import numpy as np

from engine.federation.payload import pack_masks
from engine.federation.tasks import SiteReply, SiteRequest
from engine.generation.mask_sharing import share_masks
from engine.seeding import numpy_generator
from engine.site.context import SiteContext


def share(site: SiteContext, _request: SiteRequest) -> SiteReply:
    """Reply with masks {0, 1} (N, K, H, W) at ``data.image_px`` as bits; N is at most ``max_masks_per_site``."""
    config, train = site.config, site.data.train
    count = min(len(train), config.generation.max_masks_per_site or len(train))
    chosen = np.sort(numpy_generator(config.seed, "masks", "choice", site.site).permutation(len(train))[:count])
    real = np.stack([train.read_mask(int(i)) for i in chosen])
    rng = numpy_generator(config.seed, "masks", "deformation", site.site)
    return SiteReply(pack_masks(share_masks(real, mode=config.generation.mask_sharing, rng=rng)), {}, count)
