"""What faster variants of a model cost, measured at a site: half the side in torch, a file as it is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from engine.config import DataConfig
from engine.data.tiling import MOST_LOOKS, Eye
from engine.errors import UserError
from engine.evaluation import variants
from engine.evaluation.variants import fault_of, half_px, measure_file, measure_half, together


@pytest.mark.parametrize(
    ("image_px", "stride", "half"),
    [
        (128, 8, 64),
        (1024, 16, 512),
        (200, 8, 96),
        (32, 32, None),
        (64, 32, None),
        (96, 32, None),
        (128, 32, 64),
        (8, 8, None),
    ],
)
def test_half_a_side_is_whole_cells(image_px: int, stride: int, half: int | None) -> None:
    assert half_px(image_px, stride=stride) == half


class Red(nn.Module):
    """Ten times the red channel minus five, on half the image's grid; noise while it trains."""

    feature_stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.9)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return self.noise(nn.functional.avg_pool2d(image_B3HW[:, :1], 2)) * 10 - 5


@dataclass
class Striped:
    """An image of 128 px in a site's folder: red stripes of ``wide`` pixels, as many apart."""

    wide: int

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        image = np.zeros((128, 128, 3), np.uint8)
        image[:, np.arange(128) // self.wide % 2 == 0] = 255
        return image, (image[..., 0] > 0)[None].astype(np.uint8)


EYE = Eye(128, 2, "none", "squash")


def test_a_site_measures_what_half_the_side_costs() -> None:
    model = Red().train()
    fine, broad = Striped(2), Striped(32)
    how: dict[str, Any] = {"eye": EYE, "stride": 8, "device": torch.device("cpu")}
    of_broad, of_both = (measure_half(model, items, **how) for items in ([broad], [broad, fine]))  # type: ignore[list-item]
    assert of_broad["full"] == 1 and of_broad["half"] > 0.97 and of_broad["variant_images"] == 1
    # Stripes of two pixels are one logit wide at the full side; at half they are grey, -5 + 5 = 0, and no mask but
    # at the image's border.
    assert of_both["full"] == 1 and of_both["variant_images"] == 2
    assert of_broad["half"] / 2 <= of_both["half"] < 0.6
    assert model.training and measure_half(model, [], **how) == {}
    assert "half" not in measure_half(model, [broad], **{**how, "stride": 128})  # type: ignore[list-item]


def test_as_many_images_are_measured_as_looks_are_enough_for() -> None:
    assert [*map(int, map(str, variants.chosen(list(range(3)))))] == [0, 1, 2]  # type: ignore[arg-type]
    found = variants.chosen(list(range(2 * MOST_LOOKS + 1)))  # type: ignore[arg-type]
    assert len(found) == MOST_LOOKS and found[:3] == [0, 2, 4]


def red_onnx(*, image_px: int = 64, external: str | None = None) -> bytes:
    """Return :class:`Red` as an ONNX file; with ``external`` its factor lies in that file."""
    factor = numpy_helper.from_array(np.array([10], np.float32), "factor")
    if external is not None:
        factor.ClearField("raw_data")
        factor.data_location = TensorProto.EXTERNAL
        factor.external_data.add(key="location", value=external)
    five = numpy_helper.from_array(np.array([5], np.float32), "five")
    kernel = numpy_helper.from_array(np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1), "kernel")
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["red"]),
        helper.make_node("AveragePool", ["red"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Mul", ["pooled", "factor"], ["times"]),
        helper.make_node("Sub", ["times", "five"], ["logits"]),
    ]
    ends = (("image", ["batch", 3, image_px, image_px]), ("logits", ["batch", 1, image_px // 2, image_px // 2]))
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    graph = helper.make_graph(nodes, "red", [given], [answer], [factor, five, kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def test_a_site_measures_a_variant_by_the_file_that_will_answer() -> None:
    items: list[Any] = [Striped(32), Striped(2)]
    file = measure_file(red_onnx(), items, image_px=64, data=DataConfig())
    torch_ = measure_half(Red(), items, eye=EYE, stride=8, device=torch.device("cpu"))
    assert file == {"variant": torch_["half"], "variant_images": 2}
    assert measure_file(red_onnx(), [], image_px=64, data=DataConfig()) == {}


@pytest.mark.parametrize(
    ("content", "image_px", "words"),
    [
        (b"nothing", 64, "it is no ONNX file|cannot load it"),
        (red_onnx(), 128, "and its images are"),
        (red_onnx(external="/etc/hostname"), 64, "weights in another file"),
        (red_onnx(external="weights.bin"), 64, "weights in another file"),
    ],
)
def test_a_site_measures_no_file_that_it_should_not_run(content: bytes, image_px: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        measure_file(content, [Striped(2)], image_px=image_px, data=DataConfig())  # type: ignore[list-item]
    assert caught.value.code == "variant.unreadable"


def test_sites_count_by_their_images_and_who_has_measured_one_alone_does_not() -> None:
    north = {"full": 0.9, "half": 0.8, "variant_images": 3}
    south = {"full": 0.5, "half": 0.4, "variant_images": 1}
    east = {"full": 0.1, "variant_images": 9}
    assert together({"north": north, "south": south, "east": east}, name="half") == (0.7, 0.8, 4)
    assert together({"east": east}, name="half") is None


GOOD: dict[str, Any] = {"full": 0.5, "half": 1.0, "variant_images": 3}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"half": 1.01}, "outside"),
        ({"full": float("nan")}, "outside"),
        ({"full": "0.5"}, "outside"),
        ({"variant": 0.5}, "its figures"),
        ({"variant_images": 0}, "not as many"),
        ({"variant_images": 4}, "not as many"),
        ({"variant_images": 2.5}, "not as many"),
    ],
)
def test_figures_that_cannot_be_are_a_bad_reply(change: dict[str, Any], problem: str | None) -> None:
    found = fault_of(GOOD | change, most_images=3, wanted=("full", "half"))
    assert found is None if problem is None else found is not None and problem in found
    assert fault_of({}, most_images=3, wanted=()) is None, "who was not asked sends none"
    assert fault_of({"half": 0.5}, most_images=3, wanted=("full", "half")) is not None, "of no images"
