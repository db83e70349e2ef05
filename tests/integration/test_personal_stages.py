"""Training, evaluation and export of a run whose sites keep their normalisation layers, on phantoms with TinySAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from bench.reporting import ConsoleReporter
from engine.config import RunConfig, parse_config
from engine.data.datasets import load_federation
from engine.errors import UserError
from engine.evaluation.segmentation import evaluate_model
from engine.evaluation.spread import site_spread
from engine.federation.payload import payload_bytes
from engine.federation.tasks import OWN_ROUND, SHARE_OWN
from engine.models.roles import build_role
from engine.runs.checkpoint import CheckpointStore
from engine.site.program import SiteProgram
from engine.stages.context import RunContext
from engine.stages.evaluation import ROWS_FILE, Evaluation
from engine.stages.export import Export
from engine.stages.federated_training import FederatedTraining
from engine.stages.files import read_json
from engine.stages.site_models import site_model
from engine.types import EvaluationRow, ModelDifference, Traffic
from export.manifest import read_manifest

SOURCES, UNSEEN = ("dapi_20x", "he_pink"), "he_violet"


def configure() -> RunConfig:
    return parse_config(
        {
            "method": "fedtinysam", "device": "cpu", "precision": "fp32", "seed": 5, "threads": 1, "pos_weight": 5.0,
            "data": {"task": "nuclei", "images_per_site": 6, "image_px": 64, "sites": list(SOURCES), "held_out": UNSEEN,
                     "validation_fraction": 0.34, "normalise": "per_image"},
            "student": {"name": "tinysam", "weights": "tinysam-mini"},
            "federation": {"rounds": 2, "batch_size": 2, "learning_rate": 1e-3, "normalisation": "local"},
            "evaluation": {"bootstrap_samples": 50},
            "export": {"site_models": True},
        }
    )  # fmt: skip


class Kept(ConsoleReporter):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        super().__init__("test")
        self.rows: list[EvaluationRow] = []
        self.found: list[ModelDifference] = []
        self.records: list[Traffic] = []

    def evaluation(self, rows: Sequence[EvaluationRow]) -> None:
        self.rows += rows

    def differences(self, rows: Sequence[ModelDifference]) -> None:
        self.found += rows

    def traffic(self, record: Traffic) -> None:
        self.records.append(record)


def context_in(folder: Path, config: RunConfig) -> RunContext:
    store = CheckpointStore(folder / "checkpoints", config.content_hash(), warn=print)
    return RunContext(config=config, run_dir=folder, reporter=Kept(), checkpoints=store)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    context = context_in(tmp_path_factory.mktemp("run"), configure())
    for stage in (FederatedTraining(), Evaluation(), Export()):
        stage.run(context)
    return context


def personal(context: RunContext, site: str) -> torch.nn.Module:
    """Put a site's model together from what the server has and what lies on the site's disk."""
    model = build_role(context.config, "student", num_classes=1)
    state = load_file(context.model_path("personal_student"))
    own = load_file(context.run_dir / "sites" / site / "own_round_000002.safetensors")
    assert not state.keys() & own.keys()
    model.load_state_dict({**state, **own})
    return model


def test_each_site_measures_its_own_model_and_the_unseen_one_that_of_all(trained: RunContext) -> None:
    rows = trained.reporter.rows  # type: ignore[attr-defined]
    assert {(row.model, row.site) for row in rows} == {
        *(("fedavg_student", site) for site in (*SOURCES, UNSEEN)),
        *(("personal_student", site) for site in SOURCES),
    }
    federation = load_federation(trained.config.data, seed=trained.config.seed)
    for site in SOURCES:
        (row,) = (r for r in rows if (r.model, r.site) == ("personal_student", site))
        how: dict[str, Any] = {"classes": ("nucleus",), "model_name": "m", "site": site, "split": "validation"}
        how |= {"config": trained.config.evaluation, "seed": 5, "device": torch.device("cpu"), "precision": "fp32"}
        (expected,), _ = evaluate_model(personal(trained, site), federation.sites[site].validation, **how)
        assert row.dice == pytest.approx(expected.dice, abs=1e-9) and row.num_images == expected.num_images
        (of_all,) = (r for r in rows if (r.model, r.site) == ("fedavg_student", site))
        assert row.dice != of_all.dice


def test_the_model_of_all_has_the_mean_of_the_sites_layers(trained: RunContext) -> None:
    of_all, shared = load_file(trained.model_path("fedavg_student")), load_file(trained.model_path("personal_student"))
    own = {s: load_file(trained.run_dir / "sites" / s / "own_round_000002.safetensors") for s in SOURCES}
    counts = trained.description.num_train
    assert all(torch.equal(of_all[name], shared[name]) for name in shared)
    averaged = [name for name in own[SOURCES[0]] if not name.endswith("num_batches_tracked")]
    assert len(averaged) == 124 and counts[SOURCES[0]] > 0
    for name in averaged:
        mean = sum(counts[site] * own[site][name].double() for site in SOURCES) / sum(counts.values())
        assert torch.allclose(of_all[name].double(), mean, rtol=1e-6), name


def test_worst_site_and_gain_are_those_of_the_sites_own_models(trained: RunContext) -> None:
    reporter: Any = trained.reporter
    dice = {row.site: row.dice for row in reporter.rows if row.model == "personal_student"}
    (spread,) = (s for s in site_spread(reporter.rows) if s.model == "personal_student")
    assert (spread.worst_dice, spread.num_sites, spread.split) == (min(dice.values()), 2, "validation")
    gains = {d.site: d.dice for d in reporter.found if (d.model, d.baseline) == ("personal_student", "fedavg_student")}
    of_all = {row.site: row.dice for row in reporter.rows if row.model == "fedavg_student"}
    assert gains == pytest.approx({site: dice[site] - of_all[site] for site in SOURCES})


def test_what_is_measured_goes_down_without_what_stays(trained: RunContext) -> None:
    shared = {k: v.numpy() for k, v in load_file(trained.model_path("personal_student")).items()}
    of_all = {k: v.numpy() for k, v in load_file(trained.model_path("fedavg_student")).items()}
    sent = [(r.site, r.payload_bytes) for r in trained.reporter.records if r.kind == "evaluated"]  # type: ignore[attr-defined]
    expected = [(site, payload_bytes(of_all)) for site in (*SOURCES, UNSEEN)]
    assert sorted(sent) == sorted([*expected, *((site, payload_bytes(shared)) for site in SOURCES)])


@pytest.mark.parametrize("site", SOURCES)
def test_each_sites_own_model_is_exported_where_that_is_asked_for(trained: RunContext, site: str) -> None:
    reporter: Any = trained.reporter
    folder = trained.run_dir / "site_bundles" / site
    manifest = read_manifest(folder)
    assert manifest.model.role == "personal_student" and {row["site"] for row in manifest.metrics} == {site}
    image = np.random.default_rng(3).random((1, 3, 64, 64), dtype=np.float32)
    with torch.no_grad():
        expected = personal(trained, site).eval()(torch.from_numpy(image)).numpy()
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    own = load_file(trained.run_dir / "sites" / site / "own_round_000002.safetensors")
    asked = [r.payload_bytes for r in reporter.records if (r.site, r.kind) == (site, "own")]
    assert asked == [payload_bytes({name: tensor.numpy() for name, tensor in own.items()})]


def test_a_site_that_keeps_its_part_has_no_bundle_at_the_server(
    trained: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = next(model for model in trained.models if model.scope == "site")

    def refuse(_self: Any, request: Any, **_how: Any) -> Any:
        raise UserError("federation.refused", what="No.", why="Its rules.", fix="Ask.")

    monkeypatch.setattr(SiteProgram, "answer", refuse)
    assert site_model(trained, spec, SOURCES[0]) is None


def test_a_site_gives_its_part_only_in_a_run_that_says_so(tmp_path: Path) -> None:
    values = configure().model_dump(mode="json")
    values["export"]["site_models"] = False
    sites = context_in(tmp_path, parse_config(values)).sites
    with pytest.raises(UserError, match=f"Site {SOURCES[0]} was asked for its own part") as caught:
        sites.ask(SHARE_OWN, kind="own", to=SOURCES[:1], settings={OWN_ROUND: 1})
    assert caught.value.code == "federation.not_asked_for"


def test_the_model_of_all_is_the_one_that_is_deployed(trained: RunContext) -> None:
    assert read_manifest(trained.run_dir / "bundle").model.role == "fedavg_student"
    assert {row["model"] for row in read_json(trained.run_dir / ROWS_FILE)} == {"fedavg_student", "personal_student"}
