"""Checkpoints: exact round trips, whole-or-nothing writing, and what happens to damaged or foreign files."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.runs.checkpoint import CheckpointStore
from engine.runs.stored_arrays import StoredArrays

scalars = st.none() | st.booleans() | st.integers() | st.floats(width=64) | st.text() | st.binary(max_size=8)
arrays = hnp.arrays(
    dtype=hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes()
    | hnp.floating_dtypes(),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
DTYPES = (*FLOATS, *INTEGERS, torch.bool)


def same(left: Any, right: Any) -> bool:
    """Whether two states have the same types, structure and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        return torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    if isinstance(left, np.ndarray | np.generic):
        return (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())
    if isinstance(left, float):
        return left.hex() == right.hex()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return left == right


def make(folder: Path, *, config_hash: str = "abc") -> tuple[CheckpointStore, list[str]]:
    warnings: list[str] = []
    return CheckpointStore(folder, config_hash, warn=warnings.append), warnings


@settings(max_examples=60, deadline=None)
@given(
    state=st.recursive(
        scalars | arrays,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_nested_state_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    store, _ = make(tmp_path_factory.mktemp("checkpoints"))
    store.save("stage", state)
    assert same(store.load("stage"), state)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)], ids=str)
def test_every_tensor_dtype_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    store, _ = make(tmp_path)
    tensor = (torch.arange(24)[: int(np.prod(shape))].reshape(shape) % 2).to(dtype)
    store.save("stage", {"t": tensor})
    assert same(store.load("stage"), {"t": tensor})


def test_views_of_one_memory_and_strided_tensors_are_stored(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    base = torch.arange(12.0).reshape(3, 4)
    state = [base, base[1:], base.t(), base[0, 0]]
    store.save("stage", state)
    assert same(store.load("stage"), state)


def test_training_goes_on_exactly_from_a_stored_optimiser_and_generator(tmp_path: Path) -> None:
    def train(model: torch.nn.Module, adam: torch.optim.Adam, draws: torch.Generator, steps: int) -> None:
        for _ in range(steps):
            adam.zero_grad()
            model(torch.randn(5, 4, generator=draws)).square().mean().backward()
            adam.step()

    def fresh() -> tuple[torch.nn.Module, torch.optim.Adam, torch.Generator]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        with torch.no_grad():
            model[0].weight.copy_(torch.arange(16.0).reshape(4, 4) / 16)
            model[0].bias.zero_()
        return model, torch.optim.Adam(model.parameters(), lr=0.01), torch.Generator().manual_seed(3)

    store, _ = make(tmp_path)
    whole = fresh()
    train(*whole, steps=6)
    half = fresh()
    train(*half, steps=3)
    numpy_draws = np.random.default_rng(7)
    numpy_draws.random(5)
    store.save("stage", {"model": half[0].state_dict(), "adam": half[1].state_dict(), "torch": half[2].get_state(),
                         "numpy": numpy_draws.bit_generator.state})  # fmt: skip
    state = store.load("stage")
    model, adam, draws = fresh()
    model.load_state_dict(state["model"])
    adam.load_state_dict(state["adam"])
    draws.set_state(state["torch"])
    train(model, adam, draws, steps=3)
    assert same(dict(model.state_dict()), dict(whole[0].state_dict()))
    restored = np.random.default_rng()
    restored.bit_generator.state = state["numpy"]
    assert restored.random() == numpy_draws.random()


def test_values_that_cannot_be_stored_are_named_by_their_place(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    with pytest.raises(TypeError, match=r"stage\.a\[1\]"):
        store.save("stage", {"a": [1, tmp_path]})
    assert store.load("stage") is None


@pytest.mark.parametrize("name", ["", "../stage", "/stage", "a//b", ".hidden", "a/../b"])
def test_names_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a checkpoint name"):
        make(tmp_path)[0].save(name, 1)


def test_a_missing_checkpoint_is_none_and_delete_removes_both_files(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    assert store.load("a/b") is None
    store.save("a/b", 1)
    store.save("a/b", 2)
    assert store.exists("a/b") and store.previous_path("a/b").exists()
    store.delete("a/b")
    assert not store.exists("a/b") and list(tmp_path.rglob("*.safetensors")) == []


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble_the_tree(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"round", b"rouNd"))


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, garble_the_tree])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it_and_that_is_said(tmp_path: Path, damage: Any) -> None:
    store, warnings = make(tmp_path)
    for round_ in (1, 2):
        store.save("stage", {"round": round_, "w": torch.full((50,), float(round_))})
    damage(store.path("stage"))
    assert store.load("stage")["round"] == 1
    assert len(warnings) == 1 and "stage.safetensors" in warnings[0]
    damage(store.previous_path("stage"))
    with pytest.raises(UserError) as caught:
        store.load("stage")
    assert caught.value.code == "run.checkpoint_damaged"


def test_a_stop_between_the_two_renames_leaves_a_checkpoint(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    store.save("stage", 1)
    store.path("stage").rename(store.previous_path("stage"))
    assert store.load("stage") == 1


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    make(tmp_path, config_hash="abc")[0].save("stage", 1)
    with pytest.raises(UserError) as caught:
        make(tmp_path, config_hash="def")[0].load("stage")
    assert caught.value.code == "run.checkpoint_foreign"


def test_what_a_reporter_buffers_is_written_before_the_checkpoint(tmp_path: Path) -> None:
    seen: list[bool] = []
    store = CheckpointStore(tmp_path, "abc", warn=print, before_save=lambda: seen.append(store.path("s").exists()))
    store.save("s", 1)
    assert seen == [False]


def test_what_a_killed_worker_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    (tmp_path / ".stage.safetensors.123.tmp").write_bytes(b"half")
    store.save("stage", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["stage.safetensors"] and store.load("stage") == 1


def test_a_full_disk_is_said_and_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the kernel refuses the write in the middle of the file."""
    script = textwrap.dedent(
        f"""
        import resource, signal, torch
        from pathlib import Path
        from engine.errors import UserError
        from engine.runs.checkpoint import CheckpointStore
        store = CheckpointStore(Path({str(tmp_path)!r}), "abc", warn=print)
        store.save("stage", 1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            store.save("stage", torch.zeros(100_000))
        except UserError as error:
            print(error.code, store.load("stage"))
        """
    )
    assert hasattr(resource, "RLIMIT_FSIZE") and hasattr(signal, "SIGXFSZ")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["run.disk_full", "1"], done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["stage.safetensors"]


ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "v": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "n": np.array(7),
    "none": np.zeros((0, 2), np.float16),
}


@pytest.mark.parametrize("verify", [True, False])
def test_arrays_can_stay_in_the_file_and_be_read_in_parts(tmp_path: Path, verify: bool) -> None:
    store, _ = make(tmp_path)
    store.save("reply", {"site": "a", "arrays": ARRAYS, "metrics": {"loss": 0.1}})
    state = store.load("reply", leave="arrays", verify=verify)
    left = state.pop("arrays")
    assert same(state, {"site": "a", "metrics": {"loss": 0.1}})
    assert isinstance(left, StoredArrays) and same(dict(left), ARRAYS)
    assert left.flat("w")[1:4].tolist() == [1, 2, 3] and left.flat("v")[-2:].tolist() == [4, 5]
    assert left.flat("n").shape == () and left.flat("n")[0:9].tolist() == [7]
    left["w"][...] = 9
    assert same(store.load("reply")["arrays"], ARRAYS), "what is read is the reader's own"


@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
def test_a_file_that_shrinks_while_its_arrays_are_read_is_said(tmp_path: Path, damage: Any) -> None:
    store, _ = make(tmp_path)
    store.save("reply", {"arrays": {"w": np.arange(50.0)}})
    left = store.load("reply", leave="arrays")["arrays"]
    damage(store.path("reply"))
    with pytest.raises(UserError) as caught:
        left["w"]
    assert caught.value.code == "run.checkpoint_damaged"


def test_what_stays_in_the_file_is_verified_when_it_is_opened(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    store.save("reply", {"arrays": ARRAYS})
    flip_a_bit(store.path("reply"))
    with pytest.raises(UserError, match="SHA-256"):
        store.load("reply", leave="arrays")


def test_one_array_under_two_names_is_stored(tmp_path: Path) -> None:
    store, _ = make(tmp_path)
    weights = np.arange(4.0)
    state = {"arrays": {"w": weights}, "best": {"w": weights, "half": weights[:2]}}
    store.save("stage", state)
    assert same(store.load("stage"), state)
