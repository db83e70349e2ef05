"""Stage: every model of the run on images that no training saw, and on the sources' validation images."""

from __future__ import annotations

from engine.evaluation.segmentation import evaluate_model
from engine.stages.context import Role, RunContext
from engine.types import EvaluationRow

MODELS: tuple[tuple[str, Role], ...] = (
    ("fedavg_student", "student"),
    ("finetuned_teacher", "teacher"),
    ("distilled_teacher", "teacher"),
    ("distilled_student", "student"),
)


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
        for number, (name, role) in enumerate(models):
            model = context.load_model(role, name)
            rows: list[EvaluationRow] = []
            for place, (split, site, image_set) in enumerate(sets):
                context.reporter.progress(
                    number * len(sets) + place, len(models) * len(sets), message=f"{name}, {site}"
                )
                found, _ = evaluate_model(
                    model,
                    image_set,
                    classes=context.federation.classes,
                    model_name=name,
                    site=site,
                    split=split,
                    config=context.config.evaluation,
                    seed=context.config.seed,
                    device=context.device,
                    precision=context.config.precision,
                    check_cancelled=context.reporter.check_cancelled,
                )
                rows += found
            context.reporter.evaluation(rows)
        context.reporter.progress(len(models) * len(sets), len(models) * len(sets))
