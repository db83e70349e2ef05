"""How the server makes one model of the sites' replies: one file an algorithm, found by name in ``registry``."""

from __future__ import annotations

from engine.federation.aggregation.aggregator import Aggregator, Buffers
from engine.federation.aggregation.fedavg import federated_average, rounded_shares
from engine.federation.aggregation.registry import AGGREGATORS, make_aggregator, make_private_aggregator

__all__ = ["AGGREGATORS", "Aggregator", "Buffers", "federated_average", "make_aggregator",
           "make_private_aggregator", "rounded_shares"]  # fmt: skip
