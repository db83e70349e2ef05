"""What goes on after federated training: the model of all sites, and what each site has beside it (personal models).

A site's personal model is what all share with the site's own part, which stays there. The server keeps the shared
part under the personal model's name, and sends it to be completed where it is measured.
"""

from __future__ import annotations

from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from engine.errors import UserError
from engine.federation.aggregation import federated_average
from engine.federation.checks import check_reply
from engine.federation.tasks import OWN_ROUND, SHARE_NORMALISATION, SHARE_OWN, STUDENT_KIND, Arrays
from engine.methods.catalogue import ModelSpec
from engine.models.arrays import load_arrays, model_arrays
from engine.models.roles import model_name
from engine.models.sharing import SharedParameters
from engine.models.state_keys import shared_parameters
from engine.stages.context import RunContext

ROUND = "round"


def save_models(
    context: RunContext,
    model: nn.Module,
    *,
    names: tuple[str, str],
    sharing: SharedParameters,
    shared: Arrays,
    round_number: int,
) -> None:
    """Save the model of all sites and, where sites keep parts of their own, the shared part of the personal ones.

    Parameters
    ----------
    model
        With its first weights; gets those of all sites.
    names
        Of both models in the catalogue.
    shared
        What the sites share, of round ``round_number``.

    A site without a part of its own takes the model of all sites. In it, each normalisation layer that sites keep is
    the mean of theirs by n_k (weights, biases, means and variances; Li et al. 2021 leave it open), sent once and
    counted as ``normalisation``; everything else that sites keep has its first weights.
    """
    whole = model_arrays(model) | dict(shared)
    if sharing.averaged_once:
        whole |= _mean_normalisation(context, {name: whole[name] for name in sharing.averaged_once}, round_number)
    load_arrays(model, whole)
    context.save_model(model, names[0])
    if sharing.is_personal:
        path = context.model_path(names[1])
        temporary = path.with_suffix(".part")
        save_file({name: array.copy() for name, array in shared.items()}, temporary, {ROUND: str(round_number)})
        temporary.replace(path)
        context.reporter.artefact("model", path.relative_to(context.run_dir))


def what_is_sent(context: RunContext, spec: ModelSpec) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of a model that go down to a site, and settings that tell the site how to complete them."""
    if spec.scope == "run":
        arrays, config = model_arrays(context.load_model(spec.architecture, spec.name)), context.config
        has_kinds = spec.architecture == "student" and config.federation.site_students is not None
        return arrays, {STUDENT_KIND: model_name(config, "student")} if has_kinds else {}
    path = context.model_path(spec.name)
    try:
        with safe_open(path, framework="np") as file:
            names, about = file.keys(), file.metadata() or {}
            return {name: file.get_tensor(name) for name in names}, {OWN_ROUND: int(about[ROUND])}
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(
            "stage.output_damaged",
            what=f"{path}, the part of the sites' own models that all share, cannot be read: {error}.",
            why="Each site completes it with what it has kept, to measure or export its own model.",
            fix="Restore the run's folder from a backup, or fork the run from the stage that makes this model.",
        ) from error


def site_model(context: RunContext, spec: ModelSpec, site: str) -> nn.Module | None:
    """Return a site's own model, for which its own part is asked for; None where the site does not let it go."""
    arrays, completing = what_is_sent(context, spec)
    try:
        (reply,) = context.sites.ask(SHARE_OWN, kind="own", to=[site], settings=completing).values()
    except UserError as error:
        if error.code == "federation.refused":
            return None
        raise
    model = context.new_model(spec.architecture)
    first = model_arrays(model)
    sharing = shared_parameters(model, context.config.federation, name=model_name(context.config, spec.architecture))
    known = {"sent": {name: first[name] for name in sharing.own}, "num_examples": context.description.num_train}
    check_reply(reply, site=site, round_number=completing[OWN_ROUND], **known)
    load_arrays(model, {**first, **arrays, **reply.arrays})
    return model


def _mean_normalisation(context: RunContext, first: Arrays, round_number: int) -> Arrays:
    replies = context.sites.ask(
        SHARE_NORMALISATION,
        kind="normalisation",
        settings={OWN_ROUND: round_number},
        round_number=round_number,
        apart=True,
    )
    for site, reply in replies.items():
        known = {"sent": first, "num_examples": context.description.num_train}
        check_reply(reply, site=site, round_number=round_number, **known)
    return federated_average(replies, first)
