"""Runs with figures of every image, as evaluation leaves them, for comparisons. Made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from engine.config import parse_config
from engine.runs.events import StoreReporter
from engine.runs.store import RunStore
from engine.types import EvaluationRow, Traffic

MODEL, CLASS = "fedavg_student", "disc"
Dice = Mapping[tuple[str, str], Sequence[float]]
"""Dice of every image by split and site; images of a site are two a patient."""
Distances = Mapping[tuple[str, str], Sequence[float | None]]
"""HD95 of every image by split and site; None where it has none, which is a missed mask here."""


def compared(
    store: RunStore,
    name: str,
    dice: Dice,
    *,
    settings: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    class_name: str = CLASS,
    hd95: Distances | None = None,
) -> str:
    """Make a finished run of three stages that was measured so, and return its id. IoU is half of Dice."""
    values = {"name": name, "method": "fedtinysam", "data": {"source": "phantom"}, **(settings or {})}
    run_id = store.create_run(parse_config(values), queued=True).run_id
    assert store.claim(max_running=9, run_id=run_id) is not None
    reporter = StoreReporter(store, run_id, "federated_training", attempt=1)
    for step, value in ((1, 0.2), (2, 0.5)):
        reporter.metric("val_dice", value, step=step)
        reporter.metric("val_dice", value / 2, step=step, site="a")
        reporter.traffic(Traffic("a", "up", "student", 1_000_000, round=step))
        reporter.traffic(Traffic("a", "down", "student", 1_500_000, round=step))
    rows, images = [], []
    for (split, site), values_N in dice.items():
        mean, distances_N = fmean(values_N), (hd95 or {}).get((split, site), [None] * len(values_N))
        known = [value for value in distances_N if value is not None]
        counts = (len(known), len(distances_N) - len(known), 0) if hd95 else (None, None, None)
        rows.append(EvaluationRow(MODEL, site, split, class_name, len(values_N), mean, mean - 0.1, mean + 0.1,
                                  mean / 2, 0.5, 0.3, fmean(known) if known else None, (len(values_N) + 1) // 2,
                                  *counts))  # type: ignore[arg-type]  # fmt: skip
        for number, value in enumerate(values_N):
            about = {"model": MODEL, "site": site, "class_name": class_name, "dice": value, "iou": value / 2}
            about |= {"hd95_px": distances_N[number]} if hd95 else {}
            images.append(about | {"name": f"{number:05d}", "group": f"{number // 2 + 1:05d}"})
    reporter.evaluation(rows)
    reporter.flush()
    write(store, run_id, "evaluation/images.json", images)
    same = {"test z": "0" * 64, **{f"{split} {site}": "1" * 64 for split, site in dice if split != "test"}}
    write(store, run_id, "data/identity.json", {**same, **(digests or {})})
    for stage, seconds in (("federated_training", 90.0), ("evaluation", 30.0), ("export", 0.0)):
        store.set_stage_status(run_id, stage, "finished", wall_s=seconds)
    assert store.end_run(run_id, "finished", owner=1)
    return run_id


def write(store: RunStore, run_id: str, name: str, value: Any) -> None:
    """Write a JSON file below the run's folder."""
    path = store.run_dir(run_id) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
