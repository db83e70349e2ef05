"""What a site sends of its own part of the federated model, once and when training is over."""

from __future__ import annotations

from engine.federation.tasks import OWN_ROUND, SiteReply, SiteRequest
from engine.site.context import SiteContext
from engine.site.own_parameters import own_part


def normalisation(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Reply with the site's own normalisation layers after the round ``own_round``, and n_k.

    Nothing goes where the run's settings keep none of them at the sites, or say that they never leave.
    """
    own = own_part(site, before_round=int(request.settings[OWN_ROUND]) + 1)
    chosen = {name: own[name] for name in site.models.sharing("student").averaged_once}
    return SiteReply(chosen, {}, len(site.data.train))
