"""Stored labels to class planes, as declared."""

from __future__ import annotations

import numpy as np
import pytest

from engine.data.masks import MaskRule, MaskValueError

ONE = ("blob",)
TWO = ("disc", "cup")


@pytest.mark.parametrize(
    ("rule", "stored", "expected"),
    [  # stored (1, 4)
        (MaskRule(ONE), [0, 1, 1, 0], [0, 1, 1, 0]),
        (MaskRule(ONE), [0, 255, 255, 0], [0, 1, 1, 0]),
        (MaskRule(ONE), [0, 0, 0, 0], [0, 0, 0, 0]),
        (MaskRule(ONE, values=(255, 0)), [0, 255, 0, 0], [1, 0, 1, 1]),
        (MaskRule(ONE, values=(3, 7)), [3, 7, 7, 3], [0, 1, 1, 0]),
        (MaskRule(ONE, threshold=128), [0, 127, 128, 255], [0, 0, 1, 1]),
        (MaskRule(ONE, values={"blob": (2, 4)}, background=(0, 1)), [0, 1, 2, 4], [0, 0, 1, 1]),
    ],
)
def test_one_class(rule: MaskRule, stored: list[int], expected: list[int]) -> None:
    planes = rule.planes([np.array([stored], np.uint8)])
    assert planes.dtype == np.uint8
    np.testing.assert_array_equal(planes, [[expected]])


def test_several_classes_from_files_channels_and_a_label_map() -> None:
    disc, cup = np.uint8([[0, 1, 1, 1]]), np.uint8([[0, 0, 1, 0]])
    expected = np.stack([disc, cup])  # the cup lies inside the disc: planes overlap
    np.testing.assert_array_equal(MaskRule(TWO).planes([disc * 255, cup]), expected)
    np.testing.assert_array_equal(MaskRule(TWO).planes([np.stack([disc, cup], axis=-1)]), expected)
    label_map = MaskRule(TWO, values={"disc": (0, 128), "cup": (0,)}, background=(255,))  # as REFUGE stores it
    np.testing.assert_array_equal(label_map.planes([np.uint8([[255, 128, 0, 128]])]), expected)


@pytest.mark.parametrize(
    ("rule", "stored", "message"),
    [
        (MaskRule(ONE), np.uint8([[0, 1, 2]]), "0, 1, 2, but only {0, 1} or {0, 255}"),
        (MaskRule(ONE), np.uint8([[1, 255]]), "1, 255"),
        (MaskRule(ONE), np.arange(20, dtype=np.uint8)[None], r"… \(20 different\)"),
        (MaskRule(ONE, values=(0, 2)), np.uint8([[0, 1]]), "only {0, 2}"),
        (MaskRule(TWO, values={"disc": (1,), "cup": (2,)}), np.uint8([[0, 3]]), r"only \[0, 1, 2\]"),
        (MaskRule(TWO), np.uint8([[0, 1]]), "2 classes"),
        (MaskRule(ONE), np.zeros((2, 2, 2), np.uint8), "2 channels"),
    ],
)
def test_what_is_not_declared_is_refused(rule: MaskRule, stored: np.ndarray, message: str) -> None:
    with pytest.raises(MaskValueError, match=message):
        rule.planes([stored])
