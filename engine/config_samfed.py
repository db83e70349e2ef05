"""Sections of a configuration for learning from a public labelled set at the server and unlabelled images at the sites.

No full text and no code of SAM-Fed (arXiv 2511.14302) could be found: this is our specification of it. [H] marks what
the code of HSSF has, whose protocol SAM-Fed very probably inherits.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.config_fields import Batch, Epochs, Factor, Fraction, PositiveFactor, Section, StepSize


class PublicConfig(Section):
    """Training at the server on its public labelled set: the student's start, and SAM by LoRA as a teacher."""

    epochs: Epochs = Field(50, description="Passes of the student over the public set (ours)")
    teacher_epochs: Epochs = Field(50, description="Passes of SAM, tuned by LoRA, over it (ours)")
    batch_size: Batch = Field(4, description="Images in a batch [H: 4]")
    learning_rate: StepSize = Field(1e-4, description="AdamW step size [H: 1e-4]")
    weight_decay: Fraction = Field(0.02, description="AdamW's decoupled decay [H: 0.02]")


class SamFedConfig(Section):
    """What sites learn from unlabelled images (SAM-Fed, our specification)."""

    pseudo_labels: Literal["agreement", "soft", "own", "confident", "truth"] = Field(
        "agreement",
        description="agreement of SAM and the site's model, hard or soft; the model's own (FedAvg with pseudo-labels), "
        "where it is confident (FixMatch); or the masks, as a ceiling (ours)",
    )
    threshold: Fraction = Field(
        0.8, description="Confidence below which a pixel without agreement, or of confident, teaches nothing (ours)"
    )
    unlabelled_weight: Factor = Field(1.0, description="Weight of the pseudo-label loss, after its ramp (ours)")
    teacher_weight: Factor = Field(0.5, description="Weight of the divergence from SAM, pixel by pixel (ours)")
    global_weight: Factor = Field(0.5, description="Weight of the divergence from the received model (ours)")
    temperature: PositiveFactor = Field(1.0, description="Temperature of both divergences, taken times T^2 (ours)")
    ramp_rounds: int = Field(20, ge=0, le=10_000, description="Rounds in which the pseudo-label loss grows [H: 20]")
    warmup_epochs: int = Field(
        1, ge=0, le=10_000, description="Passes over the public set by a site with a student of its own kind (ours)"
    )
    noise: Fraction = Field(0.1, description="Deviation of the noise of the strong view [H: 0.1]")
    fusion_epochs: int = Field(
        4,
        ge=0,
        le=1000,
        description="Students of several kinds: passes over the public set that learn from others [H: 4]",
    )
    fusion_weight: Factor = Field(
        1.25, description="Weight of that divergence; 10 in HSSF, whose mean is over two channels, without T^2 [H]"
    )
    fusion_temperature: PositiveFactor = Field(2.0, description="Temperature of that divergence [H: 2]")
    condensation_accuracy: Fraction = Field(
        0.75, description="Share of right pixels above which the server learns from a site's prediction [H: 0.75]"
    )

    @property
    def uses_teacher(self) -> bool:
        """Whether SAM says anything of the sites' images."""
        return self.pseudo_labels in ("agreement", "soft") or self.teacher_weight > 0
