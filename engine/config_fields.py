"""What the parts of a configuration are made of: the base of its sections, and bounded kinds of values."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Upper limits (ours): some ten times what any run of the paper or of its size needs, so that a slip of the finger or
# bad will is refused before it takes a machine for years.
MAX_NAME_LETTERS = 80
MAX_PATH_LETTERS = 4096


class Section(BaseModel):
    """Base of every part of a configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _refuse_control_characters(value: str | Path) -> str | Path:
    """Refuse what no name and no path holds, but what breaks terminals, logs and system calls."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(value)):
        raise ValueError("control characters are not allowed")
    return value


def _refuse_long_path(value: Path) -> Path:
    if len(str(value)) > MAX_PATH_LETTERS:
        raise ValueError(f"a path has at most {MAX_PATH_LETTERS} characters")
    return value


Plain = AfterValidator(_refuse_control_characters)
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Batch = Annotated[int, Field(ge=1, le=4096)]
Epochs = Annotated[int, Field(ge=1, le=10_000)]
StepSize = Annotated[float, Field(gt=0, le=10.0)]
Factor = Annotated[float, Field(ge=0, le=1e6)]
PositiveFactor = Annotated[float, Field(gt=0, le=1e6)]
Delta = Annotated[float, Field(gt=0, lt=0.5)]
"""Of differential privacy."""
NoiseSource = Literal["auto", "seed", "system"]


def is_of_system(source: NoiseSource, backend: str) -> bool:
    """Return whether noise is the operating system's: asked for, or ``auto`` where sites are at hospitals."""
    return source == "system" or (source == "auto" and backend == "superlink")


Name = Annotated[str, Field(max_length=255), Plain]


@dataclass(frozen=True)
class Place:
    """Mark of a value that says where something lies: what others may name there is somebody's decision.

    A ``source`` may be a name of the registry instead; an ``address`` is another machine's.
    """

    kind: Literal["folder", "source", "address"]


Source = Annotated[str, Field(max_length=MAX_PATH_LETTERS), Plain, Place("source")]
"""A name of the registry, or a path."""
Address = Annotated[str, Field(max_length=MAX_PATH_LETTERS), Plain, Place("address")]
"""HOST:PORT of another machine."""
Folder = Annotated[Path, AfterValidator(_refuse_long_path), Plain, Place("folder")]
