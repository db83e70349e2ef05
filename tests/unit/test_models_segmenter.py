"""SAM, TinySAM and U-Net: shapes, the prompt-free path, prompts, classes, seeds, attention biases."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling import Sam

from engine.errors import UserError
from engine.models.prompts import Prompts
from engine.models.registry import build_model, model_sizes
from engine.models.segmenter import Segmenter
from engine.seeding import torch_generator


def random_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch_generator(seed, "image"))


@pytest.fixture(scope="module")
def sam() -> Segmenter:
    return build_model("sam", size="mini", seed=0).eval()


@pytest.fixture(scope="module")
def tinysam() -> Segmenter:
    return build_model("tinysam", size="mini", seed=0).eval()


@pytest.mark.parametrize("name", ["sam", "msa", "tinysam", "unet", "nnunet"])
@pytest.mark.parametrize("height, width", [(64, 64), (96, 96), (128, 128), (192, 192), (256, 256), (64, 128)])
def test_logits_have_the_size_of_image_over_mask_stride(name: str, height: int, width: int) -> None:
    model = build_model(name, size="mini", seed=0)
    with torch.no_grad():
        logits = model(random_image(1, 3, height, width))
    assert logits.shape == (1, 1, height // model.mask_stride, width // model.mask_stride)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["sam", "msa", "tinysam", "unet", "nnunet"])
@pytest.mark.parametrize("shape", [(1, 3, 60, 64), (1, 1, 64, 64), (3, 64, 64)])
def test_impossible_images_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError) as caught:
        build_model(name, size="mini", seed=0)(random_image(*shape))
    assert caught.value.code == "model.image_size"


@pytest.mark.parametrize(
    "arguments, code",
    [
        ({"name": "sam", "size": "huge"}, "model.unknown"),
        ({"name": "resnet", "size": "mini"}, "model.unknown"),
        ({"name": "sam", "size": "mini", "num_classes": 0}, "model.num_classes"),
        ({"name": "tinysam", "size": "mini", "image_px": 100}, "model.image_size"),
        ({"name": "unet", "size": "mini", "image_px": 8}, "model.image_size"),
    ],
)
def test_impossible_models_are_refused(arguments: dict, code: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(**arguments, seed=0)
    assert caught.value.code == code


def test_sizes_are_those_of_the_released_models() -> None:
    parameters = {(row.name, row.size): row.parameters for row in model_sizes()}
    # methods.md 5: 10,130,092 for TinySAM less the unused classifier head of 321,640; 93,735,472 for SAM ViT-B.
    assert parameters["tinysam", "5m"] == 10_130_092 - 321_640
    assert parameters["sam", "vit_b"] == 93_735_472
    assert parameters["sam", "mini"] < 5_000_000
    assert parameters["sam", "mini"] > 2.5 * parameters["tinysam", "mini"]


@pytest.mark.parametrize("name", ["sam", "msa", "tinysam", "unet", "nnunet"])
def test_weights_follow_the_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(name, size="mini", seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = build_model(name, size="mini", seed=3).state_dict()
    other = build_model(name, size="mini", seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_prompt_free_path_uses_only_the_positional_matrix(tinysam: Segmenter) -> None:
    image = random_image(2, 3, 64, 64)
    changed = copy.deepcopy(tinysam)
    for parameter in changed.prompt_encoder.parameters():
        parameter.data.add_(1.0)
    prompts = Prompts(torch.tensor([[[20.0, 20.0]]] * 2), torch.ones(2, 1))
    with torch.no_grad():
        assert torch.equal(tinysam(image), changed(image))
        assert not torch.equal(tinysam(image, prompts), changed(image, prompts))
    model = copy.deepcopy(tinysam).train()
    model(image).sum().backward()
    assert all(parameter.grad is None for parameter in model.prompt_encoder.parameters())


def test_one_class_is_mask_token_zero(tinysam: Segmenter) -> None:
    features = tinysam.encode(random_image(2, 3, 64, 64))
    moved = copy.deepcopy(tinysam)
    for index in (1, 2, 3):
        for parameter in moved.mask_decoder.output_hypernetworks_mlps[index].parameters():
            parameter.data.zero_()
    assert torch.equal(tinysam.decode(features), moved.decode(features))
    for parameter in moved.mask_decoder.output_hypernetworks_mlps[0].parameters():
        parameter.data.zero_()
    assert not moved.decode(features).any()


@pytest.mark.parametrize("name", ["sam", "msa", "tinysam", "unet", "nnunet"])
def test_several_classes_learn(name: str) -> None:
    model = build_model(name, size="mini", num_classes=3, seed=0).train()
    logits = model(random_image(2, 3, 64, 64))
    assert logits.shape[1] == 3
    logits[:, 2].sum().backward()
    heads = {"unet": "net.model.2.1.conv.unit0.conv.weight", "nnunet": "net.output_block.conv.conv.weight"}
    head = model.get_parameter(heads.get(name, "seg1.weight"))
    assert head.grad is not None and head.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_attention_biases_learn_in_both_modes(training: bool) -> None:
    model = build_model("tinysam", size="mini", seed=0).train(training)
    for _ in range(2):  # a second pass in eval mode is where a cached copy would show
        model.zero_grad()
        model(random_image(2, 3, 64, 64)).sum().backward()
    biases = [parameter for key, parameter in model.named_parameters() if key.endswith("attention_biases")]
    assert len(biases) == 5
    assert all(bias.grad is not None and bias.grad.abs().sum() > 0 for bias in biases)


def test_biases_loaded_after_eval_are_not_stale(tinysam: Segmenter) -> None:
    image = random_image(1, 3, 64, 64)
    model = build_model("tinysam", size="mini", seed=0).eval()
    with torch.no_grad():
        before = model(image)
        state = model.state_dict()
        for key in state:
            if key.endswith("attention_biases"):
                state[key] = torch.randn(state[key].shape, generator=torch_generator(1, key))
        model.load_state_dict(state)
        after = model(image)
        fresh = build_model("tinysam", size="mini", seed=9)
        fresh.load_state_dict(state)
        assert not torch.equal(before, after)
        assert torch.equal(after, fresh.eval()(image))


def test_positions_follow_new_weights(tinysam: Segmenter) -> None:
    image = random_image(1, 3, 64, 64)
    model = copy.deepcopy(tinysam)
    with torch.no_grad():
        model(image)
        state = build_model("tinysam", size="mini", seed=7).state_dict()
        model.load_state_dict(state)
        expected = build_model("tinysam", size="mini", seed=7).eval()(image)
        assert torch.equal(model(image), expected)
        with torch.inference_mode():
            model(random_image(1, 3, 96, 96))
    model.train()(random_image(1, 3, 96, 96)).sum().backward()


@pytest.mark.parametrize("name", ["sam", "tinysam"])
@pytest.mark.parametrize("kind", ["points", "box", "both"])
def test_prompts_equal_segment_anything(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    official = Sam(model.image_encoder, model.prompt_encoder, model.mask_decoder, [0.0] * 3, [1.0] * 3)
    side = model.image_px
    official.image_encoder.img_size = side  # which TinyViT lacks and Sam.preprocess reads
    images = random_image(3, 3, side, side)
    points = random_image(3, 4, 2, seed=1) * side
    labels = torch.tensor([[1, 0, 1, 1], [1, 1, 0, -1], [0, 1, -1, -1]])
    boxes = torch.tensor([[5.0, 6.0, 90.0, 100.0], [10.0, 2.0, 50.0, 60.0], [0.0, 0.0, 127.0, 127.0]])
    use_points, use_boxes = kind != "box", kind != "points"
    batched = [
        {"image": images[i], "original_size": (side, side)}
        | ({"point_coords": points[i : i + 1], "point_labels": labels[i : i + 1]} if use_points else {})
        | ({"boxes": boxes[i : i + 1]} if use_boxes else {})
        for i in range(3)
    ]
    expected = torch.cat([row["low_res_logits"] for row in official(batched, multimask_output=False)])
    prompts = Prompts(
        points if use_points else None, labels if use_points else None, boxes_B4=boxes if use_boxes else None
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images, prompts), expected, rtol=0, atol=1e-5)


def test_prompt_coordinates_follow_the_image_that_was_given(sam: Segmenter) -> None:
    """A point at the same relative place has the same embedding at every image size."""
    features = sam.encode(random_image(1, 3, 128, 128))
    near = sam.decode(features, prompts=Prompts(torch.tensor([[[31.5, 63.5]]]), torch.ones(1, 1)))
    sam_double = copy.deepcopy(sam)
    sam_double.feature_stride = 16
    far = sam_double.decode(features, prompts=Prompts(torch.tensor([[[63.5, 127.5]]]), torch.ones(1, 1)))
    torch.testing.assert_close(near, far, rtol=0, atol=1e-6)


def test_one_image_takes_many_prompts(sam: Segmenter) -> None:
    features = sam.encode(random_image(1, 3, 128, 128))
    prompts = Prompts(torch.tensor([[[30.0, 30.0]], [[90.0, 90.0]]]), torch.ones(2, 1))
    logits, quality = sam.decode_with_quality(features, prompts=prompts)
    assert logits.shape == (2, 1, 64, 64) and quality.shape == (2, 4)
    assert not torch.equal(logits[0], logits[1])
    with pytest.raises(UserError, match="prompts for 3 images"):
        sam.decode(features.expand(3, -1, -1, -1), prompts=prompts)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"points_BN2": torch.zeros(1, 2, 2)},
        {"points_BN2": torch.zeros(1, 2, 2), "labels_BN": torch.ones(1, 3)},
        {"boxes_B4": torch.zeros(1, 5)},
        {"points_BN2": torch.zeros(1, 2, 2), "labels_BN": torch.ones(1, 2), "boxes_B4": torch.zeros(2, 4)},
    ],
)
def test_prompts_that_do_not_fit_are_refused(fields: dict) -> None:
    with pytest.raises(UserError) as caught:
        Prompts(**fields)
    assert caught.value.code == "prompt.shape"


def test_autocast_keeps_positions_in_float32(tinysam: Segmenter) -> None:
    features = tinysam.encode(random_image(1, 3, 64, 64)).detach()
    prompts = Prompts(torch.tensor([[[20.0, 20.0]]]), torch.ones(1, 1))
    exact = tinysam.decode(features, prompts=prompts)
    model = copy.deepcopy(tinysam)
    model._positions = type(model._positions)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = model.decode(features, prompts=prompts).float()
        grid = model._positions(model.prompt_encoder, grid_hw=(8, 8))
    assert grid.dtype == torch.float32
    assert (near - exact).abs().max() < 0.05 * exact.abs().max()
