"""``dataset.toml``: what a folder of images is called, shows, and how its masks are to be read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.data.names import child
from engine.data.pixels import Window
from engine.data.plain_text import decode
from engine.errors import UserError

FILE_NAME = "dataset.toml"
SafeName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^/\\]+$")]


class DatasetDescription(BaseModel):
    """The keys of ``dataset.toml``; ``name``, ``modality`` and ``classes`` are needed, the others have defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    modality: str = Field(min_length=1, description="Plain text; also the prompt of the image generator")
    classes: tuple[SafeName, ...] = Field(min_length=1, description="Order of the mask planes")
    task: str = Field("", description="Short name of the task; the dataset's name when left out")
    protocol: Literal["leave-one-site-out", "fixed-test"] | None = Field(None, description="For people; a run decides")
    licence: str = ""
    citation: str = ""
    sites: tuple[SafeName, ...] | None = Field(None, description="Folders that are sites; all of them when left out")
    group_scope: Literal["dataset", "site"] = Field(
        "dataset", description="site: equal group names at two sites are different patients"
    )
    mask_values: tuple[int, int] | dict[str, tuple[int, ...]] | None = Field(
        None,
        description="[background, foreground], or for a label map {class = [values]}; {0,1} or {0,255} if left out",
    )
    mask_background: tuple[int, ...] = Field((0,), description="Label map: values that belong to no class")
    mask_threshold: float | None = Field(
        None, gt=0, description="Foreground from this grey level on; any value allowed"
    )
    value_range: tuple[float, float] | None = Field(None, description="Stored values that become 0 and 1")
    window: Window = Field(
        "auto",
        description="DICOM grey values without value_range: auto (its window, else percentiles of its series), dicom "
        "(its window, which it must have), stored (the whole range of its stored bits)",
    )
    slice_axis: Literal[0, 1, 2] = Field(
        2, description="NIfTI volumes: axis to cut across (0 sagittal, 1 coronal, 2 axial); frames and pages are slices"
    )

    @model_validator(mode="after")
    def _check(self) -> DatasetDescription:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        if isinstance(self.mask_values, dict):
            if set(self.mask_values) != set(self.classes):
                raise ValueError("mask_values must have exactly the keys in classes")
            overlap = set(self.mask_background) & {v for values in self.mask_values.values() for v in values}
            if overlap:
                raise ValueError(f"mask_background and mask_values share {sorted(overlap)}")
        elif self.mask_values is not None and self.mask_values[0] == self.mask_values[1]:
            raise ValueError("mask_values must be two different numbers")
        if self.mask_values is not None and self.mask_threshold is not None:
            raise ValueError("mask_values and mask_threshold exclude each other")
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range must be [low, high] with low < high")
        if self.value_range is not None and self.window != "auto":
            raise ValueError("value_range and window exclude each other")
        return self


def read_description(root: Path) -> DatasetDescription | None:
    """Return the description in ``root``, None where there is no file; ``UserError`` ``data.description_invalid``."""
    path = child(root, FILE_NAME)
    if path is None or not path.is_file():
        return None
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        raise UserError(
            "data.link_outside",
            what=f"{path} is a link that leaves the dataset's folder.",
            why="Links are followed only inside of it, so that a dataset cannot show other files of this machine.",
            fix="Copy what it points to into the dataset.",
        )
    try:
        return DatasetDescription.model_validate(tomllib.loads(decode(path.read_bytes())))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults = f"it is not valid TOML: {error}"
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
    raise UserError(
        "data.description_invalid",
        what=f"{path} has faults: {faults}.",
        why="It tells how the images and masks of the dataset are to be read.",
        fix='A valid one has at least name = "…", modality = "…" and classes = ["…"].',
    )
