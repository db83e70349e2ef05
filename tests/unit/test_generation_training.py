"""A site's generator training and what the server draws with it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import GeneratorConfig, RunConfig
from engine.errors import UserError
from engine.generation.backbone import Backbone, Outline, build_backbone, freeze, outline_backbone, save_backbone
from engine.generation.conditioning import mask_condition
from engine.generation.controlnet import (
    ControlNetTraining,
    controlnet_arrays,
    load_controlnet,
    new_controlnet,
    save_controlnet,
)
from engine.generation.generators import GeneratorSetup, keep_upload
from engine.generation.sampling import generate

PX = 32


class FiveImages:
    """Five bright squares on dark ground and their masks, two classes."""

    def __len__(self) -> int:
        return 5

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mask = np.zeros((len(indices), 2, PX, PX), np.uint8)
        for row, index in enumerate(indices):
            mask[row, 0, 4 + index : 20 + index, 4:20] = 1
            mask[row, 1, 8 + index : 12 + index, 8:12] = 1
        return np.repeat(mask[:, :1], 3, axis=1) * np.float32(0.7) + np.float32(0.1), mask


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return freeze(build_backbone("mini", seed=3), device=torch.device("cpu"))


@pytest.fixture
def make(backbone: Backbone) -> Callable[..., ControlNetTraining]:
    def build(*, site: str = "north", **settings: object) -> ControlNetTraining:
        config = GeneratorConfig(image_px=PX, batch_size=2, learning_rate=1e-3, **settings)
        controlnet = new_controlnet(backbone, source=None, seed=1)
        return ControlNetTraining(
            backbone, controlnet, images=FiveImages(), config=config, prompt="squares", site=site, seed=9
        )

    return build


def keep(arrays: dict[str, np.ndarray], folder: Path, *, shapes_of: Backbone | Outline, site: str) -> None:
    """Keep an upload as the server does, which knows the backbone's shapes."""

    def never() -> Backbone:
        raise AssertionError("the server needs no weights of the backbone to keep an upload")

    setup = GeneratorSetup(
        config=RunConfig(), prompt="", device=torch.device("cpu"), backbone=never, outline=lambda: shapes_of
    )
    keep_upload(arrays, folder, setup, site=site)


def test_only_the_controlnet_learns(backbone: Backbone, make: Callable[..., ControlNetTraining]) -> None:
    before = copy.deepcopy(backbone.unet.state_dict())
    training = make()
    start = copy.deepcopy(training.controlnet.state_dict())
    for _ in range(3):
        training.step()
    after = training.controlnet.state_dict()
    assert all(torch.equal(before[key], value) for key, value in backbone.unet.state_dict().items())
    # Every zero convolution has left zero, which lets the copy behind it learn too.
    moved = {key for key in after if not torch.equal(after[key], start[key])}
    assert {key for key in after if key.startswith(("controlnet_down_blocks", "controlnet_mid_block"))} <= moved
    assert any(key.startswith("down_blocks") for key in moved)


@pytest.mark.parametrize("settings", [{}, {"accumulation": 2}, {"gradient_checkpointing": True}])
def test_resumed_training_equals_uninterrupted(
    make: Callable[..., ControlNetTraining], settings: dict[str, object]
) -> None:
    whole = make(**settings)
    losses = [whole.step() for _ in range(2)]
    state = copy.deepcopy(whole.state())
    losses += [whole.step() for _ in range(2)]
    resumed = make(**settings)
    resumed.restore(state)
    assert resumed.done == 2
    assert [resumed.step() for _ in range(2)] == losses[2:]
    for key, tensor in whole.controlnet.state_dict().items():
        assert torch.equal(tensor, resumed.controlnet.state_dict()[key])


def test_sites_draw_their_own_batches_and_passes_use_every_image(make: Callable[..., ControlNetTraining]) -> None:
    north, south = make(), make(site="south")
    order = np.concatenate([north._indices(number) for number in range(5)])
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))
    assert north.step() != south.step()


def test_a_loss_that_is_no_number_names_site_and_step(make: Callable[..., ControlNetTraining]) -> None:
    training = make()
    training.step()
    with torch.no_grad():
        training.controlnet.conv_in.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="'north' is nan at step 2") as error:
        training.step()
    assert error.value.code == "generator.diverged"


def test_eight_bit_optimiser_without_bitsandbytes_names_the_setting(make: Callable[..., ControlNetTraining]) -> None:
    with pytest.raises(UserError, match=r"generator\.optimiser_8bit") as error:
        make(optimiser_8bit=True)
    assert error.value.code == "generator.no_bitsandbytes"


def test_an_upload_becomes_the_generator_that_was_trained(
    backbone: Backbone, make: Callable[..., ControlNetTraining], tmp_path: Path
) -> None:
    training = make()
    training.step()
    arrays = controlnet_arrays(training.controlnet)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float16)}
    keep(arrays, tmp_path / "north", shapes_of=backbone, site="north")
    loaded = load_controlnet(tmp_path / "north")
    assert all(np.array_equal(arrays[key], tensor.half().numpy()) for key, tensor in loaded.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["north"]  # no half-written folder is left
    going_on = new_controlnet(backbone, source=tmp_path / "north", seed=1)
    assert all(parameter.requires_grad for parameter in going_on.parameters())


def test_the_server_needs_a_backbones_shapes_alone(backbone: Backbone, tmp_path: Path) -> None:
    """An outline has no weights in memory, and takes and refuses what the whole backbone does."""
    save_backbone(backbone, tmp_path / "ldm")
    outline = outline_backbone(tmp_path / "ldm")
    assert {parameter.device.type for parameter in outline.unet.parameters()} == {"meta"}
    arrays = controlnet_arrays(new_controlnet(backbone, source=None, seed=1))
    for name, given in (("whole", backbone), ("outline", outline)):
        keep(arrays, tmp_path / name, shapes_of=given, site="south")
    one, two = (load_controlnet(tmp_path / name).state_dict() for name in ("whole", "outline"))
    assert one.keys() == two.keys() and all(np.array_equal(one[key], two[key]) for key in one)
    arrays["conv_in.weight"] = arrays["conv_in.weight"][:, :2]
    with pytest.raises(UserError, match=r"conv_in\.weight"):
        keep(arrays, tmp_path / "other", shapes_of=outline, site="south")


def test_uploads_and_sources_of_another_backbone_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    arrays = controlnet_arrays(new_controlnet(backbone, source=None, seed=1))
    arrays["conv_in.weight"] = arrays["conv_in.weight"][:, :2]
    with pytest.raises(UserError, match=r"from south do not fit, first 'conv_in\.weight'") as error:
        keep(arrays, tmp_path / "site", shapes_of=backbone, site="south")
    assert error.value.code == "generator.upload_misfit"
    assert not (tmp_path / "site").exists()
    with pytest.raises(UserError) as error:
        new_controlnet(backbone, source=tmp_path / "nowhere", seed=1)
    assert error.value.code == "generator.controlnet_absent"


@pytest.mark.parametrize(
    ("classes", "pixel", "expected"),
    [  # mask planes of one pixel -> its colour
        (1, [1], [1, 1, 1]),
        (2, [1, 0], [1, 0, 1]),
        (2, [1, 1], [1, 1, 1]),
        (3, [0, 1, 0], [0, 1, 0]),
        (4, [1, 0, 0, 0], [1, 0, 0]),
        (4, [0, 0, 0, 0], [0, 0, 0]),
    ],
)
def test_masks_become_three_channels(classes: int, pixel: list[int], expected: list[int]) -> None:
    mask = np.array(pixel, np.uint8).reshape(1, classes, 1, 1)
    assert mask_condition(mask).flatten().tolist() == expected


def test_an_image_depends_on_its_own_seed_and_mask_only(backbone: Backbone) -> None:
    controlnet = new_controlnet(backbone, source=None, seed=1)
    with torch.no_grad():
        for block in controlnet.controlnet_down_blocks:
            torch.nn.init.constant_(block.bias, 0.1)
    mask = FiveImages().batch(np.arange(3))[1]
    seen: list[tuple[int, int]] = []
    draw = {"prompt": "squares", "steps": 2, "guidance": 2.0, "precision": "fp32"}
    images = generate(
        backbone,
        controlnet,
        mask,
        seeds=[1, 2, 3],
        batch_size=2,
        on_batch=lambda start, batch: seen.append((start, len(batch))),
        **draw,
    )
    assert images.shape == (3, PX, PX, 3)
    assert images.dtype == np.uint8
    assert seen == [(0, 2), (2, 1)]
    alone = generate(backbone, controlnet, mask[1:2], seeds=[2], **draw)
    # Other batch sizes may take other kernels; a level of 255 is more than their rounding.
    assert np.abs(alone[0].astype(int) - images[1].astype(int)).max() <= 1
    other = generate(backbone, controlnet, mask[1:2], seeds=[7], **draw)
    assert np.abs(other[0].astype(int) - images[1].astype(int)).max() > 10


def test_generation_stops_between_denoising_steps(backbone: Backbone) -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    controlnet = new_controlnet(backbone, source=None, seed=1)
    mask = FiveImages().batch(np.arange(1))[1]
    with pytest.raises(InterruptedError):
        generate(backbone, controlnet, mask, seeds=[1], prompt="", steps=5, guidance=1.0, check_cancelled=stop)
    assert len(calls) == 2


@pytest.mark.parametrize(("side", "num_seeds"), [(36, 1), (32, 2)])
def test_masks_that_cannot_be_drawn_are_refused(backbone: Backbone, side: int, num_seeds: int) -> None:
    controlnet = new_controlnet(backbone, source=None, seed=1)
    with pytest.raises(UserError) as error:
        generate(backbone, controlnet, np.zeros((1, 1, side, side), np.uint8), seeds=range(num_seeds), prompt="")
    assert error.value.code == "generator.mask_size"


def test_saving_replaces_an_earlier_generator(backbone: Backbone, tmp_path: Path) -> None:
    for seed in (1, 2):
        save_controlnet(new_controlnet(backbone, source=None, seed=seed), tmp_path / "site")
    expected = new_controlnet(backbone, source=None, seed=2).controlnet_cond_embedding.conv_in.weight.half().float()
    assert torch.equal(load_controlnet(tmp_path / "site").controlnet_cond_embedding.conv_in.weight, expected)
