"""The model card of a bundle. Torch-free."""

from __future__ import annotations

from engine.evaluation.tables import format_table
from engine.types import EvaluationRow
from export.manifest import Manifest


def card_text(manifest: Manifest) -> str:
    """Return the bundle's model card as Markdown: what the model is, how to run it, how good it was, and the notice."""
    model = manifest.model
    rows = [EvaluationRow(**row) for row in manifest.metrics]
    results = format_table(rows, style="markdown") if rows else "No results were recorded."
    grid_px = manifest.image_px // manifest.mask_stride
    return f"""# {manifest.name}

**{manifest.notice}**

Segments {", ".join(manifest.classes)} in {manifest.modality} images. It is the {model.role.replace("_", " ")}
({model.name}, size {model.size}, {model.parameters:,} parameters) of DSFedMed run `{manifest.run_id}`
(task `{manifest.task}`, configuration {manifest.config_hash}), made {manifest.created}.

## How to run it

`python -m engine predict --bundle FOLDER IMAGE`, or with ONNX Runtime alone: input `image` is float32
(batch, 3, {manifest.image_px}, {manifest.image_px}) in [0, 1] (normalisation `{manifest.normalise}`); output `logits`
is (batch, {len(manifest.classes)}, {grid_px}, {grid_px}), one channel a class, before the sigmoid. Resize the logits
bilinearly to the image and cut at 0 (probability 0.5).

## Results

{results}

Dice and IoU at probability 0.5, with the bootstrap 95 % interval of the mean; "5 cuts" are the means over five
thresholds of the raw logits, as in the DSFedMed authors' code; HD95 in pixels of the scored grid.

## Fidelity

Largest difference between these logits and PyTorch's on {manifest.parity.num_images} seeded images:
{manifest.parity.max_abs_difference:.1e} (accepted: {manifest.parity.tolerance:.0e}).

## Licence

{manifest.licence}.
"""
