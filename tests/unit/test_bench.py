"""The benches behind the README's tables: which images, models and seeds they compare, and that they go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gain import TASKS, finished_cells, interval, task_config
from bench.traffic import SHOWN, arm_config, print_table
from bench.traffic_plan import ARMS
from bench.unet import PRESETS, run_seed, unet_config
from engine.cli.options import edit_config
from engine.config import load_config
from engine.stages.files import read_json, write_json


def test_polyps_are_among_the_tasks_of_the_gain_table() -> None:
    config = task_config("polyp", seed=5, data=Path("there"))
    assert (config.data.root, config.data.held_out, config.seed) == (Path("there/polypgen"), "C6_alexandria", 5)
    assert config.federation.patience == 8 and config.federation.rounds == 120


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_its_preset_but_for_convergence_and_what_phantoms_change(task: str) -> None:
    preset, config = load_config(TASKS[task]), task_config(task, seed=1, data=Path("data"))
    sections = ("student", "teacher", "generator", "foundation", "evaluation")
    assert all(getattr(config, name) == getattr(preset, name) for name in sections)
    assert (config.data == preset.data) == (task != "phantom_nuclei")


@pytest.mark.parametrize(
    ("preset", "scored_px"),
    # TinySAM's logits have a stride of 2 at 128, 256 and 192 px
    [("phantom_cpu_demo", 64), ("nuclei_cpu", 128), ("polyp_cpu", 96)],
)
def test_the_unet_sees_the_presets_images_and_is_scored_on_its_grid(preset: str, scored_px: int) -> None:
    assert preset in PRESETS
    config, of_preset = unet_config(preset, seed=3, data=Path("data")), load_config(preset)
    assert config.data == of_preset.data and config.evaluation.mask_px == scored_px
    assert (config.student.name, config.student.weights, config.seed) == ("unet", None, 3)
    assert (config.pos_weight, config.dice_weight) == (of_preset.pos_weight, of_preset.dice_weight)
    assert config.federation.learning_rate == of_preset.federation.learning_rate
    assert config.federation.patience == config.federation.rounds == 120, "the best round is kept, and none is the last"


def test_a_seed_is_trained_once(tmp_path: Path) -> None:
    small = ["data.image_px=32", "data.images_per_site=4", "federation.rounds=1", "evaluation.mask_px=16", "threads=1"]
    config = edit_config(unet_config("phantom_cpu_demo", seed=1, data=tmp_path), small)
    dice = run_seed(config, tmp_path / "phantom_cpu_demo" / "1")
    assert 0.0 <= dice <= 1.0
    weights = tmp_path / "phantom_cpu_demo" / "1" / "unet" / "models" / "fedavg_student.safetensors"
    made = weights.stat().st_mtime_ns
    assert run_seed(config, tmp_path / "phantom_cpu_demo" / "1") == dice and weights.stat().st_mtime_ns == made
    write_json(tmp_path / "phantom_cpu_demo" / "1" / "cell.json", {"unet": dice})
    assert finished_cells(tmp_path) == {"phantom_cpu_demo": {"1": {"unet": dice}}}
    assert set(read_json(weights.parent.parent / "times.json")) == {"federated_training", "evaluation"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5, 0.6, 0.7], " 60.0 ± 24.8"),  # t(0.975, 2) = 4.3027; 4.3027 * 10 / sqrt(3) = 24.84
        ([0.5, None, 0.7], " 60.0 ± 127.1"),  # t(0.975, 1) = 12.706; 12.706 * 14.142 / sqrt(2) = 127.06
        ([0.5], " 50.0"),
        ([None], "-"),
    ],
)
def test_an_interval_is_students_t_over_seeds(values: list[float | None], text: str) -> None:
    assert interval(values).rstrip() == text or interval(values).strip() == text


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_of_the_traffic_table_is_its_preset_s_rounds_with_coded_messages(name: str) -> None:
    preset = load_config("polyp_cpu")
    config = arm_config("polyp_cpu", ARMS[name], seed=4, data=Path("there"), rounds=7)
    assert (config.seed, config.method, config.data.root) == (4, "fedtinysam", Path("there/polypgen"))
    same = {"rounds": preset.federation.rounds, "patience": preset.federation.patience}
    same |= {key: getattr(preset.federation, key) for key in ("codec", "codec_down", "topk_share")}
    assert config.federation.model_copy(update=same) == preset.federation
    assert (config.federation.rounds, config.federation.patience) == (7, None)
    assert (config.federation.codec, config.federation.codec_down) == (ARMS[name].up, ARMS[name].down)
    assert (config.student, config.evaluation) == (preset.student, preset.evaluation)


def test_the_traffic_table_takes_differences_seed_by_seed(capsys: pytest.CaptureFixture[str]) -> None:
    def cell(mib: float, val_dice: float, dice: float) -> dict:
        sizes = {"up": int(mib * 2**20), "down": int(mib * 2**20)}
        return {"planned": {"up": 2**21, "down": 2**21}, "measured": sizes, "val_dice": val_dice, "dice": dice}

    found = {
        "topk10_int8": {"1": cell(0.25, 0.70, 0.50), "2": cell(0.25, 0.60, 0.61), "3": cell(0.25, 0.9, 0.9)},
        "plain": {"1": cell(2, 0.69, 0.52), "2": cell(2, 0.59, 0.59)},
    }
    print_table("smoke", found)
    plain, coded = capsys.readouterr().out.splitlines()[-2:]
    assert plain.split()[:4] == ["plain", "2", "4.00", "4.00"]
    assert coded.split()[:4] == ["topk10_int8", "3", "4.00", "0.50"]
    # Validation: +1 and +1 point; unseen site: -2 and +2, t(0.975, 1) = 12.706, half = 12.706 * 2.828 / 1.414 = 25.4.
    assert "1.0 ±  0.0" in coded and "0.0 ± 25.4" in coded
    assert set(SHOWN.split(",")) <= set(ARMS)
