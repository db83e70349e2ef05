"""Commands on folders as people really have them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.cli import main
from tests.unit import test_cli
from tests.unit.data_world import write_dataset
from tests.unit.test_cli import as_json

bundle = test_cli.bundle  # the fixture


def test_a_folder_from_a_mac_or_windows_is_segmented(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    for name in ("a.png", "b/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((30, 20), 90, np.uint8)).save(folder / name)
    for name in (
        "._a.png",
        "b/._c.png",
        ".hidden.png",
        "__MACOSX/a.png",
        "__MACOSX/._a.png",
        ".Trash/x.png",
        "Thumbs.db",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07 no picture")
    by_hand = [str(folder / name) for name in ("a.png", "b", "__MACOSX", "Thumbs.db")]  # as a shell's * gives them
    for inputs in ([str(folder)], by_hand):
        found = as_json(capsys, "predict", str(bundle), *inputs, "--out", str(tmp_path / "masks"))
        assert [Path(row["image"]).name for row in found["predictions"]] == ["a.png", "c.png"] and found["faults"] == []
    error = as_json(capsys, "predict", str(bundle), str(folder / "__MACOSX"), "--out", str(tmp_path), status=2)["error"]
    assert error["code"] == "predict.no_images"


def test_masks_that_one_disk_would_hold_under_one_name_are_refused(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path
) -> None:
    for name in ("Case.png", "case.png"):
        Image.fromarray(np.full((30, 20), 90, np.uint8)).save(tmp_path / name)
    error = as_json(capsys, "predict", str(bundle), str(tmp_path), "--out", str(tmp_path / "m"), status=2)["error"]
    assert error["code"] == "predict.same_name"


def test_a_check_tells_faults_and_warnings_of_both_datasets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root, other = write_dataset(tmp_path / "set"), write_dataset(tmp_path / "other", sites=("delta",))
    for kind in ("images", "masks"):
        shutil.copy(root / "beta" / kind / "img_0.png", root / "beta" / kind / "again.png")
    test_set = ["--set", "data.protocol=fixed-test", "--set", f"data.test_root={other}"]
    found = as_json(capsys, "data", "check", str(root), *test_set)
    assert found["faults"] == [] and set(found["images"]) == {"alpha", "beta", "gamma", "delta"}
    (warning,) = found["warnings"]
    assert (warning["code"], warning["site"]) == ("data.copied_image", "beta") and warning["fix"]
    (other / "delta" / "masks" / "img_1.png").write_bytes(b"\x89PNG")
    shutil.copy(root / "alpha" / "images" / "img_2.png", other / "delta" / "images" / "img_2.png")
    (root / "gamma" / "masks" / "img_3.png").unlink()
    found = as_json(capsys, "data", "check", str(root), *test_set, status=2)
    assert [(fault["site"], fault["file"]) for fault in found["faults"]] == [
        ("gamma", "gamma/images/img_3.png"),
        ("delta", "delta/masks/img_1.png"),
        ("alpha", "alpha/images/img_2.png"),
    ]
    assert [warning["code"] for warning in found["warnings"]] == ["data.copied_image"]
    assert found["error"]["code"] == "data.several_faults"
    assert main(["data", "check", str(root), *test_set]) == 2
    told = capsys.readouterr().err
    assert "3 fault(s)" in told and "1 warning(s)" in told and "gamma/images/img_3.png" in told


def test_a_check_of_one_site_says_that_there_are_too_few(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha",))
    assert as_json(capsys, "data", "check", str(root), status=2)["error"]["code"] == "data.too_few_sites"
    assert (
        as_json(capsys, "data", "check", str(tmp_path / "none"), status=2)["faults"][0]["code"] == "data.root_missing"
    )
