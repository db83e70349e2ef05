"""What a site gets once before it trains without labels: the public labelled set, and SAM to label its images with."""

from __future__ import annotations

from time import monotonic

import numpy as np
import torch

from engine.data.public import refuse_shared
from engine.data.public_arrays import IMAGE, digests_in
from engine.federation.tasks import SiteReply, SiteRequest
from engine.models.arrays import load_arrays
from engine.site.context import SiteContext
from engine.site.kept_arrays import PUBLIC, TEACHER_LOGITS, keep_arrays

LOGITS = "logits"


def take(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Keep the public set, after comparing its patients and files with the site's own; nothing goes back.

    Raises ``UserError`` ``data.public_shared``. A message of digests alone is compared with and not kept.
    """
    data = site.data
    items = [*data.train.items, *data.validation.items, *data.test.items]
    refuse_shared(items, site=site.site, public=digests_in(request.arrays))
    if any(name.startswith(IMAGE) for name in request.arrays):
        keep_arrays(site.state.folder, PUBLIC, request.arrays)
    return SiteReply({}, {}, max(1, len(items)))


def label(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Let the teacher that was sent look at each training image once, and keep its logits (N, K, h, w) in float16.

    The message has what was trained of it; the rest are its first weights, which the site has. Only ``wall_s`` goes
    back: what SAM says of a site's images stays there.
    """
    started = monotonic()
    model = site.models.of("teacher")
    load_arrays(model, {**site.models.first_model_arrays("teacher"), **request.arrays})
    model.eval()
    images, size, parts = site.data.train, site.config.public.batch_size, []
    for start in range(0, len(images), size):
        site.listener.progress(start, len(images))
        indices = np.arange(start, min(start + size, len(images)))
        with torch.no_grad(), site.models.placement.autocast():
            logits = model(site.models.placement.batch(images.images(indices)))
        half = torch.finfo(torch.float16).max
        parts.append(logits.float().clamp(-half, half).half().cpu().numpy())
    keep_arrays(site.state.folder, TEACHER_LOGITS, {LOGITS: np.concatenate(parts)})
    return SiteReply({}, {"wall_s": monotonic() - started}, len(images))
