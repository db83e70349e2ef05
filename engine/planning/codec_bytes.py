"""What a round's messages of the student weigh where ``federation.codec`` writes them. Torch-free.

A coded message is counted with its name and header, to the byte; with ``zstd`` at the most, since how far numbers can
be packed is known afterwards. A plain one is counted as its data. Sizes are those of ``state_keys.csv``: of U-Nets for
two classes, of positional embeddings at the native side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.config import RunConfig
from engine.config_federation import FederationConfig
from engine.federation.codecs.layout import CODED_DTYPE, ArraySpec
from engine.federation.codecs.piece import CODED, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.models.sharing import SharedParameters, StateKey
from engine.models.tuned_keys import FLOAT_BYTES
from engine.planning.model_keys import student_keys

HEADER_BYTES = 128
"""Of a flat array's ``.npy`` header, whose length fits any size."""


@dataclass(frozen=True)
class RoundMessages:
    """Bytes of one message of each sort; those that are packed at the most."""

    whole_down: int
    update_down: int
    """To a site that has the model of the round before."""
    sent_up: int
    is_update_down: bool
    site_files: int
    """Models that a site keeps of each of its last rounds: what it received, and what its updates have left."""

    def down(self, rounds: int, share: float) -> float:
        """Return what a site is sent that is expected in ``share`` of the rounds, drawn anew for each."""
        if not self.is_update_down:
            return share * rounds * self.whole_down
        # In a later round it has the model of the one before where it was a part of that one, too.
        later = share * self.update_down + (1 - share) * self.whole_down
        return share * (self.whole_down + (rounds - 1) * later)

    def up(self, rounds: int, share: float) -> float:
        """Return what such a site sends."""
        return share * rounds * self.sent_up


def round_messages(config: RunConfig, *, num_classes: int, plain_bytes: int) -> RoundMessages:
    """Return the messages of a run; ``plain_bytes`` are those of a message as plain arrays."""
    part = config.federation
    if not (part.codec or part.codec_down) or not plain_bytes:
        return RoundMessages(plain_bytes, plain_bytes, plain_bytes, is_update_down=False, site_files=0)
    keys, name = student_keys(config, num_classes=num_classes)
    shared = set(SharedParameters.choose(keys, part, model=name).shared)
    specs = [_spec(key) for key in keys if key.name in shared]
    up, down = (Steps.of(names, topk_share=part.topk_share) for names in (part.codec, part.codec_down))
    return RoundMessages(
        whole_down=_bytes(down.without_loss, specs) if part.codec_down else plain_bytes,
        update_down=_bytes(down, specs) if part.codec_down else plain_bytes,
        sent_up=_bytes(up, specs) if part.codec else plain_bytes,
        is_update_down=down.is_lossy,
        site_files=up.is_lossy + down.is_lossy,
    )


def codec_sentences(part: FederationConfig) -> tuple[str, ...]:
    """Return what a plan says of how the student is written on its way."""
    if not part.codec and not part.codec_down:
        return ()
    words = [_words(part.codec, part.topk_share, who="Sites send"), _words(part.codec_down, part.topk_share,
             who="They are sent")]  # fmt: skip
    lossy = {"topk", "fp16", "int8"} & {*part.codec, *part.codec_down}
    later = " What a message leaves out is added to the next; statistics and counters go as they are." if lossy else ""
    most = " Bytes of what zstd packs are counted at the most." if "zstd" in (*part.codec, *part.codec_down) else ""
    return (f"{' '.join(words)}{later}{most}",)


def codec_warnings(part: FederationConfig, *, is_partial: bool) -> list[str]:
    """Return what of the codecs has no effect, or less; ``is_partial``: rounds ask some of the sites."""
    default, steps = FederationConfig(), (*part.codec, *part.codec_down)
    found = []
    if "topk" not in steps and part.topk_share != default.topk_share:
        found.append("federation.topk_share has no effect: no codec has the step 'topk'.")
    if steps and (part.site_students is not None or part.shared == "none"):
        keys = [f"federation.{key}" for key in ("codec", "codec_down") if getattr(part, key)]
        found.append(f"{' and '.join(keys)} has no effect: no weights of a student cross.")
    elif is_partial and {"topk", "fp16", "int8"} & {*part.codec_down}:
        found.append(
            "federation.codec_down helps less where rounds ask some of the sites: one that missed a round is sent the "
            "whole student."
        )
    return found


def _words(names: tuple[str, ...], share: float, *, who: str) -> str:
    if not names:
        return f"{who} the student as it is."
    said = {
        "topk": f"the largest {100 * share:g} % of each array's update",
        "fp16": "in 16 bits a number",
        "int8": "in 8 bits a number",
        "zstd": "packed by zstd",
    }
    updates = "the update of each array" if {"fp16", "int8"} & {*names} else "the student"
    return f"{who} {', '.join([*([] if 'topk' in names else [updates]), *(said[name] for name in names)])}."


def _spec(key: StateKey) -> ArraySpec:
    if key.is_buffer:
        return ArraySpec(key.name, "uint8", (key.num_bytes,), is_coded=False)
    size = key.num_bytes // FLOAT_BYTES
    return ArraySpec(key.name, CODED_DTYPE, (key.num_channels, size // key.num_channels), is_coded=True)


def _bytes(steps: Steps, specs: Iterable[ArraySpec]) -> int:
    return len(CODED) + HEADER_BYTES + PieceCodec(steps, list(specs)).max_bytes
