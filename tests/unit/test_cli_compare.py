"""`predict --compare`: the masks of two models, and what they have in common."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from volume_files import SHIPPED

from engine.__main__ import main


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict:
    assert main([*arguments, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_a_second_model_gives_its_own_masks_and_what_both_have_in_common(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Voxels of 2 x 5 x 10 mm, 0.1 mL; the second model sees the same numbers darker."""
    volume = np.random.default_rng(3).integers(0, 100, (24, 20, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 5.0, 10.0, 1.0])), tmp_path / "ct.nii.gz")
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    for name, told in (
        ("light", {"value_range": [0.0, 100.0]}),
        ("dark", {"value_range": [0.0, 900.0]}),
        ("lung", {"classes": ["lung"]}),
    ):
        shutil.copytree(SHIPPED, tmp_path / name)
        (tmp_path / name / "manifest.json").write_text(
            json.dumps(manifest | {"name": name, "modality": "CT", "appearance": None} | told)
        )
    paths = [str(tmp_path / "light"), str(tmp_path / "ct.nii.gz"), "--out", str(tmp_path / "masks")]
    found = as_json(capsys, "predict", *paths, "--compare", str(tmp_path / "dark"), "--csv")
    (row,) = found["predictions"]
    assert found["compared_with"] == "dark" and Path(row["compared"]["mask"]).name == "ct_dark_mask.nii.gz"
    first, second = (nibabel.load(path).get_fdata() > 0 for path in (row["mask"], row["compared"]["mask"]))
    (nucleus,) = row["compared"]["classes"]
    assert nucleus["foreground_px"] == [first.sum(), second.sum()]
    assert nucleus["differing_ml"] == pytest.approx(0.1 * (first ^ second).sum())
    both = first.sum() + second.sum()
    assert nucleus["dice"] == pytest.approx(2 * (first & second).sum() / both if both else 1.0)
    assert "differing_ml" in (tmp_path / "masks" / "measurements.csv").read_text().splitlines()[0]
    assert main(["predict", *paths, "--compare", str(tmp_path / "dark")]) == 0
    assert "Disagreement" in capsys.readouterr().out
    error = as_json(capsys, "predict", *paths, "--compare", str(tmp_path / "lung"), status=2)["error"]
    assert error["code"] == "compare.classes"
