"""Which arrays sites share: the parts of real models by each setting, and the table that plans read.

Renew the table after a change of a model with ``python -m tests.unit.test_sharing``.
"""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import FederationConfig, RunConfig, parse_config
from engine.errors import UserError
from engine.models.registry import build_model
from engine.models.sharing import SharedParameters, StateKey
from engine.models.state_keys import shared_parameters, state_keys
from engine.planning.costs import MODELS
from engine.planning.model_keys import COLUMNS, TABLE, TABLE_CLASSES, model_keys, sharing_of, table_rows


def table() -> list[tuple[str, ...]]:
    """Return the whole table, worked out from the models."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for name, size in MODELS:
        with torch.device("meta"):
            model = build_model(name, size=size, num_classes=TABLE_CLASSES, seed=0)
        rows += table_rows(f"{name}/{size}", state_keys(model))
    return rows


def test_the_table_is_that_of_the_models() -> None:
    with TABLE.open(encoding="utf-8", newline="") as file:
        assert [tuple(row) for row in csv.reader(file)] == table()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_the_table_has_the_keys_of_a_model_of_any_number_of_classes(num_classes: int) -> None:
    model = build_model("tinysam", size="mini", num_classes=num_classes, seed=0)
    assert [k.name for k in model_keys("tinysam/mini", num_classes=num_classes)] == list(model.state_dict())


class Layers(nn.Module):
    """A layer of each kind; the names say nothing of what they are."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Conv2d(1, 2, 1)  # is none
        self.a = nn.BatchNorm2d(2)
        self.b = nn.GroupNorm(1, 2)
        self.c = nn.LayerNorm(2)
        self.d = nn.InstanceNorm2d(2, affine=True)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("scale", torch.ones(3))


NORMS = [f"a.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
NORMS += [f"{layer}.{part}" for layer in "bcd" for part in ("weight", "bias")]
CONV, FROZEN = ["norm.weight", "norm.bias"], ["frozen.weight", "frozen.bias"]


def parts(**settings: Any) -> tuple[set[str], set[str], set[str], set[str], bool]:
    found = shared_parameters(Layers(), FederationConfig(**settings), name="layers")
    assert sorted((*found.shared, *found.own, *found.fixed)) == sorted(Layers().state_dict())
    return set(found.shared), set(found.own), set(found.fixed), set(found.averaged_once), found.is_personal


def test_everything_is_shared_unless_something_else_is_said() -> None:
    assert parts() == ({"scale", *CONV, *NORMS, *FROZEN}, set(), set(), set(), False)
    assert shared_parameters(Layers(), FederationConfig(), name="layers").is_everything


def test_fedbn_keeps_normalisation_layers_by_their_type() -> None:
    once = {name for name in NORMS if not name.endswith("num_batches_tracked")}
    assert parts(normalisation="local") == ({"scale", *CONV, *FROZEN}, set(NORMS), set(), once, True)


def test_trainable_leaves_out_what_does_not_learn() -> None:
    """Running statistics learn, too; a constant buffer is nobody's own, for it is the same everywhere."""
    assert parts(shared="trainable") == ({*CONV, *NORMS}, {"scale"}, set(FROZEN), set(), False)
    own = {"scale", *NORMS}
    assert parts(shared="trainable", normalisation="local")[:3] == (set(CONV), own, set(FROZEN))


def test_patterns_choose_and_leave_out() -> None:
    assert parts(shared_parameters=("norm.*", "a.*"), local_parameters=("*.bias",)) == (
        {"norm.weight", *(n for n in NORMS if n.startswith("a.") and n != "a.bias")},
        {"norm.bias", "a.bias", "scale", *(n for n in NORMS if not n.startswith("a."))},
        set(FROZEN),
        set(),
        True,
    )
    once = parts(normalisation="local", local_parameters=("a.*",))[3]
    assert once == {n for n in NORMS if not n.startswith("a.")}, "what no round sends is not sent once either"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"local_parameters": ("decoder.*",)},
            r"'decoder\.\*' in federation.local_parameters matches no key",
        ),
        ({"local_parameters": ("*",)}, r"'\*' in federation.local_parameters matches every key of layers"),
        ({"shared_parameters": ("a.*", "z.*")}, r"'z\.\*' in federation.shared_parameters matches no key"),
        ({"shared_parameters": ("a.running*",)}, "Of layers nothing that is trained is shared"),
        ({"local_parameters": ("[abcdn]*",)}, "Of layers nothing that is trained is shared"),
    ],
)
def test_what_divides_nothing_is_refused_and_keys_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        parts(**settings)
    assert "It has 16 keys, among them scale, a.weight, a.running_var, b.bias, d.weight." in caught.value.why
    assert caught.value.code in ("sharing.pattern", "sharing.nothing")


def test_a_model_without_normalisation_layers_has_none_to_keep() -> None:
    unet = build_model("unet", size="mini", num_classes=1, seed=0)
    with pytest.raises(UserError, match="unet/mini has no normalisation layer with a state"):
        shared_parameters(unet, FederationConfig(normalisation="local"), name="unet/mini")


@pytest.mark.parametrize("num_classes", [1, 2])
def test_a_plan_divides_as_a_run_does(num_classes: int) -> None:
    config = parse_config({"federation": {"normalisation": "local", "local_parameters": ["mask_decoder.*"]}})
    model = build_model("tinysam", size="mini", num_classes=num_classes, seed=0)
    assert sharing_of(config, num_classes=num_classes)[0] == shared_parameters(model, config.federation, name="m")


def test_only_what_is_said_makes_a_run_keep_parts() -> None:
    assert not RunConfig().federation.keeps_parts
    for settings in ({"shared": "trainable"}, {"normalisation": "local"}, {"local_parameters": ("a",)},
                     {"shared_parameters": ("a",)}):  # fmt: skip
        assert FederationConfig(**settings).keeps_parts


def test_parts_of_a_state_are_taken_by_name() -> None:
    keys = [StateKey("b", 4), StateKey("a", 8), StateKey("c", 4)]
    sharing = SharedParameters.choose(keys, FederationConfig(local_parameters=("a",)), model="m")
    assert list(sharing.of({"a": 1, "b": 2, "c": 3}).items()) == [("b", 2), ("c", 3)]


if __name__ == "__main__":
    with TABLE.open("w", encoding="utf-8", newline="") as table_file:
        csv.writer(table_file, lineterminator="\n").writerows(table())
