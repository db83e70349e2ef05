"""The public datasets that can be prepared, a file a family."""

from __future__ import annotations

from engine.data.prepare import chaos, decathlon, fundus, isic, nuclei, polyps, prostate
from engine.data.prepare.faults import unknown
from engine.data.prepare.records import PublicDataset

FAMILIES = (fundus, prostate, nuclei, isic, chaos, polyps, decathlon)
DATASETS: dict[str, PublicDataset] = {dataset.name: dataset for family in FAMILIES for dataset in family.DATASETS}


def find_dataset(name: str) -> PublicDataset:
    """Return the dataset called ``name``; raises ``UserError`` ``prepare.unknown``, which names them all."""
    if name not in DATASETS:
        raise unknown(name, DATASETS)
    return DATASETS[name]
