"""A site's side of ``[privacy]``: its update of a round is clipped, and noised where the noise is its own.

It comes before whatever writes the message, so that nothing that leaves has seen the update as it was: a codec works
on noised numbers, and what it keeps for later messages is made of these alone.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from engine.errors import UserError
from engine.federation.privacy import clipped, noise_of, noise_std, noised
from engine.federation.tasks import Arrays
from engine.models.arrays import buffer_names
from engine.site.context import SiteContext

RELEASES = "privacy_releases.json"
"""How often each round's update has been noised, by round: every time may have left the site."""


def protected(
    site: SiteContext, arrays: dict[str, np.ndarray], *, received: Arrays, round_number: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return what may leave of the shared ``arrays`` after a round that began with ``received``, and a figure.

    The figure ``releases`` is how many noised updates of the run there have been, this one included; it is there where
    the site adds the noise. A round that is asked for again with noise of the seed has the same bits, and counts once;
    with the system's it counts each time.
    """
    part = site.config.privacy
    if not part.is_on or not arrays:
        return arrays, {}
    buffers = buffer_names(site.models.of("student"))
    inside = clipped(arrays, received, clip_norm=part.clip_norm, buffers=buffers)
    if part.mechanism == "central":
        return inside, {}
    releases = _count(site, round_number)
    std = noise_std(noise_multiplier=part.noise_multiplier, clip_norm=part.clip_norm)
    noise = noise_of(site.config, site.site, round_number)
    return noised(inside, std=std, noise=noise, buffers=buffers), {"releases": float(releases)}


def _count(site: SiteContext, round_number: int) -> int:
    """Note one more release of the round on the site's disk, before it is made, and return how many there were."""
    path = site.state.folder / RELEASES
    times = _read(path, site=site.site)
    anew = site.config.privacy.system_noise(site.config.backend)
    times[str(round_number)] = times.get(str(round_number), 0) + 1 if anew else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(times), encoding="utf-8")
    temporary.replace(path)
    return sum(times.values())


def _read(path: Path, *, site: str) -> dict[str, int]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(int(number)): int(count) for number, count in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            "federation.site_state_damaged",
            what=f"What site {site} has counted of its noised updates cannot be read: {path}.",
            why="The guarantee of privacy is weaker with every update that left, so none may be forgotten.",
            fix="Put the file back from a copy, or start a new run.",
        ) from error
