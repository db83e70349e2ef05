"""What a site says of its data: names, counts and digests, no pixels."""

from __future__ import annotations

from engine.federation.tasks import SiteReply, SiteRequest
from engine.site.context import SiteContext

DESCRIPTION = "description"


def describe(site: SiteContext, _request: SiteRequest) -> SiteReply:
    """Reply with the site's description as JSON."""
    about = site.data.description()
    count = about.num_train + about.num_validation + about.num_test
    return SiteReply({}, {}, max(1, count), {DESCRIPTION: about.as_json()})
