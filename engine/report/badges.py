"""What a run's results say of its models in a word: best, exported, no better than FedAvg. Torch-free.

Rows and differences come under the models' names in the run, before they are called by its own titles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.errors import UserError
from engine.methods import catalogue
from engine.methods.catalogue import RunModels
from engine.runs.store import RunStore
from engine.types import MEAN_CLASS, EvaluationRow, ModelDifference

BEST = "best"
EXPORTED = "exported"
NO_BETTER = "no better than FedAvg"
LEGEND = {
    BEST: "the highest mean Dice on the unseen images",
    EXPORTED: "the model in the run's bundle",
    NO_BETTER: "the 95 % interval of its Dice minus FedAvg's on the same images does not lie above 0",
}
Badges = Mapping[str, tuple[str, ...]]
"""By the model's title in the run."""


def badges(
    rows: Sequence[EvaluationRow],
    differences: Sequence[ModelDifference],
    *,
    config: RunModels,
    stages: Sequence[str],
    exported: str | None,
) -> Badges:
    """Return the badges of each model that has any.

    *best* has the highest mean Dice on the images that no training saw, where several models were measured on them;
    *no better than FedAvg* is a model whose paired 95 % interval over FedAvg's, on the same images, does not lie above
    0. ``exported`` is the name of the model in the run's bundle.
    """
    found: dict[str, list[str]] = {}
    tested = _tested(rows)
    if len(tested) > 1:
        best = max(tested.values(), key=lambda row: row.dice)
        for model, row in tested.items():
            if row.dice == best.dice:
                found.setdefault(model, []).append(BEST)
    if exported is not None:
        found.setdefault(exported, []).append(EXPORTED)
    averaged = averaged_model(stages)
    for difference in _tested_differences(differences):
        no_better = difference.dice_low is not None and difference.dice_low <= 0
        if difference.baseline == averaged and no_better:
            found.setdefault(difference.model, []).append(NO_BETTER)
    return {catalogue.model_title(model, config): tuple(words) for model, words in found.items()}


def averaged_model(stages: Sequence[str]) -> str | None:
    """Return the name of the model that the sites average, the first of the run; ``None`` where nothing is averaged."""
    made = (model for stage in catalogue.stages(stages) if stage.averages for model in stage.makes)
    return next((model.name for model in made if model.scope == "run"), None)


def exported_model(store: RunStore, run_id: str) -> str | None:
    """Return the name of the model in the run's bundle, as evaluation calls it; ``None`` where there is none."""
    from export.manifest import read_manifest

    bundles = store.artefacts(run_id, kind="bundle")
    try:
        return read_manifest(store.run_dir(run_id) / bundles[-1].path).model.role if bundles else None
    except UserError:  # it is being written anew, or damaged: the Segment tab says so
        return None


def _tested(rows: Sequence[EvaluationRow]) -> dict[str, EvaluationRow]:
    """Return each model's row on all unseen images: the mean over classes, and of all sites of the test together."""
    found: dict[str, EvaluationRow] = {}
    for row in rows:
        if row.split == "test":
            found[row.model] = max(found.get(row.model, row), row, key=_breadth)
    return found


def _tested_differences(rows: Sequence[ModelDifference]) -> list[ModelDifference]:
    found: dict[tuple[str, str], ModelDifference] = {}
    for row in rows:
        if row.split == "test":
            key = (row.model, row.baseline)
            found[key] = max(found.get(key, row), row, key=_breadth)
    return list(found.values())


def _breadth(row: EvaluationRow | ModelDifference) -> tuple[int, bool]:
    return row.num_images, row.class_name == MEAN_CLASS
