"""Commands on folders as people really have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit import test_cli
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
