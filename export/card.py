"""The model card of a bundle. Torch-free."""

from __future__ import annotations

from engine.evaluation.tables import LEGEND, format_table, named
from engine.methods.catalogue import RunModels
from engine.types import EvaluationRow
from export.manifest import VARIANT_RULE, Manifest, VariantDice


def card_text(manifest: Manifest, *, config: RunModels) -> str:
    """Return the bundle's model card as Markdown: what the model is, how to run it, how good it was, and the notice."""
    model = manifest.model
    rows = named((EvaluationRow(**row) for row in manifest.metrics), config)
    results = format_table(rows, style="markdown") if rows else "No results were recorded."
    grid_px = manifest.image_px // manifest.mask_stride
    back = "Resize the logits\nbilinearly to the image"
    fitted = "squashed to that square whatever its shape"
    if manifest.fit == "letterbox":
        fitted = "whole in that square with its sides' ratio kept, in the middle, 0 beside it"
        back = "Cut the\nlogits to the part that the image takes up, resize that bilinearly to the image"
    return f"""# {manifest.name}

**{manifest.notice}**

Segments {", ".join(manifest.classes)} in {manifest.modality} images. It is the {model.role.replace("_", " ")}
({model.name}, size {model.size}, {model.parameters:,} parameters) of DSFedMed run `{manifest.run_id}`
(task `{manifest.task}`, configuration {manifest.config_hash}), made {manifest.created}.

## How to run it

In a checkout of DSFedMed Studio, with FOLDER the folder of this card and IMAGE a file or a folder of images:

    python -m engine predict FOLDER IMAGE --out masks

Or with ONNX Runtime alone: input `image` is float32 (batch, 3, {manifest.image_px}, {manifest.image_px}) in [0, 1]
(normalisation `{manifest.normalise}`), the image {fitted}; output `logits`
is (batch, {len(manifest.classes)}, {grid_px}, {grid_px}), one channel a class, before the sigmoid. {back}
and cut at 0 (probability 0.5).

## Results

{results}

Dice and IoU at probability 0.5, with the bootstrap 95 % interval of the mean. {LEGEND}

## Fidelity

Largest difference between these logits and PyTorch's on {manifest.parity.num_images} seeded images:
{manifest.parity.max_abs_difference:.1e} (accepted: {manifest.parity.tolerance:.0e}).

{_variants(manifest)}## Licence

{manifest.licence}.
"""


def _variants(manifest: Manifest) -> str:
    if not manifest.variants:
        return ""
    lines = [
        " | ".join(
            [
                f"| {v.name}",
                v.file,
                str(v.image_px),
                v.precision,
                f"{manifest.files[v.file].size_bytes / 1e6:.1f}",
                f"{v.parity.max_abs_difference:.1e}",
                "-" if v.timing is None else f"{1000 * v.timing.seconds:.1f} ms, threads: {v.timing.threads}",
                "-" if v.measured is None else _dice(v.measured),
            ]
        )
        + " |"
        for v in manifest.variants
    ]
    rows = "\n".join(lines)
    return f"""## Variants

| Name | File | Side, px | Numbers | MB | Largest difference to PyTorch | One input | Dice, validation |
| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |
{rows}

{VARIANT_RULE}
Times are of the machine that exported. `--variant NAME` chooses another.

"""


def _dice(measured: VariantDice) -> str:
    return f"{measured.dice:.3f} ({measured.points:+.1f} points, {measured.num_images} images)"
