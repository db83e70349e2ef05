"""The plan of every kind of generator: its table equals the real models, its bytes and sentences are the kind's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config, parse_config
from engine.config_generators import GENERATORS as SPECS
from engine.errors import UserError
from engine.planning import plan
from engine.planning.costs import GENERATORS
from engine.planning.generator_costs import PIXEL_GENERATORS, generator_work


def test_the_table_of_the_other_kinds_of_generator_equals_the_models() -> None:
    import torch

    from engine.generation.backbone import build_backbone
    from engine.generation.generators import GeneratorSetup, kind_of
    from engine.generation.kinds import ddpm, pix2pix

    with torch.device("meta"):
        backbones = {size: build_backbone(size, seed=0) for size in GENERATORS}

    def sent(config: RunConfig, size: str = "mini") -> int:
        outline: Any = backbones[size]
        device = torch.device("cpu")
        setup = GeneratorSetup(config=config, prompt="", device=device, backbone=outline, outline=lambda: outline)
        return sum(math.prod(shape) for shape in kind_of(config).shapes(setup).values())

    for kind, size in PIXEL_GENERATORS:
        config = parse_config({"generator": {"kind": kind}, kind: {"size": size}})
        assert generator_work(config).sent_parameters == sent(config)
        sizes: Any = {"pix2pix": pix2pix.SIZES, "ddpm": ddpm.SIZES}[kind]
        assert generator_work(config).multiple_px == sizes[size].multiple_px
    for size, name in (("mini", "ldm-mini"), ("sd15", "sd15")):
        values = {"generator": {"kind": "controlnet_lora", "backbone": name}, "generator_lora": {"rank": 5}}
        config = parse_config(values)
        assert generator_work(config).sent_parameters == sent(config, size)
    judge = pix2pix._new_judge(pix2pix.SIZES["mini"], seed=0)
    assert sum(p.numel() for p in judge.parameters()) == PIXEL_GENERATORS["pix2pix", "mini"].judge_parameters


@pytest.mark.parametrize("kind", ["controlnet_lora", "pix2pix", "ddpm"])
def test_the_plan_of_another_kind_has_its_bytes_and_its_sentence(kind: str, tmp_path: Path) -> None:
    made = plan(load_config("phantom_cpu_smoke", overrides={"generator.kind": kind}), home=tmp_path)
    expected = generator_work(parse_config({"generator": {"kind": kind}})).sent_parameters
    assert {row.payload_bytes for row in made.traffic if row.kind == "generator"} == {2 * expected}
    assert any(f"({SPECS[kind].title}) goes up once" in sentence for sentence in made.leaves_site)
    assert any("backbone" in warning for warning in made.warnings) is False


def test_settings_that_a_kind_does_not_read_are_named(tmp_path: Path) -> None:
    made = plan(
        load_config("phantom_cpu_smoke", overrides={"generator.kind": "pix2pix", "generator.accumulation": 3}),
        home=tmp_path,
    )
    assert any(w == "generator.accumulation has no effect: generator.kind is 'pix2pix'." for w in made.warnings)
    odd = load_config("phantom_cpu_smoke", overrides={"ddpm.size": "paper"})
    assert any(w.startswith("[ddpm] has no effect") for w in plan(odd, home=tmp_path).warnings)
    with pytest.raises(UserError) as caught:
        plan(load_config("phantom_cpu_smoke", overrides={"generator.kind": "pix2pix", "generator.image_px": 72}))
    assert caught.value.code == "generator.image_size"
