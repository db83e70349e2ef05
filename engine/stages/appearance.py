"""What a run's training images look like, for its bundle: each site tells it in figures, and none is opened here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.data.appearance import COLOURED, FIGURES, FILES, SPACING_HIGH, SPACING_LOW, Look, threshold
from engine.errors import UserError
from engine.federation.checks import bad_reply, check_reply
from engine.federation.tasks import TELL_APPEARANCE, SiteReply
from engine.stages.context import RunContext
from export.appearance import SiteLook, TrainingAppearance


def ask_appearance(context: RunContext) -> TrainingAppearance | None:
    """Ask every source; return what the bundle says of their images, None where none of them tells it.

    A site that does not answer is named in the log: its kind of image may be taken for another one. The model is
    exported all the same.
    """
    replies = {}
    for site in context.sites.names:
        try:
            (reply,) = context.sites.ask(TELL_APPEARANCE, kind="appearance", to=[site]).values()
            check_appearance(reply, site=site, num_validation=context.description.num_validation[site])
            check_reply(reply, site=site, round_number=0, num_examples=context.description.num_train)
        except UserError as error:
            if not error.code.startswith("federation."):
                raise
            text = f"{error.what} The model is exported without what the images of {site} look like."
            context.reporter.log("warning", text)
            continue
        replies[site] = reply
    return training_appearance(replies) if replies else None


def check_appearance(reply: SiteReply, *, site: str, num_validation: int) -> None:
    """Raise ``UserError`` ``federation.bad_reply`` unless the arrays are those of ``engine.site.appearance.tell``."""
    shapes = {name: (str(array.dtype), array.shape) for name, array in reply.arrays.items()}
    sides = len(FIGURES)
    expected = {"mean": (sides,), "covariance": (sides, sides), "distances": (num_validation,)}
    problem = None
    if shapes != {name: ("float64", shape) for name, shape in expected.items()}:
        problem = f"its figures of images are {shapes!s:.200}"
    elif not all(np.isfinite(array).all() for array in reply.arrays.values()):
        problem = "its figures of images are not finite"
    elif reply.arrays["distances"].min(initial=0) < 0:
        problem = "its images are at distances below 0"
    else:
        covariance = reply.arrays["covariance"]
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance)[0] < -1e-9:
            problem = "its covariance is none"
    counts = [reply.metrics.get(name, -1) for name in (COLOURED, *FILES.values())]
    if problem is None and not all(0 <= count <= reply.num_examples for count in counts):
        problem = f"it has {reply.num_examples} images, and counts {counts} of a kind"
    if problem is None and not _is_spacing(reply.metrics.get(SPACING_LOW), reply.metrics.get(SPACING_HIGH)):
        problem = "it says distances of pixels that cannot be"
    if problem is not None:
        raise bad_reply(site, round_number=0, problem=problem)


def _is_spacing(low: float | None, high: float | None) -> bool:
    return (low is None and high is None) or (low is not None and high is not None and 0 < low <= high)


def training_appearance(replies: Mapping[str, SiteReply]) -> TrainingAppearance:
    """Return what a bundle says of the images of at least one site; sites in the order of their names."""
    ordered = [replies[site] for site in sorted(replies)]
    distances = [float(value) for reply in ordered for value in reply.arrays["distances"]]
    limit = threshold(distances)
    images = sum(reply.num_examples for reply in ordered)
    spaced = [reply.metrics for reply in ordered if SPACING_LOW in reply.metrics]
    return TrainingAppearance(
        sites=tuple(
            SiteLook.of(Look(reply.arrays["mean"], reply.arrays["covariance"]), num_images=reply.num_examples)
            for reply in ordered
        ),
        threshold=None if limit is None else round(limit, 6),
        num_validation=len(distances),
        colour_share=sum(reply.metrics[COLOURED] for reply in ordered) / images,
        spacing_mm=(min(m[SPACING_LOW] for m in spaced), max(m[SPACING_HIGH] for m in spaced)) if spaced else None,
        files={kind: int(sum(reply.metrics[name] for reply in ordered)) for kind, name in FILES.items()},
    )
