"""The command of a run, read back by the command line, is the run's configuration."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from engine.cli.options import read_config
from engine.config import RunConfig, load_config, preset_names
from engine.runs.command import run_command


def read_back(command: str) -> RunConfig:
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "engine", "run"]
    found: dict[str, Any] = {"--preset": [], "--name": [], "--set": []}
    for option, value in zip(words[4::2], words[5::2], strict=True):
        found[option].append(value)
    name = found["--name"][0] if found["--name"] else None
    return read_config(preset=found["--preset"][0], config=None, settings=found["--set"], name=name)


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_named_and_nothing_else(preset: str) -> None:
    assert run_command(load_config(preset)) == f"python -m engine run --preset {preset}"


def test_what_differs_is_said_and_read_back() -> None:
    changes = {
        "name": "it's `mine` $(date)",
        "seed": 7,
        "threads": 2,
        "data.sites": ["scope octagon", "guided_inset"],
        "data.held_out": None,
        "federation.learning_rate": 1e-4,
        "federation.average_buffers": False,
        "federation.patience": 3,
        "generator.prompt": 'a "fundus", 12',
    }
    config = load_config("phantom_cpu_demo", overrides=changes)
    command = run_command(config)
    assert command.startswith("python -m engine run --preset phantom_cpu_demo --name ")
    assert "--set seed=7 " in command and "federation.average_buffers=false" in command
    assert read_back(command) == config


def test_a_key_that_is_left_out_is_said() -> None:
    config = load_config("phantom_cpu_demo", overrides={"teacher.weights": None, "generator.prompt": "12"})
    assert "--set teacher.weights=none" in run_command(config)
    assert read_back(run_command(config)) == config
