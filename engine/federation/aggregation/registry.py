"""The algorithms by the names that ``federation.aggregation`` takes. A new one is a file and a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.config import FederationConfig, RunConfig
from engine.federation.aggregation.aggregator import Aggregator, Buffers
from engine.federation.aggregation.fedavg import FedAvg
from engine.federation.aggregation.fedavgm import FedAvgM
from engine.federation.aggregation.krum import Krum
from engine.federation.aggregation.median import Median
from engine.federation.aggregation.norm_clipping import NormClipping
from engine.federation.aggregation.private_average import PrivateAverage
from engine.federation.aggregation.trimmed_mean import TrimmedMean
from engine.federation.privacy import noise_of

AGGREGATORS: dict[str, Callable[[FederationConfig, FedAvg], Aggregator]] = {
    "fedavg": lambda config, average: average,
    "fedavgm": lambda config, average: FedAvgM(
        average, momentum=config.server_momentum, learning_rate=config.server_learning_rate
    ),
    "median": lambda config, average: Median(average.buffers),
    "trimmed_mean": lambda config, average: TrimmedMean(config.trimmed_share, average.buffers),
    "krum": lambda config, average: Krum(average, config.hostile_sites),
    "multi_krum": lambda config, average: Krum(average, config.hostile_sites, num_kept=None),
}
"""Name to what makes the algorithm from the settings and the FedAvg that they describe."""


def make_aggregator(
    config: FederationConfig, *, buffers: frozenset[str], num_examples: Mapping[str, int] | None = None
) -> Aggregator:
    """Return the algorithm that ``config`` chooses.

    Parameters
    ----------
    config : FederationConfig
    buffers : frozenset of str
        Names of the model's arrays that are no parameters.
    num_examples : mapping, optional
        Training images that each site has said that it has; large sites may move further before they are clipped.
    """
    average = FedAvg(Buffers(buffers, config.average_buffers), config.aggregation_weights == "rounded")
    chosen = AGGREGATORS[config.aggregation](config, average)
    if config.large_updates != "clip":
        return chosen
    return NormClipping(chosen, config.update_norm_limit, buffers=buffers, num_examples=num_examples)


def make_private_aggregator(
    config: RunConfig, *, buffers: frozenset[str], num_examples: Mapping[str, int] | None = None
) -> Aggregator:
    """Return the algorithm of a run under ``config.privacy``; statistics of BatchNorm stay as they are where it is on.

    Where each site noises its own update, every aggregation of what comes is allowed: it sees nothing else.
    """
    part = config.privacy
    if part.mechanism == "central":
        return PrivateAverage(
            part.clip_norm, part.noise_multiplier, lambda number: noise_of(config, "server", number), buffers
        )
    federation = config.federation.model_copy(update={"average_buffers": False}) if part.is_on else config.federation
    return make_aggregator(federation, buffers=buffers, num_examples=num_examples)
