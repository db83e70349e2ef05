"""The section ``privacy`` of a configuration: differential privacy of the student's rounds, and what voids it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.config_federation import FederationConfig
from engine.config_fields import Delta, NoiseSource, PositiveFactor, Section, is_of_system

_LOSSY = ("topk", "fp16", "int8")


class PrivacyConfig(Section):
    """Differential privacy of the rounds (ours: the paper has none); its unit is a site, not a patient."""

    mechanism: Literal["off", "client", "central"] = Field(
        "off",
        description="Noise on a round's updates: none [P], each site's on its own before it leaves, or the server's on "
        "the average of updates that the sites have clipped (ours)",
    )
    clip_norm: PositiveFactor = Field(1.0, description="L2 norm that a site's update is shortened to in a round (ours)")
    noise_multiplier: PositiveFactor = Field(
        1.0, description="Standard deviation of the noise as a multiple of clip_norm (ours)"
    )
    delta: Delta = Field(1e-5, description="Probability that epsilon does not hold; far below 1 / sites (ours)")
    noise_source: NoiseSource = Field(
        "auto",
        description="Noise from the run's seed, which voids the guarantee against whoever knows it, or from the "
        "operating system; auto: from there where sites are at hospitals (ours)",
    )

    @property
    def is_on(self) -> bool:
        """Whether updates are clipped and noised."""
        return self.mechanism != "off"

    def system_noise(self, backend: str) -> bool:
        """Return whether the noise is the operating system's, so that no run repeats another's numbers."""
        return is_of_system(self.noise_source, backend)


def privacy_fault(part: PrivacyConfig, federation: FederationConfig, *, has_experts: bool, pooled: bool) -> str | None:
    """Return why the guarantee of ``part`` would not hold with these settings, None where it does."""
    if not part.is_on:
        return None
    keeps = [
        key
        for key in ("shared_parameters", "local_parameters", "site_students")
        if getattr(federation, key) is not None
    ]
    keeps += ["normalisation = 'local'"] if federation.normalisation == "local" else []
    keeps += ["shared = 'none'"] if federation.shared == "none" else []
    said = [f"federation.{key}" for key in keeps] + (["experts.use"] if has_experts else [])
    if said:
        return (
            f"privacy.mechanism '{part.mechanism}' covers what sites average, and {said[0]} keeps parts at the sites, "
            "which may go up later without noise: leave it out, or turn privacy.mechanism off"
        )
    if pooled:
        return "privacy.mechanism covers a site among others, and data.pooled makes one of all: leave one of them out"
    return _central_fault(federation) if part.mechanism == "central" else None


def _central_fault(federation: FederationConfig) -> str | None:
    """With noise at the server, what it averages has to move by clip_norm / sites at most for any one of them."""
    said = "privacy.mechanism 'central' needs "
    if federation.aggregation != "fedavg":
        return (
            f"{said}federation.aggregation 'fedavg': how far one site can move '{federation.aggregation}' is not "
            "bounded by its clipped update; with 'client' every aggregation is possible"
        )
    if federation.large_updates != "accept":
        return (
            f"{said}federation.large_updates 'accept': '{federation.large_updates}' judges a site by the others, so "
            "that one moves what another's update counts; privacy.clip_norm bounds each already"
        )
    lossy = [step for step in federation.codec if step in _LOSSY]
    if lossy:
        return (
            f"{said}federation.codec without '{lossy[0]}': what a message leaves out is sent in a later one, whose "
            "norm is not the clipped one any more; 'zstd' loses nothing, and with 'client' every codec is possible"
        )
    if federation.aggregation_weights != "exact":
        return f"{said}federation.aggregation_weights 'exact': every site counts the same there"
    return None
