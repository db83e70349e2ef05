"""Any folder or archive in the layout of the Medical Segmentation Decathlon or of nnU-Net, a site each.

- MSD: ``TaskNN_Name/{dataset.json,imagesTr/NAME.nii.gz,labelsTr/NAME.nii.gz}``; several modalities are the fourth axis,
  of which the first is taken; ``"labels": {"0": "background", "1": "name"}``.
- nnU-Net v2: ``DatasetNNN_Name`` with ``imagesTr/NAME_0000.nii.gz`` (channel 0; others are not read),
  ``"channel_names"``, ``"file_ending"`` and ``"labels": {"background": 0, "name": 1, "region": [1, 2]}``;
  "ignore" becomes background.

Labels in regions overlap, so each class of such a dataset gets masks of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.prepare.chaos import WINDOW_HU
from engine.data.prepare.downloads import Downloads, Entry
from engine.data.prepare.metaimage import read_metaimage
from engine.data.prepare.nrrd import read_nrrd
from engine.data.prepare.pictures import labels as picture_labels
from engine.data.prepare.pictures import require_size
from engine.data.prepare.records import Bench, Case, Findings, Made, Part, PublicDataset, Volume
from engine.data.prepare.volumes import is_placed_like, on_grid_of, read_nifti
from engine.data.readers import image_info
from engine.errors import UserError

MSD_PAGE = "http://medicaldecathlon.com"
MSD_MD5 = {  # as MONAI's DecathlonDataset checks its downloads
    "Task01_BrainTumour": "240a19d752f0d9e9101544901065d872",
    "Task02_Heart": "06ee59366e1e5124267b774dbd654057",
    "Task03_Liver": "a90ec6c4aa7f6a3d087205e23d4e6397",
    "Task04_Hippocampus": "9d24dba78a72977dbd1d2e110310f31b",
    "Task05_Prostate": "35138f08b1efaef89d7424d2bcc928db",
    "Task06_Lung": "8afd997733c7fc0432f71255ba4e52dc",
    "Task07_Pancreas": "4f7080cfca169fa8066d17ce6eb061e4",
    "Task08_HepaticVessel": "641d79e80ec66453921d997fbf12a29c",
    "Task09_Spleen": "410d4a301da4e5b2f6f86ec3ddba524e",
    "Task10_Colon": "bad7a188931dc2f6acf72b08eb6202d0",
}
ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif", ".tiff", ".bmp")
FIRST = "_0000"
"""How nnU-Net's files of channel 0 end."""
Classes = dict[str, tuple[int, ...]]
LIVER: Classes = {"liver": (1, 2)}


def find_liver(tree: Downloads, found: Findings) -> None:
    """Find Task03_Liver alone: its tumours lie in the liver."""
    folders = [entry for match, entry in tree.find(r"/Task03_Liver[^/]*/dataset\.json$")]
    for entry in folders[:1]:
        _folder(tree, entry, {"name": "msd_liver"}, LIVER, found)
    if not folders:
        found.missing.append(Part("Decathlon, Task03_Liver", "Task03_Liver.tar", MSD_PAGE))


def find_folders(tree: Downloads, found: Findings) -> None:
    """Find every dataset.json with its images and labels; several must have the same classes."""
    classes: Classes | None = None
    for _, entry in tree.find(r"/dataset\.json$"):
        about = _about(tree, entry)
        here = _classes(entry, about, found)
        if classes is not None and here != classes:
            raise _unreadable(entry, f"its classes ({', '.join(here)}) are not those of another one there")
        classes = here
        _folder(tree, entry, about, here, found)
    if classes is not None:
        found.keys |= {"classes": list(classes)}
        if _overlap(classes):
            found.keys.pop("mask_background", None)
        else:
            found.keys["mask_values"] = {name: list(values) for name, values in classes.items()}


def _about(tree: Downloads, entry: Entry) -> dict[str, Any]:
    try:
        about = json.loads(tree.read(entry))
    except (ValueError, UnicodeDecodeError) as error:
        raise _unreadable(entry, f"it is not valid JSON ({error})") from error
    if not isinstance(about, dict) or not isinstance(about.get("labels"), dict):
        raise _unreadable(entry, "it has no 'labels'")
    return about


def _classes(entry: Entry, about: Mapping[str, Any], found: Findings) -> Classes:
    """Return the values of each class, without the background, in the order of the file."""
    classes: Classes = {}
    background = {0}
    for key, value in about["labels"].items():
        name, values = (str(value), [int(key)]) if str(key).isdigit() else (str(key), np.ravel(value).tolist())
        if not all(isinstance(one, int) for one in values):
            raise _unreadable(entry, f"its label '{name}' has values that are no whole numbers")
        if name.lower() in ("background", "ignore"):
            background |= set(values)
            if name.lower() == "ignore":
                found.notes.append(f"{entry.path}: voxels marked 'ignore' ({values[0]}) count as background here.")
        else:
            classes[re.sub(r"[/\\]", "_", name)[:64]] = tuple(values)
    if not classes:
        raise _unreadable(entry, "its 'labels' name no class beside the background")
    found.keys["mask_background"] = sorted(background | set(found.keys.get("mask_background", ())))
    return classes


def _overlap(classes: Classes) -> bool:
    values = [value for here in classes.values() for value in here]
    return len(set(values)) < len(values)


def _folder(tree: Downloads, entry: Entry, about: Mapping[str, Any], classes: Classes, found: Findings) -> None:
    folder = entry.path.rpartition("/")[0]
    ending = re.escape(about["file_ending"]) if about.get("file_ending") in ENDINGS else r"(?:\.nii\.gz|\.nii)"
    begin = "^/" + (re.escape(folder) + "/" if folder else "")
    images = tree.keyed(rf"{begin}imagesTr/([^/]+){ending}$")
    masks = tree.keyed(rf"{begin}labelsTr/([^/]+){ending}$")
    if not images:
        found.leave_out(entry.path, "there are no images beside it (imagesTr)")
    if not set(images) & set(masks):  # nnU-Net's names, with the channel
        images = {name.removesuffix(FIRST): image for name, image in images.items() if name.endswith(FIRST)}
    site = re.sub(r"\W+", "_", str(about.get("name") or Path(folder).name or "site")).strip("_")[:64] or "site"
    for key, image, mask in found.paired(images, masks):
        make = partial(_pair, image=image, mask=mask, classes=classes)
        found.cases.append(Case(site, key, None, (image, mask), make))
    modality = about.get("channel_names") or about.get("modality")
    if isinstance(modality, dict) and modality.get("0"):
        found.keys["modality"] = str(modality["0"])
    for name in ("licence", "reference"):
        if isinstance(about.get(name), str) and about[name]:
            found.keys["licence" if name == "licence" else "citation"] = about[name]


def _pair(bench: Bench, *, image: Entry, mask: Entry, classes: Classes) -> Made:
    if image.name.lower().endswith((".png", ".tif", ".tiff", ".bmp")):
        return _picture_pair(bench, image=image, mask=mask, classes=classes)
    paths = bench.local(image), bench.local(mask)
    is_plain = image.name.lower().endswith((".nii", ".nii.gz")) and not _overlap(classes)
    if is_plain and _has_three_axes(paths[0]) and is_placed_like(*paths):
        return Made(image, {"": mask})
    picture = _volume(paths[0])
    labels = on_grid_of(picture, _volume(paths[1]))
    if not _overlap(classes):
        return Made(picture, {"": labels})
    return Made(
        picture, {name: Volume(np.isin(labels.voxels, values), labels.affine_lps) for name, values in classes.items()}
    )


def _picture_pair(bench: Bench, *, image: Entry, mask: Entry, classes: Classes) -> Made:
    size = image_info(bench.local(image))
    stored = picture_labels(bench.local(mask))
    require_size(stored, (size.height_px, size.width_px))
    if not _overlap(classes):
        return Made(image, {"": mask})
    return Made(image, {name: np.isin(stored, values) for name, values in classes.items()})


def _has_three_axes(path: Path) -> bool:
    try:
        image_info(path)
    except UserError:  # four axes are not read as one image; what is damaged is told by the next reader
        return False
    return True


def _volume(path: Path) -> Volume:
    name = path.name.lower()
    if name.endswith(".mha"):
        return read_metaimage(path)
    return read_nrrd(path) if name.endswith(".nrrd") else read_nifti(path)


def _unreadable(entry: Entry, why: str) -> UserError:
    return UserError(
        "prepare.file_unreadable",
        what=f"{entry.path} cannot be used: {why}.",
        why="It names the classes of the dataset and the numbers that they have in its labels.",
        fix="Correct it, or keep one dataset in the folder of downloads.",
    )


DATASETS = (
    PublicDataset(
        name="nnunet",
        title="Any dataset in the layout of the Medical Segmentation Decathlon or nnU-Net",
        modality="medical image",
        classes=("foreground",),
        licence="the dataset's own; the Decathlon's are CC BY-SA 4.0",
        citation="Antonelli et al., Nature Communications 13:4128 (2022) (Decathlon)",
        page=MSD_PAGE,
        parts=tuple(Part(f"Decathlon, {name}", f"{name}.tar", MSD_PAGE, md5=md5) for name, md5 in MSD_MD5.items()),
        find=find_folders,
    ),
    PublicDataset(
        name="msd-liver",
        title="Liver: CT of the Medical Segmentation Decathlon, to test on what CHAOS has trained",
        modality="abdominal CT or MRI",
        classes=("liver",),
        licence="CC BY-SA 4.0",
        citation="Antonelli et al., Nature Communications 13:4128 (2022); Bilic et al., arXiv 1901.04056 (LiTS)",
        page=MSD_PAGE,
        parts=(Part("Decathlon, Task03_Liver", "Task03_Liver.tar", MSD_PAGE, md5=MSD_MD5["Task03_Liver"]),),
        find=find_liver,
        keys={"protocol": "fixed-test", "mask_values": {"liver": [1, 2]}, "value_range": list(WINDOW_HU)},
        task="liver",
    ),
)
