"""A site's own part of the federated model: laid beside what the server sends, and kept on the site's disk.

What a message lacks is the site's own. In each round the site starts from what it kept after the round before; before
its first round, from the run's first weights, which it makes or loads by itself. Frozen parameters that nobody sends
are those of the first weights always.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from engine.errors import UserError
from engine.federation.tasks import Arrays
from engine.models.arrays import load_arrays
from engine.models.roles import Role
from engine.site.context import SiteContext
from engine.site.kept_state import check_kept
from engine.site.round_files import RoundFiles


def own_files(site: SiteContext) -> RoundFiles:
    """Return the site's files of its own parameters, one a round."""
    return RoundFiles(site.state.folder, "own", "A site's own parameters: the file")


def receive(site: SiteContext, arrays: Arrays, *, before_round: int, role: Role = "student") -> nn.Module:
    """Return the model with what was sent, completed by the site's own part as it was before ``before_round``.

    A message has the whole model, which is taken as it is, or exactly what the sites share. Raises ``UserError``
    ``federation.shares_other`` for anything else.
    """
    model = site.models.of(role)
    sharing = site.models.sharing(role)
    if sharing.is_everything or len(arrays) == len(sharing.shared) + len(sharing.own) + len(sharing.fixed):
        load_arrays(model, arrays)
        return model
    if arrays.keys() != set(sharing.shared):
        odd = sorted(arrays.keys() ^ set(sharing.shared))
        raise UserError(
            "federation.shares_other",
            what=f"Site {site.site} was sent {len(arrays)} arrays and shares {len(sharing.shared)}; the first that is "
            f"missing or not expected is '{odd[0]}'.",
            why="Which part of the model is shared follows from the run's settings, which server and site both have.",
            fix=f"Run one version of the program at the server and at {site.site}.",
        )
    load_arrays(model, {**own_part(site, before_round=before_round, role=role), **arrays})
    return model


def own_part(site: SiteContext, *, before_round: int, role: Role = "student") -> dict[str, np.ndarray]:
    """Return all of the model that does not cross, as it was before ``before_round``."""
    sharing, first = site.models.sharing(role), site.models.first_arrays(role)
    part = {name: first[name] for name in (*sharing.own, *sharing.fixed)}
    number, kept = own_files(site).load(before=before_round)
    if sharing.own:
        check_kept(site.state, number, site=site.site, before_round=before_round)
    odd = sorted(kept.keys() ^ set(sharing.own)) if kept else []
    if odd:
        raise UserError(
            "federation.site_state_damaged",
            what=f"What site {site.site} has kept of its own is of another model: '{odd[0]}' is missing or too much.",
            why="A site's own parameters belong to one run with one way of sharing.",
            fix=f"Start a new run, or remove the files own_round_* of this run at {site.site}.",
        )
    return part | {name: tensor.numpy() for name, tensor in kept.items()}


def keep_own(site: SiteContext, model: nn.Module, *, round_number: int, best_round: int | None) -> None:
    """Write the site's own part of ``model`` after a round; that of ``best_round`` stays while it may go on."""
    sharing = site.models.sharing("student")
    if not sharing.own:
        return
    state = model.state_dict()
    own = {name: torch.clone(state[name].detach().cpu(), memory_format=torch.contiguous_format) for name in sharing.own}
    own_files(site).save(own, round_number=round_number, keep=best_round)
