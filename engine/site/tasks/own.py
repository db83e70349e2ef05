"""What a site sends of its own part of the federated model: once, when training is over, where the settings say so."""

from __future__ import annotations

from engine.errors import UserError
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


def everything(site: SiteContext, request: SiteRequest) -> SiteReply:
    """Reply with all that the site has kept of the model as its own after the round ``own_round``, and n_k.

    With the shared part it is the site's own model, for export. Raises ``UserError`` ``federation.not_asked_for`` in a
    run whose settings, which the site has allowed, do not say ``export.site_models``.
    """
    if not site.config.export.site_models:
        raise UserError(
            "federation.not_asked_for",
            what=f"Site {site.site} was asked for its own part of the model, and the run does not say so.",
            why="What a site has allowed is what the run's settings say: export.site_models is off.",
            fix="Start a run with export.site_models = true, which its sites can allow or refuse.",
        )
    own = own_part(site, before_round=int(request.settings[OWN_ROUND]) + 1)
    return SiteReply({name: own[name] for name in site.models.sharing("student").own}, {}, len(site.data.train))
