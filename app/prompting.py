"""How an answered image is asked again: what clicks need of a model that may be gone. Torch-free."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from app import bundle_cache
from export.clicks import Ask, Click

if TYPE_CHECKING:
    from app.studio import Studio
    from engine.data.tiling import Looks
    from export.prompting import Prompter

Opened = Callable[[], "Prompter | None"]
"""Gives the model's decoder for prompts, None where it has none; may raise ``UserError`` where the model is gone."""


_OPENING = threading.Lock()


def opener(studio: Studio, key: str) -> Opened:
    """Return what opens the decoder of a model, by its key."""

    def opened() -> Prompter | None:
        folder = studio.bundle_folder(key)
        with _OPENING:
            written = (folder / "manifest.json").stat().st_mtime
            return bundle_cache.prompter(folder, written) if bundle_cache.manifest(folder, written).prompts else None

    return opened


@dataclass(frozen=True, eq=False)
class Prompting:
    """One answered image and the model that was taught prompts."""

    opened: Opened
    image_key: str
    """``export.prompting.key_of`` its pixels."""
    size_hw: tuple[int, int]
    looks: Looks
    read: Callable[[], np.ndarray]
    """Reads the image again, where its features are not kept any more."""

    def ask(self, class_index: int) -> Ask:
        """Return what answers prompts of one class (``app.corrections.Ask``)."""

        def asked(clicks: Sequence[Click], rows: slice, columns: slice) -> tuple[np.ndarray, slice, slice]:
            prompter = self.opened()
            assert prompter is not None, "a bundle does not lose its decoder"
            return prompter.logits(
                clicks, class_index, rows=rows, columns=columns, image_key=self.image_key, size_hw=self.size_hw,
                looks=self.looks, read=self.read,
            )  # fmt: skip

        return asked
