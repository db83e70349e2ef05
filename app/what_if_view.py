"""What other values of lambda and of the rate would change, as HTML: in one line, and site by site. Pure."""

from __future__ import annotations

from html import escape

import numpy as np

from app import markup, plots, sample_text
from app.reranking import Change, Reranked, changes

MAX_SITES = 50
"""Lines of the table (ours): those with most changes; every other site adds to the sum above it."""
NUM_BINS = 24
BAR_PX, HEIGHT_PX = 6, 36


def count(ranked: Reranked, *, by_chance: bool) -> str:
    """Return how many samples would change, for people and, in ``data-own``, the run's values for the browser."""
    whole, _ = changes(ranked)
    if ranked.is_own:
        said = f"<p>{escape(sample_text.OWN.format(after=whole.num_after, total=whole.num_scored))}</p>"
    else:
        how = {"before": whole.num_before, "after": whole.num_after, "num_in": whole.num_in, "num_out": whole.num_out}
        bold = sample_text.CHANGED.format(changed=whole.num_changed, total=whole.num_scored)
        said = f"<p><b>{escape(bold)}</b>: {escape(sample_text.CHANGED_HOW.format(**how))}</p>"
    notes = markup.quiet(sample_text.BY_CHANCE) if by_chance else ""
    notes += markup.quiet(sample_text.DIFFERS.format(count=ranked.differs)) if ranked.differs else ""
    own = f"{ranked.own.weight!r},{ranked.own.rate!r}"
    return f"<div role='status' data-own='{own}'>{said}{notes}</div>"


def by_site(ranked: Reranked) -> str:
    """Return a table of the sites: what would change there, and a histogram of the scores with these values."""
    _, sites = changes(ranked)
    scores = ranked.score[np.isfinite(ranked.score)]
    if not len(scores):
        return ""
    shown = sites
    if len(sites) > MAX_SITES:
        shown = sorted(sites, key=lambda site: (-site.num_changed, site.site))[:MAX_SITES]
    edges = np.linspace(scores.min(), scores.max(), NUM_BINS + 1)
    if edges[0] == edges[-1]:  # all alike
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, NUM_BINS + 1)
    shares = {site.site: _shares(ranked, site.site, edges=edges) for site in shown}
    tallest = max(float(bars.sum(axis=0).max()) for bars in shares.values()) or 1.0
    rows = "".join(_row(site, shares[site.site], tallest=tallest, edges=edges) for site in shown)
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in sample_text.SITE_COLUMNS)
    cut = sample_text.SITES_CUT.format(shown=len(shown), total=len(sites)) if len(shown) < len(sites) else ""
    return (
        f"{_key(edges)}{markup.quiet(cut)}<div class='table-scroll' tabindex='0' role='region'"
        f" aria-label='{sample_text.BY_SITE}'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _shares(ranked: Reranked, site: str, *, edges: np.ndarray) -> np.ndarray:
    """Return the shares of a site's samples in each bin, (2, bins): those that the values choose, then the others."""
    here = (ranked.pool.sites == site) & np.isfinite(ranked.score)
    groups = (here & ranked.selected, here & ~ranked.selected)
    counts = np.stack([np.histogram(ranked.score[group], edges)[0] for group in groups])
    return counts / max(1, counts.sum())


def _row(site: Change, shares: np.ndarray, *, tallest: float, edges: np.ndarray) -> str:
    counts = (site.num_scored, site.num_before, site.num_after, site.num_in, site.num_out)
    cells = "".join(f"<td>{number:,}</td>" for number in counts)
    alt = sample_text.HISTOGRAM.format(
        site=site.site, low=edges[0], high=edges[-1], selected=site.num_after,
        rejected=site.num_scored - site.num_after,
    )  # fmt: skip
    picture = _histogram(shares, tallest=tallest, alt=alt)
    return f"<tr><th scope='row'>{escape(site.site)}</th><td>{picture}</td>{cells}</tr>"


def _histogram(shares: np.ndarray, *, tallest: float, alt: str) -> str:
    """Return the bars of both groups on top of each other, as a picture that a screen reader can tell of."""
    bars = []
    for at, (chosen, left) in enumerate(shares.T * (HEIGHT_PX / tallest)):
        for height, bottom, colour in ((chosen, 0.0, plots.PALETTE[0]), (left, chosen, plots.INK)):
            if height > 0:
                top = HEIGHT_PX - bottom - height
                bars.append(
                    f"<rect x='{at * BAR_PX}' y='{top:.2f}' width='{BAR_PX - 1}' height='{height:.2f}'"
                    f" fill='{colour}'/>"
                )
    width = NUM_BINS * BAR_PX
    return (
        f"<svg class='histogram' role='img' aria-label='{escape(alt, quote=True)}' width='{width}'"
        f" height='{HEIGHT_PX}' viewBox='0 0 {width} {HEIGHT_PX}'>{''.join(bars)}</svg>"
    )


def _key(edges: np.ndarray) -> str:
    said = escape(sample_text.HISTOGRAM_KEY.format(low=edges[0], high=edges[-1]))
    colours = markup.swatch(plots.PALETTE[0], sample_text.HISTOGRAM_SELECTED)
    return f"<p class='key'>{said} {colours}{markup.swatch(plots.INK, sample_text.HISTOGRAM_REJECTED)}</p>"
