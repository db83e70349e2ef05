"""The words of the badges beside a model's results."""

from __future__ import annotations

BEST = "best"
EXPORTED = "exported"
NO_BETTER = "no better than FedAvg"
LEGEND = {
    BEST: "the highest mean Dice on the unseen images",
    EXPORTED: "the model in the run's bundle",
    NO_BETTER: "the 95 % interval of its Dice minus FedAvg's on the same images does not lie above 0",
}
