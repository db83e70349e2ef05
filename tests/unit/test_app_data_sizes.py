"""Sizes that follow from the images, in the form: what a person changed, and what is said."""

from __future__ import annotations

from app import data_sizes, forms
from engine.planning.sizes import Size


def form_of(**changed: object) -> dict[str, object]:
    fields = forms.form_fields()
    values = dict(zip((field.key for field in fields), forms.preset_values("real_cpu", fields), strict=True))
    return values | {key.replace("__", "."): value for key, value in changed.items()}


def test_what_holds_neither_the_presets_value_nor_the_fitted_one_is_by_hand() -> None:
    assert data_sizes.by_hand(form_of(), preset="real_cpu", fitted={}) == frozenset()
    fitted = {"federation.rounds": 100}
    values = form_of(federation__rounds=100, data__image_px=96)
    assert data_sizes.by_hand(values, preset="real_cpu", fitted=fitted) == {"data.image_px"}
    assert data_sizes.by_hand(values, preset="real_cpu", fitted={}) == {"data.image_px", "federation.rounds"}
    back = form_of(federation__rounds=25)
    assert data_sizes.by_hand(back, preset="real_cpu", fitted=fitted) == frozenset(), "as the preset has it"


def test_only_real_cpu_follows_by_itself() -> None:
    followed = [name for name in ("real_cpu", "polyp_cpu", "fundus_paper", None) if data_sizes.follows(name)]
    assert followed == ["real_cpu"]


def test_each_size_is_said_with_its_label_value_and_reason_escaped() -> None:
    said = data_sizes.shown([Size("data.image_px", 192, "objects < 3 cells")], name="<cells>")
    assert "192" in said and "objects &lt; 3 cells" in said and "&lt;cells&gt;" in said
    assert "data.image_px" not in said
    assert "hospitals" in data_sizes.shown([], name="x")
