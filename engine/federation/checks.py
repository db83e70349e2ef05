"""What a site's reply must satisfy before it counts; whose does not is named. Free of Flower and of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.errors import UserError
from engine.federation.tasks import Arrays, SiteReply
from engine.federation.update_norms import UpdateNorms, update_norms, update_ratios

WIRE_DTYPES = ("float32", "float16", "float64", "int64", "uint8", "bool")
"""What may cross a site's border."""

BAD_REPLY = "federation.bad_reply"
OFFENCES = frozenset({BAD_REPLY, "generator.upload_misfit"})
"""Codes of what a reply itself is wrong in, whoever finds it: the site fails, not the server."""
"""Code of the failure of a site whose reply was refused."""
VARIANCE_SUFFIX = "running_var"
ROUNDING = 1e-3
"""What float32 may add to the norm of a clipped update (ours)."""
MAX_METRICS = 100
"""Figures in a reply (ours)."""
MAX_SIDES = 8
"""Sides of an array in a reply (ours)."""


@dataclass(frozen=True)
class Range:
    """What a figure may be: from ``low`` to ``high``, and a whole number where it counts something."""

    low: float
    high: float = math.inf
    is_count: bool = False

    def problem(self, value: float) -> str | None:
        """Return what is wrong with ``value``, None where nothing is."""
        if self.is_count and value != int(value):
            return f"{value:g}, and counts whole things"
        if not self.low <= value <= self.high:
            return f"{value:g}, not " + (f"{self.low:g} to {self.high:g}" if self.high < math.inf else "0 or more")
        return None


_SHARE, _POSITIVE, _COUNT = Range(0, 1), Range(0), Range(0, is_count=True)
METRIC_RANGES: dict[str, Range] = {
    "dice": _SHARE,
    "iou": _SHARE,
    "val_dice": _SHARE,
    "val_iou": _SHARE,
    "loss": _POSITIVE,
    "val_loss": _POSITIVE,
    "wall_s": _POSITIVE,
    "patient_epsilon": _POSITIVE,
    "val_images": _COUNT,
    "steps": _COUNT,
    "releases": _COUNT,
    "withheld": _SHARE,
    "check_members": _COUNT,
    "check_held_out": _COUNT,
    "membership_auc": _SHARE,
    "membership_auc_low": _SHARE,
    "membership_auc_high": _SHARE,
    "copies": _COUNT,
    "distance_ratio": _POSITIVE,
    "frechet_distance": _POSITIVE,
    "inception_frechet_distance": _POSITIVE,
    "faithfulness": _SHARE,
    "faithfulness_real": _SHARE,
    "limit_membership_auc": _SHARE,
    "limit_copies": _COUNT,
}
"""By name; a figure of another name has to be finite, and no more is known of it."""


def check_dtype(name: str, array: np.ndarray) -> None:
    """Raise ``UserError`` ``federation.dtype`` unless the array may cross a site's border."""
    if str(array.dtype) not in WIRE_DTYPES:
        raise UserError(
            "federation.dtype",
            what=f"The array '{name}' is of type {array.dtype}.",
            why=f"Only {', '.join(WIRE_DTYPES)} cross a site's border.",
            fix="Cast the array before it is sent.",
        )


def check_reply(
    reply: SiteReply,
    *,
    site: str,
    round_number: int,
    sent: Arrays | None = None,
    num_examples: Mapping[str, int] | None = None,
    num_validation: Mapping[str, int] | None = None,
    needed: Sequence[str] = (),
) -> None:
    """Raise ``UserError`` ``federation.bad_reply``, naming the site, unless a reply can be used.

    Parameters
    ----------
    reply
        Floats must be finite, ``*.running_var`` and whole numbers 0 or more, figures as in ``METRIC_RANGES``, and
        ``num_examples`` above 0.
    site, round_number
        Whose reply it is, and to what.
    sent
        Where given, names, shapes and dtypes must equal those of these arrays.
    num_examples, num_validation
        Where given, n_k and the figure ``val_images`` must be what the site is known to have.
    needed
        Figures that must be there.
    """
    examples, validation = _of(num_examples, site), _of(num_validation, site)
    problems = _problems(reply, sent=sent, examples=examples, validation=validation, needed=needed)
    problem = next((found for found in problems if found is not None), None)
    if problem is not None:
        raise bad_reply(site, round_number=round_number, problem=problem)


def _problems(
    reply: SiteReply, *, sent: Arrays | None, examples: int | None, validation: int | None, needed: Sequence[str]
) -> Iterable[str | None]:
    """Yield what is wrong with a reply, the cheap questions first."""
    if reply.num_examples <= 0:
        yield f"it counts {reply.num_examples} examples"
    if examples is not None and reply.num_examples != examples:
        yield f"it counts {reply.num_examples} examples, and the site has {examples}"
    yield next((f"it does not say {name}" for name in needed if name not in reply.metrics), None)
    yield _metric_problem(reply.metrics, num_validation=validation)
    if sent is not None:
        yield _difference(reply.arrays, sent=sent)
    for name, array in reply.arrays.items():
        yield _array_problem(name, array)


@dataclass(frozen=True)
class RoundChecks:
    """What the server knows of the sites before a round, and what it lets pass.

    ``num_examples`` and ``num_validation`` are what each site has said that it has, ``buffers`` the names of what is no
    parameter, ``needed`` the figures that must be there. An update whose norm is more than ``update_limit`` times the
    others' median is refused, or only named where ``refuses_large`` is False; None: no norm is measured. One of
    parameters above ``clip_norm`` is refused whatever the others have sent: the site has not clipped.
    """

    num_examples: Mapping[str, int] | None = None
    num_validation: Mapping[str, int] | None = None
    buffers: frozenset[str] = frozenset()
    needed: Sequence[str] = ()
    update_limit: float | None = None
    refuses_large: bool = True
    clip_norm: float | None = None

    def check(self, reply: SiteReply, *, site: str, round_number: int, sent: Arrays | None) -> None:
        """Check one reply by itself; see :func:`check_reply`."""
        check_reply(
            reply,
            site=site,
            round_number=round_number,
            sent=sent,
            num_examples=self.num_examples,
            num_validation=self.num_validation,
            needed=self.needed,
        )
        if self.clip_norm is None or sent is None:
            return
        norm = update_norms(reply.arrays, sent, buffers=self.buffers).parameters
        if norm > self.clip_norm * (1 + ROUNDING):
            problem = f"its update has the norm {norm:.4g}, and sites clip theirs to {self.clip_norm:g} (privacy)"
            raise bad_reply(site, round_number=round_number, problem=problem)

    def norms(self, reply: SiteReply, *, sent: Arrays) -> UpdateNorms | None:
        """Return what :meth:`outsized` needs to know of a reply, None where it needs nothing."""
        return None if self.update_limit is None else update_norms(reply.arrays, sent, buffers=self.buffers)

    def outsized(self, norms: Mapping[str, UpdateNorms], *, round_number: int) -> dict[str, UserError]:
        """Return the failures of the sites whose update is too large beside the others', by site."""
        if not self.refuses_large:
            return {}
        return {
            site: bad_reply(site, round_number=round_number, problem=f"its update is {how_large(ratio)}")
            for site, ratio in self.large(norms).items()
        }

    def large(self, norms: Mapping[str, UpdateNorms]) -> dict[str, float]:
        """Return the norm of each update above the limit over the median of the others', by site."""
        if self.update_limit is None or not norms:
            return {}
        ratios = update_ratios(norms, num_examples=self.num_examples)
        return {site: ratio.largest for site, ratio in ratios.items() if ratio.largest > self.update_limit}


def how_large(ratio: float) -> str:
    """Return an update's norm over the others' in words that go on after "is"."""
    return f"{ratio:.3g} times as large as the median of the other sites'"


NO_MORE_CHECKS = RoundChecks()
"""A reply is held to its own sense alone."""


def check_masks(reply: SiteReply, *, site: str, num_classes: int, image_px: int, at_most: int) -> None:
    """Raise ``UserError`` ``federation.bad_reply``, naming the site, unless the reply has packed masks as asked for.

    That is (N, K, H, W) with N = n_k of at most ``at_most``, K = ``num_classes`` and H = W = ``image_px``.
    """
    problem = mask_problem(reply.arrays)
    if problem is None:
        shape = tuple(int(side) for side in reply.arrays["shape"])
        if len(shape) != 4 or shape[1:] != (num_classes, image_px, image_px):
            problem = f"its masks are {shape}, not (N, {num_classes}, {image_px}, {image_px})"
        elif shape[0] > at_most:
            problem = f"it has {shape[0]} masks, and {at_most} were asked for"
        elif shape[0] != reply.num_examples:
            problem = f"it has {shape[0]} masks and counts {reply.num_examples}"
    if problem is not None:
        raise bad_reply(site, round_number=0, problem=problem)


def mask_problem(arrays: Arrays) -> str | None:
    """Return what is wrong with packed masks (``payload.pack_masks``), None where nothing is; allocates nothing."""
    if set(arrays) != {"bits", "shape"}:
        return f"it has {sorted(arrays)[:4]} and not the bits and the shape of masks"
    bits, shape = arrays["bits"], arrays["shape"]
    if bits.dtype != np.uint8 or bits.ndim != 1 or shape.dtype != np.int64 or shape.ndim != 1:
        return f"its masks are {bits.dtype}{bits.shape} in the shape {shape.dtype}{shape.shape}"
    sides = [int(side) for side in shape]
    if not is_possible_shape(sides) or bits.size != -(-math.prod(sides) // 8):
        return f"its masks say that they are {tuple(sides)}, and have {bits.size:,} bytes of bits"
    return None


def is_possible_shape(shape: Sequence[int]) -> bool:
    """Return whether an array could have the shape at all: few sides, none negative, no more than memory has places."""
    few_sides = len(shape) <= MAX_SIDES
    return few_sides and all(side >= 0 for side in shape) and math.prod(max(1, side) for side in shape) < 2**48


def bad_reply(site: str, *, round_number: int, problem: str) -> UserError:
    """Return the failure of a site whose reply cannot be used; ``problem`` goes on after a colon."""
    return UserError(
        BAD_REPLY,
        what=f"The reply of site {site} in round {round_number} cannot be used: {problem}.",
        why="One bad reply would spoil the model of all sites.",
        fix=f"Look at the data and the log of {site}; a lower learning rate, or less noise under [privacy], "
        "helps when numbers overflow.",
    )


def _of(counts: Mapping[str, int] | None, site: str) -> int | None:
    return None if counts is None else counts[site]


def _metric_problem(metrics: Mapping[str, float], *, num_validation: int | None) -> str | None:
    if len(metrics) > MAX_METRICS:
        return f"it has {len(metrics)} figures"
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
        problem = METRIC_RANGES[name].problem(value) if name in METRIC_RANGES else None
        if problem is not None:
            return f"{name} is {problem}"
    if "val_dice" in metrics and not metrics.get("val_images"):
        return "it has a val_dice of no val_images"
    if num_validation is not None and metrics.get("val_images", num_validation) != num_validation:
        return f"it counts {metrics['val_images']:g} validation images, and the site has {num_validation}"
    return None


def _difference(arrays: Arrays, *, sent: Arrays) -> str | None:
    if arrays.keys() != sent.keys():
        odd = sorted(arrays.keys() ^ sent.keys())
        return f"{len(odd)} arrays are missing or unknown, the first is '{odd[0]}'"
    for name, array in arrays.items():
        expected = sent[name]
        if array.shape != expected.shape or array.dtype != expected.dtype:
            return f"'{name}' is {array.dtype}{array.shape}, not {expected.dtype}{expected.shape}"
    return None


def _array_problem(name: str, array: np.ndarray) -> str | None:
    if str(array.dtype) not in WIRE_DTYPES:
        return f"'{name}' is of type {array.dtype}"
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        return f"'{name}' has values that are not finite"
    never_negative = array.dtype.kind == "i" or name.split(".")[-1] == VARIANCE_SUFFIX
    if never_negative and array.size and array.min() < 0:
        return f"'{name}' has values down to {array.min():g}, and none can be below 0"
    return None
