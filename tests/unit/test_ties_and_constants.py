"""Rules of one line that nothing else would notice changing: limits, ties, constants of papers, seeds of streams."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.common.constant import ErrorCode

from engine.config import RunConfig, parse_config
from engine.distillation.regularity import fusion_loss
from engine.distillation.supervised import SupervisedTraining
from engine.errors import UserError
from engine.evaluation.figures import COUNTS, GROUP, MEASURES, unpack_figures
from engine.evaluation.image_features import _resized
from engine.federation.backends.local import Heard
from engine.federation.backends.raygrid import RAISED
from engine.federation.release import Limits, reason_to_withhold
from engine.generation.conditioning import mask_condition
from engine.generation.generators import GeneratorSetup
from engine.generation.kinds import ddpm, pix2pix
from engine.seeding import numpy_generator, torch_generator
from engine.site.audit import AuditLog, digest
from tests.unit.test_distillation_step import PX, Squares
from tests.unit.tiny_models import make_pair


def test_a_generator_at_its_limit_may_leave_and_above_it_not() -> None:
    limits = Limits(membership_auc=0.6, copies=2)
    figures = {"membership_auc": 0.6, "copies": 2.0}
    assert reason_to_withhold(figures, limits) is None
    told = reason_to_withhold(figures | {"membership_auc": 0.61}, limits)
    assert told is not None and "AUC of 0.61" in told and "limit is 0.6" in told
    assert reason_to_withhold(figures | {"copies": 3.0}, limits) is not None
    assert "too few held-out images" in str(reason_to_withhold({"copies": 0.0}, limits))


def test_a_server_that_is_no_better_than_the_site_teaches_nothing() -> None:
    """Both are right on one pixel of two, each on another: a tie."""
    server, site = torch.tensor([[[[3.0, 3.0]]]]), torch.tensor([[[[-3.0, -3.0]]]])
    mask = torch.tensor([[[[1.0, 0.0]]]])
    assert fusion_loss(server, site, mask, temperature=1.0).item() == 0
    assert fusion_loss(server, site, torch.ones_like(mask), temperature=1.0).item() > 1


def test_a_curve_of_a_site_here_is_heard_with_its_name_value_and_step() -> None:
    heard: list[tuple[Any, ...]] = []

    class Server:
        def progress(self, *told: Any) -> None:
            heard.append(told)

        metric = progress

    site = Heard("north", 3, Server(), check_cancelled=lambda: heard.append(("asked",)))
    site.metric("dice", 0.5, step=7)
    site.progress(2, 9)
    assert heard == [("north", "dice", 0.5, 7), ("asked",), ("north", 3, 2, 9)]


def test_flowers_code_of_an_exception_at_a_site_is_the_one_that_is_looked_for() -> None:
    assert int(ErrorCode.CLIENT_APP_RAISED_EXCEPTION) == RAISED


def test_the_diffusion_model_of_the_paper_is_that_of_its_appendix() -> None:
    """Ho et al. 2020, appendix B: six resolutions from 256 px, two blocks each, attention at 16 x 16; groups of 32."""
    paper = ddpm.SIZES["paper"]
    assert (paper.widths, paper.layers, paper.groups) == ((128, 128, 256, 256, 512, 512), 2, 32)
    assert [256 // 2**at for at, attends in enumerate(paper.attention) if attends] == [16]
    mini = ddpm.SIZES["mini"]
    assert (mini.attention, mini.multiple_px, paper.multiple_px) == ((False, False, True), 4, 32)


def test_pix2pix_draws_from_masks_in_minus_one_to_one_and_the_noise_of_each_seed() -> None:
    generator = {"kind": "pix2pix", "image_px": 32}
    config = parse_config({"precision": "fp32", "generator": generator, "generation": {"batch_size": 2}})

    def none() -> Any:
        raise AssertionError("a backbone is no part of it")

    setup = GeneratorSetup(config=config, prompt="", device=torch.device("cpu"), backbone=none, outline=none)
    arrays = {
        name: np.random.default_rng(1).normal(0, 0.05, shape).astype(np.float16)
        for name, shape in pix2pix.shapes(setup).items()
    }
    made = pix2pix.rebuild(arrays, setup)
    masks = Squares().mask[:3]
    with torch.inference_mode():
        for at, seed in enumerate((5, 6, 7)):
            noise = torch.randn((1, PX, PX), generator=torch_generator(seed, "noise"))[None]
            drawn = made.unet(2 * mask_condition(masks[at : at + 1]) - 1, noise)
            levels = ((drawn / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
            found = made.sample(masks, seeds=[5, 6, 7])[at]
            assert np.abs(found.astype(int) - levels[0]).max() <= 1 and np.ptp(found) > 20


def test_what_changes_the_images_of_a_step_has_a_stream_of_its_own() -> None:
    drawn: list[float] = []

    class Noted(Squares):
        def batch(self, indices: np.ndarray, *, rng: np.random.Generator | None = None) -> Any:
            assert rng is not None
            drawn.append(rng.random())
            return super().batch(indices, rng=rng)

    _, student = make_pair()
    config = RunConfig(seed=5)
    loop = SupervisedTraining(
        student, pool=Noted(), config=config, stage="a stage", epochs=2, batch_size=4, learning_rate=1e-3,
        grid_px=PX // student.mask_stride, device=torch.device("cpu"),
    )  # fmt: skip
    loop.epoch, loop.step = 1, 3
    loop.train_step(loop.batches()[0])
    assert drawn == [pytest.approx(numpy_generator(5, "a stage", "augment", 1, 3).random())]


def test_what_the_audit_log_calls_the_digest_is_one_of_the_numbers_too(tmp_path: Path) -> None:
    ones, twos = np.ones(3, np.float32), np.full(3, 2, np.float32)
    found = digest({"b": twos, "a": ones})
    by_hand = hashlib.sha256()
    for name, array in (("a", ones), ("b", twos)):
        by_hand.update(json.dumps([name, "float32", [3]]).encode() + array.tobytes())
    assert found == by_hand.hexdigest() == digest({"a": ones, "b": twos})
    assert digest({"a": ones}) != digest({"a": twos}) != digest({"a": twos.astype(np.float64)})
    log = AuditLog(tmp_path / "not there yet" / "audit.jsonl")  # its folder is made, for its owner alone
    log.append("asked", run="r")
    assert [entry["event"] for entry in log.entries()] == ["asked"]
    assert (tmp_path / "not there yet").stat().st_mode & 0o777 == 0o700


def test_figures_with_one_count_that_is_none_are_refused() -> None:
    """All counts have to be whole, not one of them."""
    whole = {**{name: np.zeros((2, 1)) for name in MEASURES}, GROUP: np.zeros(2, np.int64)}
    how: dict[str, Any] = {"model": "m", "site": "north", "classes": ("c",), "num_images": 2}
    assert len(unpack_figures(whole, **how)) == 2
    count = sorted(COUNTS)[0]
    with pytest.raises(UserError) as caught:
        unpack_figures({**whole, count: np.array([[1.0], [0.5]])}, **how)
    assert "no counts" in str(caught.value.what)


def test_features_of_images_of_another_size_are_those_of_the_resized() -> None:
    """A picture that has the side already goes through as it is; any other is brought to it."""
    small = torch.rand((1, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    assert _resized(small, 8) is small
    large = _resized(small, 16)
    assert large.shape == (1, 3, 16, 16) and large.mean().item() == pytest.approx(small.mean().item(), abs=0.03)
