"""What a report says of the privacy that a run has spent. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from engine.accounting import epsilon_words
from engine.config import RunConfig
from engine.config_fields import NoiseSource, is_of_system
from engine.methods import catalogue
from engine.report.ledger import Message

HEADER = ("Site", "Whose privacy", "Stage", "Messages", "Epsilon at most")
UNITS = {"site": "the site's", "patient": "each patient's"}


def privacy_rows(messages: Sequence[Message]) -> list[tuple[str, str, str, str, str]]:
    """Return a line for each site and stage that sent what was noised: how often, and epsilon after all of it."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for one in messages:
        if one.epsilon is not None and one.epsilon_of is not None:
            groups.setdefault((one.site, one.epsilon_of, one.stage), []).append(one.epsilon)
    return [
        (site, UNITS[unit], catalogue.stage_title(stage), str(len(spent)), epsilon_words(max(spent)))
        for (site, unit, stage), spent in sorted(groups.items())
    ]


def privacy_words(config: RunConfig | None) -> list[str]:
    """Return what the numbers of :func:`privacy_rows` are of, in sentences."""
    said = ["Epsilon is of all images of a site, or of a patient, against none, over all that was noised."]
    if config is not None and config.privacy.is_on:
        part = config.privacy
        who = {"client": "by each site before it left", "central": "by the server, which saw the updates without"}
        said.append(
            f"Rounds: delta {part.delta:g}; updates were clipped to the norm {part.clip_norm:g}, and noise of "
            f"{part.noise_multiplier:g} times that was added {who[part.mechanism]}{_source(part.noise_source, config)}."
        )
    if config is not None and config.generator.dp_noise_multiplier is not None:
        own = config.generator
        said.append(
            f"Generators: delta {own.dp_delta:g}; each drawn patient's gradient was clipped to the norm "
            f"{own.dp_clip_norm:g}, with noise of {own.dp_noise_multiplier:g} times that"
            f"{_source(own.dp_noise_source, config)}."
        )
    return [*said, "Figures that sites tell, and messages without an epsilon, are not covered."]


def _source(source: NoiseSource, config: RunConfig) -> str:
    if is_of_system(source, config.backend):
        return " (of the operating system)"
    return " (of the run's seed: void against whoever knows it)"
