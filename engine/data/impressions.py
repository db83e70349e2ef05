"""A closer look at a few images of each site while all are read: figures of them, and small pictures. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from engine.config import DataConfig
from engine.data.apart import Apart, apart
from engine.data.appearance import measure
from engine.data.imagesets import ImageSet, PixelCache
from engine.data.sources import Item
from engine.data.transforms import resize_image, to_levels

THUMBNAIL_PX = 128
NUM_THUMBNAILS = 3
MOST_SHOWN_SITES = 12
"""Sites of which pictures are kept (ours)."""


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A reduced picture (h, w, 3) uint8 with its mask (K, h, w) uint8 in {0, 1}; no plane where there is none."""

    image: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class _Decoded:
    """A picture that is there already, as what an :class:`ImageSet` reads."""

    image: np.ndarray
    site: str = ""
    name: str = ""
    group: str = ""
    split: None = None
    has_mask: bool = False

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the picture without a plane."""
        return self.image, np.empty((0, *self.image.shape[:2]), np.uint8)

    def picture(self) -> np.ndarray:
        """Return the picture."""
        return self.image


@dataclass
class Impressions:
    """Figures and small pictures of some images of each site, by the name under which a site was chosen."""

    config: DataConfig
    _figures: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _groups: dict[str, list[str]] = field(default_factory=dict)
    _pictures: dict[str, list[Thumbnail]] = field(default_factory=dict)
    _measured: dict[Item, str] = field(default_factory=dict)
    _shown: dict[Item, str] = field(default_factory=dict)
    _sites: set[str] = field(default_factory=set)

    def choose(self, items: Mapping[str, Sequence[Item]], *, most: int) -> None:
        """Choose up to ``most`` images of each site, evenly spread, to be measured; some of them to be shown."""
        for site, found in items.items():
            measured = _spread(found, most)
            self._measured |= dict.fromkeys(measured, site)
            if len(self._sites) < MOST_SHOWN_SITES:
                self._sites.add(site)
                labelled = [item for item in measured if item.has_mask]
                self._shown |= dict.fromkeys(_spread(labelled or measured, NUM_THUMBNAILS), site)

    def see(self, item: Item, picture: np.ndarray, planes: np.ndarray | None) -> None:
        """Measure and keep of an image what was chosen: ``picture`` (H, W, 3), ``planes`` (K, h, w) or None."""
        site = self._measured.get(item)
        if site is None:
            return
        self._figures.setdefault(site, []).append(measure(self._as_model_sees(picture)))
        self._groups.setdefault(site, []).append(item.group)
        if item in self._shown:
            self._pictures.setdefault(site, []).append(_thumbnail(picture, planes, self.config))

    def chosen(self) -> list[Item]:
        """Return the images to be measured, site by site."""
        return list(self._measured)

    def thumbnails(self, site: str) -> tuple[Thumbnail, ...]:
        """Return the small pictures of a site; none of those beyond the first ``MOST_SHOWN_SITES``."""
        return tuple(self._pictures.get(site, ()))

    def apart(self) -> Apart | None:
        """Return how far apart the sites look; None where fewer than two have images enough."""
        return apart({site: np.array(rows) for site, rows in self._figures.items()}, self._groups)

    def _as_model_sees(self, picture: np.ndarray) -> np.ndarray:
        config, nothing = self.config, PixelCache(budget_bytes=0)
        seen = ImageSet(
            (_Decoded(picture),), config.image_px, (), config.normalise, "none", nothing, config.fit, labelled=False
        )
        return seen.images([0])[0]


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    places = np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))
    return [items[int(place)] for place in places]


def _thumbnail(picture: np.ndarray, planes: np.ndarray | None, config: DataConfig) -> Thumbnail:
    scale = THUMBNAIL_PX / max(picture.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    image = to_levels(resize_image(picture, height, width), config.normalise)
    mask = np.zeros((0 if planes is None else len(planes), height, width), np.uint8)
    for k in range(len(mask)):
        mask[k] = Image.fromarray(planes[k]).resize((width, height), Image.Resampling.NEAREST)
    return Thumbnail(image, mask)
