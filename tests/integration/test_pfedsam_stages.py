"""pFedSAM with all its stages: a personal model at each site, the global one at an unseen one, each exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from engine.config import RunConfig, parse_config
from engine.methods import catalogue
from engine.models.roles import build_role
from engine.planning.plan import plan
from engine.runs.identity import first_stage_of
from engine.stages.context import RunContext
from engine.types import EvaluationRow
from export.manifest import read_manifest
from tests.integration.test_personal_stages import SOURCES, UNSEEN, context_in
from tests.unit.test_personalise import configure as of_two_sites


def configure(method: str = "pfedsam") -> RunConfig:
    values = of_two_sites(method).model_dump(mode="json")
    values["federation"] |= {"learning_rate": 1e-2}
    values["experts"] |= {"distillation_weight": 0.1}
    values |= {"evaluation": {"bootstrap_samples": 20}, "export": {"site_models": True}}
    return parse_config(values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    context = context_in(tmp_path_factory.mktemp("run"), configure())
    for stage in catalogue.make_stages(catalogue.method("pfedsam")):
        stage.run(context)
    return context


def personal(context: RunContext, site: str) -> torch.nn.Module:
    """Put a site's model together from what the server has and what lies on the site's disk."""
    model = build_role(context.config, "student", num_classes=1)
    own = load_file(context.run_dir / "sites" / site / "own_round_000002.safetensors")
    model.load_state_dict(load_file(context.model_path("pfedsam_global")) | own)
    return model.eval()


def served(folder: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])


def test_sites_measure_their_own_and_the_unseen_one_the_global_model(trained: RunContext) -> None:
    rows: list[EvaluationRow] = trained.reporter.rows  # type: ignore[attr-defined]
    assert {(row.model, row.site) for row in rows} == {
        *(("pfedsam_global", site) for site in (*SOURCES, UNSEEN)),
        *(("pfedsam_personal", site) for site in SOURCES),
    }
    differences = trained.reporter.found  # type: ignore[attr-defined]
    assert {(row.model, row.baseline) for row in differences if row.split == "validation"} == {
        ("pfedsam_personal", "pfedsam_global")
    }


def test_every_model_is_exported_with_its_updates_merged(trained: RunContext) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    of_all = build_role(trained.config, "student", num_classes=1)
    of_all.load_state_dict(load_file(trained.model_path("pfedsam_global")))
    models = {"bundle": of_all.eval()} | {f"site_bundles/{site}": personal(trained, site) for site in SOURCES}
    answers = []
    for folder, model in models.items():
        with torch.no_grad():
            expected = model(image).numpy()
        answers.append(expected)
        assert np.allclose(served(trained.run_dir / folder, image), expected, atol=1e-4), folder
        names = {initial.name for initial in onnx.load(trained.run_dir / folder / "model.onnx").graph.initializer}
        assert not any("lora" in name for name in names)
    assert not any(np.allclose(answers[0], other, atol=1e-4) for other in answers[1:])
    assert not np.allclose(answers[1], answers[2], atol=1e-4)
    roles = [read_manifest(trained.run_dir / folder).model.role for folder in models]
    assert roles == ["pfedsam_global", "pfedsam_personal", "pfedsam_personal"]


def test_titles_say_whose_specification_it_is() -> None:
    method = catalogue.method("pfedsam")
    shown = [method.title, method.paper, method.trains, *(model.title for model in method.models)]
    assert all("our specification" in said for said in (*shown, method.stages[0].sentence))
    assert catalogue.model_title("pfedsam_personal", configure()) == "pFedSAM, each site's own (our specification)"


def test_a_plan_counts_its_bytes_and_both_steps(tmp_path: Path) -> None:
    found, plain = (plan(configure(method), home=tmp_path) for method in ("pfedsam", "fedavg_lora"))
    message = 4 * (6 * 2 * 1536 + 624_756)
    for row in found.traffic:
        if row.kind == "student":
            assert row.payload_bytes == (3 if row.direction == "down" else 2) * message
    assert any("7 stay at each site" in said for said in found.leaves_site)
    assert found.stages[0].steps == 2 * plain.stages[0].steps and found.stages[0].minutes >= plain.stages[0].minutes
    assert not [said for said in found.warnings if "has no effect" in said]


def test_its_settings_belong_to_its_first_stage() -> None:
    names = catalogue.method("pfedsam").stage_names
    assert [first_stage_of(key, names) for key in ("lora.rank", "experts.epochs", "export.opset")] == [
        "personal_training", "personal_training", "export"
    ]  # fmt: skip
