"""Stage: the student that sites deploy, as an ONNX bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from engine.methods.catalogue import ModelSpec
from engine.models.lora import merge_lora
from engine.runs.gates import read_gate
from engine.stages.appearance import ask_appearance
from engine.stages.context import RunContext
from engine.stages.evaluation import LOOKS_FILE, ROWS_FILE
from engine.stages.files import read_json
from engine.stages.prompts import prompted
from engine.stages.site_models import site_model
from engine.stages.variants import told, variant_plan
from engine.types import MEAN_CLASS, EvaluationRow
from export.appearance import TrainingAppearance
from export.manifest import LooksMeasured
from export.package import BundleContent, write_bundle
from export.variants import NO_VARIANTS

SITE_BUNDLES = Path("site_bundles")


def validation_dice(rows: Sequence[EvaluationRow], model: str) -> float | None:
    """Return a model's mean Dice over the sites' validation images in [0, 1], None where there are none.

    The held-out site has no part in it.
    """
    own = [row for row in rows if row.model == model and row.split == "validation"]
    own = [row for row in own if row.class_name == MEAN_CLASS] or own
    count = sum(row.num_images for row in own)
    return sum(row.num_images * row.dice for row in own) / count if count else None


class Export:
    """ONNX, manifest and model card of the deployed student, in ``bundle/``; of each site's own where that is asked."""

    name = "export"

    def run(self, context: RunContext) -> None:
        """Write the bundle; parity with PyTorch is checked on the way."""
        rows = [EvaluationRow(**row) for row in read_json(context.run_dir / ROWS_FILE)]
        chosen = self._choose(context, rows)
        context.reporter.progress(0, 1, message="asking what the sites' images look like")
        appearance = ask_appearance(context)
        context.reporter.progress(0, 1, message=f"exporting {chosen.name}")
        own_rows = [row for row in rows if row.model == chosen.name]
        self._write(context, Path("bundle"), chosen, rows=own_rows, appearance=appearance)
        if context.config.export.site_models:
            for spec in (model for model in context.models if model.scope == "site"):
                self._write_each_sites(context, spec, rows, appearance)
        context.reporter.progress(1, 1)

    def _write(
        self,
        context: RunContext,
        folder: Path,
        spec: ModelSpec,
        *,
        rows: Sequence[EvaluationRow],
        appearance: TrainingAppearance | None,
        model: nn.Module | None = None,
    ) -> None:
        """Write a bundle; ``model`` is what the run has saved under the name of ``spec``, unless it is given."""
        exported = merge_lora(context.load_model(spec.architecture, spec.name) if model is None else model)
        manifest = write_bundle(
            context.run_dir / folder,
            exported,
            content=BundleContent(
                name=context.config.name,
                role=spec.name,
                task=context.description.task,
                modality=context.description.modality,
                classes=context.description.classes,
                model=getattr(context.config, spec.architecture),
                config=context.config,
                metrics=rows,
                run_id=context.run_dir.name,
                value_range=context.description.value_range,
                slice_axis=context.description.slice_axis,
                window=context.description.window,
                appearance=appearance,
                looks=_looks(context, spec) if model is None else None,
                prompted=prompted(context, exported) if model is None else None,
                prompt_steps=context.config.export.prompt_steps,
                variants=variant_plan(context, spec) if model is None else NO_VARIANTS,
            ),
        )
        context.reporter.artefact("bundle" if model is None else "site_bundle", folder)
        difference = manifest.parity.max_abs_difference
        context.reporter.log("info", f"ONNX and PyTorch differ by at most {difference:.1e} in their logits ({folder}).")
        for sentence in told(manifest):
            context.reporter.log("info", sentence)

    def _write_each_sites(
        self,
        context: RunContext,
        spec: ModelSpec,
        rows: Sequence[EvaluationRow],
        appearance: TrainingAppearance | None,
    ) -> None:
        for place, site in enumerate(context.sites.names):
            context.reporter.progress(place, len(context.sites.names), message=f"exporting {spec.name}, {site}")
            model = site_model(context, spec, site)
            if model is None:
                context.reporter.log("warning", f"{site} keeps its own part of the model: its own is not exported.")
                continue
            own_rows = [row for row in rows if (row.model, row.site) == (spec.name, site)]
            self._write(context, SITE_BUNDLES / site, spec, rows=own_rows, appearance=appearance, model=model)

    def _choose(self, context: RunContext, rows: Sequence[EvaluationRow]) -> ModelSpec:
        """The student made last is deployed, unless validation is to favour another: sites run students only."""
        of_run = [model for model in context.models if model.scope == "run"]
        made = {model.name: model for model in reversed(of_run) if model.role == "student"}
        scores = {name: score for name in made if (score := validation_dice(rows, name)) is not None}
        if context.config.export.student == "distilled" or len(scores) < 2:
            return _origin(context, made, next(iter(made)))
        told = ", ".join(f"{name.replace('_', ' ')} {score:.3f}" for name, score in scores.items())
        context.reporter.log("info", f"Mean Dice on the sites' validation images: {told}. The better one is exported.")
        return _origin(context, made, max(scores, key=lambda name: scores[name]))


def _looks(context: RunContext, spec: ModelSpec) -> LooksMeasured | None:
    """Return which way of looking was better on the sites' validation images; None where no site has measured it."""
    path = context.run_dir / LOOKS_FILE
    found = read_json(path).get(spec.name) if path.is_file() else None
    return LooksMeasured.model_validate(found) if found else None


def _origin(context: RunContext, made: Mapping[str, ModelSpec], name: str) -> ModelSpec:
    """Return the model ``name``, or the one whose weights these are where the gate of distillation has kept those."""
    record = read_gate(context.run_dir)
    if record is None or not record.keeps_the_first or record.model != name:
        return made[name]
    context.reporter.log("info", f"{record.sentences()[0]} It is what is exported.")
    return made[record.began_with]
