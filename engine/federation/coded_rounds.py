"""The server's side of ``federation.codec``: what it sends and takes in a round where messages are coded.

Down, lossy steps code the update from the model that a site received in the round before. The server keeps its own
model whole: what a site has not been told yet is a part of the next update, which is the server's error feedback. A
site without the model of the round before (its first round, one that it missed) is sent the whole one instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from engine.config import FederationConfig
from engine.errors import UserError
from engine.federation.checks import bad_reply
from engine.federation.codecs.layout import CodedFault, specs_of
from engine.federation.codecs.piece import BASE_LOST, BASE_ROUND, CODED, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.federation.tasks import Arrays, Scalar, SiteReply


@dataclass(frozen=True, eq=False)
class Received:
    """The model that sites received in a round, and which of them are known to have it."""

    round: int = 0
    arrays: Arrays = field(default_factory=dict)
    sites: frozenset[str] = frozenset()


@dataclass(eq=False)
class CodedRound:
    """One round's messages."""

    number: int
    model: Arrays
    """The server's."""
    received: Arrays
    """What the sites make of their message: their updates begin there."""
    update: dict[str, np.ndarray] | None
    """The coded update down; None where everybody is sent the whole."""
    base: Received
    down: PieceCodec | None
    """What the whole is written by; None where it goes as plain arrays."""
    up: PieceCodec | None
    without_base: set[str] = field(default_factory=set)

    def message(self, site: str) -> tuple[Arrays, dict[str, Scalar]]:
        """Return the arrays for a site, the same object for all that are sent the same, and settings beside them."""
        if self.down is None:
            return self.received, {}
        if self.update is not None and site in self.base.sites - self.without_base:
            return self.update, {BASE_ROUND: self.base.round}
        return self._whole, {BASE_ROUND: 0}

    def lacks_base(self, site: str, error: UserError) -> bool:
        """Note a site that has lost what the update is added to, as its ``error`` says; it is sent the whole then."""
        if error.code != BASE_LOST or site in self.without_base:
            return False
        self.without_base.add(site)
        return True

    @property
    def max_bytes(self) -> int:
        """Of a reply's arrays, headers not counted."""
        whole = sum(array.nbytes for array in self.received.values())
        return whole if self.up is None else len(CODED) + self.up.max_bytes

    def read(self, reply: SiteReply, *, site: str) -> SiteReply:
        """Return a reply with the site's model in place of what it has sent; ``federation.bad_reply`` names it."""
        if self.up is None:
            return reply
        try:
            return replace(reply, arrays=self.up.decode(reply.arrays, base=self.received))
        except CodedFault as fault:
            raise bad_reply(site, round_number=self.number, problem=str(fault)) from fault

    @cached_property
    def _whole(self) -> Arrays:
        assert self.down is not None
        return self.down.encode(self.received).message


class CodedRounds:
    """All rounds: how messages are coded, and the state that a checkpoint holds.

    Parameters
    ----------
    up, down
        Steps of what sites send and of what they are sent; None where these are the plain arrays.
    buffers
        Names of the model's arrays that are no parameters: they are never coded with a loss.
    """

    def __init__(self, *, up: Steps | None, down: Steps | None, buffers: Collection[str]) -> None:
        self._up, self._down, self._buffers = up, down, frozenset(buffers)
        self._received = Received()

    @classmethod
    def of(cls, config: FederationConfig, *, buffers: Collection[str]) -> CodedRounds | None:
        """Return what the configuration asks for; None where messages are plain arrays."""
        if not config.codec and not config.codec_down:
            return None
        made = [
            Steps.of(names, topk_share=config.topk_share) if names else None
            for names in (config.codec, config.codec_down)
        ]
        return cls(up=made[0], down=made[1], buffers=buffers)

    def begin(self, number: int, model: Arrays) -> CodedRound:
        """Return the messages of a round that begins with the server's ``model``; nothing of the state changes."""
        specs = specs_of(model, buffers=self._buffers)
        up = PieceCodec(self._up, specs) if self._up is not None else None
        if self._down is None:
            return CodedRound(number, model, model, None, Received(), None, up)
        whole = PieceCodec(self._down.without_loss, specs)
        base = self._received
        if not self._down.is_lossy or not base.round:
            return CodedRound(number, model, model, None, Received(), whole, up)
        codec = PieceCodec(self._down, specs)
        update = codec.encode(model, base=base.arrays).message
        received = codec.decode(update, base=base.arrays)
        return CodedRound(number, model, received, update, base, whole, up)

    def end(self, coded: CodedRound, averaged: Arrays, *, sites: Collection[str]) -> Arrays:
        """Return the server's model after a round of which ``averaged`` was made, from the replies of ``sites``.

        The average begins with what the sites received; what they were not told of the server's model is added again.
        """
        if self._down is None or not self._down.is_lossy:
            return averaged
        self._received = Received(coded.number, coded.received, frozenset(sites))
        if coded.received is coded.model:
            return averaged
        told = {spec.name for spec in specs_of(coded.model, buffers=self._buffers) if not spec.is_coded}
        return {
            name: array if name in told else array + (coded.model[name] - coded.received[name])
            for name, array in averaged.items()
        }

    def received(self, model: Arrays) -> Arrays:
        """Return what the sites had of the last round's ``model``: the one that their validation is of."""
        return self._received.arrays if self._received.round else model

    def state(self) -> dict[str, Any]:
        """Return what has to be in a checkpoint."""
        if not self._received.round:
            return {}
        held = self._received
        return {"round": held.round, "arrays": dict(held.arrays), "sites": sorted(held.sites)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave; an empty one is the state before the first round."""
        if state:
            self._received = Received(state["round"], state["arrays"], frozenset(state["sites"]))
