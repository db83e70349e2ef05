"""U-Nets on timm's encoders: shapes, what reaches the logits, and four sites with four architectures."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import parse_config
from engine.errors import UserError
from engine.federation.connect import connect
from engine.federation.sites import Server
from engine.federation.tasks import EVALUATE, OWN_ROUND, TRAIN_STUDENT
from engine.models.registry import build_model
from engine.models.timm_unet import TIMM_PRESETS, TimmUNet
from engine.models.weights import load_weights, save_weights
from engine.planning.costs import MODELS
from engine.planning.plan import plan
from engine.runs.checkpoint import CheckpointStore
from engine.types import Traffic

KINDS = ("timm/mobilenetv3", "unet/mini", "nnunet/mini", "tinysam/mini")
SITES = ("dapi_20x", "he_pink", "he_violet", "hoechst_63x")


@pytest.mark.parametrize("size", ["mobilenetv3", "resnet10", "pvt_v2"])
def test_logits_lie_on_the_images_grid_and_every_level_reaches_them(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = build_model("timm", size=size, num_classes=2, image_px=64, seed=1)
    assert isinstance(model, TimmUNet)
    logits = model(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    stride = TIMM_PRESETS[size].first_stride // 2
    assert logits.shape == (2, 2, 64 // stride, 96 // stride) and model.mask_stride == stride
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "every parameter learns"
    with pytest.raises(UserError, match="multiple"):
        model(torch.rand(1, 3, 48, 64))


def test_the_finest_features_go_around_the_deeper_ones() -> None:
    model = build_model("timm", size="mobilenetv3", image_px=64, seed=1).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = model.encoder(image)
        assert [tuple(f.shape[1:]) for f in features] == [
            (c, 64 // s, 64 // s) for c, s in zip(model.encoder.feature_info.channels(), (2, 4, 8, 16, 32), strict=True)
        ]
        whole = model.head(model.decoder(list(features), skip_connect=4))
        assert torch.equal(whole, model(image))
        for level in range(5):
            changed = [f + (k == level) for k, f in enumerate(features)]
            assert not torch.equal(model.head(model.decoder(changed, skip_connect=4)), whole), level


def test_capacities_differ() -> None:
    parameters = [
        MODELS["timm", size].parameters for size in ("mobilenetv3", "pvt_v2", "resnet10", "resnet18", "resnet34")
    ]
    assert parameters == sorted(parameters) and parameters[-1] > 40 * parameters[0]


def test_weights_of_a_file_are_taken_and_seeds_make_the_others(tmp_path: Path) -> None:
    first, second, third = (build_model("timm", size="mobilenetv3", seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))
    path = save_weights(first, tmp_path / "weights.safetensors")
    assert load_weights(third, path, strict=True).missing == ()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def configured(method: str = "samfed", **data: Any) -> Any:
    students = [f"{site}={kind}" for site, kind in zip(SITES, KINDS, strict=True)]
    return parse_config(
        {
            "method": method, "device": "cpu", "precision": "fp32", "seed": 3, "threads": 1,
            "data": {"task": "nuclei", "images_per_site": 4, "image_px": 64, "validation_fraction": 0.3,
                     "sites": [*SITES, "brightfield_grey"], "held_out": "brightfield_grey", **data},
            "student": {"name": "tinysam", "weights": None},
            "federation": {"rounds": 1, "batch_size": 4, "site_students": students},
        }
    )  # fmt: skip


def test_four_sites_hold_four_architectures(tmp_path: Path) -> None:
    config, traffic = configured("fedtinysam"), []
    store = CheckpointStore(tmp_path / "checkpoints", "hash", warn=print)
    server = Server(check_cancelled=lambda: None, traffic=traffic.append)
    sites = connect(config, state_root=tmp_path / "sites", checkpoints=lambda: store, server=lambda: server)
    sites.ask(TRAIN_STUDENT, kind="student", round_number=1)
    kinds: list[Traffic] = traffic
    assert {record.kind for record in kinds} == {"metrics"}, "no weight crosses"
    for site, kind in zip(SITES, KINDS, strict=True):
        name, size = kind.split("/")
        kept = load_file(tmp_path / "sites" / site / "own_round_000001.safetensors")
        assert kept.keys() == build_model(name, size=size, image_px=64, seed=0).state_dict().keys()
    settings = {"role": "student", "model": "personal_student", "split": "validation", OWN_ROUND: 1}
    figures = sites.ask(EVALUATE, kind="evaluated", reply_kind="figures", settings=settings)
    assert all(reply.arrays["dice"].shape == (reply.num_examples, 1) for reply in figures.values())


def test_a_plan_knows_them_and_refuses_sides_that_they_cannot_halve(tmp_path: Path) -> None:
    assert plan(configured(), home=tmp_path, only_costs=True).minutes > 0
    with pytest.raises(UserError, match=r"timm/mobilenetv3\) cannot take images of 48 pixels"):
        plan(configured(image_px=48), home=tmp_path, only_costs=True)
