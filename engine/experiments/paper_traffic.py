"""Table 3's traffic at the paper's sizes, worked out from what the models weigh: nothing is run. Torch-free.

The published figures are those of one client: rounds x 2 (up and down) x MiB of the checkpoint (inferred: it gives
four of the six within 0.5 %). State sizes are the planning tables', which ``tests/unit/test_planning.py`` holds equal
to the models. Two columns: what explains the published figure (the authors' checkpoint), and what this engine sends.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.experiments.measures import MIB
from engine.planning.costs import GENERATORS, MODELS
from engine.planning.model_keys import model_keys

ROUNDS = 100
WAYS = 2
BYTES = 4
"""Of a float32 parameter."""
TOLERANCE = 0.01
"""How near an explanation has to come."""
ADAPTER_PARAMETERS = 2 * 768 * 192 + 192 + 768
"""Linear 768 to 192 and back, with biases: 295,872 (FedFMS, arXiv 2403.05408)."""
ADAPTERS_SENT, ADAPTERS_USED = 36, 24
"""Three a block in the authors' code, of which the one for volumes never runs on images; two of them learn."""
UNUSED_HEAD_PARAMETERS = 321_640
"""ImageNet classifier that the authors' TinyViT keeps and sends, and ours leaves out."""
AUTHORS_UNET_MIB = 12.13
"""Measured checkpoint of the authors' Unet2D, which is not published as code."""


@dataclass(frozen=True)
class TrafficRow:
    """One system's traffic over all rounds, of one client, in MiB; ``None`` where it is not explained or not here."""

    system: str
    title: str
    explained_mib: float | None
    ours_mib: float | None
    note: str


def over_rounds(num_bytes: float) -> float:
    """Return the MiB of sending ``num_bytes`` up and down in every round."""
    return ROUNDS * WAYS * num_bytes / MIB


def paper_traffic() -> tuple[TrafficRow, ...]:
    """Return the rows of the table, in its order."""
    sam, tiny = MODELS["sam", "vit_b"].state_bytes, MODELS["tinysam", "5m"].state_bytes
    unet, nnunet = MODELS["unet", "paper"].state_bytes, MODELS.get(("nnunet", "paper"))
    decoder, prompts = _part_bytes("mask_decoder."), _part_bytes("prompt_encoder.")
    adapter = ADAPTER_PARAMETERS * BYTES
    whole_tiny = tiny + UNUSED_HEAD_PARAMETERS * BYTES
    controlnet = GENERATORS["sd15"].controlnet_parameters * BYTES
    return (
        TrafficRow("fedsam", "FedSAM", over_rounds(sam), over_rounds(sam), "all of SAM ViT-B"),
        TrafficRow(
            "fedmsa",
            "FedMSA",
            over_rounds(ADAPTERS_SENT * adapter + decoder + prompts),
            over_rounds(ADAPTERS_USED * adapter + decoder),
            f"theirs: {ADAPTERS_SENT} adapters of {ADAPTER_PARAMETERS:,} parameters, decoder and prompt encoder; "
            f"ours: what learns, {ADAPTERS_USED} adapters and the decoder",
        ),
        TrafficRow(
            "fedunet",
            "FedU-Net",
            over_rounds(AUTHORS_UNET_MIB * MIB),
            over_rounds(unet),
            f"theirs: Unet2D of {AUTHORS_UNET_MIB} MiB, not ours of {unet / MIB:.2f} MiB (MONAI, residual): "
            f"{over_rounds(unet) / over_rounds(AUTHORS_UNET_MIB * MIB) - 1:+.1%}",
        ),
        TrafficRow(
            "fednnunet",
            "FednnU-Net",
            None,
            None if nnunet is None else over_rounds(nnunet.state_bytes),
            "the published figure is not explained: its network is not described"
            + ("; not in this version" if nnunet is None else ""),
        ),
        TrafficRow(
            "fedtinysam",
            "FedTinySAM",
            over_rounds(whole_tiny),
            over_rounds(tiny),
            f"theirs: with an unused classifier of {UNUSED_HEAD_PARAMETERS:,} parameters, which ours has not",
        ),
        TrafficRow(
            "dsfedmed",
            "DSFedMed",
            None,
            over_rounds(tiny) + (controlnet + tiny) / MIB,
            "the published figure is not explained: it is FedTinySAM's and 1,150 once, where the ControlNet has "
            f"{controlnet / MIB:,.0f} MiB in float32; ours: TinySAM's rounds, the ControlNet up once, the distilled "
            "student down once, without masks",
        ),
    )


def _part_bytes(prefix: str) -> int:
    """Bytes of the parameters of SAM ViT-B whose names begin with ``prefix``, for one class."""
    keys = model_keys("sam/vit_b", num_classes=1)
    return sum(key.num_bytes for key in keys if key.name.startswith(prefix) and not key.is_buffer)
