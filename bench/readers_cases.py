"""Small files of public bug reports (``../shared/cases/readers``), held to the right values that their READMEs state.

Whole datasets are held to what ``engine data check`` says of them. DICOM and NIfTI images among the files are compared
by :mod:`bench.readers_medical`, too.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from bench.reading import Outcome
from engine.cli.cases import waiting_cases
from engine.data.layout import scan_dataset
from engine.data.readers import read_image, read_mask
from engine.data.validation import check_sites
from engine.errors import UserError

CASES = Path(__file__).parents[2] / "shared" / "cases" / "readers"
DATASETS = {
    "class_nowhere": ("class_nowhere", 1, "The class 'y' has no foreground"),
    "copies_at_one_site": ("copied_image", 1, "4 files are the same picture, byte for byte"),
    "nifti_mask_shifted": ("mask_elsewhere", 4, "lies elsewhere in the patient than its image"),
    "nifti_mask_without_header": ("mask_elsewhere", 4, "was saved without geometry"),
}
"""What is told of a dataset: the end of the code, how often, and words of it."""
MASKS = {"uint8.nii": 1, "labels.nii": 3, "int16.nii": 1}
"""Largest label of each scaled mask in ``nifti_mask_scaled``; each label from 0 on is there."""


def compare() -> list[Outcome]:
    """Return an outcome for each value that a README states; none where the folder is not there."""
    if not CASES.is_dir():
        return []
    found = [*_shared_cases(), *(_told(name, *right) for name, right in DATASETS.items()), *_scaled_masks()]
    return [Outcome(f"cases/{one.file}", one.verdict, one.detail) for one in [*found, *_endings(), _litter()]]


def _told(folder: str, code: str, count: int, words: str) -> Outcome:
    scan = scan_dataset(CASES / folder)
    check_sites(scan, thorough=True)
    told = [problem for problem in scan.problems if words in problem.what]
    right = len(told) == count and all(code in problem.code for problem in told) and len(told) == len(scan.problems)
    return Outcome(f"{folder} (data check)", "refused" if right else "wrong", str([p.what for p in scan.problems]))


def _scaled_masks() -> list[Outcome]:
    outcomes = []
    for name, most in MASKS.items():
        labels = np.unique(read_mask(CASES / "nifti_mask_scaled" / name))
        same = labels.tolist() == list(range(most + 1))
        outcomes.append(Outcome(f"nifti_mask_scaled/{name} (mask)", "equal" if same else "wrong", str(labels)))
    return outcomes


def _endings() -> list[Outcome]:
    """Hold that endings of any case are read alike: 3 x 4 pixels of 0 to 23 over both slices."""
    outcomes = []
    for path in sorted((CASES / "nifti_mixed_case_ending").glob("scan*")):
        values = np.concatenate(
            [read_image(path, slice_index=index, value_range=(0, 23))[0][..., 0].ravel() * 23 for index in (0, 1)]
        )
        same = np.allclose(np.sort(values), np.arange(24), atol=1e-4)
        outcomes.append(
            Outcome(f"nifti_mixed_case_ending/{path.name} (values)", "equal" if same else "wrong", "0 .. 23")
        )
    return outcomes


def _litter() -> Outcome:
    with waiting_cases([CASES / "predict_appledouble"], out=Path("nowhere")) as cases:
        names = sorted(str(case.name) for case in cases)
    return Outcome("predict_appledouble (predict)", "equal" if len(names) == 2 else "wrong", str(names))


def _shared_cases() -> list[Outcome]:
    """Hold the values that the READMEs state: (file, options, pixel or maximum, right value)."""
    first, last = (0, 0), (-1, -1)
    table: list[tuple[str, dict, tuple[int, int] | None, object]] = []
    for name in ("plain.tif", "lzw.tif", "rgb.png", "rgba.png", "grey_alpha.png"):
        red = (4000, 4000, 4000) if name == "grey_alpha.png" else (4000, 2000, 1000)
        table.append((f"colour_16_bit_cut_to_8/{name}", {}, last, np.array(red, np.uint16)))
        table.append((f"colour_16_bit_cut_to_8/{name}", {"value_range": (0, 4000)}, last, np.array(red) / 4000))
    for dtype, file in itertools.product(("int8", "int16", "int32", "uint32"), ("plain", "lzw")):
        table += [(f"tiff_lzw_integers/{dtype}_{file}.tif", {}, pixel, end) for pixel, end in ((first, 0), (last, 1))]
    for file in ("plain", "lzw"):
        table.append((f"tiff_pages_of_two_sizes/{file}.tif", {"slice_index": 1}, last, 126))
        table.append((f"tiff_white_is_zero_depth/{file}.tif", {}, last, 65535 - 4000))
        table.append((f"tiff_white_is_zero_depth/{file}.tif", {"value_range": (0, 4000)}, last, 0))
    table += [("tiff_white_is_zero_depth/plain_f.tif", {}, pixel, end) for pixel, end in ((first, 1), (last, 0))]
    for name, index, end in (("int16", 0, 0.002), ("int16", 1, 0.2), ("int16", 2, 1), ("float", 0, 0.00004)):
        table.append((f"tiff_stack_range_per_slice/{name}.tif", {"slice_index": index}, None, end))
    outcomes = []
    for file, options, pixel, right in table:
        image = read_image(CASES / file, **options)[0]
        found = image.max() if pixel is None else image[pixel]
        same = np.allclose(found, right, rtol=1e-3, atol=1e-6)
        outcomes.append(Outcome(f"{file} {options}", "equal" if same else "wrong", f"{found}, right is {right}"))
    white = np.zeros((8, 16), bool)
    white[2:5, 3:9] = True
    for file in ("raw", "packbits", "lzw", "group4"):
        found = read_mask(CASES / f"tiff_bilevel_white_is_zero_mask/{file}.tif")
        same = np.array_equal(found != 0, white)
        outcomes.append(
            Outcome(f"tiff_bilevel_white_is_zero_mask/{file}.tif", "equal" if same else "wrong", "foreground")
        )
    for file in ("black", "white", "white_la"):
        outcomes.append(_mask_in_alpha(CASES / f"mask_in_alpha/{file}.png"))
    return outcomes


def _mask_in_alpha(path: Path) -> Outcome:
    try:
        found = read_mask(path)
    except UserError as error:
        named = error.code == "data.image_unsupported" and "lies in the alpha channel" in error.what
        return Outcome(f"mask_in_alpha/{path.name}", "refused" if named else "wrong", error.what)
    return Outcome(f"mask_in_alpha/{path.name}", "wrong", f"{np.count_nonzero(found)} foreground pixels")
