"""Sites alone and pooled images: what is trained on and measured, on phantoms with the mini models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.cli import main
from engine.config import parse_config
from engine.data.datasets import load_federation
from engine.errors import UserError
from engine.evaluation.tables import format_table, named
from engine.methods import catalogue
from engine.planning import plan
from engine.site.data import sites_here
from engine.stages.evaluation import Evaluation
from engine.stages.federated_training import FederatedTraining
from tests.contract.test_systems import SITES, configured
from tests.integration.test_personal_stages import context_in


def test_sites_alone_are_measured_by_their_own_models_and_a_new_one_has_the_first_weights(tmp_path: Path) -> None:
    values = configured("local_only").model_dump(mode="json")
    config = parse_config({**values, "evaluation": {"bootstrap_samples": 20}})
    context = context_in(tmp_path, config)
    for stage in (FederatedTraining(), Evaluation()):
        stage.run(context)
    reporter: Any = context.reporter
    assert {(row.model, row.site) for row in reporter.rows if row.split == "validation"} == {
        (model, site) for model in ("fedavg_student", "personal_student") for site in SITES
    }
    first, saved = context.new_model("student"), context.load_model("student", "fedavg_student")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), saved.parameters(), strict=True))
    of_site = {row.site: row.dice for row in reporter.rows if row.model == "personal_student"}
    of_all = {row.site: row.dice for row in reporter.rows if row.model == "fedavg_student"}
    assert all(of_site[site] != of_all[site] for site in SITES)
    table = format_table(named(reporter.rows, config))
    assert "TinySAM, first weights" in table and "TinySAM, each site alone" in table and "FedAvg" not in table


def test_pooled_images_are_the_union_of_what_each_site_would_train_on() -> None:
    config = configured("centralised_sam")
    federation = load_federation(config.data, seed=config.seed)
    pooled = sites_here(config, federation=federation)
    assert list(pooled) == ["all_sites", "he_violet"]
    for part in ("train", "validation"):
        whole = [(item.site, item.name) for item in getattr(pooled["all_sites"], part).items]
        assert whole == [(i.site, i.name) for site in SITES for i in getattr(federation.sites[site], part).items]
    assert not set(SITES) & {item.site for item in pooled["he_violet"].test.items}


def test_images_are_pooled_on_one_machine_only_and_the_plan_says_so(tmp_path: Path) -> None:
    made = plan(configured("centralised_sam"), home=tmp_path)
    assert "no federation" in made.leaves_site[0]
    assert [site.site for site in made.sites] == ["all_sites", "he_violet"]
    values = configured("centralised_sam").model_dump(mode="json") | {"backend": "superlink", "server": str(tmp_path)}
    with pytest.raises(UserError, match=r"data\.pooled needs backend 'local'"):
        parse_config(values)


@pytest.mark.parametrize("method", ["fedsam", "fedmsa", "fedunet", "fednnunet"])
def test_plans_say_what_a_system_fixes_and_sends(method: str, tmp_path: Path) -> None:
    config = configured(method)
    made = plan(config, home=tmp_path)
    assert any(f'student.name is "{config.student.name}"' in warning for warning in made.warnings)
    (sent,) = {row.payload_bytes for row in made.traffic if (row.kind, row.direction) == ("student", "up")}
    # Two rounds; positional tensors of the plan's table are those of the native side.
    expected = {"fedsam": 14_286_848, "fedmsa": 4 * 848_820, "fedunet": 6_501_680, "fednnunet": 5_161_552}[method]
    assert sent == 2 * expected


def test_a_table_names_models_by_the_system() -> None:
    names = {method: catalogue.model_title("fedavg_student", configured(method)) for method in catalogue.methods()}
    assert names["fedsam"] == "FedSAM" and names["fednnunet"] == "FednnU-Net" and names["fedmsa"] == "FedMSA"
    values = configured("dsfedmed").model_dump(mode="json")
    values["student"] |= {"name": "unet", "weights": None}
    values["teacher"] |= {"name": "msa"}
    config = parse_config(values)
    found = [catalogue.model_title(name, config) for name in ("distilled_student", "distilled_teacher")]
    assert found == ["U-Net, mutually distilled", "SAM with adapters, mutually distilled"]
    assert catalogue.model_title("fedavg_student") == "TinySAM, FedAvg only"


def test_the_command_lists_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)["methods"]}
    assert listed.keys() == catalogue.methods().keys()
    assert listed["centralised_sam"]["modes"] == ["local"] and "superlink" in listed["fedsam"]["modes"]
    assert listed["fedmsa"]["fixes"] == {"federation.shared": "trainable", "student.name": "msa"}
    assert "student" in listed["fedsam"]["kinds"] and "generator" not in listed["fedsam"]["kinds"]
    assert "masks" in listed["dsfedmed"]["kinds"]
    assert main(["methods"]) == 0
    assert "fedunet: FedU-Net" in capsys.readouterr().out
