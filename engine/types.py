"""Records that cross module borders, and the legend of array shapes. Torch-free.

Shape letters: N images of a set, B batch, 3 colour channels, K classes, H W image side in pixels, h w side of the
decoder's grid, C feature channels, D embedding width. ``image_B3HW`` is float32 in [0, 1]; ``mask_BKHW`` is uint8 in
{0, 1}, classes may overlap; ``logits_BKhw`` is float32 before the sigmoid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Direction = Literal["up", "down"]


class RunCancelled(Exception):
    """Raised at a step boundary when the person who started the run has asked for it to stop."""


MAX_MASK_CLASSES = 3
"""Classes that one mask picture (and one ControlNet condition image) can carry: its red, green and blue planes."""
MEAN_CLASS = "mean"
"""Class name of the row (and of the per-image record) that averages over the classes, when there are several."""
RELEASED = "/released"
"""Drawn by the mask-conditioned ControlNet that the sites' own began with; no site can have a name with a slash."""


@dataclass(frozen=True)
class SyntheticSample:
    """One generated pair. Paths are relative to the run's folder; ``seed`` and ``source_mask`` reproduce it."""

    sample_id: str
    site: str
    index: int
    seed: int
    source_mask: str
    mask_sharing: str
    image_path: Path
    mask_path: Path
    faithfulness_dice: float | None = None
    """Dice of the federated student on the pair, in [0, 1]."""
    teacher_path: Path | None = None
    """Probability maps of SAM after distillation, 8-bit PNG: grey for one class, else a plane each of RGB."""
    student_path: Path | None = None
    """Probability maps of TinySAM after distillation, 8-bit PNG: grey for one class, else a plane each of RGB."""
    generator: str = ""
    """Whose ControlNet drew it: the site's name, or RELEASED; empty in runs from before this was recorded."""


@dataclass(frozen=True)
class SampleScore:
    """Learnability of one sample at one distillation epoch (Eq. 6-7)."""

    sample_id: str
    epoch: int
    l_gt: float
    l_kl: float
    score: float
    rank: int
    selected: bool
    fresh: bool = True
    """Whether the score was worked out for this epoch; else it is older."""


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed one site's border in one message."""

    site: str
    direction: Direction
    kind: str
    """One of ``engine.methods.catalogue.kinds()``."""
    payload_bytes: int
    round: int = 0
    """With stage, site, direction and kind it tells a message from another: telling one again replaces it."""


SiteState = Literal["idle", "asked", "working", "answered", "failed", "undecided", "refused", "stopped"]
"""``asked``: the question has been sent, nothing was heard since. ``undecided``: its operator has not approved yet.
``stopped``: the run ended before it answered."""


@dataclass(frozen=True)
class SiteActivity:
    """What one site does in a stage, as the server last heard of it."""

    site: str
    num_train: int = 0
    num_validation: int = 0
    num_test: int = 0
    task: str = ""
    """Name of the task that it was asked for last."""
    state: SiteState = "idle"
    round: int = 0
    step: int = 0
    total: int = 0
    """Steps of the task; 0 where it has told none."""
    seen_at: float | None = None
    """When anything was heard of it in this stage, seconds since 1970."""


@dataclass(frozen=True)
class SiteFailure:
    """A site without a usable reply, and what the server did then."""

    site: str
    round: int
    """0 where it was asked outside of rounds."""
    attempt: int
    """Which further question follows, from 1; 0 where none does."""
    at: float
    code: str
    what: str
    outcome: Literal["asked_again", "left_out", "stopped"]


@dataclass(frozen=True)
class EvaluationRow:
    """One line of the results table: one model on one site's images."""

    model: str
    """Name of one of the method's models."""
    site: str
    split: Literal["validation", "test"]
    class_name: str
    num_images: int
    dice: float
    dice_low: float | None
    dice_high: float | None
    """Ends of the bootstrap 95 % interval of the mean, over patients; None where all images are of one patient."""
    iou: float
    dice_five_thresholds: float
    """Mean over logit thresholds .1 .3 .5 .7 .9, as the authors' code measures."""
    iou_five_thresholds: float
    hd95_px: float | None
    """95 % Hausdorff distance in pixels of the scored grid; mean over the ``num_hd95`` images that have one."""
    num_groups: int | None = None
    """Patients among the images; None, like the four below, in runs from before it was counted."""
    num_hd95: int | None = None
    """Images where both masks have foreground (of one class at least, in the row of the mean)."""
    num_missed: int | None = None
    """Masks with foreground of which the model predicts nothing, summed over the classes in the row of the mean."""
    num_spurious: int | None = None
    """Masks without foreground in which the model predicts some, summed likewise."""
    hd95_penalised_px: float | None = None
    """HD95 over all images: a missed or spurious mask counts the image's diagonal, two empty ones 0."""


@dataclass(frozen=True)
class ModelDifference:
    """How much better one model is than another on the same images: mean Dice of ``model`` minus ``baseline``."""

    model: str
    baseline: str
    site: str
    split: Literal["validation", "test"]
    class_name: str
    num_images: int
    num_groups: int
    """Patients among the images."""
    dice: float
    dice_low: float | None
    dice_high: float | None
    """Ends of the paired bootstrap 95 % interval, over patients; None where all images are of one patient."""


@dataclass(frozen=True)
class SiteSpread:
    """How evenly one model serves the sites of a split; every site counts the same, Dice in [0, 1]."""

    model: str
    split: Literal["validation", "test"]
    num_sites: int
    dice: float
    """Mean over the sites."""
    dice_sd: float
    """Standard deviation over the sites, of these and no others."""
    worst_site: str
    worst_dice: float


class Reporter(Protocol):
    """Where a stage tells what it does. Calls are cheap; every record is keyed, so repeating one replaces it."""

    def progress(self, step: int, total: int, *, message: str = "") -> None:
        """Tell how far the current stage is; also the heartbeat. Raises RunCancelled when a stop was asked for."""

    def check_cancelled(self) -> None:
        """Raise RunCancelled when a stop was asked for; call it at least every two seconds of work."""

    def metric(self, name: str, value: float, *, step: int, site: str | None = None) -> None:
        """Record one point of a curve of the current stage (``step`` is the round or epoch)."""

    def traffic(self, record: Traffic) -> None:
        """Record bytes that crossed a site's border."""

    def site(self, record: SiteActivity) -> None:
        """Record what a site does now; of each site only the latest is kept."""

    def site_failure(self, record: SiteFailure) -> None:
        """Record that a site had no usable reply."""

    def samples(self, records: Sequence[SyntheticSample]) -> None:
        """Record (or replace, by sample_id) generated pairs."""

    def scores(self, records: Sequence[SampleScore]) -> None:
        """Record one epoch's learnability scores."""

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        """Record lines of the results table."""

    def differences(self, rows: Sequence[ModelDifference]) -> None:
        """Record the differences between models."""

    def artefact(self, kind: str, path: Path) -> None:
        """Record a file or folder below the run's folder (kinds: bundle, model, generator, report)."""

    def log(self, level: Literal["info", "warning", "error"], text: str) -> None:
        """Record one line for people."""

    def flush(self) -> None:
        """Make everything told so far durable: before a file appears whose presence lets a resumed run skip work."""


@dataclass(frozen=True)
class SitePreview:
    """What the partition preview shows of one site."""

    site: str
    role: Literal["source", "test"]
    num_train: int
    num_validation: int
    num_test: int
    num_groups: int
    foreground_share: dict[str, float]
    """Mean share of foreground pixels per class, in [0, 1]."""
    mean_intensity: float
    """Mean of uint8 pixels / 255 before normalisation."""
    extra: dict[str, Any] = field(default_factory=dict)
