"""Who follows the reading of a dataset folder: how far it is, what was read, and when that is enough. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.data.sources import FolderItem


class Watch:
    """Follows a reading; this one does nothing. What it raises ends the reading."""

    @property
    def has_enough(self) -> bool:
        """Return whether no further picture need be decoded: the reading goes on as one that is not thorough."""
        return False

    def on_header(self) -> None:
        """Be told that the header of one more file is read."""

    def on_scanned(self, items: Mapping[str, Sequence[FolderItem]]) -> None:
        """Be told which images a folder holds, before the first of them is decoded; once a folder."""

    def on_image(self, item: FolderItem, picture: np.ndarray | None, planes: np.ndarray | None) -> None:
        """Be told of one decoded image (H, W, 3) and its mask (K, h, w); None for what cannot be read, or is not there.

        Slices of a volume are images. Only a thorough reading decodes them.
        """
