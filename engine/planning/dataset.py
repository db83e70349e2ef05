"""What a data set is made of, for those who only want to name its parts: no image is opened. Torch-free."""

from __future__ import annotations

from pathlib import Path

from engine.config import DataConfig, RunConfig
from engine.data.description import read_description
from engine.data.layout import dataset_sites
from engine.data.phantoms import TASKS
from engine.federation.connect import describe, with_sites
from engine.federation.descriptions import FederationDescription


def site_names(*, source: str, task: str, root: Path | None) -> tuple[str, ...]:
    """Return the sites of a phantom task or of a dataset folder, sorted: the last is held out where none is named.

    Reads ``dataset.toml`` and the names of sub-folders. Empty where there is no such task or no folder is given;
    raises ``UserError`` for a folder that is no dataset.
    """
    if source == "phantom":
        return tuple(sorted(TASKS[task].sites)) if task in TASKS else ()
    return () if root is None else tuple(dataset_sites(root))


def class_names(data: DataConfig) -> tuple[str, ...]:
    """Return the classes that a run on ``data`` segments, in the order of its mask planes.

    Empty where neither the configuration nor a ``dataset.toml`` names them; ``UserError`` for one with faults.
    """
    if data.classes is not None:
        return tuple(dict.fromkeys(data.classes))
    if data.source == "phantom":
        return TASKS[data.task].classes if data.task in TASKS else ()
    description = None if data.root is None else read_description(data.root)
    return () if description is None else description.classes


def told_by_sites(config: RunConfig) -> FederationDescription:
    """Return what the sites of a federation across machines say of their data: names and counts, no pixels.

    Asks those that are connected, and waits a minute for the others; raises ``UserError`` where one does not answer.
    """
    return describe(with_sites(config))
