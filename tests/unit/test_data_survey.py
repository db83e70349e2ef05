"""What a person is shown of a dataset before a run: findings, how it would be cut, how far apart the sites look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.config import DataConfig, parse_config
from engine.data.apart import FEWEST, apart
from engine.data.datasets import load_federation
from engine.data.impressions import NUM_THUMBNAILS, THUMBNAIL_PX
from engine.data.problems import faults_of, warnings_of
from engine.data.survey import Step, survey
from engine.data.validation import check_dataset
from tests.unit.data_world import blob, picture, write_dataset, write_png, write_site

LONG_S = 600.0


def config(root: Path, **settings: object) -> DataConfig:
    return parse_config({"data": {"source": "folder", "root": str(root), "image_px": 32} | settings}).data


def ignore(_step: Step) -> None:
    pass


def test_a_sound_folder_is_cut_as_a_run_cuts_it(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", count=FEWEST)
    write_site(root, "alpha", count=FEWEST, groups=["p1", "p1", "p2", "p3", "p3", "p4", "p5", "p5"])
    data, steps = config(root, held_out="beta"), []
    found = survey(data, seed=7, on_step=steps.append, most_s=LONG_S)
    federation = load_federation(data, seed=7)
    assert found.is_usable and found.kind == "folder" and (found.name, found.classes) == ("toy", ("blob",))
    assert [(site.site, site.role) for site in found.sites] == [
        ("alpha", "source"),
        ("gamma", "source"),
        ("beta", "test"),
    ]
    for site in found.sites[:2]:
        cut = federation.sites[site.site]
        assert site.parts == (len(cut.train), len(cut.validation), 0) and sum(site.parts) == site.num_images == FEWEST
    assert found.sites[2].parts == (0, 0, FEWEST)
    assert [site.num_patients for site in found.sites] == [5, None, None]
    assert {site.sizes_px for site in found.sites} == {((16, 12), (16, 12))} and found.sites[0].spacing_mm is None
    assert (found.num_decoded, found.num_images) == (3 * FEWEST, 3 * FEWEST)
    assert steps[0] == Step(1, 0) and steps[-1] == Step(3 * FEWEST, 3 * FEWEST)
    assert [step.done for step in steps if step.total] == list(range(1, 3 * FEWEST + 1))
    for site in found.sites:
        assert len(site.thumbnails) == NUM_THUMBNAILS
        assert {one.image.shape for one in site.thumbnails} == {(THUMBNAIL_PX * 12 // 16, THUMBNAIL_PX, 3)}
        assert all(one.mask.shape == (1, 96, 128) and set(np.unique(one.mask)) == {0, 1} for one in site.thumbnails)
    assert found.apart is not None and set(found.apart.times) == {"alpha", "beta", "gamma"}


def test_the_faults_are_those_of_the_check_and_leave_the_sites_uncut(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "alpha" / "masks" / "img_1.png").unlink()
    (root / "beta" / "images" / "img_2.png").write_bytes(b"no picture")
    write_png(root / "gamma" / "images" / "img_0.png", picture(1, height=24, width=20))
    write_png(root / "gamma" / "masks" / "img_0.png", blob(height=24, width=20))
    found = survey(config(root), seed=1, on_step=ignore, most_s=LONG_S)
    assert faults_of(found.problems) == check_dataset(root) and len(faults_of(found.problems)) == 2
    assert not found.is_usable and [site.parts for site in found.sites] == [None] * 3
    assert [site.site for site in found.sites] == ["alpha", "beta", "gamma"] and found.sites[2].role == "test"
    assert found.sites[2].sizes_px == ((16, 12), (20, 24)), "by area"
    assert found.apart is None, "of fewer images than say anything"


@pytest.mark.parametrize(("settings", "code"), [
    ({"held_out": "nowhere"}, "data.held_out_unknown"), ({"sites": ["alpha"]}, "data.too_few_sites"),
    ({"classes": ["other"]}, "data.class_unknown"),
])  # fmt: skip
def test_what_keeps_a_run_from_cutting_is_a_fault_of_its_own(
    tmp_path: Path, settings: dict[str, object], code: str
) -> None:
    root = write_dataset(tmp_path / "set")
    found = survey(config(root, **settings), seed=1, on_step=ignore, most_s=LONG_S)
    assert [problem.code for problem in found.problems] == [code] and not found.is_usable


def test_a_folder_that_is_no_dataset_has_one_fault(tmp_path: Path) -> None:
    found = survey(config(tmp_path / "none"), seed=1, on_step=ignore, most_s=LONG_S)
    assert [problem.code for problem in found.problems] == ["data.root_missing"] and found.sites == ()


def test_a_fixed_test_set_is_looked_at_beside_the_sites(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", sites=("alpha", "beta"))
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "dataset.toml").write_bytes((root / "dataset.toml").read_bytes())
    write_site(tmp_path / "test", "alpha", count=3, start=50)
    data = config(root, protocol="fixed-test", test_root=str(tmp_path / "test"))
    found = survey(data, seed=1, on_step=ignore, most_s=LONG_S)
    assert [(site.site, site.role, site.num_images) for site in found.sites] == [
        ("alpha", "source", 4), ("beta", "source", 4), ("alpha_test", "test", 3),
    ]  # fmt: skip
    assert found.is_usable and found.num_decoded == 11 and len(found.sites[2].thumbnails) == 3


def test_when_time_is_over_no_more_is_decoded_and_nothing_is_said_that_is_not_known(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set", description='name = "toy"\nmodality = "m"\nclasses = ["blob", "rare"]\n')
    for site in ("alpha", "beta", "gamma"):
        for path in sorted((root / site / "masks").iterdir()):
            (root / site / "masks" / "blob").mkdir(exist_ok=True)
            path.rename(root / site / "masks" / "blob" / path.name)
            write_png(root / site / "masks" / "rare" / path.name, np.zeros((12, 16), np.uint8))
    whole, cut = (survey(config(root), seed=1, on_step=ignore, most_s=most_s) for most_s in (LONG_S, -1.0))
    assert [problem.code for problem in whole.problems] == ["data.class_nowhere"]
    assert cut.problems == () and (cut.num_decoded, cut.num_images) == (0, 12) and cut.is_usable


def test_what_a_listener_raises_ends_the_survey(tmp_path: Path) -> None:
    def stop(step: Step) -> None:
        if step.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(config(write_dataset(tmp_path / "set")), seed=1, on_step=stop, most_s=LONG_S)


def test_phantoms_are_shown_and_not_checked() -> None:
    data = parse_config({"data": {"task": "polyp", "images_per_site": 10, "image_px": 32}}).data
    found = survey(data, seed=1, on_step=ignore, most_s=LONG_S)
    assert found.kind == "phantom" and found.problems == () and len(found.sites) == 4
    assert [site.num_images for site in found.sites] == [10] * 4 and found.sites[-1].parts == (0, 0, 10)
    assert all(len(site.thumbnails) == NUM_THUMBNAILS and sum(site.parts or ()) == 10 for site in found.sites)
    assert found.apart is not None and found.apart.overall > 1


def test_a_copy_at_a_site_is_a_warning_with_which_a_run_can_begin(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "set")
    (root / "alpha" / "images" / "img_9.png").write_bytes((root / "alpha" / "images" / "img_1.png").read_bytes())
    (root / "alpha" / "masks" / "img_9.png").write_bytes((root / "alpha" / "masks" / "img_1.png").read_bytes())
    found = survey(config(root), seed=1, on_step=ignore, most_s=LONG_S)
    assert found.is_usable and len(warnings_of(found.problems)) == 1


def figures(seed: int, count: int, *, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 0.2, (count, 20))


def each_alone(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def test_sites_that_are_one_are_once_as_far_apart_and_others_further() -> None:
    same = apart({"a": figures(1, 60), "b": figures(2, 60)}, {"a": each_alone(60), "b": each_alone(60)})
    assert same is not None and same.overall == pytest.approx(1, abs=0.1)
    far = apart({"a": figures(1, 60), "b": figures(2, 60, shift=1)}, {"a": each_alone(60), "b": each_alone(60)})
    assert far is not None and far.overall > 3
    assert far.nearest("a", among=["a", "b"]) == ("b", far.times["a"]["b"])
    assert far.nearest("a", among=[]) is None and far.nearest("c", among=["a"]) is None


def test_one_patients_images_do_not_make_a_site_nearer_to_itself() -> None:
    """Four patients of 15 slices each: between halves of slices, own images would seem much nearer than they are."""
    patients = np.repeat(np.random.default_rng(3).normal(0, 0.5, (8, 20)), 15, axis=0)
    slices = patients + np.random.default_rng(4).normal(0, 0.01, patients.shape)
    groups = [str(number // 15) for number in range(60)]
    found = apart({"a": slices[:60], "b": slices[60:]}, {"a": groups, "b": groups})
    loose = apart({"a": slices[:60], "b": slices[60:]}, {"a": each_alone(60), "b": each_alone(60)})
    assert found is not None and loose is not None
    assert found.overall < 2 < loose.overall


def test_sites_of_few_images_are_left_out() -> None:
    few = {"a": figures(1, FEWEST), "b": figures(2, FEWEST - 1), "c": figures(3, FEWEST)}
    found = apart(few, {site: each_alone(len(rows)) for site, rows in few.items()})
    assert found is not None and set(found.times) == {"a", "c"}
    assert apart({"a": figures(1, 20)}, {"a": each_alone(20)}) is None
