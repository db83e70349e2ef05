"""Pictures that a tag turns, beside masks that it does not turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from engine.data.layout import scan_dataset
from engine.data.problems import Problem
from tests.unit.data_world import blob, picture, write_dataset

ORIENTATION = 274


def problems(root: Path) -> list[Problem]:
    return scan_dataset(root).problems


def turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tag_that_turns_the_image_alone_is_told_where_sizes_agree(tmp_path: Path, orientation: int) -> None:
    root = write_dataset(tmp_path / "d")
    for number in (0, 2):
        side = (16, 12) if orientation > 4 else (12, 16)  # from 5 on height and width change places: 12 x 16 again
        path = root / "beta" / "images" / f"img_{number}.png"
        turned(path, picture(number, height=side[0], width=side[1]), orientation)
    if orientation == 1:
        assert problems(root) == []
        return
    (problem,) = problems(root)
    assert (problem.code, problem.weight, problem.site) == ("data.image_turned", "warning", "beta")
    assert "2 image(s)" in problem.what and "(img_0.png, img_2.png)" in problem.what
    for number in (0, 2):  # the mask was exported with the image's own tag
        stored = blob().T if orientation > 4 else blob()
        turned(root / "beta" / "masks" / f"img_{number}.png", np.ascontiguousarray(stored), orientation)
    assert problems(root) == []


def test_a_tag_of_the_mask_alone_and_of_tiff_are_told_too(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d")
    turned(root / "alpha" / "masks" / "img_0.png", blob(), 3)
    (root / "gamma" / "images" / "img_1.png").unlink()
    extra = [(ORIENTATION, "H", 1, 4, True)]
    tifffile.imwrite(root / "gamma" / "images" / "img_1.tif", picture(9), photometric="rgb", extratags=extra)
    found = problems(root)
    assert [(problem.code, problem.site) for problem in found] == [
        ("data.image_turned", "alpha"),
        ("data.image_turned", "gamma"),
    ]
    assert "img_1.tif" in found[1].what


def test_a_size_that_a_tag_makes_is_told_to_be_so(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d")
    turned(root / "beta" / "images" / "img_3.png", picture(3), 6)  # stored 12 rows of 16
    fault = next(problem for problem in problems(root) if problem.weight == "fault")
    assert fault.code == "data.mask_size"
    assert "img_3.png is 16 x 12 pixels, its image 12 x 16 pixels when it is turned as its tag says" in fault.what
