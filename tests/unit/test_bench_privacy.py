"""The bench of Dice against epsilon: what an arm is, that a folder says what is done, and what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.privacy import ARM_FILE, FIRST, OFF, SHOWN, arm_config, finished, print_table
from engine.config import load_config
from engine.stages.files import write_json


@pytest.mark.parametrize("arm", SHOWN)
def test_an_arm_is_the_preset_but_for_its_privacy(arm: str) -> None:
    preset, config = load_config("phantom_cpu_demo"), arm_config("phantom_cpu_demo", arm, seed=4, rounds=7)
    assert (config.data, config.student, config.seed) == (preset.data, preset.student, 4)
    assert config.federation == preset.federation.model_copy(update={"rounds": 7, "patience": None})
    if arm in (FIRST, OFF):
        assert config.privacy == preset.privacy and not config.privacy.is_on
    else:
        part = config.privacy
        assert f"{part.mechanism}/{part.clip_norm:g}/{part.noise_multiplier:g}" == arm


def test_the_table_compares_seed_by_seed_and_tells_of_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.9 and 0.5 without noise, 0.7 and 0.6 with: 70 and 60, less by 20 and more by 10, so 5 less on average."""
    cells = {
        ("off", "1"): (0.9, None), ("off", "2"): (0.5, None), ("first", "1"): (0.3, None), ("first", "2"): (0.3, None),
        ("central/1/0.5", "1"): (0.7, 12.345), ("central/1/0.5", "2"): (0.6, 12.345), ("client/9/9", "1"): (None, 2.0),
    }  # fmt: skip
    for (arm, seed), (dice, epsilon) in cells.items():
        folder = tmp_path / arm.replace("/", "_") / seed
        folder.mkdir(parents=True)
        write_json(folder / ARM_FILE, {"dice": dice, "epsilon": epsilon, "why": ""})
    found = finished(tmp_path)
    assert set(found) == {"off", "first", "central/1/0.5", "client/9/9"}
    print_table(found)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[3:]]
    assert [line[0] for line in lines] == ["off", "central/1/0.5", "client/9/9", "first"], "the most private come last"
    private = lines[1]
    assert private[1:4] == ["2/2", "12.4", "65.0"] and private[6] == "-5.0" and private[9] == "35.0"
    assert lines[2][1:5] == ["0/1", "2", "no", "model"] and lines[3][2] == "0"
