"""The section ``distillation`` of a configuration: learnability, both models' training, and our gate on the student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from engine.config_fields import Batch, Decay, Epochs, Factor, Fraction, Name, PositiveFactor, Section, StepSize

MAX_EXCLUDED = 10_000
"""Samples that a configuration leaves out at most (ours)."""
MIXES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the way from the student of before to the distilled one that gate = "mix" has judged (ours)."""
SampleIds = Annotated[tuple[Name, ...], Field(max_length=MAX_EXCLUDED)]
"""Of synthetic samples: ``SITE/00042``."""


class DistillationConfig(Section):
    """Mutual distillation by learnability (Eq. 6-8)."""

    mode: Literal["paper", "reference"] = Field(
        "paper", description="Pool-level Eq. 6, or the authors' code: in-batch rule, eval mode, SAM's encoder frozen"
    )
    epochs: Epochs = Field(20, description="Distillation epochs [C: 20]")
    batch_size: Batch = Field(4, description="Images in a batch [C: 4]")
    student_learning_rate: StepSize = Field(1e-4, description="Adam [C: 1e-4]")
    teacher_learning_rate: StepSize = Field(1e-4, description="Adam [C: 1e-4]")
    learnability_lambda: Fraction = Field(0.5, description="Weight of reliability against dispute, Eq. 6 [P: near 0.5]")
    selector: Literal["top_k", "sample", "in_batch_quantile"] = Field(
        "top_k", description="Best scores; drawn without replacement by exp(s); or the reference's in-batch rule"
    )
    selection_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="Share trained on [C: 0.5]")
    excluded_samples: SampleIds = Field(
        (), description="Synthetic samples by their id that no epoch scores or trains on: left out by a person (ours)"
    )
    score_scaling: Literal["raw", "zscore"] = Field("raw", description="Eq. 6 terms as they are, or z-scored (ours)")
    scoring: Literal["reuse", "exact"] = Field(
        "reuse", description="Before each epoch: by both models in full (exact), or on kept SAM features (reuse, ours)"
    )
    refresh_fraction: Fraction = Field(0.1, description="reuse: share of SAM's features renewed at a choice (ours)")
    scoring_interval: Epochs = Field(1, description="Epochs that train on one choice of the pool (ours)")
    temperature: PositiveFactor = Field(1.0, description="KL temperature [C: 1.0]")
    supervision_weight: Fraction = Field(0.9, description="w of w*BCE + (1-w)*KL, both means over classes [C: 0.9]")
    reliable_quantile: Fraction = Field(0.7, description="in_batch_quantile: reliability threshold [C: 0.7]")
    mutual: bool = Field(True, description="Both models learn; off: one-way, SAM to TinySAM")
    feature_weight: Factor = Field(0.0, description="Weight of the encoder feature loss [C: off]")
    average_decay: Decay = Field(0.0, description="Moving mean of the epochs' weights is kept; 0 is the last (ours)")
    batch_norm_statistics: Literal["synthetic", "sites"] = Field(
        "synthetic",
        description="Statistics of the distilled student: of training, or measured again on the sites' images (ours)",
    )
    styles: Literal["off", "student", "both"] = Field(
        "off", description="Who sees every synthetic image in a strong random style: the student alone, or both (ours)"
    )
    gate: Literal["off", "best", "mix", "watch"] = Field(
        "off",
        description="Sites judge: best, each epoch's student, FedAvg's being epoch 0; mix, means of FedAvg's and the "
        "distilled, of which that nearest to the distilled is kept that they allow; watch, each epoch's, of which the "
        "last is kept all the same (ours)",
    )
    gate_tolerance: Fraction = Field(0.01, description="mix: how much lower its validation Dice may be (ours)")
    teacher_check: Literal["off", "sites"] = Field(
        "off", description="sites: they validate SAM before; one worse than TinySAM there does not teach it (ours)"
    )
    freeze_teacher_encoder: bool = Field(False, description="Off in the paper; reference mode always freezes it [C]")

    @model_validator(mode="after")
    def _check_gate(self) -> DistillationConfig:
        if self.teacher_check == "sites" and self.gate == "off":
            raise ValueError(
                "distillation.teacher_check 'sites' compares with what a gate asks of the student: distillation.gate "
                "is 'off'"
            )
        if self.teacher_check == "sites" and self.mode == "reference":
            raise ValueError(
                "distillation.teacher_check 'sites' changes what the authors' code does: distillation.mode is "
                "'reference'"
            )
        if self.styles != "off" and self.mode == "reference":
            raise ValueError(
                f"distillation.styles '{self.styles}' changes what the authors' code does: distillation.mode is "
                "'reference'"
            )
        if self.gate != "off" and self.batch_norm_statistics == "sites":
            raise ValueError(
                f"distillation.gate '{self.gate}' judges a student whose statistics "
                "distillation.batch_norm_statistics 'sites' replaces"
            )
        return self
