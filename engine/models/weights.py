"""Reading weights into a model and writing them out.

Only safetensors are written. Foreign ``.pth`` and ``.pt`` files are read with ``weights_only=True``, so that a
checkpoint cannot run code. The registry (names, checksums) and the downloads are in the modules beside this one.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import UserError
from engine.models.assets import register_local, resolve
from engine.models.downloads import fetch
from engine.models.key_layouts import resize_position_tensor, to_own_keys

__all__ = ["LoadReport", "fetch", "load_weights", "register_local", "resolve", "save_weights"]

HEAD_PREFIX = "seg1."
ADAPTER_PART = ".adapter."
"""In the keys of ``engine.models.adapters``, which SAM's own weights do not have."""
_SUFFIXES = (".safetensors", ".pth", ".pt")
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class LoadReport:
    """What loading did, in keys: ours for ``missing`` and ``resized``, the file's own for the others.

    ``missing`` tensors kept their random start, ``unexpected`` ones of the file were not used, ``remapped`` ones came
    under another name, ``resized`` ones are positional embeddings turned to this model's image size, ``dropped`` ones
    are the classifier that TinySAM checkpoints carry and never use.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    remapped: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def load_weights(
    model: nn.Module, source: str | Path, *, strict: bool = False, sha256: str | None = None
) -> LoadReport:
    """Copy the weights in ``source`` into ``model``, in place, and report what did not fit one to one.

    Parameters
    ----------
    model : Module
        A model from :func:`engine.models.registry.build_model`; keeps its device, dtype and mode.
    source : str or Path
        A registry name (verified against its SHA-256), ``NAME@sha256:HEX``, or the path of a .safetensors, .pth or
        .pt file.
    strict : bool
        Whether every tensor must be there and used. Otherwise a class head (``seg1``) may be missing or of another
        number of classes, adapters may be missing, all of them, and tensors that the model does not have are left; the
        rest must fit in either case.
    sha256 : str or None
        Checksum that a file loaded by name must have, where the registry knows none.

    Raises
    ------
    UserError
        ``weights.unknown``, ``.absent``, ``.checksum``, ``.unverified``, ``.unreadable`` or ``.mismatch``.
    """
    path = _locate(source, sha256=sha256)
    state, remapped, dropped = to_own_keys(_read(path))
    state, resized, misfits = _fit_shapes(state, model=model)
    own_keys = set(model.state_dict())
    missing = sorted(own_keys - set(state))
    unexpected = sorted(set(state) - own_keys)
    may_be_new = {key for key in [*misfits, *missing] if key.startswith(HEAD_PREFIX)}
    if not any(ADAPTER_PART in key for key in state):
        may_be_new.update(key for key in missing if ADAPTER_PART in key)
    problems = [*misfits, *missing, *unexpected] if strict else [k for k in [*misfits, *missing] if k not in may_be_new]
    if problems:
        raise _mismatch(path, problems=problems, num_tensors=len(own_keys))
    model.load_state_dict({key: tensor for key, tensor in state.items() if key in own_keys}, strict=False)
    return LoadReport(tuple(missing), tuple(unexpected), remapped, resized, dropped)


def save_weights(
    model: nn.Module, path: Path, *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write the state of ``model`` as safetensors and return the path; the file appears whole or not at all.

    With ``half`` the parameters are stored as float16, but buffers keep their type: BatchNorm's statistics and the
    positional frequencies are small and lose too much. UserError ``weights.half_range`` if a parameter does not fit.
    """
    parameters = {key for key, _ in model.named_parameters()}
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if half and key in parameters:
            if not value.abs().max() <= _HALF_MAX:
                raise UserError(
                    "weights.half_range",
                    what=f"The tensor {key} holds values beyond float16's range or not a number.",
                    why="Stored in half precision it would come back as infinity.",
                    fix="Save in full precision, or find out why training diverged.",
                )
            value = value.half()
        state[key] = value.contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file(state, temporary, metadata={"format": "pt", **(metadata or {})})
    temporary.replace(path)
    return path


def _locate(source: str | Path, *, sha256: str | None) -> Path:
    """Return the file of ``source``: a path where it is one, else the registry's."""
    path = Path(source)
    if path.is_file():
        return path
    if isinstance(source, Path) or path.parent != Path():
        raise UserError(
            "weights.absent",
            what=f"There is no file {path}.",
            why="The weights to start from were given as a path.",
            fix="Correct the path, or give a name from: python -m engine weights list",
        )
    return resolve(str(source), sha256=sha256)


def _read(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a file, on the CPU; UserError ``weights.unreadable``."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"the suffix is none of {', '.join(_SUFFIXES)}")
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        for wrapper in ("state_dict", "model"):
            if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
                loaded = loaded[wrapper]
        if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
            raise ValueError("it holds something other than named tensors")
        return dict(loaded)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            "weights.unreadable",
            what=f"The file {path} cannot be read as weights: {reason.splitlines()[0]}.",
            why="It is damaged, cut short, of another kind, or holds objects that could run code.",
            fix="Fetch or make the file again.",
        ) from error


def _fit_shapes(
    state: Mapping[str, Tensor], *, model: nn.Module
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Return the tensors that fit the model, resized where they are positional, and the keys that were resized
    and that do not fit."""
    own = model.state_dict()
    fitting: dict[str, Tensor] = {}
    resized, misfits = [], []
    for key, tensor in state.items():
        if key not in own or tensor.shape == own[key].shape:
            fitting[key] = tensor
            continue
        turned = resize_position_tensor(key, tensor, shape=tuple(own[key].shape))
        if turned is None:
            misfits.append(key)
        else:
            fitting[key] = turned
            resized.append(key)
    return fitting, tuple(resized), tuple(misfits)


def _mismatch(path: Path, *, problems: list[str], num_tensors: int) -> UserError:
    unique = sorted(set(problems))
    shown = ", ".join(unique[:5]) + (", …" if len(unique) > 5 else "")
    return UserError(
        "weights.mismatch",
        what=f"The weights in {path} do not fit the model: {len(unique)} tensors are missing, left over or misshapen "
        f"({shown}).",
        why=f"The model has {num_tensors} tensors and would be a mixture of loaded and random ones.",
        fix="Load weights of the same model and size, or build the model that these weights belong to.",
    )
