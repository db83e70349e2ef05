"""Finds the images, masks and patients of a dataset folder, in the project's layout or the authors' npy layout.

Project: ``<root>/dataset.toml`` and ``<root>/<site>/{images,masks}/NAME.*`` (or ``masks/<class>/NAME.*``).
Authors: ``<root>/<client>/{data_npy,label_npy,val_data_npy,val_label_npy}/NAME.npy`` with its own split kept; a label's
path is its image's path with "data" replaced by "label" [methods.md 1.2]. ``<site>/meta.csv`` (file, group) fits both.
Only headers are read here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.description import FILE_NAME, DatasetDescription, read_description
from engine.data.meta import read_groups
from engine.data.problems import Problem
from engine.data.readers import Geometry, file_stem, image_info, is_supported
from engine.data.sources import FolderItem, Split
from engine.errors import UserError

IGNORED_FILES = {"thumbs.db", "desktop.ini"}
NPY_FOLDERS: tuple[tuple[str, str, Split], ...] = (
    ("data_npy", "label_npy", "train"),
    ("val_data_npy", "val_label_npy", "validation"),
)


@dataclass
class Scan:
    """What a dataset folder holds: its description, its images by site, and every fault seen so far."""

    root: Path
    description: DatasetDescription
    items: dict[str, list[FolderItem]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def fault(self, code: str, *, site: str | None = None, path: Path | None = None, what: str, fix: str) -> None:
        """Note one fault; ``path`` is stored relative to the dataset."""
        file = None if path is None else path.relative_to(self.root).as_posix()
        self.problems.append(Problem(code, what, fix, site, file))


def dataset_sites(root: Path) -> list[str]:
    """Return the names of the sites of ``root``, sorted: its visible folders, unless ``dataset.toml`` lists them."""
    return _site_names(root, _description(root))


def _site_names(root: Path, description: DatasetDescription) -> list[str]:
    if description.sites is not None:
        return sorted(description.sites)
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def scan_dataset(root: Path, *, sites: tuple[str, ...] | None = None) -> Scan:
    """Return the images of ``root`` (of ``sites`` only, if given) and the faults of its structure.

    Raises ``UserError`` where there is nothing to scan: ``data.root_missing``, ``data.description_invalid``,
    ``data.description_missing``, ``data.site_unknown``, ``data.no_sites``.
    """
    description = _description(root)
    present = _site_names(root, description)
    if not present:
        raise UserError(
            "data.no_sites",
            what=f"The dataset {root} has no site: it holds no folder.",
            why="A federation needs the images of at least two sites.",
            fix=f"Put each site's images into {root}/<site>/images and its masks into {root}/<site>/masks.",
        )
    unknown = sorted(set(sites or ()) - set(present))
    if unknown:
        raise UserError(
            "data.site_unknown",
            what=f"The dataset {root} has no site called {', '.join(unknown)}.",
            why="The configuration's data.sites names it.",
            fix=f"Use sites that exist: {', '.join(present)}.",
        )
    scan = Scan(root, description)
    for site in present if sites is None else sorted(sites):
        scan.items[site] = []
        _scan_site(scan, site)
    return scan


def _scan_site(scan: Scan, site: str) -> None:
    folder = scan.root / site
    faults_before = len(scan.problems)
    if (folder / "data_npy").is_dir() or (folder / "val_data_npy").is_dir():
        pairs = [pair for data, label, split in NPY_FOLDERS for pair in _npy_pairs(scan, site, data, label, split)]
    elif (folder / "images").is_dir():
        pairs = _folder_pairs(scan, site)
    else:
        where = folder.name + ("" if folder.is_dir() else " (a folder that does not exist)")
        scan.fault(
            "data.site_layout",
            site=site,
            what=f"Site '{where}' has no images folder.",
            fix=f"Give it images/ and masks/, or list the folders that are sites in {FILE_NAME} (sites = […]).",
        )
        return
    images = [image for image, _, _ in pairs]
    groups = read_groups(scan.root, site=site, images=images, problems=scan.problems)
    for image, masks, split in pairs:
        scan.items[site].extend(_items(scan, site, image, masks, split, groups.get(file_stem(image), "")))
    repeated = [name for name, count in Counter(item.name for item in scan.items[site]).items() if count > 1]
    for name in repeated:
        _duplicate(scan, site, name, [item.image for item in scan.items[site] if item.name == name])
    if not images and len(scan.problems) == faults_before:
        scan.fault(
            "data.site_empty",
            site=site,
            what=f"Site '{site}' has no images.",
            fix="Add its images and masks, or leave the site out (data.sites).",
        )


def _folder_pairs(scan: Scan, site: str) -> list[tuple[Path, tuple[Path, ...], Split | None]]:
    folder = scan.root / site
    images = _files(scan, site, folder / "images")
    mask_folders = _mask_folders(scan, site)
    if mask_folders is None:
        return [(path, (), None) for path in images.values()]
    pairs: list[tuple[Path, tuple[Path, ...], Split | None]] = []
    by_folder = [_files(scan, site, mask_folder) for mask_folder in mask_folders]
    for stem, image in images.items():
        masks = []
        for mask_folder, masks_here in zip(mask_folders, by_folder, strict=True):
            if stem in masks_here:
                masks.append(masks_here[stem])
            else:
                _missing_mask(scan, site, image, mask_folder / f"{stem}.*")
        pairs.append((image, tuple(masks) if len(masks) == len(mask_folders) else (), None))
    for masks_here in by_folder:
        for stem in sorted(set(masks_here) - set(images)):
            path = masks_here[stem]
            scan.fault(
                "data.image_missing",
                site=site,
                path=path,
                what=f"At site '{site}' the mask {path.relative_to(folder)} belongs to no image.",
                fix="Add the image under the same name, or remove the mask.",
            )
    return pairs


def _mask_folders(scan: Scan, site: str) -> list[Path] | None:
    """Return the folders to look for masks in: one for each class, or one for all; None where they are missing."""
    masks = scan.root / site / "masks"
    classes = scan.description.classes
    if not masks.is_dir():
        scan.fault(
            "data.class_folder_missing",
            site=site,
            what=f"Site '{site}' has no masks folder.",
            fix="Put a mask of the same name as each image into masks/, or into masks/<class>/ for several classes.",
        )
        return None
    folders = {path.name for path in masks.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for name in sorted(folders - set(classes)):
        scan.fault(
            "data.class_unknown",
            site=site,
            path=masks / name,
            what=f"At site '{site}' the folder masks/{name} is none of the classes {', '.join(classes)}.",
            fix=f"Rename it, or add it to classes in {FILE_NAME}.",
        )
    one_file = len(classes) == 1 or isinstance(scan.description.mask_values, dict) or any(masks.glob("*.npy"))
    if one_file and not folders:
        return [masks]
    missing = [name for name in classes if name not in folders]
    for name in missing:
        scan.fault(
            "data.class_folder_missing",
            site=site,
            what=f"Site '{site}' has no folder masks/{name} for the class '{name}'.",
            fix=f"Add the folder with a mask for each image, or take the class out of {FILE_NAME}.",
        )
    return None if missing else [masks / name for name in classes]


def _npy_pairs(
    scan: Scan, site: str, data: str, label: str, split: Split
) -> list[tuple[Path, tuple[Path, ...], Split | None]]:
    folder = scan.root / site
    has_own_split = (folder / "val_data_npy").is_dir()
    if not (folder / data).is_dir():
        return []
    pairs: list[tuple[Path, tuple[Path, ...], Split | None]] = []
    for image in _files(scan, site, folder / data).values():
        # the authors replace "data" in the whole path, so in the file's name too; a plain copy of the name is as good
        candidates = [folder / label / image.name.replace("data", "label"), folder / label / image.name]
        masks = tuple(path for path in candidates if path.is_file())[:1]
        if not masks:
            _missing_mask(scan, site, image, candidates[0])
        pairs.append((image, masks, split if has_own_split else None))
    return pairs


def _items(
    scan: Scan, site: str, image: Path, masks: tuple[Path, ...], split: Split | None, group: str
) -> list[FolderItem]:
    axis = scan.description.slice_axis
    try:
        geometry = image_info(image, slice_axis=axis)
        sizes = [(path, image_info(path, slice_axis=axis)) for path in masks]
    except UserError as error:
        scan.fault(error.code, site=site, path=image, what=f"At site '{site}': {error.what}", fix=error.fix)
        return []
    for path, size in sizes:
        if not _fits(size, geometry, scaled=image.parent.name in ("data_npy", "val_data_npy")):
            scan.fault(
                "data.mask_size",
                site=site,
                path=path,
                what=f"At site '{site}' the mask {path.relative_to(scan.root / site)} is {_told(size)}, "
                f"its image {_told(geometry)}.",
                fix="Export the mask on the image's own grid.",
            )
    stem = file_stem(image)
    own = f"{site}/{stem}"
    in_scope = f"{site}/{group}" if scan.description.group_scope == "site" else group
    slices = range(geometry.num_slices)
    names = [stem] if geometry.num_slices == 1 else [f"{stem}.{index:03d}" for index in slices]
    return [
        FolderItem(site, names[k], in_scope if group else own, image, masks, scan.description, k, split) for k in slices
    ]


def _files(scan: Scan, site: str, folder: Path) -> dict[str, Path]:
    """Return the readable files of ``folder`` by stem, sorted; unknown endings and double stems are faults."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith(".") or path.name.lower() in IGNORED_FILES:
            continue
        stem = file_stem(path)
        if any("\udc80" <= sign <= "\udcff" for sign in path.name):  # how Python stands for bytes that are no text
            scan.fault(
                "data.name_encoding",
                site=site,
                what=f"At site '{site}' the file name {path.name!a} is not valid UTF-8.",
                fix="Rename the file; neither a database nor a report can hold such a name.",
            )
        elif not is_supported(path):
            scan.fault(
                "data.format_unknown",
                site=site,
                path=path,
                what=f"At site '{site}' no reader knows the ending of {path.relative_to(scan.root / site)}.",
                fix="Convert the file to PNG, JPEG, TIFF, NIfTI, DICOM or npy, or take it out of the folder.",
            )
        elif stem in found:
            _duplicate(scan, site, stem, [found[stem], path])
        else:
            found[stem] = path
    return found


def _duplicate(scan: Scan, site: str, name: str, paths: list[Path]) -> None:
    scan.fault(
        "data.duplicate_name",
        site=site,
        path=paths[-1],
        what=f"At site '{site}' the name '{name}' is used twice: "
        f"{' and '.join(str(path.relative_to(scan.root / site)) for path in paths)}.",
        fix="Give each image a name of its own, and its mask the same one.",
    )


def _missing_mask(scan: Scan, site: str, image: Path, expected: Path) -> None:
    scan.fault(
        "data.mask_missing",
        site=site,
        path=image,
        what=f"At site '{site}' the image {image.relative_to(scan.root / site)} has no mask "
        f"({expected.relative_to(scan.root / site)}).",
        fix="Add the mask under the same name, or remove the image.",
    )


def _fits(mask: Geometry, image: Geometry, *, scaled: bool) -> bool:
    if mask.num_slices != image.num_slices:
        return False
    if scaled:  # the authors store images at 1024 and masks at 256 pixels
        return mask.height_px * image.width_px == mask.width_px * image.height_px
    return (mask.height_px, mask.width_px) == (image.height_px, image.width_px)


def _told(size: Geometry) -> str:
    slices = f" x {size.num_slices} slices" if size.num_slices > 1 else ""
    return f"{size.width_px} x {size.height_px}{slices} pixels"


def _description(root: Path) -> DatasetDescription:
    if not root.is_dir():
        raise UserError(
            "data.root_missing",
            what=f"The dataset folder {root} does not exist."
            if not root.exists()
            else f"{root} is a file, not a folder.",
            why="The configuration's data.root names it.",
            fix="Correct the path; relative paths start at the folder in which the command runs.",
        )
    description = read_description(root)
    if description is not None:
        return description
    labels = sorted(root.glob("*/label_npy/*.npy")) + sorted(root.glob("*/val_label_npy/*.npy"))
    if not labels:
        raise UserError(
            "data.description_missing",
            what=f"The dataset folder {root} has no {FILE_NAME}.",
            why="It names the classes and the modality; only the authors' npy layout goes without.",
            fix=f'Write {root}/{FILE_NAME} with name = "…", modality = "…" and classes = ["…"].',
        )
    channels = image_info(labels[0]).channels
    classes = ("foreground",) if channels == 1 else tuple(f"class_{k + 1}" for k in range(channels))
    return DatasetDescription(name=root.resolve().name, modality="medical image", classes=classes)
