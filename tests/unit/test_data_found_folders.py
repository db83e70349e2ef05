"""Which folders are taken for datasets, by names alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.data import found_folders
from engine.data.found_folders import FoundFolder, find_datasets, layout_of
from engine.data.layout import scan_dataset
from engine.errors import UserError
from tests.unit.data_world import write_dataset, write_npy_layout

LONG_S = 600.0


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def nnunet(root: Path) -> Path:
    names = [f"case_{number}_{channel}.nii.gz" for number in range(3) for channel in ("0000", "0001")]
    touched(root / "dataset.json", *(root / "imagesTr" / name for name in names))
    return root


def test_datasets_of_each_layout_are_found_with_their_images(tmp_path: Path) -> None:
    toy = write_dataset(tmp_path / "a" / "toy")
    npy = write_npy_layout(tmp_path / "b" / "deep" / "npy")
    task = nnunet(tmp_path / "Task03_Liver")
    touched(
        tmp_path / "papers" / "images.pdf", tmp_path / "pictures" / "one.png", toy / "alpha" / "images" / "._img_0.png"
    )
    found, is_complete = find_datasets([tmp_path, toy.parent], most_s=LONG_S)
    expected = [FoundFolder(toy, "sites", 3, 12), FoundFolder(npy, "npy", 2, 8), FoundFolder(task, "nnunet", 1, 3)]
    assert is_complete and sorted(found, key=str) == sorted(expected, key=str), "each once"


def test_links_hidden_folders_and_what_lies_too_deep_are_left_out(tmp_path: Path) -> None:
    elsewhere = write_dataset(tmp_path / "elsewhere" / "toy")
    root = tmp_path / "root"
    write_dataset(root / ".hidden" / "toy")
    write_dataset(root / "1" / "2" / "3" / "toy")
    (root / "link").symlink_to(elsewhere.parent)
    assert find_datasets([root], most_s=LONG_S, depth=3) == ([], True)
    assert [one.path for one in find_datasets([root], most_s=LONG_S)[0]] == [root / "1" / "2" / "3" / "toy"]
    (tmp_path / "other").symlink_to(root)
    assert len(find_datasets([tmp_path / "other"], most_s=LONG_S)[0]) == 1, "a root may be a link: the operator's own"


def test_a_search_ends_in_time_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "toy")
    assert find_datasets([tmp_path], most_s=-1) == ([], False)
    monkeypatch.setattr(found_folders, "MOST_FOLDERS", 1)
    assert find_datasets([tmp_path], most_s=LONG_S) == ([], False)


def test_a_folder_without_description_is_one_by_its_sites(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "toy")
    (root / "dataset.toml").unlink()
    assert layout_of(root) == "sites"
    assert layout_of(tmp_path) is None and layout_of(tmp_path / "none") is None


def test_the_layout_of_nnunet_is_recognised_and_how_to_prepare_it_said(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "my Task")
    with pytest.raises(UserError) as caught:
        scan_dataset(root)
    assert caught.value.code == "data.foreign_layout"
    assert f"data prepare nnunet --from '{root}' --to" in caught.value.fix
