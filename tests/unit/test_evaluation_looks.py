"""Which way of looking a model is best at: measured at a site within bounds, put together, checked where it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from engine.data import tiling
from engine.data.tiling import Eye
from engine.evaluation import looks
from engine.evaluation.looks import fault_of, measure_looks, together

EYE = Eye(64, 2, "none", "squash")


class Red(nn.Module):
    """Ten times the red channel minus five, on half the image's grid; noise while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.9)

    def forward(self, image_B3HW: torch.Tensor) -> torch.Tensor:
        return self.noise(nn.functional.avg_pool2d(image_B3HW[:, :1], 2)) * 10 - 5


@dataclass
class Striped:
    """An image of 256 px in a site's folder: stripes of two pixels, two apart."""

    name: str
    read_by: list[str]
    site: str = "north"
    group: str = ""
    size_px: int = field(default=256)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        self.read_by.append(self.name)
        image = np.zeros((self.size_px, self.size_px, 3), np.uint8)
        image[:, ::4] = image[:, 1::4] = 255
        return image, (image[..., 0] > 0)[None].astype(np.uint8)


def test_a_site_measures_the_model_as_it_is_served() -> None:
    model, read = Red().train(), []  # type: ignore[var-annotated]
    found = measure_looks(model, [Striped("a", read), Striped("b", read)], eye=EYE, device=torch.device("cpu"))
    assert found is not None and found["num_images"] == 2 and model.training
    assert found["parts"] == 1 and found["whole"] < 0.8 < found["fine"], "only parts see every pixel as it is"
    assert measure_looks(model, [], eye=EYE, device=torch.device("cpu")) is None


def test_as_many_images_as_the_looks_are_enough_for_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    size_hw = (256, 256)
    each = [EYE.num_looks(size_hw, way) for way in looks.WAYS]
    assert each == [1, 5 * 5, 7 * 7], "steps of 48 px at most, of 256 and of 341 px"
    for most, names in ((75 * 3 + 74, ["0", "2", "4"]), (75 * 9, list("0123456")), (10, ["0"])):
        monkeypatch.setattr(looks, "MOST_LOOKS", most)
        read: list[str] = []
        items = [Striped(str(number), read) for number in range(7)]
        found = measure_looks(Red(), items, eye=EYE, device=torch.device("cpu"))
        assert found is not None and found["num_images"] == len(names)
        assert read[1:] == names, "the first is read for its size"
    assert tiling.MOST_LOOKS == 200


def test_a_measurement_ends_where_the_run_is_stopped() -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        measure_looks(Red(), [Striped("a", [])], eye=EYE, device=torch.device("cpu"), check_cancelled=stop)


def test_sites_count_by_their_images() -> None:
    north = {"whole": 0.5, "parts": 0.8, "fine": 1.0, "num_images": 3}
    south = {"whole": 0.9, "parts": 0.4, "fine": 0.0, "num_images": 1}
    assert together([north, south]) == {"whole": 0.6, "parts": 0.7, "fine": 0.75, "num_images": 4}
    assert together([]) is None


GOOD: dict[str, Any] = {"whole": 0.5, "parts": 0.0, "fine": 1.0, "num_images": 3}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"whole": 1.01}, "outside"),
        ({"fine": -0.01}, "outside"),
        ({"parts": float("nan")}, "outside"),
        ({"num_images": 0}, "outside"),
        ({"num_images": 4}, "outside"),
        ({"num_images": 2.5}, "outside"),
        ({"whole": [0.5]}, "its figures are"),
        ({"more": 1.0}, "its figures are"),
    ],
)
def test_figures_that_cannot_be_are_a_bad_reply(change: dict[str, Any], problem: str | None) -> None:
    found = fault_of(GOOD | change, most_images=3)
    assert found is None if problem is None else found is not None and problem in found
    assert fault_of({}, most_images=3) is None, "who was not asked sends none"
    assert fault_of({"whole": 0.5}, most_images=3) is not None
