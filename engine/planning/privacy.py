"""What a plan says of ``[privacy]``: epsilon of each site, what it covers, and what it does not. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.accounting import epsilon_words, gaussian_epsilon, sampled_epsilon
from engine.config import RunConfig
from engine.config_fields import is_of_system
from engine.config_generators import GENERATORS
from engine.methods import catalogue
from engine.planning.records import PrivacyPlan, SitePlan

_GENERATOR = "generator"
"""The kind of message that a generator is."""
NOISED_KINDS = {"site": "student", "patient": _GENERATOR}
"""What is noised, by whose privacy it is for."""
_KEYS = ("clip_norm", "noise_multiplier", "delta", "noise_source")


def privacy_plan(config: RunConfig, stages: Collection[str], *, sources: Sequence[SitePlan]) -> tuple[PrivacyPlan, ...]:
    """Return epsilon of each site's updates after all rounds, then of its generator; nothing of what has no noise.

    At most: each site is taken to be asked in every round, and patience to end none early. Of generators it holds
    where no patient has two training images: how many patients there are, a site tells with its generator.
    """
    return (*_of_rounds(config, stages, sources), *_of_generators(config, stages, sources))


def _of_rounds(config: RunConfig, stages: Collection[str], sources: Sequence[SitePlan]) -> tuple[PrivacyPlan, ...]:
    if not config.privacy.is_on or not _has_rounds(stages):
        return ()
    part, rounds = config.privacy, config.federation.rounds
    alone, replaced = (
        gaussian_epsilon(
            noise_multiplier=part.noise_multiplier, releases=rounds, delta=part.delta, sensitivity=sensitivity
        )
        for sensitivity in (1.0, 2.0)
    )
    return tuple(PrivacyPlan(site.site, "site", rounds, part.delta, alone, replaced) for site in sources)


def _of_generators(config: RunConfig, stages: Collection[str], sources: Sequence[SitePlan]) -> tuple[PrivacyPlan, ...]:
    part = config.generator
    trained = [stage for stage in catalogue.stages(stages) if _GENERATOR in {kind.name for kind in stage.sends}]
    if part.dp_noise_multiplier is None or not trained:
        return ()
    found = []
    for site in sources:
        if config.join.sites and site.site not in config.join.sites:
            continue
        epsilon = sampled_epsilon(
            noise_multiplier=part.dp_noise_multiplier,
            sampling_rate=part.sampling_rate(site.num_train),
            steps=part.steps,
            delta=part.dp_delta,
        )
        found.append(PrivacyPlan(site.site, "patient", part.steps, part.dp_delta, epsilon, None))
    return tuple(found)


def privacy_sentences(config: RunConfig, planned: Sequence[PrivacyPlan]) -> tuple[str, ...]:
    """Return what a plan says beside what leaves a site."""
    return (*_rounds_said(config, planned), *_generators_said(config, planned))


def _generators_said(config: RunConfig, planned: Sequence[PrivacyPlan]) -> tuple[str, ...]:
    spent, part = [one for one in planned if one.unit == "patient"], config.generator
    if not spent:
        return ()
    most = max(spent, key=lambda one: one.epsilon)
    epsilon = epsilon_words(most.epsilon)
    return (
        f"Each site trains its generator by DP-SGD (dp_clip_norm {part.dp_clip_norm:g}, noise of "
        f"{part.dp_noise_multiplier:g} times that): after {most.releases} steps epsilon is {epsilon} at most "
        f"({most.site}) at delta {most.delta:g}. The unit is a patient, if none has two training images; with more it "
        "is larger, and the site tells it. The masks that go up, and the losses that it tells, are not covered.",
    )


def _rounds_said(config: RunConfig, planned: Sequence[PrivacyPlan]) -> tuple[str, ...]:
    spent = [one for one in planned if one.unit == "site"]
    if not spent:
        return ()
    part, most = config.privacy, spent[0]
    assert most.epsilon_replaced is not None
    who = {
        "client": "Each site clips its update of a round and adds noise before it leaves: nobody sees it without, the "
        "server neither",
        "central": "Each site clips its update of a round, and the server adds noise to the average: whoever has the "
        "models is kept from a site's update, the server itself sees it",
    }[part.mechanism]
    bound = (
        f"Over {most.releases} rounds epsilon is at most {epsilon_words(most.epsilon)} for each site at delta "
        f"{most.delta:g}: all of a site's images against none ({epsilon_words(most.epsilon_replaced)} against any "
        "others). The unit is a site, not a patient; that a site takes part is no secret"
    )
    return (
        f"{who} (clip_norm {part.clip_norm:g}, noise of {part.noise_multiplier:g} times that). {bound}.",
        "Epsilon covers the student's weights in rounds and what is made of them. It does not cover figures that sites "
        f"tell (loss, validation Dice, image counts){_uncovered(config)}.",
    )


def generator_privacy_warnings(config: RunConfig) -> list[str]:
    """Return what has no effect on the privacy of generators, and what weakens it."""
    part, default = config.generator, RunConfig().generator
    keys = ("dp_clip_norm", "dp_delta", "dp_noise_source")
    if not part.is_private:
        changed = [key for key in keys if getattr(part, key) != getattr(default, key)]
        unread = GENERATORS[part.kind].unread
        return [f"generator.{k} has no effect: dp_noise_multiplier is left out." for k in changed if k not in unread]
    if is_of_system(part.dp_noise_source, config.backend):
        return []
    return [
        "The generators' noise follows from the run's seed, and their epsilon does not hold against whoever knows it: "
        "generator.dp_noise_source 'system' has no such numbers."
    ]


def privacy_warnings(config: RunConfig, *, num_asked: int, has_statistics: bool) -> list[str]:
    """Return what has no effect on privacy, and what weakens it or costs more than expected."""
    part, federation, default = config.privacy, config.federation, RunConfig().privacy
    if not part.is_on:
        changed = [key for key in _KEYS if getattr(part, key) != getattr(default, key)]
        return [f"privacy.{key} has no effect: privacy.mechanism is off." for key in changed]
    found = []
    if not part.system_noise(config.backend):
        found.append(
            "The noise follows from the run's seed: whoever knows the seed can take it away, and epsilon does not hold "
            "against them. privacy.noise_source 'system' has no such numbers; two runs then differ."
        )
    if federation.patience is not None or config.export.student == "better_on_validation":
        found.append("Which round's or stage's model goes on follows from the sites' own figures, which have no noise.")
    if part.mechanism == "central" and len({*config.federation.codec_down} & {"topk", "fp16", "int8"}) > 0:
        found.append("federation.codec_down: updates are clipped from what the sites have received of the model.")
    if has_statistics and config.student.batch_norm != "kept":
        found.append(
            "Statistics of BatchNorm stay those of the first weights (privacy.mechanism): sites train with each "
            "batch's, and the model is used with the first ones. student.batch_norm 'kept' trains with them, too."
        )
    share = part.noise_multiplier * part.clip_norm / (num_asked if part.mechanism == "central" else num_asked**0.5)
    found.append(
        f"Of {num_asked} sites a round averages, the noise on each weight has the standard deviation {share:.3g}: a "
        "guarantee for whole sites is costly where few take part (README, python -m bench.privacy)."
    )
    return found


def _has_rounds(stages: Collection[str]) -> bool:
    return any("privacy" in stage.options for stage in catalogue.stages(stages))


def _uncovered(config: RunConfig) -> str:
    kinds = [
        kind.title
        for stage in catalogue.method(config.method).stages
        for kind in stage.sends
        if kind.name in (_GENERATOR, "masks", "appearance")
    ]
    return f", nor what later stages send ({', '.join(dict.fromkeys(kinds))})" if kinds else ""
