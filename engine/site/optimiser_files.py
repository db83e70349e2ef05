"""A site's own disk: the optimiser's state after each round, which never crosses the border.

One safetensors file a round, written to a temporary name and renamed. The newest three are kept: the server may fall
back to the checkpoint before its last, and the site then needs the state before that.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from engine.errors import UserError

KEPT_ROUNDS = 3
_PATTERN = "adam_round_*.safetensors"


def save_optimiser(optimiser: torch.optim.Optimizer, *, model: nn.Module, folder: Path, round_number: int) -> None:
    """Write the state after ``round_number`` atomically; drop states of later rounds and all but the newest three."""
    tensors = {
        f"{field}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for field, value in optimiser.state.get(parameter, {}).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, round_number)
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            file.write(save(tensors, metadata={"sha256": _digest(tensors)}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:  # a part that a full disk has cut off would keep it full
        temporary.unlink(missing_ok=True)
    for number in _saved_rounds(folder):
        if number > round_number or number <= round_number - KEPT_ROUNDS:
            _path(folder, number).unlink()


def load_optimiser(optimiser: torch.optim.Optimizer, *, model: nn.Module, folder: Path, round_number: int) -> int:
    """Give ``optimiser`` the newest state from before ``round_number``; return its round, 0 where there is none.

    Looking before ``round_number`` only makes a round that is run again start as it did the first time. Raises
    ``UserError`` ``federation.site_state_damaged`` for a file that is not what was written.
    """
    earlier = [number for number in _saved_rounds(folder) if number < round_number]
    if not earlier:
        return 0
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read(_path(folder, max(earlier))).items():
        field, name = key.split("/", 1)
        state.setdefault(name, {})[field] = tensor
    parameters = [name for name, _ in model.named_parameters()]
    indexed = {index: state[name] for index, name in enumerate(parameters) if name in state}
    optimiser.load_state_dict({"state": indexed, "param_groups": optimiser.state_dict()["param_groups"]})
    return max(earlier)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            expected = (file.metadata() or {}).get("sha256")
    except SafetensorError as error:
        raise _damaged(path) from error
    if expected is not None and expected != _digest(tensors):
        raise _damaged(path)
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode())
        digest.update(tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: Path) -> UserError:
    return UserError(
        "federation.site_state_damaged",
        what=f"The optimiser's state of a site is damaged: {path}.",
        why="Its checksum does not fit; training with it would go another way without a word.",
        fix="Put the file back from a copy; or delete it and resume: the round then begins with the state of the round "
        "before, and differs a little from the run that was not disturbed.",
    )


def _path(folder: Path, round_number: int) -> Path:
    return folder / _PATTERN.replace("*", f"{round_number:06d}")


def _saved_rounds(folder: Path) -> list[int]:
    return sorted(int(path.stem.rsplit("_", 1)[1]) for path in folder.glob(_PATTERN))
