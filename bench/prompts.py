"""What clicks and boxes do to the masks of a bundle: ``python -m bench.prompts BUNDLE DATASET SITE``.

The protocol of interactive segmentation: each click is in the middle of the largest connected region that is missed or
false, three one after the other; the box is that of the true structure that the largest error touches. Dice at the
images' own resolution, of the images of one site that the model has not learnt from, by the page's own rules: on
probabilities, and by the bundle's decoder where it has one. ``Obeyed`` is how often the decoder changes the place of
the first click, ``far`` the share of pixels beyond a click's reach that changed, which has to be 0. Whole structures,
too: one that was found is clicked away, how much of it goes, and what goes beside it, as a share of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from engine.data.readers import read_image
from export.clicks import TOUCHING, Ask, Box, Click, change, fill_box
from export.prompting import Prompter, key_of, load_prompter
from export.runtime import load_bundle

NUM_CLICKS, REACH = 3, 0.15
WHOLE_LEAST_PX, WHOLE_FOUND = 40, 0.7


@dataclass
class Tally:
    """Of one rule: Dice before and after each click, and after a box; what went of whole structures and beside them."""

    dice: list[list[float]] = field(default_factory=list)
    box: list[tuple[float, float]] = field(default_factory=list)
    gone: list[tuple[float, float]] = field(default_factory=list)
    far_px: int = 0
    obeyed: list[bool] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        """Return the means."""
        means = [round(float(mean), 4) for mean in np.mean(self.dice, axis=0)]
        return {
            "dice": means,
            "box": [round(float(mean), 4) for mean in np.mean(self.box, axis=0)] if self.box else None,
            "whole_gone": round(float(np.mean([one for one, _ in self.gone])), 3) if self.gone else None,
            "beside_it": round(float(np.mean([one for _, one in self.gone])), 3) if self.gone else None,
            "far_px": self.far_px,
            "obeyed": round(float(np.mean(self.obeyed)), 3) if self.obeyed else None,
            "images": len(self.dice),
        }


def measure(bundle: Path, pairs: Iterator[tuple[np.ndarray, np.ndarray]], *, threads: int | None) -> dict[str, Tally]:
    """Return a tally for each rule over (image (H, W, 3), mask (H, W) bool) of the first class."""
    session = load_bundle(bundle, threads=threads)
    prompter = load_prompter(bundle, session, threads=threads)
    tallies = {"probabilities": Tally()} | ({"decoder": Tally()} if prompter else {})
    for image, true in pairs:
        size_hw = (image.shape[0], image.shape[1])
        kept = session.at_own_size(session.logits(image)[:1], size_hw=size_hw)[0]
        for name, tally in tallies.items():
            ask = _asking(prompter, image) if name == "decoder" and prompter else None
            _clicks(kept, true, ask, tally)
            _box(kept, true, tally)
            _whole(kept, true, ask, tally)
    return tallies


def _asking(prompter: Prompter, image: np.ndarray) -> Ask:
    key, size_hw = key_of(image), (image.shape[0], image.shape[1])

    def ask(clicks: Sequence[Click], rows: slice, columns: slice) -> tuple[np.ndarray, slice, slice]:
        return prompter.logits(
            clicks, 0, rows=rows, columns=columns, image_key=key, size_hw=size_hw, looks="whole", read=lambda: image
        )

    return ask


def _mask(kept: np.ndarray, given: Sequence[Click], ask: Ask | None) -> np.ndarray:
    mask = (kept > 0).astype(np.uint8)
    for number, click in enumerate(given):
        change(mask, kept, click, ask=ask, clicks=given[: number + 1])
    return mask > 0


def _clicks(kept: np.ndarray, true: np.ndarray, ask: Ask | None, tally: Tally) -> None:
    given: list[Click] = []
    mask = _mask(kept, given, ask)
    dice = [_dice(mask, true)]
    for number in range(NUM_CLICKS):
        wrong = largest_error(mask, true)
        if wrong is not None:
            row, column = middle(wrong)
            reach = round(REACH * max(true.shape))
            given.append(Click("add" if true[row, column] else "remove", 0, row, column, reach))
            if ask is not None and not number:
                place = slice(row, row + 1), slice(column, column + 1)
                tally.obeyed.append(bool(ask(given, *place)[0][0, 0] > 0) == bool(true[row, column]))
            after = _mask(kept, given, ask)
            down, across = np.ogrid[: true.shape[0], : true.shape[1]]
            far = (down - row) ** 2 + (across - column) ** 2 > reach**2
            tally.far_px += int(np.count_nonzero((after != mask) & far))
            mask = after
        dice.append(_dice(mask, true))
    tally.dice.append(dice)


def _box(kept: np.ndarray, true: np.ndarray, tally: Tally) -> None:
    mask = kept > 0
    wrong = largest_error(mask, true)
    pieces, _ = ndimage.label(true, TOUCHING)
    touched = pieces[ndimage.binary_dilation(wrong)] if wrong is not None else np.zeros(0, int)
    if not touched.any():
        return
    rows, columns = ndimage.find_objects(pieces)[int(np.bincount(touched[touched > 0]).argmax()) - 1]
    after = mask.copy()
    fill_box(after, kept, Box(0, rows.start, columns.start, rows.stop - 1, columns.stop - 1))
    inside = (rows, columns)
    tally.box.append((_dice(mask[inside], true[inside]), _dice(after[inside], true[inside])))


def _whole(kept: np.ndarray, true: np.ndarray, ask: Ask | None, tally: Tally) -> None:
    """Click the largest structure away that was found and has a middle that is."""
    mask, (pieces, _) = _mask(kept, (), ask), ndimage.label(true, TOUCHING)
    sizes = np.bincount(pieces.ravel())[1:]
    for number in np.argsort(-sizes)[:3]:
        piece = pieces == number + 1
        found = np.count_nonzero(mask & piece)
        row, column = middle(piece)
        if sizes[number] < WHOLE_LEAST_PX or found < WHOLE_FOUND * sizes[number] or not mask[row, column]:
            continue
        after = _mask(kept, (Click("remove", 0, row, column, round(REACH * max(true.shape))),), ask)
        gone, beside = np.count_nonzero(mask & piece & ~after), np.count_nonzero(mask & ~piece & ~after)
        tally.gone.append((gone / found, beside / sizes[number]))


def largest_error(mask: np.ndarray, true: np.ndarray) -> np.ndarray | None:
    """Return the largest connected region that is missed or false, bool; None where nothing is wrong."""
    best: np.ndarray | None = None
    size = 0
    for wrong in (true & ~mask, mask & ~true):
        regions, count = ndimage.label(wrong, TOUCHING)
        if count:
            sizes = np.bincount(regions.ravel())[1:]
            if sizes.max() > size:
                size, best = int(sizes.max()), regions == 1 + int(sizes.argmax())
    return best


def middle(region: np.ndarray) -> tuple[int, int]:
    """Return the pixel of a region that is furthest from its border."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    both = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / both if both else 1.0


def pairs_of(dataset: Path, site: str, *, most: int, reading: dict) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield image and mask (anything above half is foreground) of a site's first files by name."""
    for path in sorted((dataset / site / "images").iterdir())[:most]:
        mask = read_image(dataset / site / "masks" / path.name)[0]
        yield read_image(path, **reading)[0], mask[..., 0] > (127 if mask.dtype == np.uint8 else 0.5)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print one JSON object a rule."""
    parser = argparse.ArgumentParser(prog="python -m bench.prompts", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dataset", type=Path, help="folder with a folder a site, images and masks of one name in it")
    parser.add_argument("site")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(arguments)
    reading = load_bundle(given.bundle, threads=given.threads).manifest.reading
    pairs = pairs_of(given.dataset, given.site, most=given.images, reading=reading)
    for name, tally in measure(given.bundle, pairs, threads=given.threads).items():
        print(json.dumps({"rule": name, **tally.row()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
