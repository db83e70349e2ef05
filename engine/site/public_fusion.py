"""What a site with a model of its own kind does on the public set: warm-up, fusion with the server's view, predictions.

SAM-Fed's heterogeneous setting by HSSF's regularity fusion (our specification, methods.md 2.2 and 2.3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from engine.data.imagesets import ImageSet
from engine.data.transforms import mask_to_grid
from engine.distillation.agreement import resized_logits
from engine.distillation.regularity import fusion_loss, public_logits
from engine.models.randomness import named_randomness
from engine.seeding import numpy_generator
from engine.site.context import SiteContext
from engine.site.unlabelled_training import public_loss


def warm_up(site: SiteContext, model: nn.Module, public: ImageSet) -> None:
    """Train on the labels of the public set for ``samfed.warmup_epochs``, augmented as the run's data are."""
    _train(site, model, public, epochs=site.config.samfed.warmup_epochs, names=("warmup", site.site), augment=True)


def fuse(site: SiteContext, model: nn.Module, public: ImageSet, *, server: np.ndarray, round_number: int) -> None:
    """Train for ``samfed.fusion_epochs`` on the public set by L_sup and the server's logits (N, K, h, w) where it is
    the better one; on plain images, for which these are."""
    semi = site.config.samfed

    def more(logits_BKhw: Tensor, mask_BKhw: Tensor, indices: np.ndarray) -> Tensor:
        said = torch.from_numpy(server[indices]).float().to(logits_BKhw.device)
        taught = resized_logits(said, logits_BKhw.shape[-1])
        return semi.fusion_weight * fusion_loss(taught, logits_BKhw, mask_BKhw, temperature=semi.fusion_temperature)

    _train(site, model, public, epochs=semi.fusion_epochs, names=("fusion", site.site, round_number), more=more)


def predict_public(site: SiteContext, model: nn.Module, public: ImageSet, *, grid_px: int) -> np.ndarray:
    """Return the model's logits of the plain public images (N, K, grid_px, grid_px) float16."""
    return public_logits(
        model,
        public,
        batch_size=site.config.public.batch_size,
        grid_px=grid_px,
        forward=lambda image: _forward(site, model, image),
    )


def _train(
    site: SiteContext,
    model: nn.Module,
    public: ImageSet,
    *,
    epochs: int,
    names: tuple[str | int, ...],
    augment: bool = False,
    more: Callable[[Tensor, Tensor, np.ndarray], Tensor] | None = None,
) -> None:
    """Run epochs of AdamW, begun anew, on L_sup and ``more`` of it."""
    config, size = site.config, site.config.public.batch_size
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.federation.learning_rate, weight_decay=config.public.weight_decay
    )
    model.train()
    with named_randomness(config.seed, *names, "torch", device=site.models.placement.device):
        for epoch in range(epochs):
            rng = numpy_generator(config.seed, *names, epoch)
            order = rng.permutation(len(public))
            for start in range(0, len(order), size):
                site.listener.check_cancelled()
                indices = order[start : start + size]
                image, mask = public.batch(indices, rng=rng if augment else None)
                loss, logits = public_loss(model, image, mask, config=config, placement=site.models.placement)
                if more is not None:
                    mask_BKhw = torch.from_numpy(mask_to_grid(mask, logits.shape[-1])).to(logits.device)
                    loss = loss + more(logits, mask_BKhw, indices)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()


def _forward(site: SiteContext, model: nn.Module, image_B3HW: np.ndarray) -> Tensor:
    placement = site.models.placement
    with placement.autocast():
        return model(placement.batch(image_B3HW)).float()
