"""The list of generated pairs, as a file that the following stages read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import nn

from engine.data.imagesets import ImageSet
from engine.distillation.features import KeptFeatures, may_keep_features
from engine.distillation.mutual import Pool
from engine.distillation.pool import synthetic_pool
from engine.models.segmenter import Segmenter
from engine.stages.context import RunContext
from engine.stages.files import read_json, write_json
from engine.types import SyntheticSample

LIST_FILE = Path("samples") / "samples.json"
_PATHS = ("image_path", "mask_path", "teacher_path", "student_path")


def write_samples(run_dir: Path, samples: list[SyntheticSample]) -> None:
    """Write the list of pairs."""
    rows = [{k: str(v) if isinstance(v, Path) else v for k, v in asdict(sample).items()} for sample in samples]
    write_json(run_dir / LIST_FILE, rows)


def read_samples(run_dir: Path) -> list[SyntheticSample]:
    """Return the list that :func:`write_samples` wrote."""
    rows = read_json(run_dir / LIST_FILE)
    return [
        SyntheticSample(**{k: Path(v) if k in _PATHS and v is not None else v for k, v in row.items()}) for row in rows
    ]


def load_pool(context: RunContext) -> ImageSet:
    """Return the generated pairs as the pool that foundation fine-tuning and distillation train on."""
    return synthetic_pool(
        read_samples(context.run_dir),
        run_dir=context.run_dir,
        data=context.config.data,
        num_classes=len(context.description.classes),
    )


def keep_features(context: RunContext, model: nn.Module, *, pool: Pool, batch_size: int) -> KeptFeatures | None:
    """Return the features of the pool where ``model``'s encoder is frozen and they fit into memory, else None."""
    data = context.config.data
    if not may_keep_features(model, augment=data.augment, num_images=len(pool), image_px=data.image_px):
        return None
    context.reporter.log("info", f"SAM's encoder is frozen: its features of {len(pool)} images are kept in memory.")
    assert isinstance(model, Segmenter)
    return KeptFeatures(
        model,
        pool,
        batch_size=batch_size,
        device=context.device,
        precision=context.config.precision,
        on_batch=context.reporter.check_cancelled,
    )
