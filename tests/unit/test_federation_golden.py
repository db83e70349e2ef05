"""The curve of a toy federated run, committed: loss of every step and validation Dice of every round.

A change of the arithmetic that no other test names shows here. Renew the curve after a change that is meant with
``python -m tests.unit.test_federation_golden``, and say in the commit why it moved.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.runs.checkpoint import CheckpointStore
from engine.stages.context import RunContext
from engine.stages.federated_training import FederatedTraining

GOLDEN = Path(__file__).parent.parent / "golden" / "federated_curve.json"
LOSS_TOLERANCE = 0.005
"""Relative. Another number of threads moves the losses by about 1e-5; one wrong factor by more than 0.01."""
DICE_TOLERANCE = 0.01
"""Absolute: a few pixels whose logits lie at the threshold."""


def configure() -> RunConfig:
    """Return two sites of unequal size on which the shipped mini TinySAM takes one step a round each."""
    return parse_config(
        {
            "data": {"task": "polyp", "images_per_site": 8, "image_px": 64, "augment": "flips_colour",
                     "sites": ["portable_yellow", "tower_hd"], "held_out": "guided_inset",
                     "normalise": "per_image", "validation_fraction": 0.25},
            "student": {"name": "tinysam", "weights": "tinysam-mini"},
            "federation": {"rounds": 6, "batch_size": 8, "learning_rate": 5e-4, "average_decay": 0.5},
            "dice_weight": 0.5, "device": "cpu", "precision": "fp32", "seed": 21,
        }
    )  # fmt: skip


class Curve(ConsoleReporter):
    """Keeps the curve."""

    def __init__(self) -> None:
        super().__init__("golden")
        self.points: dict[str, float] = {}

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Keep what is no time."""
        if name in ("loss", "val_dice"):
            self.points[f"{name} {site or 'all'} {step}"] = value


def curve(folder: Path) -> dict[str, float]:
    """Return "name site round" to value; a site's loss in a round is the loss of its one step."""
    config, reporter = configure(), Curve()
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    FederatedTraining().run(RunContext(config=config, run_dir=folder, reporter=reporter, checkpoints=store))
    return reporter.points


def test_the_curve_is_the_committed_one(tmp_path: Path) -> None:
    golden, found = json.loads(GOLDEN.read_text(encoding="utf-8")), curve(tmp_path)
    assert found.keys() == golden.keys()
    for name, value in golden.items():
        if name.startswith("loss"):
            assert found[name] == pytest.approx(value, rel=LOSS_TOLERANCE), name
        else:
            assert found[name] == pytest.approx(value, abs=DICE_TOLERANCE), name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        points = {name: round(value, 6) for name, value in sorted(curve(Path(scratch)).items())}
    GOLDEN.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")
