"""Stage: every model of the run on images that no training saw, and on the sources' validation images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from engine.data.imagesets import ImageSet
from engine.evaluation.segmentation import evaluate_model, summarise
from engine.stages.context import Role, RunContext
from engine.stages.files import write_json
from engine.types import EvaluationRow

MODELS: tuple[tuple[str, Role], ...] = (
    ("fedavg_student", "student"),
    ("finetuned_teacher", "teacher"),
    ("distilled_teacher", "teacher"),
    ("distilled_student", "student"),
)
Entry = tuple[Literal["test", "validation"], str, ImageSet]

ROWS_FILE = Path("evaluation") / "rows.json"
IMAGES_FILE = Path("evaluation") / "images.json"


class Evaluation:
    """Dice, IoU and HD95 with bootstrap intervals; nothing is chosen by the unseen site's."""

    name = "evaluation"
    describe = "All models are measured on the site that no training saw."

    def run(self, context: RunContext) -> None:
        """Evaluate the models that this run's method has made; what an interrupted attempt has measured is kept."""
        models = [(name, role) for name, role in MODELS if context.model_path(name).is_file()]
        sets = _image_sets(context)
        state = context.checkpoints.load(self.name) or {"rows": {}, "images": {}}
        total = len(models) * len(sets)
        for number, (name, role) in enumerate(models):
            missing = [place for place in range(len(sets)) if f"{name} {place}" not in state["rows"]]
            model = context.load_model(role, name) if missing else None
            for place in missing:
                split, site, image_set = sets[place]
                context.reporter.progress(number * len(sets) + place, total, message=f"{name}, {site}")
                rows, images = evaluate_model(
                    model,
                    image_set,
                    classes=context.federation.classes,
                    model_name=name,
                    site=site,
                    split=split,
                    config=context.config.evaluation,
                    seed=context.config.seed,
                    device=context.device,
                    precision="fp32",  # as the exported model is served, so that the bundle's figures are its own
                    check_cancelled=context.reporter.check_cancelled,
                )
                state["rows"][f"{name} {place}"] = [asdict(row) for row in rows]
                state["images"][f"{name} {place}"] = images
                context.checkpoints.save(self.name, state)
        keys = [f"{name} {place}" for name, _ in models for place in range(len(sets))]
        images = [image for key in keys for image in state["images"][key]]
        found = [*_pooled_rows(context, sets, images), *(row for key in keys for row in state["rows"][key])]
        write_json(context.run_dir / ROWS_FILE, found)
        write_json(context.run_dir / IMAGES_FILE, images)
        context.reporter.evaluation([EvaluationRow(**row) for row in found])
        context.reporter.progress(total, total)


def _image_sets(context: RunContext) -> list[Entry]:
    """Return (split, site, images): the unseen images first, then the sources' validation images where there are any.

    A fixed test set may hold several sites: one entry each.
    """
    test, sources = context.federation.test, context.federation.sites
    by_site: dict[str, list[int]] = {}
    for index, item in enumerate(test.test.items):
        by_site.setdefault(item.site, []).append(index)
    sets: list[Entry] = [("test", test.name, test.test)]
    if len(by_site) > 1:
        names = {site: f"{site}_test" if site in sources else site for site in by_site}
        sets = [("test", names[site], test.test.subset(chosen)) for site, chosen in by_site.items()]
    sets += [("validation", site.name, site.validation) for site in sources.values()]
    return [entry for entry in sets if len(entry[2])]


def _pooled_rows(context: RunContext, sets: list[Entry], images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows over all sites of a test set with several of them; none where there is one."""
    tested = {site for split, site, _ in sets if split == "test"}
    if len(tested) < 2:
        return []
    pooled = [{**image, "site": context.federation.test.name} for image in images if image["site"] in tested]
    rows = summarise(pooled, split="test", config=context.config.evaluation, seed=context.config.seed)
    return [asdict(row) for row in rows]
