"""What a site keeps of a run as it came or was worked out once: the public set, and SAM's opinion of its images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from engine.errors import UserError

PUBLIC, TEACHER_LOGITS = "public_set", "teacher_logits"


def keep_arrays(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` as ``NAME.safetensors``; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.part"
    try:
        with temporary.open("wb") as file:
            file.write(save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / f"{name}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)


def kept_arrays(folder: Path, name: str, *, site: str) -> dict[str, np.ndarray]:
    """Return what :func:`keep_arrays` wrote; ``UserError`` ``federation.site_state_damaged`` where it is not there."""
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            "federation.site_state_damaged",
            what=f"{path}, which site {site} keeps of this run, cannot be read: {error}.",
            why="The site trains with it in every round.",
            fix="Put the file back from a copy, or start a new run.",
        ) from error
