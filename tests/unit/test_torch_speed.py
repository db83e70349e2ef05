"""Inference in PyTorch, beside the exported model's."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from engine.config import parse_config
from engine.errors import UserError
from engine.evaluation import torch_speed
from engine.experiments import inference
from engine.models.segmenter import Segmenter
from engine.runs.store import RunStore

CONFIG = {"data": {"image_px": 32}, "student": {"name": "tinysam", "weights": None}}


def test_each_pass_is_timed_in_eval_mode_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool, tuple[int, ...], int]] = []
    forward = Segmenter.forward

    def noted(model: Segmenter, image: torch.Tensor, *more: object) -> torch.Tensor:
        logits = forward(model, image, *more)
        seen.append((model.training, torch.is_inference_mode_enabled(), tuple(image.shape), logits.shape[1]))
        return logits

    monkeypatch.setattr(Segmenter, "forward", noted)
    seconds = torch_speed.seconds_of_passes(parse_config(CONFIG), num_classes=2, passes=3)
    assert len(seconds) == 3 and min(seconds) > 0
    assert seen == [(False, True, (1, 3, 32, 32), 2)] * 3


def test_the_process_reads_a_request_and_prints_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = {"config": parse_config(CONFIG).model_dump(mode="json"), "num_classes": 1, "passes": 2}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    torch_speed.main()
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.slow
def test_a_table_asks_a_process_of_its_own() -> None:
    config_json = json.dumps(parse_config(CONFIG).model_dump(mode="json"))
    assert len(inference._torch_seconds("a run", config_json, 1)) == inference.REPEATS
    with pytest.raises(UserError, match="a run could not be timed"):
        inference._torch_seconds("a run", json.dumps({"student": {"name": "tinysam", "size": "none"}}), 1)


def test_a_run_without_a_bundle_has_no_time(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert inference.torch_seconds(store, store.create_run(parse_config(CONFIG)).run_id) is None
