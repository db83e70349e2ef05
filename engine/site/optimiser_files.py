"""The optimiser's state of a site after each round: it stays at the site, and so do the files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from engine.site.round_files import RoundFiles

NAME = "adam"
"""Of the optimiser of what a site is sent; one of a site's own parts has another."""


def save_optimiser(
    optimiser: torch.optim.Optimizer, *, model: nn.Module, folder: Path, round_number: int, files: str = NAME
) -> None:
    """Write the state after ``round_number``; which others stay, see ``RoundFiles.save``.

    The files' names begin with ``files``.
    """
    tensors = {
        f"{field}/{name}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for field, value in optimiser.state.get(parameter, {}).items()
    }
    _files(folder, files).save(tensors, round_number=round_number)


def load_optimiser(
    optimiser: torch.optim.Optimizer, *, model: nn.Module, folder: Path, round_number: int, files: str = NAME
) -> int:
    """Give ``optimiser`` the newest state from before ``round_number``; return its round, 0 where there is none."""
    found, tensors = _files(folder, files).load(before=round_number)
    if not found:
        return 0
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        field, name = key.split("/", 1)
        state.setdefault(name, {})[field] = tensor
    parameters = [name for name, _ in model.named_parameters()]
    indexed = {index: state[name] for index, name in enumerate(parameters) if name in state}
    optimiser.load_state_dict({"state": indexed, "param_groups": optimiser.state_dict()["param_groups"]})
    return found


def newest_state(folder: Path, *, before: int, files: str = NAME) -> int:
    """Return the last round below ``before`` whose state is in ``folder``, 0 where there is none."""
    return _files(folder, files).newest(before=before)


def _files(folder: Path, name: str) -> RoundFiles:
    return RoundFiles(folder, name, "The optimiser's state")
