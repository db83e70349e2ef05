"""The sections of a configuration that are about what of SAM is tuned: low-rank updates that sites share, and experts
that each site keeps. Torch-free.

pFedSAM (arXiv 2509.15638) has neither a full text that could be found nor code: every constant here is ours.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engine.config_fields import Factor, PositiveFactor, Section

LoraLayer = Literal["q", "k", "v", "proj", "lin1", "lin2"]
"""Of a block of SAM's image encoder: attention's three projections and the one after them, the MLP's two layers."""
LoraLayers = Annotated[tuple[LoraLayer, ...], Field(min_length=1, max_length=6)]


class LoraConfig(Section):
    """Low-rank updates of a frozen image encoder (LoRA, Hu et al., ICLR 2022), the decoder learning beside them."""

    use: bool = Field(False, description="The student learns by LoRA; FedAvg-LoRA and pFedSAM set it")
    rank: int = Field(4, ge=1, le=1024, description="Rank of each update (ours)")
    alpha: PositiveFactor = Field(4.0, description="Updates are scaled by alpha / rank (ours)")
    layers: LoraLayers = Field(("q", "v"), description="Layers of every block that are updated (ours)")


class ExpertsConfig(Section):
    """L-MoE: experts beside the MLP that each site keeps, and their training (pFedSAM, our specification)."""

    use: bool = Field(False, description="Each site has experts of its own; pFedSAM sets it")
    number: int = Field(4, ge=1, le=64, description="Experts in a block (ours)")
    top_k: int = Field(0, ge=0, le=64, description="Experts that a token uses; 0 is all, weighted (ours)")
    width: int = Field(64, ge=1, le=4096, description="Width inside an expert (ours)")
    blocks: Literal["global", "all"] = Field(
        "global", description="Blocks that have experts: those of global attention, or all (ours)"
    )
    strength: Factor = Field(0.5, description="Factor of the experts beside the MLP (ours; FedMSA's adapter: 0.5)")
    epochs: int = Field(
        1, ge=0, le=10_000, description="Epochs of the experts in a round, after those of the rest (ours)"
    )
    distillation_weight: Factor = Field(0.5, description="beta: weight of KL(global || personal) (ours)")
    temperature: PositiveFactor = Field(2.0, description="T of that KL, which is taken times T^2 (ours)")
    balance_weight: Factor = Field(0.01, description="Weight of the loss that spreads tokens over experts (ours)")
