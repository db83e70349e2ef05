"""A worker whose disk is full still says so, and its run is not left running."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from PIL import UnidentifiedImageError

from engine.config import parse_config
from engine.errors import UserError
from engine.runs import worker
from engine.runs.store import RunStore
from engine.site.optimiser_files import load_optimiser, save_optimiser

FULL = UserError("run.disk_full", what="The disk is full.", why="It is.", fix="Free some space.")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "run.disk_full"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "run.disk_full"),
        (OSError(errno.EIO, "Input/output error"), "run.crashed"),
        (MemoryError("no"), "run.out_of_memory"),
        (OSError("image file is truncated (3 bytes not processed)"), "run.output_damaged"),
        (UnidentifiedImageError("cannot identify image file 'a.png'"), "run.output_damaged"),
        (json.JSONDecodeError("Expecting value", "", 0), "run.output_damaged"),
        (KeyError("x"), "run.crashed"),
    ],
)
def test_the_reason_of_a_crash_is_named(error: Exception, code: str) -> None:
    assert worker._crash(error, "r").code == code


def test_the_end_is_recorded_once_there_is_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)
    run_id = store.create_run(parse_config({"method": "fedtinysam"})).run_id
    store.enqueue(run_id)
    record = store.claim(max_running=1)
    assert record is not None
    refusals = iter([True, True])
    real = store.end_run

    def end_run(*arguments: object, **values: object) -> bool:
        if next(refusals, False):
            raise FULL
        return real(*arguments, **values)  # type: ignore[arg-type]

    def write_log(*arguments: object, **values: object) -> None:
        raise FULL

    monkeypatch.setattr(store, "end_run", end_run)
    monkeypatch.setattr(store, "write_log", write_log)
    monkeypatch.setattr(worker, "END_PAUSE_S", 0.01)
    worker.Worker(store, run_id, attempt=record.attempt)._fail(FULL)
    ended = store.get(run_id)
    assert ended.status == "failed" and ended.error is not None and ended.error["code"] == "run.disk_full"
    store.close()


def test_a_site_state_that_is_cut_off_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_optimiser(optimiser, model=model, folder=tmp_path, round_number=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped", "cut off"])
def test_a_damaged_site_state_is_not_trained_with(tmp_path: Path, damage: str) -> None:
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    for number in (1, 2):
        model(torch.ones(1, 2)).sum().backward()
        optimiser.step()
        save_optimiser(optimiser, model=model, folder=tmp_path, round_number=number)
    assert load_optimiser(optimiser, model=model, folder=tmp_path, round_number=3) == 2
    path = sorted(tmp_path.iterdir())[-1]
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content if damage == "flipped" else content[:40])
    with pytest.raises(UserError) as caught:
        load_optimiser(optimiser, model=model, folder=tmp_path, round_number=3)
    assert caught.value.code == "federation.site_state_damaged"
    path.unlink()
    assert load_optimiser(optimiser, model=model, folder=tmp_path, round_number=3) == 1
