"""Answered images: within the page's memory, the same masks as a whole prediction, and few pictures kept."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import answers, examples
from app.answers import Answer, Answers, check_size, num_slices, read_upload, segment, settled
from app.overlays import reduced
from app.probability import Kept
from app.settings import Settings
from app.studio import Studio
from engine.errors import UserError
from export.results import displayable, mask_file

MODEL = "shipped/nuclei_cpu"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(Settings(home=tmp_path_factory.mktemp("home")))


def test_masks_alone_are_those_of_a_whole_prediction(studio: Studio) -> None:
    image = examples.image(studio, MODEL, 1)[:200]
    session = studio.session(MODEL, looks="whole")
    whole = session.predict(image)
    masks, wall_ms = session.masks(image)
    assert masks.dtype == np.uint8 and np.array_equal(masks, whole.mask_KHW) and masks.any() and wall_ms > 0
    found = segment(session, lambda: image, title="eye.png", stem="eye")
    shares = [one.share for one in found.result.figures]
    assert shares == pytest.approx([float(plane.mean()) for plane in whole.mask_KHW])
    assert found.result.file == mask_file(whole.mask_KHW, classes=session.manifest.classes, stem="eye")
    # Another threshold: from what is kept, without the model, as the whole prediction's probabilities say.
    lower = settled(found.answer, percent=20, corrections=())
    with Image.open(io.BytesIO(lower.file[1])) as saved:
        assert np.array_equal(np.asarray(saved) > 0, whole.probability_KHW[0] > 0.2)
    assert lower.file[0] == "eye_threshold_0.20_mask.png"


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_deep_pixels_are_stretched_over_the_whole_image(dtype: type) -> None:
    image = np.zeros((2, 2, 3), dtype)
    image[0, 0], image[0, 1], image[1, 0] = (1, 0, 0), (0, 0.5 if dtype is np.float32 else 5, 0), (0, 0, 1)
    high = 1.0 if dtype is np.float32 else 5.0
    assert np.array_equal(displayable(image), np.rint(image.astype(float) * 255 / high).astype(np.uint8))


@pytest.mark.parametrize(("width", "height", "is_8_bit", "fits"), [
    (4000, 5000, True, True), (4000, 6000, True, False), (2000, 5000, False, True), (4000, 5000, False, False),
    (8193, 10, True, False),
])  # fmt: skip
def test_a_picture_above_the_budget_is_refused(width: int, height: int, is_8_bit: bool, fits: bool) -> None:
    settings = Settings()  # 384 MiB: at 18 bytes a pixel 22 million, at 40 bytes 10 million
    if fits:
        check_size(settings, width=width, height=height, classes=1, is_8_bit=is_8_bit)
        return
    with pytest.raises(UserError) as caught:
        check_size(settings, width=width, height=height, classes=1, is_8_bit=is_8_bit)
    assert caught.value.code == "app.image_too_large"


def test_a_large_file_is_refused_from_its_header_by_its_own_name(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home", max_read_mb=16))
    path = tmp_path / "image.png"
    Image.new("RGB", (3000, 3000)).save(path)
    assert num_slices(studio, MODEL, path) == 1
    tracemalloc.start()
    with pytest.raises(UserError) as caught:
        read_upload(studio, MODEL, path, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "too_large" in caught.value.code and str(path) not in caught.value.what and peak < 4 * 2**20


def test_a_file_is_looked_at_once(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    good, bad = tmp_path / "image.png", tmp_path / "broken.png"
    Image.new("RGB", (30, 30)).save(good)
    bad.write_bytes(b"no image")
    assert num_slices(studio, MODEL, good) == 1
    with pytest.raises(UserError) as first:
        num_slices(studio, MODEL, bad)
    good.unlink()
    Image.new("RGB", (30, 30)).save(bad)
    assert num_slices(studio, MODEL, good) == 1
    with pytest.raises(UserError) as again:
        num_slices(studio, MODEL, bad)
    assert again.value is first.value and str(tmp_path) not in first.value.what


def test_what_is_shown_has_the_size_of_a_screen() -> None:
    assert reduced(np.zeros((100, 50, 3), np.uint8)).shape == (768, 384, 3)
    assert reduced(np.zeros((3000, 1500, 3), np.uint8)).shape == (1400, 700, 3)


def kept_of(side: int) -> Answer:
    """An answer of 4 bytes a logit."""
    logits = np.zeros((1, side, side), np.float32)
    return Answer(Kept(logits, (side, side), lambda plane: plane), "a.png", "a", ("cell",), None, "")


def test_the_oldest_answers_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_BYTES", 100)
    kept = Answers(keep_s=60)
    made = [kept_of(3) for _ in range(3)]  # 36 bytes each
    keys = [kept.put(answer) for answer in made]
    assert [kept.get(key) is answer for key, answer in zip(keys, made, strict=True)] == [False, True, True]
    assert kept.get("nothing") is None


def test_an_answer_too_large_to_keep_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "KEPT_BYTES", 10)
    kept = Answers(keep_s=60)
    assert kept.get(kept.put(kept_of(3))) is None


def test_files_of_before_are_deleted_when_an_answer_gets_new_ones(tmp_path: Path) -> None:
    studio = Studio(Settings(home=tmp_path / "home"))
    first = tuple(studio.save(name, b"1") for name in ("a.png", "a.csv"))
    studio.answers.saved("key", first)
    other = (studio.save("b.png", b"2"),)
    studio.answers.saved("other", other)
    studio.answers.saved("key", (studio.save("c.png", b"3"),))
    assert not any(Path(path).parent.exists() for path in first) and Path(other[0]).exists()
