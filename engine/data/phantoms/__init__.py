"""Phantoms: procedural medical images with exact masks, the data that the project carries within itself.

Named sites are for federations, demos and tests; the *generic* site is for pre-training, and of the public set of a
run whose sites have no labels, with seeds of its own; no site of a demo or test is one.
Nothing here imports torch.
"""

from __future__ import annotations

from engine.data.phantoms.base import Phantom, PhantomTask
from engine.data.phantoms.folder import write_dataset
from engine.data.phantoms.registry import TASKS, random_mask, render, render_generic

__all__ = ["TASKS", "Phantom", "PhantomTask", "random_mask", "render", "render_generic", "write_dataset"]
