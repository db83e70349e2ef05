"""What a dataset folder holds, with every fault seen so far; and which of its entries are files to be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from engine.data.description import DatasetDescription
from engine.data.file_faults import own_ending
from engine.data.names import folded, visible, visible_files
from engine.data.problems import Problem, Weight
from engine.data.readers import file_stem, is_supported
from engine.data.sources import FolderItem
from engine.data.watch import Watch

SHOWN = 3
"""Names written out in a warning; the rest is counted."""


@dataclass
class Scan:
    """What a dataset folder holds: its description, its images by site, and every fault seen so far."""

    root: Path
    description: DatasetDescription
    items: dict[str, list[FolderItem]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    labelled: frozenset[str] | None = None
    """Sites whose every image needs a mask; all of them where it is None."""
    watch: Watch = field(default_factory=Watch)
    """Who follows the reading."""
    turned: dict[str, list[Path]] = field(default_factory=dict)
    """Images by site that a tag turns as it does not turn their masks, or the other way round."""

    def needs_masks(self, site: str) -> bool:
        """Return whether an image of ``site`` without a mask is a fault."""
        return self.labelled is None or site in self.labelled

    @cached_property
    def home(self) -> Path:
        """The folder that ``root`` really is: nothing that lies elsewhere is read."""
        return self.root.resolve()

    def fault(
        self,
        code: str,
        *,
        what: str,
        fix: str,
        site: str | None = None,
        path: Path | None = None,
        weight: Weight = "fault",
    ) -> None:
        """Note one fault (or warning); ``path`` is stored relative to the dataset."""
        file = None if path is None else path.relative_to(self.root).as_posix()
        self.problems.append(Problem(code, what, fix, site, file, weight))

    def warn(self, code: str, *, what: str, fix: str, site: str | None = None, path: Path | None = None) -> None:
        """Note something that a run starts in spite of."""
        self.fault(code, what=what, fix=fix, site=site, path=path, weight="warning")

    def refuses_link(self, path: Path, *, site: str) -> bool:
        """Return whether ``path`` is a link that leaves the dataset or leads nowhere, noting that as a fault."""
        if not path.is_symlink():
            return False
        name = path.relative_to(self.root).as_posix()
        if not path.exists():
            self.fault(
                "data.link_broken",
                site=site,
                path=path,
                what=f"At site '{site}' {name} is a link to nothing.",
                fix="Copy the file itself into the dataset, or take the link away.",
            )
            return True
        if path.resolve().is_relative_to(self.home):
            return False
        self.fault(
            "data.link_outside",
            site=site,
            path=path,
            what=f"At site '{site}' {name} is a link that leaves the dataset's folder.",
            fix="Copy what it points to into the dataset; links are followed only inside of it, so that a dataset "
            "cannot show other files of this machine.",
        )
        return True


def list_files(scan: Scan, site: str, folder: Path) -> dict[str, Path]:
    """Return the readable files of ``folder`` by folded stem, sorted; what else lies there becomes a fault."""
    found: dict[str, Path] = {}
    for path in visible(folder):
        name = path.relative_to(scan.root / site).as_posix()
        if any("\udc80" <= sign <= "\udcff" for sign in path.name):  # how Python stands for bytes that are no text
            scan.fault(
                "data.name_encoding",
                site=site,
                what=f"At site '{site}' the file name {path.name!a} is not valid UTF-8.",
                fix="Rename the file; neither a database nor a report can hold such a name.",
            )
        elif scan.refuses_link(path, site=site):
            continue
        elif path.is_dir():
            _tell_nested(scan, site, path)
        elif not path.is_file():
            scan.fault(
                "data.no_file",
                site=site,
                path=path,
                what=f"At site '{site}' {name} is neither a file nor a folder but a device, pipe or socket.",
                fix="Take it out of the folder.",
            )
        elif not is_supported(path):
            _tell_ending(scan, site, path)
        elif (key := folded(file_stem(path))) in found:
            tell_duplicate(scan, site, file_stem(path), [found[key], path])
        else:
            found[key] = path
    return found


def _tell_ending(scan: Scan, site: str, path: Path) -> None:
    found = own_ending(path)
    told = f", which begins as {found[0]} file" if found else ""
    scan.fault(
        "data.format_unknown",
        site=site,
        path=path,
        what=f"At site '{site}' no reader knows the ending of {path.relative_to(scan.root / site).as_posix()}{told}.",
        fix=f"Rename the file so that it ends in {found[1]}."
        if found
        else "Convert the file to PNG, JPEG, TIFF, NIfTI, DICOM or npy, or take it out of the folder.",
    )


def tell_duplicate(scan: Scan, site: str, name: str, paths: list[Path]) -> None:
    """Note that one name stands for several files; names that differ in case or accents' form are one."""
    shown = [path.relative_to(scan.root / site).as_posix() for path in paths]
    equal = len({file_stem(path) for path in paths}) == 1
    only_folded = "" if equal else " (on Windows and macOS disks, upper and lower case and accents' forms are one name)"
    scan.fault(
        "data.duplicate_name",
        site=site,
        path=paths[-1],
        what=f"At site '{site}' the name '{name}' is used twice{only_folded}: {' and '.join(shown)}.",
        fix="Give each image a name of its own, and its mask the same one.",
    )


def tell_names_twice(scan: Scan, site: str, folder: Path, *, wanted: Iterable[str]) -> None:
    """Note where several entries of ``folder`` bear one of the names ``wanted``: one of them alone would be read."""
    found: dict[str, list[Path]] = {folded(name): [] for name in wanted}
    for path in visible(folder) if folder.is_dir() else ():
        found.get(folded(path.name), []).append(path)
    for same in found.values():
        if len(same) > 1:
            names = " and ".join(path.relative_to(scan.root / site).as_posix() for path in same)
            scan.fault(
                "data.folder_name_twice",
                site=site,
                path=same[-1],
                what=f"At site '{site}' {names} are one name on Windows and macOS disks, and one of them alone would "
                "be read.",
                fix="Put what belongs to the site into one of them, and take the others away.",
            )


def tell_turned(scan: Scan, site: str) -> None:
    """Warn of a site's pictures that a tag turns where it does not turn their masks: by sizes nobody could tell."""
    images = scan.turned.get(site, [])
    if images:
        names = ", ".join(path.name for path in images[:SHOWN]) + (", …" if len(images) > SHOWN else "")
        scan.warn(
            "data.image_turned",
            site=site,
            path=images[0],
            what=f"At site '{site}' a tag (EXIF orientation) turns or mirrors {len(images)} image(s) and not their "
            f"masks, or the masks alone ({names}): both are taken as a viewer shows them.",
            fix="Look at one of them with its mask. Where the mask lies otherwise, save both without such a tag.",
        )


def _tell_nested(scan: Scan, site: str, folder: Path) -> None:
    count = sum(1 for path in visible_files(folder) if is_supported(path))
    if count:
        scan.warn(
            "data.nested_folder",
            site=site,
            path=folder,
            what=f"At site '{site}' {count} file(s) in the folder {folder.relative_to(scan.root / site).as_posix()} "
            "are not read: only what lies directly in images and masks is.",
            fix="Move the files up, giving each a name of its own, or take the folder out.",
        )
