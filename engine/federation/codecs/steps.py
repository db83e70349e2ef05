"""The steps of ``federation.codec`` put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from engine.federation.codecs.float16 import Float16
from engine.federation.codecs.float32 import Float32
from engine.federation.codecs.int8 import Int8
from engine.federation.codecs.layout import ArraySpec, Part
from engine.federation.codecs.topk import TopK


class Numbers(Protocol):
    """How the numbers of one array's update are written."""

    def parts(self, size: int, *, num_channels: int) -> tuple[Part, ...]:
        """Return what ``size`` numbers in ``num_channels`` groups of one length are written as."""

    def encode(self, numbers: np.ndarray, *, num_channels: int) -> tuple[np.ndarray, ...]:
        """Return finite float32 (n,) as its parts."""

    def decode(self, parts: Sequence[np.ndarray], *, num_channels: int) -> np.ndarray:
        """Return float32 (n,) of the parts; ``CodedFault`` for numbers that nobody of ours writes."""


NUMBERS: dict[str, type[Numbers]] = {"fp16": Float16, "int8": Int8}


@dataclass(frozen=True)
class Steps:
    """``chosen``: which entries go, None is all; ``numbers``: how they are written; ``packs``: zstd comes last."""

    chosen: TopK | None
    numbers: Numbers
    packs: bool

    @classmethod
    def of(cls, names: Sequence[str], *, topk_share: float) -> Steps:
        """Return the steps of these names, whose order the configuration has checked."""
        written = [NUMBERS[name]() for name in names if name in NUMBERS]
        return cls(TopK(topk_share) if "topk" in names else None, (*written, Float32())[0], "zstd" in names)

    @property
    def is_lossy(self) -> bool:
        """Whether what arrives is not what was sent, so that updates are coded and not weights."""
        return self.chosen is not None or not isinstance(self.numbers, Float32)

    @property
    def without_loss(self) -> Steps:
        """What a whole model goes by."""
        return Steps(None, Float32(), self.packs)

    def parts(self, spec: ArraySpec) -> tuple[Part, ...]:
        """Return what an array is written as."""
        if not self.is_lossy or not spec.is_coded or not spec.size:
            return (Part(spec.dtype, spec.size),)
        if self.chosen is None:
            return self.numbers.parts(spec.size, num_channels=spec.num_channels)
        # What is left of a channel may be one number or none: the array has one scale then.
        return self.chosen.part(spec.size), *self.numbers.parts(self.chosen.num_kept(spec.size), num_channels=1)

    def encode(self, update: np.ndarray, spec: ArraySpec) -> tuple[np.ndarray, ...]:
        """Return the update of one coded array, finite float32 (n,), as its parts."""
        if self.chosen is None:
            return self.numbers.encode(update, num_channels=spec.num_channels)
        places = self.chosen.choose(update)
        return self.chosen.write(places, size=spec.size), *self.numbers.encode(update[places], num_channels=1)

    def decode(self, parts: Sequence[np.ndarray], spec: ArraySpec) -> np.ndarray:
        """Return the update float32 (n,) that arrives; ``CodedFault`` for parts that nobody of ours writes."""
        if self.chosen is None:
            return self.numbers.decode(parts, num_channels=spec.num_channels)
        update = np.zeros(spec.size, np.float32)
        update[self.chosen.read(parts[0], size=spec.size)] = self.numbers.decode(parts[1:], num_channels=1)
        return update
