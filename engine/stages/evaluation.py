"""Stage: every model of the run on images that no training saw, and on the sources' validation images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from engine.data.imagesets import ImageSet
from engine.evaluation.segmentation import evaluate_model
from engine.stages.context import Role, RunContext
from engine.stages.files import write_json
from engine.types import EvaluationRow

MODELS: tuple[tuple[str, Role], ...] = (
    ("fedavg_student", "student"),
    ("finetuned_teacher", "teacher"),
    ("distilled_teacher", "teacher"),
    ("distilled_student", "student"),
)


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
        found = [row for key in keys for row in state["rows"][key]]
        write_json(context.run_dir / ROWS_FILE, found)
        write_json(context.run_dir / IMAGES_FILE, [image for key in keys for image in state["images"][key]])
        context.reporter.evaluation([EvaluationRow(**row) for row in found])
        context.reporter.progress(total, total)


def _image_sets(context: RunContext) -> list[tuple[Literal["test", "validation"], str, ImageSet]]:
    """Return (split, site, images): the unseen site first, then the sources' validation images where there are any."""
    test = context.federation.test
    sets: list[tuple[Literal["test", "validation"], str, ImageSet]] = [("test", test.name, test.test)]
    sets += [("validation", site.name, site.validation) for site in context.federation.sites.values()]
    return [entry for entry in sets if len(entry[2])]
