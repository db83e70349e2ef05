"""Parts of a configuration that do not fit each other are refused by the plan, with what to set instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config, parse_config
from engine.data.phantoms import write_dataset
from engine.errors import UserError
from engine.planning import plan


def edited(**sections: dict[str, Any]) -> RunConfig:
    values = load_config("phantom_cpu_smoke").model_dump(mode="json")
    for name, changes in sections.items():
        values[name] |= changes
    return parse_config(values)


UNET: dict[str, Any] = {"student": {"name": "unet", "weights": None}}
TEACHER_UNET: dict[str, Any] = {"teacher": {"name": "unet", "weights": None}}


@pytest.mark.parametrize("student", ["tinysam", "unet", "nnunet"])
@pytest.mark.parametrize("teacher", ["sam", "msa"])
def test_foundation_and_light_model_are_combined_freely(teacher: str, student: str, tmp_path: Path) -> None:
    light = {} if student == "tinysam" else {"name": student, "weights": None}
    made = plan(edited(teacher={"name": teacher}, student=light), home=tmp_path)
    grids = [warning for warning in made.warnings if "evaluation.mask_px" in warning]
    assert len(grids) == (student != "tinysam")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        (UNET | {"distillation": {"feature_weight": 0.1}}, "plan.models_misfit", "feature_weight = 0"),
        (
            {"student": {"size": "5m", "weights": None}, "distillation": {"feature_weight": 0.1}},
            "plan.models_misfit",
            "one size",
        ),
        (TEACHER_UNET | {"distillation": {"freeze_teacher_encoder": True}}, "plan.models_misfit", "no image encoder"),
        (TEACHER_UNET | {"foundation": {"freeze_encoder": True}}, "plan.models_misfit", "teacher.name"),
        ({"student": {"name": "nnunet", "weights": None}, "data": {"image_px": 32}}, "model.image_size", "at least 64"),
        ({"teacher": {"name": "msa", "weights": "tinysam-mini"}}, "weights.misfit", "tinysam/mini"),
        ({"student": {"size": "5m"}}, "weights.misfit", "tinysam-mini"),
        ({"teacher": {"size": "vit_b"}}, "weights.misfit", "sam-mini"),
        ({"student": {"weights": "controlnet-mini"}}, "weights.misfit", "no segmentation model"),
        ({"student": {"size": "vit_b", "weights": None}}, "model.unknown", "mini, 5m"),
        ({"generator": {"image_px": 100}}, "generator.image_size", "multiple of"),
        ({"data": {"image_px": 100}}, "model.image_size", "data.image_px"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    changes: dict[str, dict[str, Any]], code: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        plan(edited(**changes), home=tmp_path)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_more_classes_than_a_condition_image_has_planes_are_refused(tmp_path: Path) -> None:
    root = write_dataset("fundus", tmp_path / "data", images_per_site=4, image_px=64)
    for site in sorted(path for path in root.iterdir() if path.is_dir()):
        for name in ("vessels", "lesions"):
            (site / "masks" / name).mkdir()
            for mask in (site / "masks" / "disc").iterdir():
                (site / "masks" / name / mask.name).write_bytes(mask.read_bytes())
    description = root / "dataset.toml"
    text = description.read_text(encoding="utf-8")
    description.write_text(text.replace('"cup"', '"cup", "vessels", "lesions"'), encoding="utf-8")
    folder = {"source": "folder", "root": str(root), "held_out": None, "image_px": 64}
    with pytest.raises(UserError, match="4 classes") as caught:
        plan(edited(data=folder), home=tmp_path)
    assert caught.value.code == "data.too_many_classes"
    plan(edited(data=folder | {"classes": ["disc", "lesions"]}), home=tmp_path)
