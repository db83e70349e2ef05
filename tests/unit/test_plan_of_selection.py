"""A plan takes as many samples as training does: the nearest whole number of those that are not left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import load_config
from engine.distillation.selection import num_selected
from engine.planning.plan import plan


# Of 18 samples 5.4 and 4.68; of the 15 that are left 7.5, a half, which goes to the even number.
@pytest.mark.parametrize(("rate", "left_out", "selected", "pool"), [(0.3, 0, 5, 18), (0.26, 0, 5, 18), (0.5, 3, 8, 15)])
def test_a_plan_counts_what_training_chooses(
    rate: float, left_out: int, selected: int, pool: int, tmp_path: Path
) -> None:
    ids = [f"tower_hd/{number:05d}" for number in range(left_out)]
    settings = {"distillation.selection_rate": rate, "distillation.excluded_samples": ids}
    planned = plan(load_config("phantom_cpu_smoke", overrides=settings), home=tmp_path)
    (stage,) = (stage for stage in planned.stages if stage.name == "mutual_distillation")
    assert f"on {selected} of {pool} samples" in stage.detail and selected == num_selected(pool, rate)
    assert (f"{left_out} left out" in stage.detail) == bool(left_out)
