"""Badges beside a run's results, and its models under their own names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from app import markup
from app.settings import Settings
from app.studio import Studio
from app.tabs import sample_detail
from engine.config import parse_config
from engine.evaluation.tables import named
from engine.report import badges as badge_text
from engine.report.badges import averaged_model, badges, exported_model
from engine.types import EvaluationRow, ModelDifference

CONFIG = parse_config({"method": "dsfedmed", "student": {"name": "unet"}})
STAGES = ("federated_training", "mutual_distillation", "evaluation", "export")


def row(model: str, dice: float, **how: Any) -> EvaluationRow:
    values = {"site": "new", "split": "test", "class_name": "polyp", "num_images": 9, **how}
    return EvaluationRow(model, dice=dice, dice_low=0.1, dice_high=0.9, iou=0.4, dice_five_thresholds=0.5,
                         iou_five_thresholds=0.3, hd95_px=None, **values)  # fmt: skip


def difference(low: float | None, **how: Any) -> ModelDifference:
    values: dict[str, Any] = {
        "model": "distilled_student", "baseline": "fedavg_student", "site": "new", "split": "test",
        "class_name": "polyp", "num_images": 9, "num_groups": 9, "dice": 0.05, "dice_high": 0.1,
    }  # fmt: skip
    return ModelDifference(dice_low=low, **{**values, **how})


def found(rows: list[EvaluationRow], differences: list[ModelDifference] = [], **how: Any) -> dict[str, tuple[str, ...]]:  # noqa: B006
    told = {"config": CONFIG, "stages": STAGES, "exported": None, **how}
    return dict(badges(rows, differences, **told))


def test_the_best_is_of_the_unseen_images_alone() -> None:
    rows = [row("fedavg_student", 0.6), row("distilled_student", 0.7),
            row("fedavg_student", 0.9, split="validation", site="a")]  # fmt: skip
    assert found(rows) == {"U-Net, mutually distilled": (badge_text.BEST,)}
    assert found([replace(r, dice=0.7) for r in rows[:2]]) == {
        "U-Net, FedAvg only": (badge_text.BEST,), "U-Net, mutually distilled": (badge_text.BEST,),
    }, "equal ones both"  # fmt: skip
    assert found(rows[:1]) == {} and found([]) == {}, "one alone is compared with nothing"


def test_the_mean_over_classes_and_all_sites_of_the_test_count() -> None:
    rows = [
        row("fedavg_student", 0.9, class_name="disc"), row("fedavg_student", 0.5, class_name="mean"),
        row("distilled_student", 0.6, class_name="disc"), row("distilled_student", 0.6, class_name="mean"),
        row("distilled_student", 0.4, class_name="mean", site="all", num_images=20),
        row("fedavg_student", 0.3, class_name="mean", site="all", num_images=20),
    ]  # fmt: skip
    assert found(rows[:4]) == {"U-Net, mutually distilled": (badge_text.BEST,)}
    rows[-1] = replace(rows[-1], dice=0.45)
    assert found(rows) == {"U-Net, FedAvg only": (badge_text.BEST,)}


def test_no_better_than_fedavg_is_decided_by_the_paired_interval() -> None:
    assert averaged_model(STAGES) == "fedavg_student" and averaged_model(("evaluation",)) is None
    for low, told in ((0.001, False), (0.0, True), (-0.02, True), (None, False)):
        assert (found([], [difference(low)]) == {"U-Net, mutually distilled": (badge_text.NO_BETTER,)}) == told, low
    others = [difference(-0.1, baseline="distilled_teacher"), difference(-0.1, split="validation")]
    assert found([], others) == {}, "against another, or on images that choose"
    wide = difference(-0.1, site="all", num_images=20)
    assert found([], [difference(0.02), wide]) == {"U-Net, mutually distilled": (badge_text.NO_BETTER,)}


def test_badges_stand_beside_the_names_that_the_run_has() -> None:
    rows, differences = [row("fedavg_student", 0.6), row("distilled_student", 0.7)], [difference(-0.1)]
    beside = found(rows, differences, exported="distilled_student")
    assert beside == {"U-Net, mutually distilled": (badge_text.BEST, badge_text.EXPORTED, badge_text.NO_BETTER)}
    shown = markup.results_table(named(rows, CONFIG), named(differences, CONFIG), beside)
    spans = "".join(f" <span class='badge model'>{word}</span>" for word in beside["U-Net, mutually distilled"])
    assert f"<th scope='row'>U-Net, mutually distilled{spans}</th>" in shown
    assert shown.count(badge_text.LEGEND[badge_text.BEST]) == 1
    assert "badge" not in markup.results_table(named(rows, CONFIG))


def test_samples_are_called_by_the_models_of_the_run(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    run_id = studio.store.create_run(parse_config({"student": {"name": "unet"}, "teacher": {"name": "msa"}})).run_id
    assert studio.model_names(run_id) == {"student": "U-Net", "teacher": "SAM with adapters"}
    assert studio.model_names("none") == {"student": "TinySAM", "teacher": "SAM"}
    assert exported_model(studio.store, run_id) is None
    keys = [words.format(**studio.model_names(run_id)) for _, words in sample_detail.DISPUTE_KEY]
    assert keys == ["both", "SAM with adapters only", "U-Net only"]
