"""Who sends one file to the page has no dataset: refusals do not speak of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import answers
from app.settings import Settings
from app.studio import Studio
from app.visitor_words import for_visitor
from engine.data.readers import read_image
from engine.errors import UserError


def a_gif(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path, "GIF")


def an_empty_file(path: Path) -> None:
    path.write_bytes(b"")


def a_cut_png(path: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.xyz", a_gif), ("a.gif", a_gif), ("a.png", an_empty_file), ("a.png", a_cut_png), ("a.dcm", an_empty_file),
     ("a.nii.gz", a_cut_png), ("a.tif", a_cut_png), ("a.npy", an_empty_file)],
)  # fmt: skip
def test_no_refusal_of_one_file_speaks_of_a_dataset(name: str, make: object, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    studio = Studio(Settings(home=tmp_path / "home"))
    with pytest.raises(UserError) as caught:
        answers.num_slices(studio, None, path)
        answers.read_upload(studio, None, path, 0)
    said = str(caught.value)
    assert not any(word in said for word in ("dataset", "its mask", "out of the folder")), said
    assert caught.value.fix.endswith(".")
    studio.store.close()


def test_the_reader_itself_speaks_to_who_keeps_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_image(path)
    told = for_visitor(caught.value, names={str(path): "eye.png"})
    assert "out of the dataset" in caught.value.fix
    assert told.fix == "Export or copy it again, or choose another file."
    assert "eye.png" in told.what and str(tmp_path) not in told.what and told.code == caught.value.code
