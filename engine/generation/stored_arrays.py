"""The arrays that a site has sent as a folder of the run: safetensors and the kind of generator they are of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from engine.errors import UserError

ARRAYS_FILE, ABOUT_FILE = "generator.safetensors", "generator.json"


def write_arrays(arrays: Mapping[str, np.ndarray], folder: Path, *, kind: str) -> None:
    """Write ``arrays`` as ``folder``, which appears whole or not at all, and replaces an earlier one."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / ARRAYS_FILE)
    (temporary / ABOUT_FILE).write_text(json.dumps({"kind": kind}) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Return what :func:`write_arrays` wrote; ``UserError`` ``generator.absent`` where it is not there."""
    path = folder / ARRAYS_FILE
    if not path.is_file():
        raise UserError(
            "generator.absent",
            what=f"There is no generator in {folder}.",
            why="The server draws with what each site has sent.",
            fix="Fork the run from generator_training, or restore the run's folder.",
        )
    return load_file(path)
