"""The page's options of how a model runs: looks, and the faster variants of a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app import variant_choice
from export.manifest import Manifest, read_manifest

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "models" / "nuclei_cpu"
PARITY = {
    "max_abs_difference": 2e-5, "mean_abs_difference": 1e-6, "mask_disagreement": 0.0, "tolerance": 1e-4,
    "num_images": 4,
}  # fmt: skip


def manifest(*, loss: float = 0.004, looks: str = "whole") -> Manifest:
    """Return the shipped model's manifest with two variants, half the side 4 times as fast."""
    values = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
    side = values["image_px"]
    rows = [("full", "model.onnx", side, "float32", 0.04, None), ("half", "model_half.onnx", side // 2, "float32",
            0.01, loss), ("int8", "model_int8.onnx", side, "int8", 0.03, None)]  # fmt: skip
    values["variants"] = [
        {
            "name": name, "file": file, "image_px": px, "precision": precision, "parity": PARITY,
            "timing": {"seconds": seconds, "threads": 2, "repeats": 9},
            "measured": None if lost is None else {"dice": 0.9 - lost, "full": 0.9, "num_images": 42},
        }
        for name, file, px, precision, seconds, lost in rows
    ]  # fmt: skip
    values["files"] |= {row[1]: {"sha256": "0" * 64, "size_bytes": 5_400_000} for row in rows}
    dice = {"whole": 0.9, "parts": 0.9, "fine": 0.9, "num_images": 42} | {looks: 0.95}
    return Manifest.model_validate(values | {"looks": dice})


def test_variants_are_options_after_the_whole_and_say_what_they_cost() -> None:
    found = variant_choice.choices(manifest())
    assert [value for _, value in found] == ["whole", "whole/half", "whole/int8", "parts", "fine"]
    assert found[1][0].endswith("by half: 4.0 times as fast, -0.4 points of Dice")
    assert found[2][0].endswith("by int8: 1.3 times as fast, Dice not measured")
    assert "+0.0 points" in variant_choice.choices(manifest(loss=0.0003))[1][0]


@pytest.mark.parametrize(
    ("loss", "looks", "chosen"),
    [(0.004, "whole", "whole/half"), (0.006, "whole", "whole"), (0.004, "parts", "parts")],
)
def test_the_rules_choice_stands_there_at_first(loss: float, looks: str, chosen: str) -> None:
    assert variant_choice.by_itself(manifest(loss=loss, looks=looks)) == chosen


def test_an_option_says_how_it_looks_and_which_variant_answers() -> None:
    found = manifest()
    assert variant_choice.read(found, "whole") == ("whole", "full"), "who chooses the whole has the model itself"
    assert variant_choice.read(found, "whole/int8") == ("whole", "int8")
    assert variant_choice.read(found, "parts") == ("parts", "full")
    assert variant_choice.read(found, "whole/of_another_model") == ("whole", "auto")


def test_a_bundle_of_before_has_the_three_looks_and_no_fact_of_variants() -> None:
    shipped = read_manifest(SHIPPED).model_copy(update={"variants": ()})
    assert [value for _, value in variant_choice.choices(shipped)] == ["whole", "parts", "fine"]
    assert variant_choice.facts(shipped) is None


def test_facts_have_side_time_and_cost_of_each() -> None:
    found = manifest()
    full, half = found.image_px, found.image_px // 2
    assert variant_choice.facts(found) == (
        f"full {full} px, 40.0 ms, the model itself; half {half} px, 10.0 ms, -0.4 points of Dice; int8 {full} px, "
        "30.0 ms, Dice not measured. Threads: 2. Sizes and differences to PyTorch are in the model card."
    )


def test_an_answer_names_the_variant_that_gave_it() -> None:
    found = manifest()
    full, half, _ = found.variants
    assert variant_choice.named(found, full) == found.name
    assert variant_choice.named(found, half) == f"{found.name}, variant half ({half.image_px} px)"
