"""What a report says of the privacy that a run's rounds have spent. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from engine.accounting import epsilon_words
from engine.config import RunConfig
from engine.methods import catalogue
from engine.report.ledger import Message

HEADER = ("Site", "Stage", "Updates", "Epsilon at most")


def privacy_rows(messages: Sequence[Message]) -> list[tuple[str, str, str, str]]:
    """Return a line for each site and stage whose updates are private: how many went up, and epsilon after them."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in messages:
        if one.epsilon is not None:
            groups.setdefault((one.site, one.stage), []).append(one.epsilon)
    return [
        (site, catalogue.stage_title(stage), str(len(spent)), epsilon_words(max(spent)))
        for (site, stage), spent in sorted(groups.items())
    ]


def privacy_words(config: RunConfig | None) -> str:
    """Return what the numbers of :func:`privacy_rows` are of."""
    said = (
        "Epsilon is of all of a site's images against none, over all of its updates: its unit is a site, not a patient."
    )
    if config is not None and config.privacy.is_on:
        part = config.privacy
        who = {"client": "each site before its update left", "central": "the server, which saw the updates without"}
        noise = (
            "the operating system's" if part.system_noise(config.backend) else "the seed's, and void for who knows it"
        )
        said += (
            f" Delta is {part.delta:g}; updates were clipped to the norm {part.clip_norm:g}, and noise of "
            f"{part.noise_multiplier:g} times that was added by {who[part.mechanism]}; the noise is {noise}."
        )
    return f"{said} Figures that sites tell, and messages without an epsilon, are not covered."
