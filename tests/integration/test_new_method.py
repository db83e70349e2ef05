"""One new file adds a method: it plans, runs, is killed and resumed, is shown, exported and forked like the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from app import forms, markup, plots, viewmodels
from engine.config import RunConfig, load_config, parse_config
from engine.config_text import to_toml
from engine.errors import UserError
from engine.methods import catalogue
from engine.planning import plan
from engine.runs import lifecycle
from engine.runs.store import RunStore
from export.manifest import read_manifest
from tests.patience import RUN_S, wait

MODULE = "tests.integration.toy_method"
STAGES = ("federated_training", "trembling", "evaluation", "export")
EPOCHS = 40
UNREAD = {
    *("teacher", "generator", "generator_lora", "pix2pix", "ddpm", "release", "generation", "distillation"),
    *("lora", "experts", "public", "samfed", "join"),
}


def fresh_catalogue(patch: pytest.MonkeyPatch) -> None:
    """Let this process know what it finds from now on, and forget it afterwards."""
    catalogue.methods()
    for name in ("_methods", "_known"):
        patch.setattr(catalogue, name, dict(getattr(catalogue, name)))
    patch.setattr(catalogue, "_is_loaded", False)
    patch.delitem(sys.modules, MODULE, raising=False)


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        fresh_catalogue(patch)
        patch.setenv("DSFEDMED_METHODS", MODULE)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def config() -> RunConfig:
    overrides = {
        "method": "toy",
        "student.weights": None,
        "data.images_per_site": 4,
        "federation.rounds": 1,
        "evaluation.bootstrap_samples": 20,
        "device": "cpu",
        "threads": 1,
    }
    return load_config("phantom_cpu_smoke", overrides=overrides)


@pytest.fixture(scope="module")
def finished(toy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunStore, str]]:
    """A run whose worker was killed in the new stage, and which was resumed."""
    store = RunStore(tmp_path_factory.mktemp("home"))
    run_id = lifecycle.submit(store, config())

    def trembling() -> bool:
        lifecycle.advance_queue(store)
        assert store.get(run_id).active, (store.run_dir(run_id) / "worker.log").read_text()
        return store.stages(run_id)[1].step >= 3

    wait(trembling, timeout_s=RUN_S)
    pid = store.get(run_id).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait(lambda: lifecycle.reap(store) == (run_id,) or store.get(run_id).status == "interrupted")
    assert store.stages(run_id)[1].step < EPOCHS
    lifecycle.resume(store, run_id)
    wait(lambda: lifecycle.advance_queue(store) or not store.get(run_id).active, timeout_s=RUN_S)
    assert store.get(run_id).status == "finished", (store.run_dir(run_id) / "worker.log").read_text()
    yield store, run_id
    store.close()


def test_it_is_planned_with_its_own_costs_and_definition(toy: None, tmp_path: Path) -> None:
    made = plan(config(), home=tmp_path)
    assert tuple(stage.name for stage in made.stages) == STAGES
    assert (made.stages[1].steps, made.stages[1].detail) == (EPOCHS, "40 epochs")  # the preset says 2
    assert [row.payload_bytes for row in made.traffic if row.kind == "tremor"] == [8, 8, 8]
    assert "Nothing that a site has trembles." in made.leaves_site
    assert not any("has no effect" in warning and "foundation" in warning for warning in made.warnings)
    assert any(warning.startswith("foundation.epochs is 40") for warning in made.warnings)


def test_its_form_and_its_file_have_the_sections_that_it_reads(toy: None) -> None:
    fields = forms.form_fields()
    (choice,) = (field for field in fields if field.key == "method")
    assert choice.kind == "choice" and ("A toy (toy)", "toy") in viewmodels.method_choices(choice.choices)
    assert viewmodels.hidden_sections("toy", "controlnet", ()) == UNREAD
    assert viewmodels.fixed_keys("toy") == {"foundation.epochs"}
    written = forms.from_values(forms.to_values(config(), fields), fields)
    assert not UNREAD & written.keys() and parse_config(written).method == "toy"
    text = to_toml(config())
    assert not any(f"[{section}]" in text for section in UNREAD) and "[foundation]\nepochs = 40" in text


@pytest.mark.slow
def test_killed_and_resumed_it_is_what_it_would_have_been(finished: tuple[RunStore, str]) -> None:
    """The noise of 40 epochs is added here to the weights that the new stage began with."""
    import torch

    from engine.models.registry import build_model
    from engine.seeding import torch_generator
    from tests.integration.toy_method import STEP_SIZE

    store, run_id = finished
    models = store.run_dir(run_id) / "models"
    expected, found = (load_file(models / f"{name}_student.safetensors") for name in ("fedavg", "trembled"))
    names = [name for name, _ in build_model("tinysam", size="mini", image_px=64, seed=0).named_parameters()]
    for epoch in range(1, EPOCHS + 1):
        draws = torch_generator(config().seed, "tremble", epoch)
        for name in names:
            expected[name] += STEP_SIZE * torch.randn(expected[name].shape, generator=draws)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in found)
    assert store.metrics(run_id, stage="trembling")[0].steps == tuple(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_the_page_shows_its_stages_models_and_messages(finished: tuple[RunStore, str]) -> None:
    store, run_id = finished
    view = store.view(run_id)
    assert tuple(stage.name for stage in view.stages) == STAGES
    steps = markup.stepper(view.stages)
    assert "<b>Trembling</b>" in steps and "adds a little noise to the student" in steps
    rows = viewmodels.result_rows(store.evaluation(run_id), "test")
    assert [row[0] for row in rows] == ["TinySAM, FedAvg only", "TinySAM, trembled"]
    differences = viewmodels.difference_rows(store.differences(run_id))
    assert [row[:2] for row in differences] == [["TinySAM, trembled", "TinySAM, FedAvg only"]]
    assert "tremors" in [bar.name for bar in plots.traffic(store.traffic(run_id)).data]
    assert "Trembling" in dict(viewmodels.curve_choices(store.metrics(run_id), view.stages))
    assert viewmodels.fork_default(viewmodels.fork_choices(view.stages)) == "trembling"
    assert "dsfedmed" in viewmodels.samples_step(STAGES)
    assert any(line.text.startswith("trembling: The server adds") for line in store.events(run_id, limit=500))


def test_its_last_student_is_exported(finished: tuple[RunStore, str]) -> None:
    store, run_id = finished
    manifest = read_manifest(store.run_dir(run_id) / "bundle")
    assert manifest.model.role == "trembled_student"
    assert "TinySAM, trembled" in (store.run_dir(run_id) / "bundle" / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_a_fork_takes_over_what_the_new_stage_keeps(finished: tuple[RunStore, str]) -> None:
    store, run_id = finished
    with pytest.raises(UserError, match=r"foundation\.batch_size"):
        edited = parse_config(config().model_dump(mode="json") | {"foundation": {"batch_size": 3}})
        lifecycle.check_fork(store, run_id, edited, stage="evaluation")
    child = lifecycle.fork(store, run_id, stage="export", config=store.get(run_id).config)
    assert (store.run_dir(child) / "tremors" / "count.txt").read_text() == str(EPOCHS)
    assert len(store.evaluation(child)) == len(store.evaluation(run_id)) > 0
    wait(lambda: lifecycle.advance_queue(store) or not store.get(child).active, timeout_s=RUN_S)
    assert store.get(child).status == "finished"


def test_the_page_and_the_plan_know_it_without_torch(toy: None) -> None:
    program = (
        "import sys; import app.main; from engine.planning import plan; from engine.config import load_config\n"
        "made = plan(load_config('phantom_cpu_smoke', overrides={'method': 'toy', 'student.weights': None}))\n"
        "assert made.stages[1].name == 'trembling' and not {'torch', 'flwr'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "DSFEDMED_METHODS": MODULE}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
