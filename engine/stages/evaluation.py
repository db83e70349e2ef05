"""Stage: every model of the run on images that no training saw, and on the sources' validation images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    """Dice, IoU and HD95 with bootstrap intervals; nothing here is used to choose anything."""

    name = "evaluation"
    describe = "All models are measured on the site that no training saw."

    def run(self, context: RunContext) -> None:
        """Evaluate the models that this run's method has made."""
        models = [(name, role) for name, role in MODELS if context.model_path(name).is_file()]
        sets = [("test", context.federation.test.name, context.federation.test.test)]
        sets += [("validation", site.name, site.validation) for site in context.federation.sites.values()]
        sets = [entry for entry in sets if len(entry[2])]
        rows: list[EvaluationRow] = []
        images: list[dict[str, Any]] = []
        for number, (name, role) in enumerate(models):
            model = context.load_model(role, name)
            for place, (split, site, image_set) in enumerate(sets):
                context.reporter.progress(
                    number * len(sets) + place, len(models) * len(sets), message=f"{name}, {site}"
                )
                found, per_image = evaluate_model(
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
                rows += found
                images += per_image
        write_json(context.run_dir / ROWS_FILE, [asdict(row) for row in rows])
        write_json(context.run_dir / IMAGES_FILE, images)
        context.reporter.evaluation(rows)
        context.reporter.progress(len(models) * len(sets), len(models) * len(sets))
