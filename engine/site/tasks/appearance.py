"""What the site's training images look like, in figures of all of them together: no picture."""

from __future__ import annotations

from engine.federation.tasks import SiteReply, SiteRequest
from engine.site.appearance import tell
from engine.site.context import SiteContext


def appearance(site: SiteContext, _request: SiteRequest) -> SiteReply:
    """Reply with :class:`engine.site.appearance.Told`, and n_k."""
    told = tell(site.data.train, site.data.validation, check_cancelled=site.listener.check_cancelled)
    return SiteReply(told.arrays, told.figures, len(site.data.train))
