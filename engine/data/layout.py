"""Finds the images, masks and patients of a dataset folder, in the project's layout or the authors' npy layout.

Project: ``<root>/dataset.toml`` and ``<root>/<site>/{images,masks}/NAME.*`` (or ``masks/<class>/NAME.*``).
Authors: ``<root>/<client>/{data_npy,label_npy,val_data_npy,val_label_npy}/NAME.npy`` with its own split kept; a label's
path is its image's path with "data" replaced by "label" [methods.md 1.2]. ``<site>/meta.csv`` (file, group) fits both.
Only headers are read here (and one mask, for a hint where classes have no folders).
"""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter
from pathlib import Path

from engine.data.description import FILE_NAME, DatasetDescription, read_description
from engine.data.found_folders import holds_foreign
from engine.data.grouping import keep_copies_together, with_series
from engine.data.mask_hints import tell_missing_folders
from engine.data.mask_names import meant_masks
from engine.data.meta import FILE_NAME as META_NAME
from engine.data.meta import read_patients
from engine.data.names import child, folded, visible
from engine.data.readers import Geometry, file_stem, file_suffix, image_info, place_mask
from engine.data.scan import Scan, list_files, tell_duplicate, tell_names_twice, tell_turned
from engine.data.sources import FolderItem, Split
from engine.data.watch import Watch
from engine.errors import UserError

UNLABELLED_METHODS = "; or choose a method whose sites train without masks, such as samfed"
"""End of a mend: a supervised method cannot do without."""
SHOWN = 6
"""Names of folders written out in a fault."""
NPY_FOLDERS: tuple[tuple[str, str, Split], ...] = (
    ("data_npy", "label_npy", "train"),
    ("val_data_npy", "val_label_npy", "validation"),
)
PARTS = ("images", "masks", *(name for data, label, _ in NPY_FOLDERS for name in (data, label)))
"""Names of the folders of a site that are read."""


def dataset_sites(root: Path) -> list[str]:
    """Return the names of the sites of ``root``, sorted: its visible folders, unless ``dataset.toml`` lists them."""
    return _site_names(root, _description(root))


def _site_names(root: Path, description: DatasetDescription) -> list[str]:
    if description.sites is not None:  # a folder in another spelling is the one that is meant
        return sorted(name if (folder := child(root, name)) is None else folder.name for name in description.sites)
    return [path.name for path in visible(root) if path.is_dir()]


def scan_dataset(
    root: Path,
    *,
    sites: tuple[str, ...] | None = None,
    labelled: frozenset[str] | None = None,
    watch: Watch | None = None,
) -> Scan:
    """Return the images of ``root`` (of ``sites`` only, if given) and the faults of its structure.

    At sites other than those of ``labelled``, where it is given, images may lack a mask: their items then have none.
    ``watch`` follows the reading.
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
    scan = Scan(root, description, labelled=labelled, watch=watch or Watch())
    _tell_names_of_sites(scan, present)
    for site in present if sites is None else sorted(sites):
        scan.items[site] = []
        _scan_site(scan, site)
    keep_copies_together(scan)
    return scan


def _tell_names_of_sites(scan: Scan, sites: list[str]) -> None:
    for name, count in Counter(map(folded, sites)).items():
        if count > 1:
            same = [site for site in sites if folded(site) == name]
            scan.fault(
                "data.site_name_twice",
                site=same[-1],
                what=f"The sites {' and '.join(map(repr, same))} have one name for Windows and macOS disks.",
                fix="Rename one of them, or put their images together where they are one hospital.",
            )
    misplaced = child(scan.root, META_NAME)
    if misplaced is not None:
        scan.warn(
            "data.meta_misplaced",
            path=misplaced,
            what=f"{misplaced.name} beside the sites is not read, so it tells no patient.",
            fix=f"Put one into each site's folder (<site>/{META_NAME}), with the rows of that site.",
        )


def _scan_site(scan: Scan, site: str) -> None:
    folder = scan.root / site
    faults_before = len(scan.problems)
    if scan.refuses_link(folder, site=site):
        return
    tell_names_twice(scan, site, folder, wanted=(*PARTS, META_NAME))
    if (folder / "data_npy").is_dir() or (folder / "val_data_npy").is_dir():
        pairs = [pair for data, label, split in NPY_FOLDERS for pair in _npy_pairs(scan, site, data, label, split)]
    elif (images := child(folder, "images")) is not None and images.is_dir():
        pairs = [] if scan.refuses_link(images, site=site) else _folder_pairs(scan, site, images)
    else:
        where = folder.name + ("" if folder.is_dir() else " (a folder that does not exist)")
        scan.fault(
            "data.site_layout",
            site=site,
            what=f"Site '{where}' has no images folder{_held(folder)}.",
            fix=f"Give it images/ and masks/, or list the folders that are sites in {FILE_NAME} (sites = […]).",
        )
        return
    files = [image for image, _, _ in pairs]
    patients = read_patients(scan, site=site, images=files)
    for image, masks, split in pairs:
        scan.items[site].extend(_items(scan, site, image, masks, split, patients.get(image)))
    tell_turned(scan, site)
    scan.items[site] = with_series(scan.items[site])
    repeated = [name for name, count in Counter(item.name for item in scan.items[site]).items() if count > 1]
    for name in repeated:
        tell_duplicate(scan, site, name, [item.image for item in scan.items[site] if item.name == name])
    if not files and len(scan.problems) == faults_before:
        scan.fault(
            "data.site_empty",
            site=site,
            what=f"Site '{site}' has no images.",
            fix="Add its images and masks, or leave the site out (data.sites).",
        )


def _held(folder: Path) -> str:
    names = [path.name for path in visible(folder) if path.is_dir()] if folder.is_dir() else []
    return f" (it has {', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})" if names else ""


def _folder_pairs(scan: Scan, site: str, image_folder: Path) -> list[tuple[Path, tuple[Path, ...], Split | None]]:
    folder = scan.root / site
    images = list_files(scan, site, image_folder)
    mask_folders = _mask_folders(scan, site)
    if mask_folders is None:
        return [(path, (), None) for path in images.values()]
    pairs: list[tuple[Path, tuple[Path, ...], Split | None]] = []
    by_folder = [list_files(scan, site, mask_folder) for mask_folder in mask_folders]
    meant = [meant_masks(images.keys() - masks_here, masks_here.keys() - images) for masks_here in by_folder]
    for stem, image in images.items():
        masks = []
        for mask_folder, masks_here, hints in zip(mask_folders, by_folder, meant, strict=True):
            if stem in masks_here:
                masks.append(masks_here[stem])
            elif scan.needs_masks(site):
                expected = mask_folder / f"{file_stem(image)}.*"
                _missing_mask(scan, site, image, expected, meant=masks_here.get(hints.get(stem, "")))
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
    masks = child(scan.root / site, "masks")
    classes = scan.description.classes
    if masks is None or not masks.is_dir():
        if scan.needs_masks(site):
            scan.fault(
                "data.class_folder_missing",
                site=site,
                what=f"Site '{site}' has no masks folder{_held(scan.root / site)}.",
                fix="Put a mask of the same name as each image into masks/, or into masks/<class>/ for several "
                f"classes{UNLABELLED_METHODS}.",
            )
        return None
    if scan.refuses_link(masks, site=site):
        return None
    tell_names_twice(scan, site, masks, wanted=classes)
    entries = visible(masks)
    folders = {folded(path.name): path for path in entries if path.is_dir()}
    for name in sorted(set(folders) - set(map(folded, classes))):
        scan.fault(
            "data.class_unknown",
            site=site,
            path=folders[name],
            what=f"At site '{site}' the folder masks/{folders[name].name} is none of the classes {', '.join(classes)}.",
            fix=f"Rename it, or add it to classes in {FILE_NAME}.",
        )
    loose = [path for path in entries if not path.is_dir()]
    one_file = len(classes) == 1 or isinstance(scan.description.mask_values, dict)
    if not folders and (one_file or any(path.suffix.lower() == ".npy" for path in loose)):
        return [masks]
    missing = [name for name in classes if folded(name) not in folders]
    if missing:
        tell_missing_folders(scan, site, missing, loose)
        return None
    if loose:
        scan.warn(
            "data.mask_not_read",
            site=site,
            path=loose[0],
            what=f"At site '{site}' {len(loose)} file(s) beside the class folders in masks are not read "
            f"({loose[0].name}, …).",
            fix="Move them into the folder of their class, or out of masks.",
        )
    chosen = [folders[folded(name)] for name in classes]
    return None if any(scan.refuses_link(folder, site=site) for folder in chosen) else chosen


def _npy_pairs(
    scan: Scan, site: str, data: str, label: str, split: Split
) -> list[tuple[Path, tuple[Path, ...], Split | None]]:
    folder = scan.root / site
    has_own_split = (folder / "val_data_npy").is_dir()
    if not (folder / data).is_dir() or scan.refuses_link(folder / data, site=site):
        return []
    has_labels = (folder / label).is_dir() and not scan.refuses_link(folder / label, site=site)
    labels = list_files(scan, site, folder / label) if has_labels else {}
    pairs: list[tuple[Path, tuple[Path, ...], Split | None]] = []
    used: set[Path] = set()
    for stem, image in list_files(scan, site, folder / data).items():
        # the authors replace "data" in the whole path, so in the file's name too; a plain copy of the name is as good
        masks = tuple(labels[name] for name in (stem.replace("data", "label"), stem) if name in labels)[:1]
        if not masks and scan.needs_masks(site):
            _missing_mask(scan, site, image, folder / label / image.name.replace("data", "label"))
        used.update(masks)
        pairs.append((image, masks, split if has_own_split else None))
    for path in sorted(set(labels.values()) - used):
        scan.warn(
            "data.image_missing",
            site=site,
            path=path,
            what=f"At site '{site}' the mask {path.relative_to(folder).as_posix()} belongs to no image.",
            fix="Add the image under the same name, or remove the mask.",
        )
    return pairs


def _items(
    scan: Scan, site: str, image: Path, masks: tuple[Path, ...], split: Split | None, patient: str | None
) -> list[FolderItem]:
    sizes = {path: _size(scan, site, path) for path in (image, *masks)}
    geometry = sizes[image]
    if geometry is None or None in sizes.values():
        return []
    for path in masks:
        _check_grid(scan, site, path, mask=sizes[path], image=geometry)
    if any(size.is_turned != geometry.is_turned for size in sizes.values() if size is not None):
        scan.turned.setdefault(site, []).append(image)
    # one spelling on every disk: names are in reports, and the order of the groups decides the split
    stem = unicodedata.normalize("NFC", file_stem(image))
    whose = f"{site}/{patient}" if patient is not None and scan.description.group_scope == "site" else patient
    slices = range(geometry.num_slices)
    names = [stem] if geometry.num_slices == 1 else [f"{stem}.{index:03d}" for index in slices]
    return [
        FolderItem(site, names[k], whose or f"{site}/{stem}", image, masks, scan.description, geometry, k, split, whose)
        for k in slices
    ]


def _size(scan: Scan, site: str, path: Path) -> Geometry | None:
    scan.watch.on_header()
    try:
        return image_info(path, slice_axis=scan.description.slice_axis)
    except UserError as error:
        scan.fault(error.code, site=site, path=path, what=f"At site '{site}': {error.what}", fix=error.fix)
        return None


def _check_grid(scan: Scan, site: str, path: Path, *, mask: Geometry, image: Geometry) -> None:
    """Note a mask that does not lie on its image's pixels: in the patient where both files say, else in the array."""
    placed = mask.is_placed and image.is_placed
    if placed and (mask.is_sparse or sorted(mask.shape) == sorted(image.shape)):
        try:
            place_mask(path, like=image, slice_axis=scan.description.slice_axis)
        except UserError as error:
            scan.fault(error.code, site=site, path=path, what=f"At site '{site}': {error.what}", fix=error.fix)
    elif placed or not _fits(mask, image, scaled=path.parent.name in ("label_npy", "val_label_npy")):
        scan.fault(
            "data.mask_size",
            site=site,
            path=path,
            what=f"At site '{site}' the mask {path.relative_to(scan.root / site)} is {_told(mask)}, "
            f"its image {_told(image)}.",
            fix="Export the mask on the image's own grid.",
        )


def _missing_mask(scan: Scan, site: str, image: Path, expected: Path, *, meant: Path | None = None) -> None:
    scan.fault(
        "data.mask_missing",
        site=site,
        path=image,
        what=f"At site '{site}' the image {image.relative_to(scan.root / site)} has no mask "
        f"({expected.relative_to(scan.root / site)}).",
        fix=f"Add the mask under the same name, or remove the image{UNLABELLED_METHODS}."
        if meant is None
        else f"Rename the mask {meant.name} to {expected.stem}{file_suffix(meant)}, if it is meant.",
    )


def _fits(mask: Geometry, image: Geometry, *, scaled: bool) -> bool:
    if mask.num_slices != image.num_slices:
        return False
    if scaled:  # the authors store images at 1024 and masks at 256 pixels
        return mask.height_px * image.width_px == mask.width_px * image.height_px
    return (mask.height_px, mask.width_px) == (image.height_px, image.width_px)


def _told(size: Geometry) -> str:
    slices = f" x {size.num_slices} slices" if size.num_slices > 1 else ""
    turned = " when it is turned as its tag says (EXIF orientation)" if size.is_turned else ""
    return f"{size.width_px} x {size.height_px}{slices} pixels{turned}"


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
    if holds_foreign(root):
        raise UserError(
            "data.foreign_layout",
            what=f"The folder {root} is in the layout of nnU-Net or the Medical Segmentation Decathlon.",
            why="It has no sites: a run reads images by site, and masks that it knows the classes of.",
            fix=f"Make a dataset folder of it: `python -m engine data prepare nnunet --from {shlex.quote(str(root))} "
            "--to NEW_FOLDER`; each dataset.json becomes a site, so name a folder that holds those of all sites.",
        )
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
