"""A site's program and the folder it is given: the one above its own images, or it says so before it connects."""

from __future__ import annotations

import json
import shlex
import shutil
import threading
from pathlib import Path

import pytest

from engine.cli import main
from engine.data.phantoms import write_dataset
from engine.deployment import federations
from engine.deployment import site as sites
from engine.errors import UserError
from engine.site.deployed import program
from engine.site.disclosure import for_server
from engine.site.own_folder import check_command, check_own_folder

SITE, OTHER = "north", "south"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return the folder of one hospital: dataset.toml and its own images."""
    root = write_dataset("polyp", tmp_path / "all", images_per_site=6, image_px=32)
    here = tmp_path / "at a hospital"
    here.mkdir()
    shutil.copy(root / "dataset.toml", here)
    shutil.copytree(root / "tower_hd", here / SITE)
    return here


def started(data: Path, site: str, folder: Path) -> UserError:
    with pytest.raises(UserError) as raised:
        program(site, data, folder, print)
    return raised.value


def test_its_own_folder_is_taken(data: Path, tmp_path: Path) -> None:
    program(SITE, data, tmp_path / "site", print)
    shutil.rmtree(data / SITE / "masks")
    check_own_folder(data, site=SITE)  # a site may train without labels


def test_a_folder_one_level_too_deep_is_told_with_the_one_that_is_meant(data: Path, tmp_path: Path) -> None:
    for deep in (data / SITE, data / SITE / "images"):
        error = started(deep, SITE, tmp_path)
        assert error.code == "site.folder" and "no dataset.toml" in error.what
        assert f"holds dataset.toml and {SITE}/images" in error.why
    assert f"Give the folder above it, {data}" in started(data / SITE, SITE, tmp_path).fix
    assert check_command(data, site=SITE) in started(data / SITE, SITE, tmp_path).fix


def test_another_hospitals_folder_and_others_that_are_none(data: Path, tmp_path: Path) -> None:
    assert f"it has {SITE}, and no folder called '{OTHER}'" in started(data, OTHER, tmp_path).what
    assert "in another spelling" in started(data, SITE.upper(), tmp_path).what
    (data / SITE / "images").rename(data / SITE / "pictures")
    assert f"no folder {SITE}/images" in started(data, SITE, tmp_path).what
    shutil.rmtree(data / SITE)
    assert f"no folder called '{SITE}'" in started(data, SITE, tmp_path).what
    (data / "dataset.toml").write_text("name = 3")
    assert started(data, SITE, tmp_path).code == "data.description_invalid"


def test_site_up_ends_with_the_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = federations.create(tmp_path / "fed", name="f", public_address="localhost:9")
    folder = federations.invite(made, SITE)
    assert main(["site", "keys", str(folder)]) == 0
    with pytest.raises(UserError) as raised:
        sites.up(sites.load(folder, data=data / SITE), stop=threading.Event(), say=print)
    assert raised.value.code == "site.folder" and str(data) in raised.value.fix
    assert "Connected" not in capsys.readouterr().out


def test_a_site_of_phantoms_can_go_without_images(tmp_path: Path) -> None:
    said: list[str] = []
    program("tower_hd", tmp_path, tmp_path, said.append)
    assert len(said) == 1 and "runs of phantoms" in said[0]


@pytest.mark.parametrize("more", [[], ["--held-out", SITE], ["--json"]])
def test_one_sites_folder_is_checked_whole_and_can_end_clean(
    more: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(check_command(data, site=SITE))[3:]
    assert main([*words, *more]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert json.loads(said)["images"] == {SITE: 6} if more == ["--json"] else "no faults in 6 images of 1 site." in said
    image = sorted((data / SITE / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:300])
    assert main([*words, *more]) == 2
    told = capsys.readouterr()
    assert image.name in told.out + told.err


def test_a_class_that_only_others_have_is_no_fault_of_one_site(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = data / "dataset.toml"
    lines = [line for line in toml.read_text().splitlines() if not line.startswith(("classes", "mask_values"))]
    toml.write_text("\n".join(['classes = ["polyp", "tool"]', "mask_values = {polyp = [255], tool = [7]}", *lines]))
    assert main(["data", "check", str(data), "--site", SITE]) == 0, capsys.readouterr().err
    assert f"no mask of site '{SITE}'" in capsys.readouterr().err


def test_without_site_the_command_for_one_site_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(data)]) == 2
    assert "--site NAME" in capsys.readouterr().err
    assert main(["data", "check", str(data), "--site", SITE, "--held-out", OTHER]) == 2
    assert main(["data", "check", str(data), "--site", OTHER]) == 2


def test_the_server_is_told_the_command_that_checks_one_site() -> None:
    error = UserError("data.mask_missing", what="w", why="y", fix="f")
    assert f"data check FOLDER --site {SITE}" in for_server(error, site=SITE, task="query.describe").fix
