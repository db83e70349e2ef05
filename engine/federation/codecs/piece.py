"""A whole model, or its update, as one piece of bytes: what crosses in place of the model's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.errors import UserError
from engine.federation.codecs.layout import ArraySpec, CodedFault, join, split
from engine.federation.codecs.steps import Steps
from engine.federation.codecs.zstd import OVERHEAD, pack, unpack

CODED = "coded"
"""Name of the one array of a coded message, uint8 (N,)."""
BASE_ROUND = "base_round"
"""Setting of a request: the round whose received model the update is to be added to; 0 where the whole was sent."""
BASE_LOST = "federation.base_lost"
"""Code of a site's refusal of an update to a model that it does not have; the server sends the whole then."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Coded:
    """What is sent, and for each coded array what of its update was not: float32 arrays in the model's shapes."""

    message: dict[str, np.ndarray]
    residual: dict[str, np.ndarray] = field(default_factory=dict)


class PieceCodec:
    """``steps`` for a model of these arrays. Both sides make it from what they know; ``specs`` are sorted by name."""

    def __init__(self, steps: Steps, specs: Sequence[ArraySpec]) -> None:
        self.steps, self.specs = steps, tuple(specs)
        self._parts = [steps.parts(spec) for spec in self.specs]

    @property
    def content_bytes(self) -> int:
        """Bytes of a piece before it is packed: exactly so many, whatever the numbers are."""
        return sum(part.num_bytes for parts in self._parts for part in parts)

    @property
    def max_bytes(self) -> int:
        """The most bytes of a piece; exactly so many without ``zstd``."""
        return self.content_bytes + (OVERHEAD if self.steps.packs else 0)

    def encode(self, arrays: Arrays, *, base: Arrays | None = None, residual: Arrays | None = None) -> Coded:
        """Return ``arrays`` coded.

        Lossy steps code the update ``arrays - base + residual``; ``base`` is what the other side has, ``residual`` what
        earlier updates have left (error feedback). Nothing of the arguments is changed. Raises ``UserError``
        ``federation.update_not_finite``.
        """
        parts: list[np.ndarray] = []
        left: dict[str, np.ndarray] = {}
        for spec in self.specs:
            flat = np.ascontiguousarray(arrays[spec.name]).reshape(-1)
            if not self._is_update(spec):
                parts.append(flat)
                continue
            assert base is not None
            update = flat - base[spec.name].reshape(-1)
            if residual:
                update += residual[spec.name].reshape(-1)
            if not np.isfinite(update).all():
                raise _not_finite(spec.name)
            coded = self.steps.encode(update, spec)
            parts += coded
            left[spec.name] = (update - self.steps.decode(coded, spec)).reshape(spec.shape)
        data = join(parts, shuffled=self.steps.packs)
        piece = np.frombuffer(pack(data) if self.steps.packs else data, np.uint8)
        return Coded({CODED: piece}, left)

    def decode(self, message: Arrays, *, base: Arrays | None = None) -> dict[str, np.ndarray]:
        """Return the arrays that arrive, in the model's types and shapes, in memory of their own.

        Nothing is allocated for a piece that is too long, and no more is unpacked than the model has. Raises
        :class:`CodedFault`.
        """
        if set(message) != {CODED}:
            raise CodedFault(f"it has the arrays {sorted(message)[:4]!s:.80} and not one coded piece")
        piece = message[CODED]
        if piece.dtype != np.uint8 or piece.ndim != 1:
            raise CodedFault(f"its coded piece is {piece.dtype}{piece.shape}, not bytes")
        if len(piece) > self.max_bytes or (not self.steps.packs and len(piece) != self.content_bytes):
            raise CodedFault(f"its coded piece has {len(piece):,} bytes, and the model's has {self.max_bytes:,}")
        data: bytes | memoryview = memoryview(np.ascontiguousarray(piece))
        if self.steps.packs:
            data = unpack(memoryview(data), num_bytes=self.content_bytes)
        flat = iter(split(data, [part for parts in self._parts for part in parts], shuffled=self.steps.packs))
        found = {}
        for spec, own in zip(self.specs, self._parts, strict=True):
            numbers = [next(flat) for _ in own]
            if self._is_update(spec):
                assert base is not None
                try:
                    new = base[spec.name].reshape(-1) + self.steps.decode(numbers, spec)
                except CodedFault as fault:
                    raise CodedFault(f"of '{spec.name}' {fault}") from fault
            else:
                new = numbers[0].copy()
            found[spec.name] = new.reshape(spec.shape)
        return found

    def _is_update(self, spec: ArraySpec) -> bool:
        return self.steps.is_lossy and spec.is_coded and spec.size > 0


def _not_finite(name: str) -> UserError:
    return UserError(
        "federation.update_not_finite",
        what=f"The update of '{name}' has numbers that are not finite.",
        why="A codec (federation.codec) writes numbers; what is none would spoil the model of all sites.",
        fix="Lower federation.learning_rate, or use precision fp32; then look at this site's images.",
    )
