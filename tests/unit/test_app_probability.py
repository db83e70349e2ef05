"""Thresholds on kept probabilities, clicks that correct a mask, and what is saved of both: values by hand."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import math
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app import overlay_view
from app.corrections import Correction, corrected, correction_of, place, reach_of
from app.picture_results import in_text, packed, result
from app.probability import VIRIDIS, Greys, Kept, colour_of
from app.strokes import Stroke
from export.clicks import Box, Click, change
from export.levels import STEPS, above, levels, percent_of


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def as_it_is(logits_1hw: np.ndarray) -> np.ndarray:
    return logits_1hw


def kept(shares: list[list[float]], *more: list[list[float]]) -> Kept:
    """Probabilities of one class, or of several, on the image's own grid."""
    planes = np.array([[[logit(share) for share in row] for row in plane] for plane in (shares, *more)], np.float32)
    return Kept(planes, planes.shape[1:], as_it_is)


def test_a_level_is_the_hundredth_that_a_probability_lies_in() -> None:
    shares = np.array([[0.001, 0.015, 0.305], [0.495, 0.505, 0.999]])
    found = levels(np.log(shares / (1 - shares)))
    assert found.dtype == np.uint8 and found.tolist() == [[0, 1, 30], [49, 50, 99]]
    assert above(found, 30).tolist() == [[0, 0, 1], [1, 1, 1]] and above(found, 31).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert levels(np.array([[-200.0, 200.0]])).tolist() == [[0, 99]]


def test_at_the_models_own_threshold_the_sign_of_the_logit_decides() -> None:
    near = np.array([[-1e-12, 0.0, 1e-12]])  # probabilities that float32 cannot tell from a half
    assert above(levels(near), 50).tolist() == [[0, 0, 1]]
    many = np.random.default_rng(3).normal(0, 3, (600, 7)).astype(np.float32)  # more rows than one band
    assert np.array_equal(above(levels(many), 50), many > 0)
    assert np.array_equal(above(levels(many), 20), 1 / (1 + np.exp(-many.astype(float))) > 0.2)


@pytest.mark.parametrize(
    ("given", "percent"),
    [(0.5, 50), (0.29, 29), (0.0, 1), (7, 99), (-1e15, 1), (math.nan, 50), (None, 50), ("0.2", 50), (True, 50)],
)
def test_a_threshold_from_a_browser_is_a_hundredth(given: object, percent: int) -> None:
    assert percent_of(given) == percent


def test_the_map_of_probabilities_grows_lighter_in_even_steps() -> None:
    assert [colour_of(level) for level in (0, 99)] == [(68, 1, 84), (253, 231, 37)]
    # Halfway between the fifth and sixth of eleven colours (2a788e, 21918c) lies level 44.55; 45 is 0.5454 of the way.
    assert colour_of(45) == (37, 134, 141)
    lightness = []
    for level in range(STEPS):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(colour_of(level)) / 255]
        y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        lightness.append(116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y)
    steps = np.diff(lightness)
    assert len(VIRIDIS) == 11 and steps.min() > 0.2 and steps.max() < 1.4  # CIE L*, 75 over 99 steps


TWO_PIECES = [
    [0.9, 0.9, 0.1, 0.1, 0.1],
    [0.9, 0.1, 0.1, 0.1, 0.8],
    [0.1, 0.1, 0.4, 0.3, 0.1],
    [0.1, 0.1, 0.1, 0.1, 0.1],
]


def mask_after(click: Click, shares: list[list[float]], *, percent: int = 50) -> tuple[list[list[int]], int]:
    plane = kept(shares).plane(0)
    mask = above(levels(plane), percent)
    changed = change(mask, plane, click)
    return mask.tolist(), changed


def test_a_background_click_removes_the_piece_at_its_place() -> None:
    mask, changed = mask_after(Click("remove", 0, 0, 0, reach_px=9), TWO_PIECES)
    assert changed == 3 and mask == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    # Within one pixel of the upper right of that piece: itself and its neighbour, not the one at the corner.
    mask, changed = mask_after(Click("remove", 0, 0, 1, reach_px=1), TWO_PIECES)
    assert changed == 2 and mask[:2] == [[0, 0, 0, 0, 0], [1, 0, 0, 0, 1]]
    assert mask_after(Click("remove", 0, 3, 3, reach_px=9), TWO_PIECES)[1] == 0  # there is nothing


def test_a_foreground_click_grows_down_to_half_the_odds_at_its_place() -> None:
    # Odds at the click 0.4 / 0.6 = 0.667; half is 0.333, a probability of 0.25: 0.3 belongs to it, 0.1 does not, and
    # the 0.8 touches 0.3 by a corner.
    mask, changed = mask_after(Click("add", 0, 2, 2, reach_px=9), TWO_PIECES)
    assert changed == 2 and mask == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    mask, changed = mask_after(Click("add", 0, 2, 2, reach_px=0), TWO_PIECES)
    assert changed == 1 and mask[2] == [0, 0, 1, 0, 0]
    assert mask_after(Click("add", 0, 0, 0, reach_px=9), TWO_PIECES)[1] == 0  # it is there already


def test_places_and_reaches_come_from_a_picture_of_another_size() -> None:
    size = {"shown_hw": (768, 384), "size_hw": (100, 50)}
    assert place([0, 0], **size) == (0, 0) and place([767, 383], **size) == (99, 49)
    assert place([384, 100], **size) == (50, 13)  # 384.5 * 100 / 768 = 50.07, 100.5 * 50 / 384 = 13.09
    for wrong in ([768, 0], [-1, 0], [0], 7, None, [0.5, 1], [True, 1], "00"):
        assert place(wrong, **size) is None
    assert reach_of(15, size_hw=(100, 40)) == 15 and reach_of(0, size_hw=(100, 40)) == 1
    assert reach_of(1e15, size_hw=(100, 40)) == 100 and reach_of("x", size_hw=(9, 9)) == 1


def line(kind: Any, *places: tuple[int, int]) -> Stroke:
    """A stroke of the first class, one pixel wide."""
    return Stroke(kind, 0, 1, np.array(places, "<i4").tobytes())


BRUSHED, ERASED, REMOVED = line("brush", (0, 2), (0, 3)), line("erase", (1, 4)), Click("remove", 0, 0, 0, reach_px=9)


@pytest.mark.parametrize(("percent", "corrections", "upper_rows"), [
    (50, (BRUSHED, ERASED), [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]),
    (85, (BRUSHED, ERASED), [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]),
    (5, (BRUSHED, ERASED), [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
    (50, (BRUSHED, line("erase", (0, 3), (0, 4))), [[1, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
    # What was painted joins both pieces. The next border is 1.41 from the click, at the corner; 2.5 times that, 3.54,
    # is not as far as the single pixel.
    (50, (BRUSHED, REMOVED), [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]),
    (50, (REMOVED, BRUSHED), [[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]),
])  # fmt: skip
def test_strokes_come_after_the_threshold_and_in_order_with_clicks(
    percent: int, corrections: tuple[Correction, ...], upper_rows: list[list[int]]
) -> None:
    found = corrected(kept(TWO_PIECES, TWO_PIECES), corrections, percent=percent, class_index=0)
    assert found.mask_HW[:2].tolist() == upper_rows
    other = corrected(kept(TWO_PIECES, TWO_PIECES), corrections, percent=50, class_index=1)
    assert other.mask_HW[:2].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 1]] and other.painted_HW is None


def table(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_files_and_figures_follow_the_threshold_and_say_so() -> None:
    given = {"classes": ("cell",), "stem": "slide", "name": "slide.png", "spacing_mm": (0.5, 2.0), "shown_hw": (4, 5)}
    own = result(kept(TWO_PIECES), **given)
    assert own.file[0] == "slide_mask.png" and own.csv[0] == "slide_figures.csv" and own.remark == ""
    with Image.open(io.BytesIO(own.file[1])) as saved:
        assert "Comment" not in saved.info and (np.asarray(saved) > 0).sum() == 4
    (row,) = table(own.csv[1])
    assert row["threshold"] == row["model_threshold"] == "0.5" and row["corrections_by_hand"] == "0"
    assert (row["foreground_px"], row["area_mm2"], row["components"]) == ("4", "4", "2")  # a pixel has 1 mm²
    sizes = ("largest_px", "largest_long_axis", "median_long_axis")  # of 3 pixels in a corner, and of 1 of 0.5 x 2 mm
    assert [float(row[key]) for key in sizes] == [3, pytest.approx(np.hypot(4, 0.5), 1e-5), pytest.approx(3.0156, 1e-4)]
    told = overlay_view.figures_table(own.figures, remark="", told="")
    assert "<td>2 (2 apart)</td><td>4.00 mm²</td><td>4.03 × " in told and "<td>3.02 mm</td>" in told
    lower = result(kept(TWO_PIECES), percent=25, **given)
    assert lower.file[0] == "slide_threshold_0.25_mask.png"
    with Image.open(io.BytesIO(lower.file[1])) as saved:
        assert saved.info["Comment"] == lower.remark == "Threshold 0.25, not the model's own 0.50."
        assert (np.asarray(saved) > 0).sum() == 6
    (row,) = table(lower.csv[1])
    assert (row["threshold"], row["foreground_px"], row["components"]) == ("0.25", "6", "2")


def test_the_browser_is_told_where_things_touch_that_are_counted_apart() -> None:
    row, column = np.mgrid[:40, :60]
    logits = np.where(np.minimum(np.hypot(row - 20, column - 20), np.hypot(row - 20, column - 36)) <= 10, 2.0, -2.0)
    given = {"stem": "s", "name": "s.png", "spacing_mm": None, "shown_hw": (40, 60)}
    two = Kept(logits[None].astype(np.float32), (40, 60), lambda plane: plane)
    found = result(two, classes=("nucleus",), **given)
    assert (found.figures[0].components, found.figures[0].instances) == (1, 2)
    (touching,) = found.changes_Khw  # both sides of the cut, in the narrow place between the middles
    assert set(np.unique(touching)) == {0, 4} and 28 in np.nonzero(touching)[1]
    assert set(np.nonzero(touching)[1].tolist()) <= {27, 28, 29}
    other = result(two, classes=("polyp",), **given)
    assert not other.changes_Khw.any() and other.figures[0].instances is None


def test_the_browser_is_told_of_all_that_was_painted_for_it_stays_at_another_threshold() -> None:
    given = {"classes": ("cell",), "stem": "s", "name": "s.png", "spacing_mm": None, "shown_hw": (4, 5)}
    found = result(kept(TWO_PIECES), corrections=(line("brush", (0, 1), (0, 2)), line("erase", (3, 0))), **given)
    changed = np.zeros((1, 4, 5), int)
    changed[0, 0, 1:3] = 1  # the first is the model's own, too
    changed[0, 3, 0] = 2  # nothing was there
    assert np.array_equal(found.changes_Khw, changed) and found.remark == "Corrected by hand: 2 strokes."
    assert found.file[0] == "s_corrected_by_hand_mask.png"
    assert (found.figures[0].foreground_px, found.figures[0].corrections_by_hand) == (5, 2)


def test_a_correction_is_told_in_every_file_and_shown_where_it_is() -> None:
    given = {"classes": ("cell", "rim"), "stem": "s", "name": "s.png", "spacing_mm": None, "shown_hw": (4, 5)}
    two = kept(TWO_PIECES, [[0.9] * 5] * 4)
    clicks = (Click("remove", 0, 0, 0, 9), Click("add", 0, 2, 2, 9))
    found = result(two, corrections=clicks, **given)
    assert found.file[0] == "s_corrected_by_hand_masks.zip" and found.csv[0] == "s_corrected_by_hand_figures.csv"
    with zipfile.ZipFile(io.BytesIO(found.file[1])) as archive:
        for name in ("cell.png", "rim.png", "labels.png"):
            with Image.open(archive.open(name)) as saved:
                assert saved.info["Comment"] == "Corrected by hand: 2 clicks."
    cell, rim = table(found.csv[1])
    assert (cell["corrections_by_hand"], rim["corrections_by_hand"]) == ("2", "0")
    assert (cell["foreground_px"], rim["foreground_px"], cell["area_mm2"], cell["length_unit"]) == ("3", "20", "", "px")
    changed = np.zeros((2, 4, 5), int)
    changed[0, 0, :2] = changed[0, 1, 0] = 2
    changed[0, 2, 2:4] = 1
    assert np.array_equal(found.changes_Khw, changed)
    letters = overlay_view.changes("key", found.changes_Khw).split("data-changes='")[1].split("'")[0]
    assert gzip.decompress(base64.b64decode(letters)) == changed.astype(np.uint8).tobytes()
    both = result(two, corrections=(*clicks, line("brush", (0, 2), (0, 3))), **given)
    assert both.remark == "Corrected by hand: 2 clicks, 1 stroke." and both.figures[0].corrections_by_hand == 3
    assert in_text(np.zeros((1, 2, 2))) == "" and gzip.decompress(packed(changed)) == changed.astype(np.uint8).tobytes()


def test_the_mean_inside_a_mask_is_that_of_the_pictures_grey() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0], image[0, 1], image[1, 1] = (255, 0, 0), (10, 20, 31), (255, 255, 255)
    mask = np.array([[1, 1], [0, 0]], np.uint8)
    assert Greys.of(image).mean(mask) == pytest.approx((255 + 61) / 3 / 2 / 255, abs=1e-12)
    assert Greys.of(image.astype(np.uint16) * 257).mean(mask) == pytest.approx((255 + 61) / 6 / 255, abs=1e-5)
    assert Greys.of((image / 255).astype(np.float32)).mean(mask) == pytest.approx((255 + 61) / 6 / 255, abs=1e-5)
    assert Greys.of(image).mean(mask * 0) is None and Greys.of(image).mean(1 - mask) == 0.5


def test_a_click_goes_no_further_than_the_next_border_makes_likely() -> None:
    # A bar of ten pixels, and a wrong rim of it below. The click on the rim has the background 1 pixel away: it
    # reaches 2.5 pixels, of which those count whose odds are at most twice the click's own.
    shares = [[0.1] * 10, [0.95] * 10, [0.6] * 10, [0.1] * 10]
    mask, changed = mask_after(Click("remove", 0, 2, 4, reach_px=9), shares)
    assert changed == 5 and mask == [[0] * 10, [1] * 10, [1, 1, 0, 0, 0, 0, 0, 1, 1, 1], [0] * 10]
    # The sign turned round adds nothing: that place is there already.
    assert mask_after(Click("add", 0, 2, 4, reach_px=9), shares)[1] == 0


def test_a_box_adds_what_stands_out_in_it_and_nothing_else() -> None:
    # In rows 2 and 3 of columns 1 to 4 there are logits of 0.4, 0.3 and 0.1: the first two stand out.
    box = Box(0, 2, 1, 3, 4)
    found = corrected(kept(TWO_PIECES), (box,), percent=50, class_index=0)
    assert found.last_px == 2 and found.mask_HW.tolist() == [
        [1, 1, 0, 0, 0],
        [1, 0, 0, 0, 1],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    assert corrected(kept(TWO_PIECES), (box, box), percent=50, class_index=0).last_px == 0
    assert corrected(kept([[0.2] * 3] * 3), (Box(0, 0, 0, 2, 2),), percent=50, class_index=0).last_px == 0  # all alike


@pytest.mark.parametrize(
    "told", [None, 7, [1, 2, 3], [0, 0, 4, 0], [0, 0, 0, 5], [-1, 0, 1, 1], [0, 0, 1, True], "0000"]
)
def test_a_box_that_is_not_in_the_image_is_none(told: object) -> None:
    more: dict[str, Any] = {"reach": 15, "shown_hw": (40, 50), "size_hw": (4, 5), "num_classes": 1}
    assert correction_of("box", 0, index=0, stroke=told, **more) is None
    assert correction_of("box", 0, index=0, stroke=[3, 4, 1, 0], **more) == Box(0, 1, 0, 3, 4)
    assert correction_of("box", 1, index=0, stroke=[3, 4, 1, 0], **more) is None


def test_a_click_that_adds_asks_the_decoder_and_goes_by_probabilities_where_it_does_not_follow() -> None:
    asked: list[tuple[int, slice, slice]] = []

    def ask(clicks: Any, rows: slice, columns: slice) -> tuple[np.ndarray, slice, slice]:
        asked.append((len(clicks), rows, columns))
        answered = np.full((4, 5), -3.0, np.float32)
        answered[3, 1:4] = 3.0  # a region of its own, which the probabilities do not have
        answered[0, 4] = 3.0  # another one, far from the click
        return answered[rows, columns], rows, columns

    click = Click("add", 0, 3, 2, reach_px=9)
    found = corrected(kept(TWO_PIECES), (click,), percent=50, class_index=0, ask=ask)
    assert asked == [(1, slice(0, 4), slice(0, 5))] and found.last_px == 3
    assert found.mask_HW.tolist()[2:] == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0]] and found.mask_HW[0, 4] == 0
    other = corrected(kept(TWO_PIECES), (Click("add", 0, 2, 2, 9),), percent=50, class_index=0, ask=ask)
    assert other.mask_HW.tolist()[2] == [0, 0, 1, 1, 0]  # as without a decoder
    gone = corrected(kept(TWO_PIECES), (Click("remove", 0, 0, 0, 9),), percent=50, class_index=0, ask=ask)
    assert gone.last_px == 3 and len(asked) == 2
