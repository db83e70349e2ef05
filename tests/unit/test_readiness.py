"""What a preset needs and this machine lacks is said before anybody asks for a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.tabs.run_form import _preset_note
from engine.config import load_config, preset_names
from engine.planning import machine, readiness
from engine.planning.readiness import lacking, preset_lacks


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSFEDMED_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "gpu_memory_gib", lambda: None)


def test_every_preset_for_a_cpu_can_run_and_those_at_paper_scale_say_what_to_fetch() -> None:
    lacks = {name: preset_lacks(name) for name in preset_names()}
    assert {name for name, found in lacks.items() if not found} == {
        "phantom_cpu_smoke", "phantom_cpu_demo", "nuclei_cpu", "polyp_cpu", "real_cpu",
    }  # fmt: skip
    told = " ".join(lacks["fundus_paper"])
    for key in ("student.weights", "teacher.weights", "generator.backbone"):
        assert f"({key})" in told, "each of them is named, not the first alone"
    assert "weights fetch tinysam" in told and "It cannot run here as it is." in _preset_note("fundus_paper")
    assert "cannot run" not in _preset_note("phantom_cpu_smoke")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("phantom_cpu_smoke", overrides={"device": "cuda"})
    (found,) = lacking(config)
    assert "no NVIDIA GPU" in found and "Set device" in found
    monkeypatch.setattr(machine, "gpu_memory_gib", lambda: 8.0)
    assert lacking(config) == ()
    assert readiness.lacking(load_config("phantom_cpu_smoke", overrides={"generator.optimiser_8bit": True})) != ()
