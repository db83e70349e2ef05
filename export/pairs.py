"""One case through one model or two, slice by slice in turn: what one has read, the other finds open. Torch-free.

Shape legend: K classes; S, H and W slices, rows and columns of the volume as it was read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.data.readers import NIFTI_SUFFIXES, file_suffix
from engine.data.volume_cache import Held
from engine.data.volumes import SourceVolume
from engine.errors import UserError
from export.cases import OTHERWISE, Case, Keep, Segmented, segment_steps, told_apart
from export.foreign import CODE as FOREIGN
from export.levels import MODEL_PERCENT
from export.manifest import Manifest
from export.outputs.compared import Compared, compared
from export.results import plain_name
from export.runtime import BundleSession

MAX_NAME = 60
"""Letters of a model's name in the name of a file (ours)."""


@dataclass(frozen=True, eq=False)
class Models:
    """The models of a job: one, or two that find the same classes.

    ``names`` tell them apart; ``classes`` are those of the first, and ``orders`` says for each model which of its
    classes each of them is.
    """

    sessions: tuple[BundleSession, ...]
    names: tuple[str, ...]
    orders: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, first: BundleSession, second: BundleSession | None = None) -> Models:
        """Return them, or raise ``UserError`` ``compare.classes`` where the second finds other classes."""
        classes = first.manifest.classes
        order = tuple(range(len(classes)))
        if second is None:
            return cls((first,), (first.manifest.name,), (order,))
        names, others = names_apart(first.manifest, second.manifest), second.manifest.classes
        if set(classes) != set(others):
            raise UserError(
                "compare.classes",
                what=f"{names[0]} finds {', '.join(classes)}; {names[1]} finds {', '.join(others)}.",
                why="Two models are compared class by class, by the names of the classes.",
                fix="Compare with a model that finds the same classes, or with none.",
            )
        return cls((first, second), names, (order, tuple(others.index(name) for name in classes)))

    def __len__(self) -> int:
        """Return how many models there are."""
        return len(self.sessions)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes that are found, in the order of the first model."""
        return self.sessions[0].manifest.classes

    def cases(self, cases: Sequence[Case]) -> list[tuple[Case, ...]]:
        """Return each case once for each model: files of the second have its name after the image's."""
        named = [replace(one, stem=f"{one.stem}_{plain_name(name)[:MAX_NAME]}") for name in self.names[1:]
                 for one in cases]  # fmt: skip
        apart = told_apart([*cases, *named])
        return list(zip(*(apart[at : at + len(cases)] for at in range(0, len(apart), len(cases))), strict=True))

    def compared(self, found: Sequence[Segmented]) -> list[Compared]:
        """Return the figures of both models' masks of one case side by side, class by class; none of one model."""
        if len(self) == 1:
            return []
        order = self.orders[1]
        second = [found[1].measurements[at] for at in order]
        masks_KSHW = [found[1].masks_KSHW[at] for at in order]
        return compared(
            found[0].volume, found[0].masks_KSHW, masks_KSHW, models=(self.names[0], self.names[1]),
            figures=list(zip(found[0].measurements, second, strict=True)),
        )  # fmt: skip


def names_apart(first: Manifest, second: Manifest) -> tuple[str, str]:
    """Return what two models are called where both are told of: their names, with role or run where those are equal."""
    ways = (
        lambda one: one.name,
        lambda one: f"{one.name} {one.model.role}",
        lambda one: f"{one.name} {one.run_id}",
        lambda one: f"{one.name} {one.model.role} {one.run_id}",
    )
    for way in ways:
        if way(first) != way(second):
            return way(first), way(second)
    return f"{first.name} (first)", f"{second.name} (second)"


def together_steps(
    models: Models,
    cases: Sequence[Case],
    *,
    reference: Path | None = None,
    anyway: bool = False,
    fix: str = OTHERWISE,
    percent: int = MODEL_PERCENT,
    keeps: Sequence[Keep] = (),
) -> Generator[tuple[int, int], None, tuple[Segmented, ...]]:
    """Yield (done, all) after every slice of every model, and return what each gave: between two it can be left.

    ``cases`` is one of :meth:`Models.cases`, ``keeps`` are given each model's probabilities. With
    ``reference`` each has its figures against that mask file. After its first slice
    a case is known to suit all models, or refused: errors are those of ``export.cases.segment_steps``, and
    ``compare.slices`` where the models cut a NIfTI volume across different axes.
    """
    _check_slices(models, cases[0])
    held: Held = OrderedDict()
    how = {
        "reference": reference,
        "anyway": anyway,
        "fix": fix,
        "percent": percent,
        "num_models": len(models),
        "held": held,
    }
    waiting = [
        segment_steps(session, case, keep=keep, **how)  # type: ignore[arg-type]
        for session, case, keep in zip(models.sessions, cases, keeps or [_pass] * len(models), strict=True)
    ]
    found: list[Segmented] = []
    while len(found) < len(waiting):
        for at, steps in enumerate(waiting):
            try:
                done, total = next(steps)
            except StopIteration as end:
                found.append(end.value)
            except UserError as error:
                if error.code != FOREIGN or len(models) == 1:
                    raise
                of = f"{models.names[at]}: {error.what}"  # what is foreign to one need not be to the other
                raise UserError(error.code, what=of, why=error.why, fix=error.fix) from error
            else:
                yield (done - 1) * len(models) + at + 1, total * len(models)
    return tuple(found)


def _pass(volume: SourceVolume, number: int, levels_KHW: np.ndarray) -> None:
    """Keep nothing of a slice's probabilities."""


def _check_slices(models: Models, case: Case) -> None:
    axes = {session.manifest.slice_axis for session in models.sessions}
    if len(axes) == 1 or case.is_series or file_suffix(case.paths[0]) not in NIFTI_SUFFIXES:
        return
    cut = " and ".join(
        f"{name} across axis {session.manifest.slice_axis}"
        for name, session in zip(models.names, models.sessions, strict=True)
    )
    raise UserError(
        "compare.slices",
        what=f"The models cut NIfTI volumes differently: {cut}.",
        why="Both are given the same slices, so that each is read once and masks lie on each other.",
        fix="Compare with a model that cuts across the same axis, or segment the volume with one after the other.",
    )
