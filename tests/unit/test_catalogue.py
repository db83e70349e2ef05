"""The catalogue: what is registered fits together, what is faulty is refused, and everything named in it exists."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.config import RunConfig, load_config, parse_config, parse_stored_config
from engine.config_keys import unread_sections
from engine.config_text import to_toml
from engine.errors import UserError
from engine.methods import catalogue

DSFEDMED = catalogue.method("dsfedmed")


def test_every_stage_and_cost_that_is_named_exists() -> None:
    for method in catalogue.methods().values():
        stages = catalogue.make_stages(method)
        assert tuple(stage.name for stage in stages) == method.stage_names
        assert all(callable(catalogue.load_entry(spec.cost)) for spec in method.stages)
        assert method.stage_names[-2:] == ("evaluation", "export") and method.title and method.paper


def test_every_kind_of_message_is_described() -> None:
    kinds = catalogue.kinds()
    names = ["student", "normalisation", "generator", "masks", "distilled", "statistics", "candidate"]
    names += ["checked_teacher", "evaluated", "figures", "own", "appearance", "public", "teacher", "public_predictions"]
    assert list(kinds) == [*names, "metrics"]
    assert all(kind.title and kind.contents.endswith(".") for kind in kinds.values())


def test_models_come_in_the_order_of_making_and_are_compared_with_models() -> None:
    names = [model.name for model in DSFEDMED.models]
    assert names == [
        "fedavg_student",
        "personal_student",
        "finetuned_teacher",
        "distilled_teacher",
        "distilled_student",
    ]
    assert [model.name for model in DSFEDMED.models if model.scope == "site"] == ["personal_student"]
    compared = [(model.name, other) for model in reversed(DSFEDMED.models) for other in model.compared_with]
    assert compared == [
        ("distilled_student", "fedavg_student"),
        ("distilled_teacher", "finetuned_teacher"),
        ("distilled_teacher", "distilled_student"),
        ("personal_student", "fedavg_student"),
    ]
    assert {other for _, other in compared} <= set(names)


@pytest.mark.parametrize(
    ("method", "mode", "selector", "rate", "mutual"),
    [
        ("dsfedmed", "paper", "sample", 0.3, True),
        ("dsfedmed_no_selection", "paper", "top_k", 1.0, True),
        ("dsfedmed_one_way", "paper", "sample", 0.3, False),
        ("dsfedmed_plain", "paper", "top_k", 1.0, False),
        ("dsfedmed_reference", "reference", "in_batch_quantile", 0.3, True),
    ],
)
def test_a_method_is_what_it_is_whatever_else_is_given(
    method: str, mode: str, selector: str, rate: float, mutual: bool, tmp_path: Path
) -> None:
    given = {"mutual": True, "selection_rate": 0.3, "selector": "sample", "epochs": 7}
    config = parse_config({"method": method, "distillation": given})
    part = config.distillation
    assert (part.mode, part.selector, part.selection_rate, part.mutual, part.epochs) == (
        mode,
        selector,
        rate,
        mutual,
        7,
    )
    (tmp_path / "copy.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "copy.toml") == config == parse_config(config.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("method", "mu", "normalisation"),
    [("fedtinysam", 0.3, "average"), ("fedtinysam_fedprox", 0.01, "average"), ("fedtinysam_fedbn", 0.3, "local")],
)
def test_a_baseline_is_fedtinysam_with_one_key_of_its_own(method: str, mu: float, normalisation: str) -> None:
    part = parse_config({"method": method, "federation": {"proximal_mu": 0.3}}).federation
    assert (part.proximal_mu, part.normalisation) == (mu, normalisation)
    assert catalogue.method(method).stages == catalogue.method("fedtinysam").stages


def test_sections_that_a_method_does_not_read_are_accepted_and_not_written(tmp_path: Path) -> None:
    kinds, tuned = {"generator_lora", "pix2pix", "ddpm"}, {"lora", "experts", "public", "samfed", "join"}
    unread = {"teacher", "generator", "release", "generation", "foundation", "distillation", *kinds, *tuned}
    assert (
        unread_sections("dsfedmed", "controlnet") == kinds | tuned and unread_sections("fedtinysam", "ddpm") == unread
    )
    assert unread_sections("dsfedmed", "pix2pix") == kinds - {"pix2pix"} | tuned
    assert unread_sections("fedavg_lora", "ddpm") == unread - {"lora"} and not {"lora", "experts"} & unread_sections(
        "pfedsam", "ddpm"
    )
    config = parse_config({"method": "fedtinysam", "distillation": {"epochs": 7}, "federation": {"rounds": 3}})
    assert config.distillation.epochs == 7
    (tmp_path / "copy.toml").write_text(to_toml(config))
    read = load_config(tmp_path / "copy.toml")
    assert read.federation == config.federation and read.distillation == RunConfig().distillation


def test_what_is_not_registered_is_called_by_its_name() -> None:
    assert [catalogue.stage_title("gone"), catalogue.model_title("gone"), catalogue.method_title("gone")] == [
        "gone"
    ] * 3
    assert catalogue.sections_of(["gone", "export"]) == ("export",)


def test_an_entry_that_cannot_be_imported_is_named() -> None:
    for entry in ("engine.stages.export:Nothing", "not_there:Export", "engine.stages.export"):
        with pytest.raises(UserError, match=entry) as caught:
            catalogue.load_entry(entry)
        assert caught.value.code == "method.entry"


def test_a_method_that_is_not_registered_is_refused_and_its_runs_can_still_be_read() -> None:
    with pytest.raises(UserError, match=r"no method 'toy'; there are dsfedmed, .*fedtinysam") as caught:
        parse_config({"method": "toy"})
    assert caught.value.code == "config.invalid"
    assert parse_stored_config({"method": "toy", "seed": 7}).method == "toy"
    with pytest.raises(UserError, match="DSFEDMED_METHODS"):
        catalogue.method("toy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        (
            "from engine.methods.catalogue import *\nregister(MethodSpec('fedtinysam', 'Mine', 'none', ()))",
            "another method",
        ),
        ("from engine.methods.dsfedmed import *\nregister(MethodSpec('m', 'M', 'none', STAGES[1:]))", None),
        (
            "from engine.methods.dsfedmed import *\nregister(MethodSpec('m', 'M', 'none', STAGES[::-1]))",
            "the first stage",
        ),
        (
            "from engine.methods.dsfedmed import *\nregister(MethodSpec('m', 'M', '', STAGES, {'data.pixels': 3}))",
            "no key",
        ),
        ("from engine.methods.dsfedmed import *\nregister(MethodSpec('../m', 'M', '', STAGES))", "no name"),
        (
            "from dataclasses import replace\nfrom engine.methods.dsfedmed import *\n"
            "register(MethodSpec('m', 'M', '', (replace(STAGES[1], reads=('generators',)),)))",
            "another StageSpec",
        ),
        (
            "from engine.methods.catalogue import *\n"
            "stage = StageSpec('s', 'S', '.', entry='a:B', cost='a:c', reads=('dataa',))\n"
            "register(MethodSpec('m', 'M', '', (stage,)))",
            "dataa",
        ),
    ],
)
def test_a_faulty_file_is_named_and_nothing_is_taken_for_a_method(
    text: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue.methods()
    for name in ("_methods", "_known"):
        monkeypatch.setattr(catalogue, name, dict(getattr(catalogue, name)))
    monkeypatch.setattr(catalogue, "_is_loaded", False)
    (tmp_path / "a_method_file.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_method_file", raising=False)
    monkeypatch.setenv("DSFEDMED_METHODS", "a_method_file")
    if words is None:
        assert "m" in catalogue.methods()
        return
    for _ in range(2):  # it is no better when asked again
        with pytest.raises(UserError, match=words) as caught:
            parse_config({})
        assert caught.value.code == "method.module" and "a_method_file" in caught.value.what
        assert "m" not in catalogue._methods
