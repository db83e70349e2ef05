"""A site's side of ``federation.codec``: reading what the server sends in a round, and writing what goes back.

What a message leaves of the site's update is kept on its disk, one file a round, and is a part of the next one's (error
feedback); so is the model that it received, where the server sends updates to it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from engine.errors import UserError
from engine.federation.codecs.layout import ArraySpec, CodedFault, specs_of
from engine.federation.codecs.piece import BASE_LOST, BASE_ROUND, PieceCodec
from engine.federation.codecs.steps import Steps
from engine.federation.tasks import Arrays, SiteRequest
from engine.models.arrays import buffer_names
from engine.site.context import SiteContext
from engine.site.kept_state import check_kept
from engine.site.optimiser_files import newest_state
from engine.site.round_files import RoundFiles


def read_model(site: SiteContext, request: SiteRequest) -> Arrays:
    """Return the shared arrays that a round's request brings, and keep them where the next one may be added to them.

    Raises ``UserError`` ``federation.base_lost`` for an update to a model that is not here, which the server answers
    with the whole, and ``federation.bad_request`` for what no server of ours sends.
    """
    _keep_left(site, round_number=request.round)
    steps = _steps(site, site.config.federation.codec_down)
    if steps is None or not site.models.sharing("student").shared:
        return request.arrays
    base_round, base = int(request.settings.get(BASE_ROUND, 0)), None
    if base_round:
        base = _load(_received_files(site), site, round_number=base_round)
    try:
        codec = PieceCodec(steps if base is not None else steps.without_loss, _specs(site))
        arrays = codec.decode(request.arrays, base=base)
    except CodedFault as fault:
        raise UserError(
            "federation.bad_request",
            what=f"What site {site.site} was sent in round {request.round} cannot be read: {fault}.",
            why="How a model is written follows from the run's settings (federation.codec_down), which both have.",
            fix=f"Run one version of the program at the server and at {site.site}.",
        ) from fault
    if steps.is_lossy:
        _received_files(site).save(_tensors(arrays), round_number=request.round)
    return arrays


def write_model(site: SiteContext, arrays: Arrays, *, received: Arrays, round_number: int) -> Arrays:
    """Return what goes back of the shared ``arrays`` after a round that began with ``received``.

    What is left of the update is kept before it is returned, so that a site that is killed goes on with the same bits.
    """
    steps = _steps(site, site.config.federation.codec)
    if steps is None or not arrays:
        return arrays
    codec = PieceCodec(steps, _specs(site))
    if not steps.is_lossy:
        return codec.encode(arrays).message
    _, kept = _left_files(site).load(before=round_number)
    if kept and kept.keys() != {spec.name for spec in codec.specs if spec.is_coded}:
        raise _left_damaged(site, what=f"What site {site.site} has kept of its earlier updates is of another model.")
    residual = {name: tensor.numpy() for name, tensor in kept.items()}
    coded = codec.encode(arrays, base=received, residual=residual)
    _left_files(site).save(_tensors(coded.residual), round_number=round_number)
    return coded.message


def _keep_left(site: SiteContext, *, round_number: int) -> None:
    """Carry over what earlier updates have left, before the optimiser goes on to the round.

    A round may end between the two, killed or with a fault, and the run may go on without it: what was left is left
    then. Raises ``UserError`` ``federation.site_state_{lost,damaged}`` where it is not there any more.
    """
    steps = _steps(site, site.config.federation.codec)
    if steps is None or not steps.is_lossy or not site.models.sharing("student").shared:
        return
    number = _left_files(site).newest(before=round_number)
    check_kept(site.state, number, site=site.site, before_round=round_number)
    trained = newest_state(site.state.folder, before=round_number)
    if number < trained:
        what = f"What site {site.site} has kept of its earlier updates is of round {number}, its optimiser of round "
        raise _left_damaged(site, what=f"{what}{trained}.")
    _left_files(site).carry(round_number=round_number)


def _left_damaged(site: SiteContext, *, what: str) -> UserError:
    return UserError(
        "federation.site_state_damaged",
        what=what,
        why="What a message leaves out is sent later: it would be lost, or sent twice.",
        fix=f"Put the files left_round_* of this run at {site.site} back from a copy, or start a new run.",
    )


def _steps(site: SiteContext, names: tuple[str, ...]) -> Steps | None:
    return Steps.of(names, topk_share=site.config.federation.topk_share) if names else None


def _specs(site: SiteContext) -> tuple[ArraySpec, ...]:
    model = site.models.of("student")
    state = model.state_dict()
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in state.items()}
    shapes = {name: np.broadcast_to(np.zeros((), types[name]), tensor.shape) for name, tensor in state.items()}
    return specs_of(site.models.sharing("student").of(shapes), buffers=buffer_names(model))


def _received_files(site: SiteContext) -> RoundFiles:
    return RoundFiles(site.state.folder, "received", "The model that was sent: the file")


def _left_files(site: SiteContext) -> RoundFiles:
    return RoundFiles(site.state.folder, "left", "What earlier updates have left: the file")


def _load(files: RoundFiles, site: SiteContext, *, round_number: int) -> dict[str, np.ndarray]:
    damage: UserError | None = None
    try:
        number, kept = files.load(before=round_number + 1)
    except UserError as error:  # the server has it, too
        number, kept, damage = 0, {}, error
    if number != round_number:
        raise UserError(
            BASE_LOST,
            what=f"Site {site.site} does not have the model of round {round_number}, which it was sent an update to.",
            why="An update is added to the model that it was made from.",
            fix="Nothing: the server sends the whole model instead.",
        ) from damage
    return {name: tensor.numpy() for name, tensor in kept.items()}


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)) for name, array in arrays.items()}
