"""What pictures look like in figures, how far others are from them, and when an image is called foreign."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from app.settings import REPOSITORY
from engine.cli import main
from engine.data.appearance import COLOURED, FIGURES, FLOOR, SHRINKAGE, Look, measure, threshold
from engine.data.modalities import DICOM_CODES, TITLES, WORDS, Origin, modality_of, origin_of
from engine.data.phantoms import TASKS, render
from engine.errors import UserError
from engine.federation.tasks import SiteReply
from engine.stages.appearance import check_appearance, training_appearance
from export import foreign
from export.appearance import SiteLook, TrainingAppearance
from export.runtime import BundleSession, load_bundle

SHIPPED = REPOSITORY / "assets" / "models" / "nuclei_cpu"
SIDES = len(FIGURES)


@pytest.fixture(scope="module")
def session() -> BundleSession:
    return load_bundle(SHIPPED)


def figure(image_3HW: np.ndarray, name: str) -> float:
    return float(measure(image_3HW)[FIGURES.index(name)])


def test_figures_of_pictures_that_can_be_worked_out_by_hand() -> None:
    halves = np.zeros((3, 128, 128), np.float32)  # black left half, red right half
    halves[0, :, 64:] = 1
    assert figure(halves, "brightness_q5") == 0 and figure(halves, "brightness_q95") == pytest.approx(1 / 3)
    assert figure(halves, "contrast") == pytest.approx(1 / 6)
    assert figure(halves, "red_green") == pytest.approx(0.5) and figure(halves, "red_green_spread") == pytest.approx(
        0.5
    )
    assert figure(halves, "green_blue") == figure(halves, "green_blue_spread") == 0
    assert figure(halves, "dark_share") == 0.5 and figure(halves, "bright_share") == 0
    assert figure(halves, "centre_to_rim") == pytest.approx(0)
    # Turned upside down it is the same, from left to right every pixel differs by 1/3.
    assert figure(halves, "asymmetry") == pytest.approx((0 + 1 / 3) / 2 / (1 / 6 + 0.02))
    for scale in (1, 2, 3, 4, 5):  # its edge lies on every grid of halving
        assert figure(halves, f"detail_{2**scale}px") == pytest.approx(math.log(1e-3))


def test_detail_is_told_by_its_size() -> None:
    grid = np.indices((128, 128)).sum(axis=0) % 2
    board = np.broadcast_to(grid, (3, 128, 128)).astype(np.float32)
    assert figure(board, "detail_2px") == pytest.approx(math.log(0.5 + 1e-3))
    assert figure(board, "detail_4px") == pytest.approx(math.log(1e-3))
    coarse = np.broadcast_to(grid[:32, :32].repeat(4, 0).repeat(4, 1), (3, 128, 128)).astype(np.float32)
    assert figure(coarse, "detail_8px") == pytest.approx(math.log(0.5 + 1e-3))
    assert figure(coarse, "detail_2px") == pytest.approx(math.log(1e-3))


def test_the_distance_is_mahalanobis_over_the_root_of_the_number_of_figures() -> None:
    mean = np.zeros(SIDES)
    look = Look(mean, np.diag(np.full(SIDES, 0.04)))
    offset = np.zeros(SIDES)
    offset[3] = 0.6
    assert look.distance(offset) == pytest.approx(0.6 / math.sqrt(0.04 + FLOOR**2) / math.sqrt(SIDES))
    covariance = np.diag(np.full(SIDES, 0.04))
    covariance[0, 1] = covariance[1, 0] = 0.03
    both = np.zeros(SIDES)
    both[:2] = 0.2, -0.2  # against the correlation: the variance of this direction is v - c
    variance = 0.04 + FLOOR**2 - (1 - SHRINKAGE) * 0.03
    assert Look(mean, covariance).distance(both) == pytest.approx(math.sqrt(2 * 0.04 / variance / SIDES))


def test_a_look_is_the_mean_and_covariance_of_its_pictures() -> None:
    rows = np.zeros((4, SIDES))
    rows[:, 0], rows[:, 1] = (1, 2, 3, 4), (2, 4, 6, 8)
    look = Look.of(rows)
    assert look.mean[:2].tolist() == [2.5, 5] and look.covariance[0, 0] == 1.25 and look.covariance[0, 1] == 2.5


@pytest.mark.parametrize(("count", "rank"), [(18, None), (19, 19), (42, 42), (100, 100), (199, 198), (1000, 991)])
def test_the_threshold_is_the_conformal_rank(count: int, rank: int | None) -> None:
    assert threshold([float(value) for value in range(count, 0, -1)]) == rank


def reply(**changed: Any) -> SiteReply:
    arrays = {"mean": np.zeros(SIDES), "covariance": np.eye(SIDES), "distances": np.array([0.5, 0.7])}
    arrays |= {name: value for name, value in changed.items() if name in arrays}
    figures = {COLOURED: 3.0, "dicom_images": 4.0, "nifti_images": 0.0, "picture_images": 0.0}
    figures |= {name: value for name, value in changed.items() if name not in arrays}
    return SiteReply(arrays, figures, 4)


@pytest.mark.parametrize(
    "changed",
    [
        {"mean": np.zeros(SIDES, np.float32)},
        {"mean": np.full(SIDES, np.nan)},
        {"distances": np.array([0.5])},
        {"distances": np.array([0.5, -0.1])},
        {"covariance": -np.eye(SIDES)},
        {"covariance": np.eye(SIDES) + np.eye(SIDES, k=1)},
        {COLOURED: 5.0},
        {"dicom_images": -1.0},
        {"spacing_low_mm": 0.5},
        {"spacing_low_mm": 2.0, "spacing_high_mm": 1.0},
    ],
    ids=str,
)
def test_a_reply_that_cannot_be_is_refused_by_the_sites_name(changed: dict[str, Any]) -> None:
    check_appearance(reply(), site="north", num_validation=2)
    check_appearance(reply(spacing_low_mm=0.5, spacing_high_mm=0.5), site="north", num_validation=2)
    with pytest.raises(UserError, match="north") as caught:
        check_appearance(reply(**changed), site="north", num_validation=2)
    assert caught.value.code == "federation.bad_reply"


def test_what_sites_tell_comes_together() -> None:
    north = reply(distances=np.linspace(0.2, 0.7, 10), spacing_low_mm=0.4, spacing_high_mm=0.8)
    south = reply(distances=np.linspace(0.1, 0.9, 9), spacing_low_mm=0.5, spacing_high_mm=1.5, coloured_images=0.0)
    told = training_appearance({"south": south, "north": north})
    assert told.threshold == 0.9 and told.num_validation == 19 and told.spacing_mm == (0.4, 1.5)
    assert told.colour_share == 3 / 8 and told.files == {"dicom": 8, "nifti": 0, "picture": 0}
    few = training_appearance({"north": reply()})
    assert few.threshold is None and few.num_validation == 2 and few.spacing_mm is None


def test_words_and_codes_name_known_kinds() -> None:
    assert set(WORDS) == set(TITLES) and set(DICOM_CODES.values()) <= set(TITLES)
    kinds = {task: modality_of(spec.modality) for task, spec in TASKS.items()}
    assert kinds == {
        "fundus": "fundus", "prostate": "mr", "nuclei": "microscopy", "skin": "skin", "liver": None,
        "polyp": "endoscopy",
    }  # fmt: skip
    assert (
        modality_of("CT") == "ct"
        and modality_of("T2-weighted MRI") == "mr"
        and modality_of("abdominal CT and MR") is None
    )
    assert modality_of("pictures") is None and modality_of("direct") is None


def test_a_dicom_file_says_its_kind_and_its_spacing(tmp_path: Path) -> None:
    path = Path(str(get_testdata_file("CT_small.dcm")))
    assert origin_of(path) == Origin("dicom", "ct", "CT", (0.661468, 0.661468))
    other = pydicom.dcmread(path)
    other.Modality = "OT"
    other.save_as(tmp_path / "other.dcm")
    assert origin_of(tmp_path / "other.dcm").modality is None


def reasons(session: BundleSession, image: np.ndarray, origin: Origin = Origin(), **about: Any) -> str:  # noqa: B008
    manifest = session.manifest
    if about:
        appearance = manifest.appearance.model_copy(update={"threshold": None, **about})
        manifest = manifest.model_copy(update={"appearance": appearance})
    return " ".join(foreign.reasons(SimpleNamespace(manifest=manifest, preprocess=session.preprocess), image, origin))


def test_the_shipped_model_knows_its_own_kind_and_says_what_others_are(session: BundleSession) -> None:
    own = render("nuclei", site="dapi_20x", index=3, image_px=128).image
    assert reasons(session, own) == ""
    polyp = render("polyp", site="tower_hd", index=3, image_px=128).image
    assert "unlike those of the training images" in reasons(session, polyp)
    ct = Origin("dicom", "ct", "CT")
    told = "The file says that it is CT (DICOM Modality CT); the model was trained on microscopy."
    assert reasons(session, own, ct) == told
    assert "NIfTI" in reasons(session, own, Origin("nifti"))
    assert (
        reasons(session, own, Origin("dicom", "microscopy", "SM"))
        == reasons(session, own, Origin("dicom", None, "OT"))
        == ""
    )


def test_colour_and_spacing_are_compared_with_those_of_training(session: BundleSession) -> None:
    grey = np.zeros((8, 8, 3), np.uint8)
    coloured = grey.copy()
    coloured[0, 0, 0] = 9
    assert "is in colour" in reasons(session, coloured, colour_share=0.0)
    assert "is grey" in reasons(session, grey, colour_share=1.0)
    assert reasons(session, grey, colour_share=0.5) == reasons(session, coloured, colour_share=0.5) == ""
    for spacing, told in (((0.5, 0.5), ""), ((0.1, 0.1), "0.1 to 0.1 mm"), ((0.5, 3.1), "0.5 to 3.1 mm"), (None, "")):
        found = reasons(session, grey, Origin(spacing_mm=spacing), spacing_mm=(0.4, 1.0))
        assert told in found and bool(found) == bool(told)


def test_a_bundle_without_figures_is_held_to_its_modality_alone(session: BundleSession) -> None:
    manifest = session.manifest.model_copy(update={"appearance": None})
    bare: Any = SimpleNamespace(manifest=manifest, preprocess=None)
    noise = np.full((8, 8, 3), 200, np.uint8)
    assert foreign.reasons(bare, noise, Origin()) == ()
    assert len(foreign.reasons(bare, noise, Origin("dicom", "mr", "MR"))) == 1


def test_a_covariance_that_is_none_is_no_part_of_a_manifest() -> None:
    good = SiteLook.of(Look(np.zeros(SIDES), np.eye(SIDES)), num_images=3)
    about = {"threshold": 1.0, "num_validation": 2, "colour_share": 0.5, "files": {"picture": 3}}
    assert TrainingAppearance(sites=(good,), **about).sites[0].num_images == 3
    bad = SiteLook.of(Look(np.zeros(SIDES), -np.eye(SIDES)), num_images=3)
    for broken in ({"sites": (bad,)}, {"sites": (good,), "threshold": math.nan}, {"sites": ()}):
        with pytest.raises(ValueError):
            TrainingAppearance(**{**about, **broken})


def test_the_command_line_answers_a_foreign_image_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(render("polyp", site="tower_hd", index=3, image_px=64).image).save(tmp_path / "frame.png")
    command = ["predict", "nuclei_cpu", str(tmp_path / "frame.png"), "--out", str(tmp_path / "out"), "--json"]
    assert main([*command, "--home", str(tmp_path)]) == 2
    assert '"image.foreign"' in capsys.readouterr().out and not list((tmp_path / "out").iterdir())
    assert main([*command, "--home", str(tmp_path), "--anyway"]) == 0
    assert '"unlike_training"' in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["frame_unlike_training_mask.png"]
