"""Checkpoints: a nested state in one safetensors file, written so that a crash at any moment loses nothing.

A state is any nesting of dict, list and tuple around torch tensors (every dtype that safetensors has, 0-d too), numpy
arrays and scalars, ``None``, bool, int, float (bit exact), str and bytes. The tensors lie in the file's tensor part,
everything else as a JSON tree in its metadata, beside a SHA-256 of both and the hash of the configuration.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from engine.errors import UserError
from engine.runs.stored_arrays import StoredArrays

FORMAT = "dsfedmed-checkpoint-1"
SUFFIX = ".safetensors"
PREVIOUS_SUFFIX = ".prev.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Damaged(Exception):
    """A checkpoint file whose content is not what was written."""


class CheckpointStore:
    """The checkpoints of one run.

    Parameters
    ----------
    folder : Path
        Where the files lie; made when it is missing.
    config_hash : str or callable
        Identity of the configuration that a state depends on, or a function from a scope to it: stages depend on
        different sections of a configuration, and a stage may read what an earlier one saved.
    warn : callable
        Told one sentence when a damaged file was passed over.
    scope : str
        The stage that writes; kept in the file, so that it is compared with that stage's identity ever after.
    before_save : callable, optional
        Called before a file is written: what a reporter still buffers must be durable before the step that produced it.
    """

    def __init__(
        self,
        folder: Path,
        config_hash: str | Callable[[str], str],
        *,
        warn: Callable[[str], None],
        scope: str = "",
        before_save: Callable[[], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        """Where the files lie."""
        self._hash_of: Callable[[str], str] = config_hash if callable(config_hash) else lambda _scope: config_hash
        self.scope = scope
        """The stage that writes."""
        self._warn = warn
        self._before_save = before_save
        self._writing = threading.Lock()

    @contextmanager
    def quiet(self, *, timeout_s: float) -> Iterator[bool]:
        """Hold back new writes; gives whether none is under way after at most ``timeout_s`` seconds."""
        held = self._writing.acquire(timeout=timeout_s)
        try:
            yield held
        finally:
            if held:
                self._writing.release()

    def path(self, name: str) -> Path:
        """Return the file of the checkpoint ``name`` (letters, digits, ``.``, ``_``, ``-``, and ``/`` for folders)."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a checkpoint name: {name!r}")
        return self.folder / f"{name}{SUFFIX}"

    def previous_path(self, name: str) -> Path:
        """Return the file that keeps the checkpoint before the latest one."""
        return self.path(name).with_name(self.path(name).name.removesuffix(SUFFIX) + PREVIOUS_SUFFIX)

    def save(self, name: str, state: Any) -> Path:
        """Write ``state`` as the checkpoint ``name`` and keep the one before it.

        The new file has its final name only when it is complete and on the disk. Raises ``UserError``
        ``run.disk_full`` or ``run.not_writable``, with the former checkpoint untouched; ``TypeError`` for a value that
        cannot be stored, named by its place in the state.
        """
        with self._writing:
            return self._save(self.path(name), name, state)

    def _save(self, path: Path, name: str, state: Any) -> Path:
        tensors: dict[str, torch.Tensor] = {}
        tree = json.dumps(_encode(state, tensors, where=name), separators=(",", ":"))
        identity = {"format": FORMAT, "scope": self.scope, "config_hash": self._hash_of(self.scope)}
        metadata = {**identity, "tree": tree, "sha256": _digest(tree, identity, sorted(tensors.items()))}
        if self._before_save is not None:
            self._before_save()
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata=metadata)
            _sync(temporary)
            self._keep_previous(path, self.previous_path(name))
            temporary.replace(path)
            _sync(path.parent)
            for stale in path.parent.glob(f".{path.name}.*.tmp"):  # left by a worker that was killed while it wrote
                stale.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            raise _write_error(error, path) from error
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def load(self, name: str, *, leave: str | None = None, verify: bool = True) -> Any | None:
        """Return the state saved as ``name`` (tensors on the CPU), or ``None`` where there is none.

        The numpy arrays of the dict ``state[leave]`` stay in the file, as :class:`StoredArrays`, for as long as it
        lies there. ``verify`` may be off for what this process has just written.

        A damaged file is passed over for the one before it, and ``warn`` says so. Raises ``UserError``
        ``run.checkpoint_foreign`` for a state of another configuration, ``run.checkpoint_damaged`` when no file is
        whole.
        """
        faults: list[str] = []
        for path in (self.path(name), self.previous_path(name)):
            if not path.exists():
                continue
            try:
                state = _read(path, self._hash_of, leave=leave, verify=verify)
            except _Damaged as damage:
                faults.append(f"{path.name}: {damage}")
                continue
            if faults:
                self._warn(
                    f"The checkpoint {path.parent.name}/{faults[0]} is damaged; the run goes on from the one before it."
                )
            return state
        if not faults:
            return None
        raise UserError(
            "run.checkpoint_damaged",
            what=f"No whole checkpoint '{name}' is left ({'; '.join(faults)}).",
            why="The run cannot go on from a state that is not exactly the one that was saved.",
            fix="Check the disk, delete the named files, and resume: the stage then starts from its beginning.",
        )

    def exists(self, name: str) -> bool:
        """Return whether a checkpoint (or the one before it) of this name is on the disk, whole or not."""
        return self.path(name).exists() or self.previous_path(name).exists()

    def delete(self, name: str) -> None:
        """Remove the checkpoint ``name`` and the one before it; nothing happens where there is none."""
        for path in (self.path(name), self.previous_path(name)):
            path.unlink(missing_ok=True)

    def names(self, folder: str) -> tuple[str, ...]:
        """Return the names of the checkpoints below ``folder``, sorted."""
        files = (self.folder / folder).rglob(f"*{SUFFIX}")
        names = {path.relative_to(self.folder).as_posix().removesuffix(SUFFIX) for path in files}
        return tuple(sorted(name for name in names if _NAME.fullmatch(name)))

    def delete_folder(self, folder: str) -> None:
        """Remove every checkpoint below ``folder``, and what a killed worker left half written there."""
        if not _NAME.fullmatch(folder):
            raise ValueError(f"not a folder of checkpoints: {folder!r}")
        if (self.folder / folder).is_dir():
            shutil.rmtree(self.folder / folder)

    @staticmethod
    def _keep_previous(path: Path, previous: Path) -> None:
        """Give the file at ``path`` the second name ``previous``, so that at no moment the first name is missing."""
        if not path.exists():
            return
        link = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
        link.unlink(missing_ok=True)
        try:
            link.hardlink_to(path)
        except OSError:  # a file system without hard links: `load` finds the previous one between these two renames
            path.replace(previous)
        else:
            link.replace(previous)


def _encode(value: Any, tensors: dict[str, torch.Tensor], *, where: str) -> Any:
    """Return the JSON form of ``value``; tensors and arrays move to ``tensors`` and leave their key."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return {"float": value.hex()}
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = _own_storage(value)
        return {"tensor": key}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.hasobject or array.dtype.names is not None:
            raise TypeError(f"{where}: arrays of dtype {array.dtype} cannot be stored in a checkpoint")
        key = str(len(tensors))
        # A copy always: safetensors refuses two tensors of one memory, as two names of one array would be.
        tensors[key] = torch.from_numpy(np.array(array, order="C").reshape(-1).view(np.uint8))
        form = "array" if isinstance(value, np.ndarray) else "scalar"
        return {form: key, "dtype": array.dtype.str, "shape": list(array.shape)}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, tensors, where=where), _encode(v, tensors, where=f"{where}.{k}")]
                         for k, v in value.items()]}  # fmt: skip
    if isinstance(value, list | tuple):
        items = [_encode(item, tensors, where=f"{where}[{i}]") for i, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    raise TypeError(f"{where}: a value of type {kind.__name__} cannot be stored in a checkpoint")


def _decode(node: Any, tensors: Callable[[str], torch.Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    form, content = next(iter(node.items()))
    if form == "float":
        return float.fromhex(content)
    if form == "bytes":
        return base64.b64decode(content)
    if form == "tensor":
        return tensors(content)
    if form in ("array", "scalar"):
        array = np.array(tensors(content).numpy().view(np.dtype(node["dtype"]))).reshape(node["shape"])
        return array if form == "array" else array[()]
    if form == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
    items = [_decode(item, tensors) for item in content]
    return tuple(items) if form == "tuple" else items


def _own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous CPU copy-or-self that shares no storage: safetensors refuses views of one memory."""
    plain = tensor.detach()
    moved = plain.cpu().contiguous()
    return moved.clone() if moved.data_ptr() == plain.data_ptr() else moved


def _digest(tree: str, identity: dict[str, str], tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    digest = hashlib.sha256("\x1f".join([*identity.values(), tree]).encode())
    for key, tensor in tensors:
        digest.update(f"\x1f{key}:{tensor.dtype}:{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path, hash_of: Callable[[str], str], *, leave: str | None, verify: bool) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            try:
                tree, sha256 = metadata["tree"], metadata["sha256"]
                identity = {key: metadata[key] for key in ("format", "scope", "config_hash")}
            except KeyError as error:
                raise _Damaged(f"it has no {error}") from error
            tensors = ((key, file.get_tensor(key)) for key in sorted(file.keys()))
            if verify and _digest(tree, identity, tensors) != sha256:
                raise _Damaged("its SHA-256 differs from the one it was written with")
            _check_own(path, identity["config_hash"], hash_of(identity["scope"]))
            node = json.loads(tree)
            left = _take_out(node, leave) if leave is not None else None
            state = _decode(node, file.get_tensor)
        if left is not None:
            state[leave] = StoredArrays(path, left)
    except (SafetensorError, OSError, ValueError) as error:
        raise _Damaged(str(error)) from error
    return state


def _take_out(node: dict[str, Any], name: str) -> dict[str, tuple[str, str, tuple[int, ...]]]:
    """Remove the dict ``name`` of arrays from a state's tree; return each array's tensor, dtype and shape."""
    (arrays,) = (item for item in node["dict"] if item[0] == name)
    node["dict"].remove(arrays)
    return {key: (item["array"], item["dtype"], tuple(item["shape"])) for key, item in arrays[1]["dict"]}


def _check_own(path: Path, written_hash: str, config_hash: str) -> None:
    if written_hash != config_hash:
        raise UserError(
            "run.checkpoint_foreign",
            what=f"The checkpoint {path} belongs to another configuration ({written_hash}, not {config_hash}).",
            why="A run that went on from it would mix two experiments.",
            fix="Start a new run with the edited configuration, or fork the old run at the stage that it concerns.",
        )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(error: Exception, path: Path) -> UserError:
    # safetensors reports the operating system's error as text: "... (os error 28)"
    found = re.search(r"os error (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) else int(found.group(1)) if found else None
    if number in _DISK_ERRORS:
        return UserError(
            "run.disk_full",
            what=f"The disk is full: the checkpoint {path} could not be written.",
            why="The run stopped; the checkpoint before this one is untouched.",
            fix="Free some space and resume the run: it goes on from the former checkpoint.",
        )
    return UserError(
        "run.not_writable",
        what=f"The checkpoint {path} could not be written: {error}.",
        why="Without checkpoints a run could not be resumed.",
        fix="Make the run's folder writable, or choose another one with --home or DSFEDMED_HOME, and resume.",
    )
