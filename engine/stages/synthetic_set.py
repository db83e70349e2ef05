"""The list of generated pairs, as a file that the following stages read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from engine.data.imagesets import ImageSet
from engine.distillation.pool import synthetic_pool
from engine.stages.context import RunContext
from engine.stages.files import write_json
from engine.types import SyntheticSample

LIST_FILE = Path("samples") / "samples.json"
_PATHS = ("image_path", "mask_path", "teacher_path", "student_path")


def write_samples(run_dir: Path, samples: list[SyntheticSample]) -> None:
    """Write the list of pairs."""
    rows = [{k: str(v) if isinstance(v, Path) else v for k, v in asdict(sample).items()} for sample in samples]
    write_json(run_dir / LIST_FILE, rows)


def read_samples(run_dir: Path) -> list[SyntheticSample]:
    """Return the list that :func:`write_samples` wrote."""
    rows = json.loads((run_dir / LIST_FILE).read_text(encoding="utf-8"))
    return [
        SyntheticSample(**{k: Path(v) if k in _PATHS and v is not None else v for k, v in row.items()}) for row in rows
    ]


def load_pool(context: RunContext) -> ImageSet:
    """Return the generated pairs as the pool that foundation fine-tuning and distillation train on."""
    return synthetic_pool(
        read_samples(context.run_dir),
        run_dir=context.run_dir,
        data=context.config.data,
        num_classes=len(context.federation.classes),
    )
