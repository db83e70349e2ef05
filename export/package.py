"""Writes a model bundle: ONNX model, manifest and model card in one folder, all or nothing."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
from torch import nn

from engine.config import ModelConfig, RunConfig
from engine.models.segmenter import Segmenter
from engine.types import EvaluationRow
from export.appearance import TrainingAppearance
from export.card import card_text
from export.manifest import (
    CARD_FILE,
    FORMAT_VERSION,
    LICENCE,
    MANIFEST_FILE,
    MODEL_FILE,
    NOTICE,
    PROMPT_DECODER_FILE,
    BundledModel,
    LooksMeasured,
    Manifest,
    Parity,
    PromptDecoder,
    Variant,
    describe_file,
)
from export.onnx_export import export_model, export_prompt_decoder
from export.parity import check_parity, check_prompt_parity
from export.variants import NO_VARIANTS, VariantPlan, write_variants

RECORDED_PACKAGES = ("torch", "onnx", "numpy", "timm", "segment-anything")


@dataclass(frozen=True)
class BundleContent:
    """What the caller knows about the model that goes into a bundle.

    ``role`` is an ``EvaluationRow.model`` name; ``metrics`` are the rows of the results table that belong to it.
    """

    name: str
    role: str
    task: str
    modality: str
    classes: tuple[str, ...]
    model: ModelConfig
    config: RunConfig
    metrics: Sequence[EvaluationRow]
    run_id: str
    value_range: tuple[float, float] | None = None
    slice_axis: Literal[0, 1, 2] = 2
    window: Literal["auto", "dicom", "stored"] = "auto"
    appearance: TrainingAppearance | None = None
    looks: LooksMeasured | None = None
    prompted: Segmenter | None = None
    """The model with a decoder that was taught prompts in ``prompt_steps`` steps; the rest of it is the model's."""
    prompt_steps: int = 0
    variants: VariantPlan = NO_VARIANTS
    """Which faster variants are written beside it; none unless said otherwise."""


def write_bundle(folder: Path, model: nn.Module, *, content: BundleContent) -> Manifest:
    """Export ``model`` with its parity checked, and write the bundle ``folder``; return its manifest.

    The folder appears complete or not at all: files are written and synchronised under a temporary name beside it,
    which is then renamed. An older bundle of that name is replaced. What an export that was killed has left beside it
    is removed, and put back where it is the only one.

    Raises
    ------
    UserError
        ``export.failed`` or ``export.parity``; an older bundle is then untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(folder)
    # Not mkdtemp, whose folders are the owner's alone: a bundle is for whom the umask says.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        manifest = _fill(partial, model, content=content)
        _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _fill(folder: Path, model: nn.Module, *, content: BundleContent) -> Manifest:
    config = content.config
    model_path = folder / MODEL_FILE
    with_prompts = content.prompted is not None
    export_model(model, model_path, image_px=config.data.image_px, opset=config.export.opset, embedding=with_prompts)
    parity = check_parity(
        model,
        model_path,
        image_px=config.data.image_px,
        tolerance=config.export.parity_tolerance,
        seed=config.seed,
    )
    variants = write_variants(
        folder,
        model,
        plan=content.variants,
        own_parity=parity,
        image_px=config.data.image_px,
        opset=config.export.opset,
        tolerance=config.export.parity_tolerance,
        seed=config.seed,
    )
    prompts = _write_prompts(folder, content)
    manifest = _describe(model, content=content, parity=parity, variants=variants, prompts=prompts)
    names = [variant.file for variant in manifest.every_variant]
    names += [prompts.file] if prompts else []
    manifest = _listing(manifest, folder, names)  # the card tells sizes
    (folder / CARD_FILE).write_text(card_text(manifest, config=content.config), encoding="utf-8")
    names.append(CARD_FILE)
    manifest = _listing(manifest, folder, names)
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    for name in (*names, MANIFEST_FILE, "."):
        _synchronise(folder / name)
    return manifest


def _listing(manifest: Manifest, folder: Path, names: Sequence[str]) -> Manifest:
    return manifest.model_copy(update={"files": {name: describe_file(folder / name) for name in names}})


def _write_prompts(folder: Path, content: BundleContent) -> PromptDecoder | None:
    """Write the decoder that takes prompts; None where nobody has taught one."""
    model, config = content.prompted, content.config
    if model is None:
        return None
    path, image_px = folder / PROMPT_DECODER_FILE, config.data.image_px
    export_prompt_decoder(model, path, image_px=image_px, opset=config.export.opset)
    parity = check_prompt_parity(
        model,
        folder / MODEL_FILE,
        path,
        image_px=image_px,
        tolerance=config.export.parity_tolerance,
        seed=config.seed,
    )
    side = image_px // model.feature_stride
    embedding = (model.mask_decoder.transformer_dim, side, side)
    return PromptDecoder(file=path.name, embedding=embedding, steps=content.prompt_steps, parity=parity)


def _describe(
    model: nn.Module,
    *,
    content: BundleContent,
    parity: Parity,
    variants: tuple[Variant, ...],
    prompts: PromptDecoder | None,
) -> Manifest:
    config = content.config
    return Manifest(
        format="dsfedmed-bundle",
        format_version=FORMAT_VERSION,
        name=content.name,
        task=content.task,
        modality=content.modality,
        classes=content.classes,
        image_px=config.data.image_px,
        mask_stride=model.mask_stride,
        normalise=config.data.normalise,
        fit=config.data.fit,
        value_range=content.value_range,
        slice_axis=content.slice_axis,
        window=content.window,
        model=BundledModel(
            name=content.model.name,
            size=content.model.size,
            role=content.role,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        ),
        appearance=content.appearance,
        looks=content.looks,
        variants=variants,
        prompts=prompts,
        opset=config.export.opset,
        parity=parity,
        metrics=tuple(asdict(row) for row in content.metrics),
        files={},
        config=_names_only(config.model_dump(mode="json")),
        config_hash=config.content_hash(),
        run_id=content.run_id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: version(name) for name in RECORDED_PACKAGES}},
        licence=LICENCE,
        notice=NOTICE,
    )


def _names_only(value: Any) -> Any:
    """Return ``value`` (JSON) with each absolute path cut to its last part: a bundle travels, folders do not."""
    if isinstance(value, dict):
        return {key: _names_only(inner) for key, inner in value.items()}
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _clear_leftovers(folder: Path) -> None:
    """Put an older bundle back that a killed export had moved away, and remove the parts of such exports."""
    start = f".{folder.name}."
    left = [path for path in folder.parent.iterdir() if path.name.startswith(start)]
    for path in left:
        if path.suffix not in (".partial", ".retired"):
            continue
        process = path.name.removeprefix(start).split("-")[0].split(".")[0]
        if process.isdecimal() and psutil.pid_exists(int(process)):
            continue  # it may still be at it
        if path.suffix == ".retired" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _replace(folder: Path, partial: Path) -> None:
    """Rename ``partial`` to ``folder``; an existing folder is moved away first and deleted last."""
    retired = partial.with_suffix(".retired")
    if folder.exists():
        folder.rename(retired)
    try:
        partial.rename(folder)
    except OSError:
        if retired.exists():
            retired.rename(folder)
        raise
    _synchronise(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _synchronise(path: Path) -> None:
    """Flush a file or a folder to the disk, so that a power cut cannot leave a named but empty bundle."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
